#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Makes a report of what the guests measured: lines on standard input.

    bench.py --short            one line a check, "pass" or "fail", for scripts/test.sh
    bench.py FOLDER BASE CONFIG
                                bench.json, results.md and plots (SVG, PNG) in FOLDER

A line is "GUEST PART NAME ENGINE NUMBER...", as collapse_bench and redis_latency.sh
print them, behind the name of the guest; "GUEST progress PART DONE TOTAL"; or what a
guest had to say besides, which is shown. Guests "first" and "second" do the same.
"GUEST accelerator NAME" comes last: what that guest ran under.
"""

import collections
import json
import pathlib
import statistics
import subprocess
import sys
import time

import matplotlib
import numpy
from matplotlib.figure import Figure

ENGINES = ("c", "rust")
# What a part takes, in seconds, on an idle machine of two cores: for the time that remains.
PARTS = {"work": 260, "threads": 120, "locks": 60, "memory": 80, "redis": 120}
NO_COPY = ("already_huge", "already_huge_1_per_call", "pinned")
PROBES = {
    "a": "fault in the same VMA",
    "b": "write to a page of the windows",
    "c": "mmap and munmap of 64 KiB",
    "d": "fork",
}
PERCENTILES = {"p50": 50, "p99": 99, "p999": 99.9, "max": 100}
# The same input must give the same number of instructions, nearly.
RUN_TO_RUN = 0.01
SHORT_LIMIT = 0.55
CALLS = (1, 2, 8, 32, 128, 512)


class Progress:
    """Says how far it is, and for how long it will go on."""

    def __init__(self):
        self.start = time.monotonic()
        self.finished = dict.fromkeys(PARTS, 0.0)
        self.shown = 0

    def update(self, part, share):
        self.finished[part] = max(self.finished.get(part, 0), share)
        total = sum(PARTS.values())
        done = sum(seconds * self.finished[name] for name, seconds in PARTS.items())
        elapsed = time.monotonic() - self.start
        percent, remain = int(100 * done / total), elapsed * (total - done) / done / 60
        text = f"    {part}: {percent} % of all, about {remain:.0f} min remain"
        if sys.stderr.isatty():
            print(
                f"\r{text}\033[K", end="\n" if percent == 100 else "", file=sys.stderr, flush=True
            )
        elif percent >= self.shown + 5:
            print(text, file=sys.stderr, flush=True)
            self.shown = percent


def read(lines, progress):
    """What was measured: {(part, name, engine): {guest: [a list of numbers for each round]}};
    and the accelerator."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    accelerator = None
    for line in lines:
        guest, *words = line.split()
        if words[:1] == ["accelerator"]:
            accelerator = words[1]
        elif len(words) == 4 and words[0] == "progress":
            if progress:
                progress.update(words[1], int(words[2]) / int(words[3]))
        elif len(words) >= 4 and words[0] in PARTS:
            part, name, engine, *numbers = words
            found[part, name, engine][guest].append([float(number) for number in numbers])
        elif not words[0].startswith("#"):
            print(line.rstrip(), file=sys.stderr)
    return found, accelerator


class Measured:
    """What was measured, by name."""

    def __init__(self, found):
        self.found = found

    def names(self, part):
        """In the order of their first line."""
        return list(dict.fromkeys(name for found, name, _ in self.found if found == part))

    def rounds(self, part, name, engine, guest=None):
        """The numbers of all rounds, where each round has one."""
        guests = self.found.get((part, name, engine), {})
        return [
            round_[0] for key, rounds in guests.items() if guest in (None, key) for round_ in rounds
        ]

    def median(self, part, name, engine, guest=None):
        rounds = self.rounds(part, name, engine, guest)
        return statistics.median(rounds) if rounds else None

    def spread(self, part, name, engine):
        """The widest distance from the median, as a part of it."""
        rounds, middle = self.rounds(part, name, engine), self.median(part, name, engine)
        return max(abs(value - middle) for value in rounds) / middle if middle else 0.0

    def pairs(self, part):
        """The medians of each name that both engines have; C may lack one."""
        result = {}
        for name in self.names(part):
            entry = {engine: self.median(part, name, engine) for engine in ENGINES}
            entry = {engine: value for engine, value in entry.items() if value is not None}
            if entry.get("c") and "rust" in entry:
                entry["ratio"] = entry["rust"] / entry["c"]
            result[name] = entry
        return result

    def run_to_run(self):
        """The largest difference between the two guests that count, and where it is."""
        worst, where = 0.0, "nowhere"
        for part, name, engine in self.found:
            if part != "work":
                continue
            first, second = (
                self.median(part, name, engine, guest) for guest in ("first", "second")
            )
            if first is None or second is None:
                raise SystemExit(f"error: {name} ({engine}) was not measured in both guests")
            if abs(first - second) / first > worst:
                worst, where = abs(first - second) / first, f"{name} ({engine})"
        return worst, where

    def latencies(self, probe, engine):
        rounds = self.found["threads", probe, engine]["beside"]
        pooled = [value for round_ in rounds for value in round_]
        entry = {key: percentile(pooled, share) for key, share in PERCENTILES.items()}
        entry["n"] = len(pooled)
        entry["p99_of_rounds"] = [percentile(round_, 99) for round_ in rounds if round_]
        return entry


def percentile(values, share):
    """One of the values, which this share (in percent) of them does not exceed."""
    return float(numpy.percentile(values, share, method="inverted_cdf"))


def summary(measured, conditions):
    """All of it, as bench.json has it."""
    floor = measured.median("work", "copy", "floor")
    insns = measured.pairs("work")
    insns["copy"] = {"floor": floor, "c": measured.median("work", "copy", "c")}
    for name, entry in insns.items():
        if name == "copy":
            continue
        entry["copy_floor"] = 0.0 if name in NO_COPY else floor
        entry["spread"] = {engine: measured.spread("work", name, engine) for engine in ENGINES}
    worst, where = measured.run_to_run()
    return {
        **conditions,
        "insns_per_window": insns,
        "run_to_run": {"largest": worst, "where": where},
        "latency_us": {
            probe: {engine: measured.latencies(probe, engine) for engine in ("none", *ENGINES)}
            for probe in PROBES
        },
        "per_window": measured.pairs("locks") | measured.pairs("memory"),
        "redis": {
            name: {
                engine: value
                for engine in ("none", *ENGINES)
                if (value := measured.median("redis", name, engine)) is not None
            }
            for name in measured.names("redis")
        },
    }


def targets(data):
    """What was to be reached: its name, the figure and the limit."""
    insns, latency, locks = data["insns_per_window"], data["latency_us"], data["per_window"]
    dense, floor = insns["dense"], insns["copy"]["floor"]
    flat = [insns[f"dense_{windows}_per_call"]["rust"] for windows in CALLS if windows >= 8]
    ipis = {engine: locks["ipi_tlb"][engine] + locks["ipi_call"][engine] for engine in ENGINES}

    def p99(probe):
        return latency[probe]["rust"]["p99"] / latency[probe]["c"]["p99"]

    return [
        ("instructions, dense", dense["ratio"], 0.50),
        (
            "the same, above the least that a copy takes",
            (dense["rust"] - floor) / (dense["c"] - floor),
            0.40,
        ),
        ("instructions, already huge", insns["already_huge"]["ratio"], 0.50),
        ("the same, one window a call", insns["already_huge_1_per_call"]["ratio"], 0.50),
        ("mmap_lock taken for write, per window", locks["mmap_lock_write"]["rust"], 0.0),
        ("IPIs", ipis["rust"] / ipis["c"], 0.15),
        ("p99 of a fault in the same VMA", p99("a"), 0.25),
        ("p99 of mmap and munmap", p99("c"), 0.50),
        ("most to least expensive, 8 to 512 windows per call", max(flat) / min(flat) - 1, 0.05),
    ]


def number(value):
    """With three or four digits that count."""
    if value is None:
        return ""
    return (
        f"{value:.0f}"
        if abs(value) >= 100
        else f"{value:.1f}"
        if abs(value) >= 10
        else f"{value:.3g}"
    )


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def ratio(value):
    return "" if value is None else f"{value:.2f}"


def markdown(data):
    insns = data["insns_per_window"]
    dense, floor = insns["dense"], insns["copy"]["floor"]
    apart = (dense["rust"] - floor) / (dense["c"] - insns["copy"]["c"])
    head = ("", "C", "Rust", "Rust/C")
    verdicts = [
        (name, f"{value:.3g}", f"{limit:g}", "reached" if value <= limit else "**missed**")
        for name, value, limit in targets(data)
    ]
    work = [
        (name, number(entry["c"]), number(entry["rust"]), ratio(entry["ratio"]),
         f"{100 * max(entry['spread'].values()):.1f} %")
        for name, entry in insns.items() if name != "copy"
    ]  # fmt: skip
    waits = []
    for probe, what in PROBES.items():
        for key in PERCENTILES:
            values = [data["latency_us"][probe][engine][key] for engine in ("none", *ENGINES)]
            waits.append(
                (f"({probe}) {what}, {key}", *map(number, values), ratio(values[2] / values[1]))
            )
    windows = [
        (name, number(entry.get("c")), number(entry.get("rust")), ratio(entry.get("ratio")))
        for name, entry in data["per_window"].items()
    ]
    redis = [
        (
            name,
            *(number(entry.get(engine)) for engine in ("none", *ENGINES)),
            ratio(entry["rust"] / entry["c"]),
        )
        for name, entry in data["redis"].items()
    ]
    return f"""<!-- SPDX-License-Identifier: GPL-2.0 -->
# C and Rust, measured side by side

Made by `make bench` on {data["date"]}: {data["base"]}, configuration `{data["config"]}`,
{data["cpu"]}, QEMU {data["qemu"]}. Instructions are counted by TCG, whatever the accelerator;
all else ran under {data["accelerator"]}. What the figures mean, and what they do not:
[bench.md](../bench.md).

## What was to be reached

{table(("Rust/C unless it says otherwise", "is", "at most", ""), verdicts)}
## Thousand instructions per window

{table((*head, "spread"), work)}
Copying takes {number(floor)} by words, at the least, and {number(insns["copy"]["c"])} by the
function that the C code uses, on this CPU without ERMS. Apart from what each copies with,
Rust/C is {apart:.2f} for dense windows. The two guests differ by
{100 * data["run_to_run"]["largest"]:.2f} % at most, in {data["run_to_run"]["where"]}. The spread is
the widest distance of a round from the median.

![instructions by kind of window](work.svg)
![instructions by windows per call](calls.svg)

## Microseconds that others wait while 512 MiB are collapsed

{table(("", "no collapse", "C", "Rust", "Rust/C"), waits)}
![latencies](threads.svg)

## Per window

{table(head, windows)}
## redis-server, its heap collapsed by thp-collapse

{table(("", "no collapse", "C", "Rust", "Rust/C"), redis)}"""


def plot(data, folder):
    # The same figures are to give the same files.
    matplotlib.rcParams.update({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 9})
    colours = {"none": "#888888", "c": "#d55e00", "rust": "#0072b2"}
    names = {"none": "no collapse", "c": "C", "rust": "Rust"}
    insns = data["insns_per_window"]
    floor = insns["copy"]["floor"]

    def save(figure, name):
        figure.tight_layout()
        figure.savefig(folder / f"{name}.png", dpi=120)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        path = folder / f"{name}.svg"
        text = path.read_text(encoding="utf-8")
        path.write_text(
            text.replace("?>\n", "?>\n<!-- SPDX-License-Identifier: GPL-2.0 -->\n", 1),
            encoding="utf-8",
        )

    cases = [
        name
        for name in insns
        if name != "copy" and "per_call" not in name and name != "already_huge"
    ]
    figure = Figure(figsize=(8, 4.5))
    axes = figure.subplots()
    for offset, engine in ((-0.2, "c"), (0.2, "rust")):
        heights = [insns[name][engine] for name in cases]
        axes.bar(
            [x + offset for x in range(len(cases))],
            heights,
            0.38,
            color=colours[engine],
            label=names[engine],
        )
    axes.axhline(floor, color="black", linestyle=":", linewidth=1, label="copying 2 MiB")
    axes.set_xticks(
        range(len(cases)), [name.replace("_", " ") for name in cases], rotation=30, ha="right"
    )
    axes.set_ylabel("thousand instructions per window")
    axes.legend()
    save(figure, "work")

    figure = Figure(figsize=(6, 3.5))
    axes = figure.subplots()
    for engine in ENGINES:
        costs = [insns[f"dense_{windows}_per_call"][engine] for windows in CALLS]
        axes.plot(CALLS, costs, "o-", color=colours[engine], label=names[engine])
    axes.axhline(floor, color="black", linestyle=":", linewidth=1, label="copying 2 MiB")
    axes.set_xscale("log", base=2)
    axes.set_xticks(CALLS, CALLS)
    axes.set_ylim(0)
    axes.set_xlabel("windows per call")
    axes.set_ylabel("thousand instructions per window")
    axes.legend()
    save(figure, "calls")

    figure = Figure(figsize=(10, 3.5))
    grid = figure.subplots(1, len(PROBES))
    for axes, (probe, what) in zip(grid, PROBES.items()):
        for engine in ("none", *ENGINES):
            values = [data["latency_us"][probe][engine][key] for key in PERCENTILES]
            axes.plot(list(PERCENTILES), values, "o-", color=colours[engine], label=names[engine])
        axes.set_yscale("log")
        axes.set_title(f"({probe}) {what}", fontsize=8)
    grid[0].set_ylabel("µs")
    grid[0].legend()
    save(figure, "threads")


def conditions(base, config, accelerator):
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    models = [
        line.split(": ", 1)[1] for line in cpuinfo.splitlines() if line.startswith("model name")
    ]
    qemu = subprocess.run(
        ["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True
    ).stdout
    return {
        "base": base,
        "config": config,
        "accelerator": accelerator,
        "qemu": qemu.split()[3],
        "cpu": f"{len(models)} x {models[0]}",
        "date": time.strftime("%Y-%m-%d"),
    }


def main(arguments):
    if arguments == ["--short"]:
        measured = Measured(read(sys.stdin, None)[0])
        pair = measured.pairs("work").get("dense", {})
        passed = pair.get("ratio", 1) <= SHORT_LIMIT
        verdict = "pass" if passed else "fail"
        print(f"{verdict} bench: a dense window takes at most {SHORT_LIMIT} of C's instructions")
        print(f"    thousand instructions: {pair}", file=sys.stderr)
        return int(not passed)
    if len(arguments) != 3 or arguments[0].startswith("-"):
        sys.exit(__doc__)
    folder = pathlib.Path(arguments[0])
    found, accelerator = read(sys.stdin, Progress())
    measured = Measured(found)
    if not accelerator:
        sys.exit("error: the guests did not measure all, so there is no report; see above")
    data = summary(measured, conditions(*arguments[1:], accelerator))
    (folder / "bench.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    (folder / "results.md").write_text(markdown(data), encoding="utf-8")
    plot(data, folder)
    for name, value, limit in targets(data):
        verdict = "reached" if value <= limit else "missed "
        print(f"    {verdict} {value:8.3g} (at most {limit:g})  {name}")
    worst = data["run_to_run"]
    if worst["largest"] >= RUN_TO_RUN:
        sys.exit(f"error: the two guests differ by {worst['largest']:.1%} in {worst['where']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
