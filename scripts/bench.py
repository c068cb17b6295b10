#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Makes a report of what the guests measured: lines on standard input.

    bench.py --short            one line a check, "pass" or "fail", for scripts/test.sh
    bench.py --part             what was measured, in short
    bench.py FOLDER BASE CONFIG
                                results.json, results.md and plots (SVG, PNG) in FOLDER

A line is "GUEST PART NAME ENGINE NUMBER..." or "GUEST progress PART DONE TOTAL":
the name of the guest, and a line of collapse_bench or redis_latency.sh. Other lines of
a guest are shown. Guests "first" and "second" do the same. A line "GUEST accelerator
NAME" comes last, with the accelerator that the guest ran under.
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
ALL = ("none", *ENGINES)
WAYS = (*ALL, "khugepaged")
# Seconds that a part takes on an idle machine of two cores, to estimate the time that remains.
PARTS = {
    "work": 260, "untouchable": 260, "threads": 500, "switch": 100, "locks": 60, "memory": 80,
    "redis": 150,
}  # fmt: skip
# The first words of lines: parts, and two kinds of lines that part "threads" prints besides.
KINDS = (*PARTS, "own", "schedule")
NO_COPY = ("already_huge", "already_huge_1_per_call", "pinned")
PROBES = {
    "fault": "fault in the same VMA",
    "write": "write to the windows",
    "write_hot": "write to one of the windows",
    "read": "read of the windows",
    "read_hot": "read of one of the windows",
    "mmap": "mmap and munmap of 64 KiB",
    "fork": "fork",
    "remote_fault": "fault in the same VMA, another process collapses",
    "remote_write": "write to the windows, another process collapses",
    "remote_read": "read of the windows, another process collapses",
    "remote_mmap": "mmap and munmap, another process collapses",
}
PERCENTILES = {"p50": 50, "p99": 99, "p999": 99.9, "max": 100}
# The same input must give nearly the same number of instructions. Interrupts make a
# difference of a few hundred (0.3 thousand), which is ignored.
RUN_TO_RUN = 0.01
FEW_INSNS = 0.3
# The time for which a window cannot be touched is the longest of its batch. If the timer
# interrupts one of its windows, that is 14 thousand instructions more for all of them.
TIMER_INSNS = 15
# Of C with the patches of the series that serve C as well: 0.67 was measured.
SHORT_LIMIT = 0.75
CALLS = (1, 2, 8, 32, 128, 512)
PER_SWITCH = (1, 2, 3, 4, 8, 16)
# Rust/C before the engine copied first and switched then: docs/bench/results.md then had
# the p99 of these, each charged for itself only.
BEFORE = {"fault": 67.6 / 6287, "mmap": 201 / 13198}


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
    """Returns the measurements, and the accelerator.

    The measurements are {(part, name, engine): {guest: [a list of numbers for each round]}}.
    """
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    accelerator = None
    for line in lines:
        guest, *words = line.split()
        if words[:1] == ["accelerator"]:
            accelerator = words[1]
        elif len(words) == 4 and words[0] == "progress":
            if progress:
                progress.update(words[1], int(words[2]) / int(words[3]))
        elif len(words) >= 4 and words[0] in KINDS:
            part, name, engine, *numbers = words
            found[part, name, engine][guest].append([float(number) for number in numbers])
        elif not words[0].startswith("#"):
            print(line.rstrip(), file=sys.stderr)
    return found, accelerator


class Measured:
    """The measurements, by name."""

    def __init__(self, found):
        self.found = found

    def names(self, part):
        """Returns the names of a part, in the order of their first line."""
        return list(dict.fromkeys(name for found, name, _ in self.found if found == part))

    def rounds(self, part, name, engine, guest=None):
        """Returns the numbers of all rounds, for lines with one number each."""
        guests = self.found.get((part, name, engine), {})
        return [
            round_[0] for key, rounds in guests.items() if guest in (None, key) for round_ in rounds
        ]

    def median(self, part, name, engine, guest=None):
        rounds = self.rounds(part, name, engine, guest)
        return statistics.median(rounds) if rounds else None

    def pooled(self, part, name, engine, guest=None):
        """All numbers of all rounds."""
        guests = self.found.get((part, name, engine), {})
        return [
            value
            for key, rounds in guests.items()
            if guest in (None, key)
            for round_ in rounds
            for value in round_
        ]

    def windows_median(self, part, name, engine, guest=None):
        """Returns the median over all windows."""
        values = self.pooled(part, name, engine, guest)
        return statistics.median(values) if values else None

    def spread(self, part, name, engine):
        """The widest distance from the median, as a part of it."""
        rounds, middle = self.rounds(part, name, engine), self.median(part, name, engine)
        return max(abs(value - middle) for value in rounds) / middle if middle else 0.0

    def pairs(self, part, median=None):
        """The medians of each name that either engine has."""
        median = median or self.median
        return {
            name: {
                engine: value
                for engine in ENGINES
                if (value := median(part, name, engine)) is not None
            }
            for name in self.names(part)
        }

    def run_to_run(self):
        """The largest difference between the two guests that count, and where it is."""
        worst, where = 0.0, "nowhere"
        for part, name, engine in self.found:
            if part == "work":
                median, few = self.median, FEW_INSNS
            elif part == "untouchable" or name == "untouchable_insns":
                median, few = self.windows_median, TIMER_INSNS
            else:
                continue
            first, second = (median(part, name, engine, guest) for guest in ("first", "second"))
            if first is None or second is None:
                raise SystemExit(f"error: {name} ({engine}) was not measured in both guests")
            apart = abs(first - second)
            if apart >= few and apart / first > worst:
                worst, where = apart / first, f"{part} {name} ({engine})"
        return worst, where

    def latencies(self, part, name, engine):
        return percentiles(self.pooled(part, name, engine))

    def schedule(self, probe):
        """Every how many microseconds one is due, how many one takes without collapse."""
        periods = self.pooled("schedule", probe, "none")[0::3]
        costs = self.pooled("schedule", probe, "none")[1::3]
        return {
            "period_us": periods[0],
            "cost_us": statistics.median(costs),
            "count": {
                engine: int(sum(self.pooled("schedule", probe, engine)[2::3])) for engine in ALL
            },
        }


def percentile(values, share):
    """Returns the least value that this share (in percent) of the values does not exceed."""
    return float(numpy.percentile(values, share, method="inverted_cdf"))


def percentiles(values):
    return {key: percentile(values, share) for key, share in PERCENTILES.items()}


def summary(measured, conditions):
    """All of it, as results.json has it."""
    floor = measured.median("work", "copy", "floor")
    insns = measured.pairs("work")
    del insns["copy"]
    for name, entry in insns.items():
        entry["copy_floor"] = 0.0 if name in NO_COPY else floor
    worst, where = measured.run_to_run()
    redis, redis_besides = {}, {}
    for way in WAYS:
        values = percentiles(measured.pooled("redis", "latency_us", way))
        redis[way] = {f"{key}_ms": values[key] / 1000 for key in ("p50", "p99", "p999")}
        redis[way]["server_p999_us"] = measured.median("redis", "server_p999_us", way)
        redis_besides[way] = {"max_ms": values["max"] / 1000} | {
            name: value
            for name in measured.names("redis")
            if name not in ("latency_us", "server_p999_us")
            and (value := measured.median("redis", name, way)) is not None
        }
    return {
        **conditions,
        "insns_per_window": insns,
        "untouchable_insns_per_window": measured.pairs("untouchable", measured.windows_median),
        "latency_us": {
            probe: {engine: measured.latencies("threads", probe, engine) for engine in ALL}
            for probe in PROBES
        },
        "redis": redis,
        "per_window": measured.pairs("locks") | measured.pairs("memory"),
        # The other figures of the tables.
        "copy_insns": {"floor": floor, "c": measured.median("work", "copy", "c")},
        "spread": {
            name: {engine: measured.spread("work", name, engine) for engine in ENGINES}
            for name in insns
        },
        "run_to_run": {"largest": worst, "where": where},
        "untouchable_longest_insns": {
            name: {engine: max(measured.pooled("untouchable", name, engine)) for engine in ENGINES}
            for name in measured.names("untouchable")
        },
        "schedule": {probe: measured.schedule(probe) for probe in PROBES},
        "own_latency_us": {
            probe: {engine: measured.latencies("own", probe, engine) for engine in ALL}
            for probe in measured.names("own")
        },
        "per_switch": {
            windows: {
                "untouchable_insns": measured.windows_median(
                    "switch", "untouchable_insns", windows
                ),
                "untouchable_longest_insns": max(
                    measured.pooled("switch", "untouchable_insns", windows)
                ),
                "untouchable_us": measured.windows_median("switch", "untouchable_us", windows),
                "ipi_tlb": measured.median("switch", "ipi_tlb", windows),
                "ipi_call": measured.median("switch", "ipi_call", windows),
                "read_us": measured.latencies("switch", "read_us", windows),
            }
            for windows in map(str, PER_SWITCH)
        },
        "redis_besides": redis_besides,
    }


def compare(entry):
    """Rust/C, of an entry that has both."""
    return entry["rust"] / entry["c"] if entry.get("c") and "rust" in entry else None


def targets(data):
    """Returns the targets: the name, the figure, the limit, and the aim beyond the limit."""
    insns, latency, locks = data["insns_per_window"], data["latency_us"], data["per_window"]
    untouchable = data["untouchable_insns_per_window"]
    worst = max(untouchable, key=lambda name: compare(untouchable[name]))
    ipis = {engine: locks["ipi_tlb"][engine] + locks["ipi_call"][engine] for engine in ENGINES}
    redis = data["redis"]

    def to_c(table, probe, key):
        return table[probe]["rust"][key] / table[probe]["c"][key]

    rows = [
        ("instructions that a window cannot be touched, dense", compare(untouchable["dense"]),
         0.05, 0.02),
        (f"the same, the worst kind ({worst})", compare(untouchable[worst]), 0.05, 0.02),
        ("the same, pte_mapped_huge", compare(untouchable["pte_mapped_huge"]), 0.02, None),
    ]  # fmt: skip
    accesses = [probe for probe in PROBES if "read" in probe or "write" in probe]
    for key, name, limit in (("p999", "p99.9", 0.1), ("max", "longest", 0.25)):
        rows += [
            (f"{name} of {probe}", to_c(latency, probe, key), limit, None) for probe in accesses
        ]
    for probe in accesses:
        p99 = latency[probe]["rust"]["p99"]
        if "write" in probe:
            rows.append((f"p99 of {probe}, in µs", p99, 20, None))
        else:
            rows.append(
                (f"p99 of {probe}, Rust/no collapse", p99 / latency[probe]["none"]["p99"], 1, None)
            )
    for key, name in (("p99_ms", "p99"), ("p999_ms", "p99.9")):
        value = redis["rust"][key]
        rows.append((f"redis {name}", value / redis["c"][key], 1, None))
        rows.append((f"redis {name}, Rust/no collapse", value / redis["none"][key], 1.15, None))
    own = data["own_latency_us"]
    return rows + [
        ("p99 of fault, each charged for itself", to_c(own, "fault", "p99"),
         BEFORE["fault"], None),
        ("p99 of mmap, each charged for itself", to_c(own, "mmap", "p99"), BEFORE["mmap"], None),
        ("IPIs", compare(ipis), 0.35, None),
        ("instructions, dense", compare(insns["dense"]), 0.36, 0.33),
        ("instructions, dense_scattered", compare(insns["dense_scattered"]), 0.50, 0.45),
        ("instructions, pte_mapped_huge", compare(insns["pte_mapped_huge"]), 0.05, None),
        ("mmap_lock taken for write, per window", locks["mmap_lock_write"]["rust"], 0.0, None),
    ]  # fmt: skip


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
    if value is None:
        return ""
    return f"{value:.2f}" if value >= 0.1 or not value else f"{value:.2g}"


def verdict(value, limit, aim):
    if value > limit:
        return "missed"
    return "reached" if aim is None or value > aim else "aim reached"


def waits(table, probes):
    """Rows of percentiles, as latency_us has them."""
    for probe in probes:
        for key in PERCENTILES:
            values = {engine: table[probe][engine][key] for engine in ALL}
            yield (f"{probe}, {key}", *map(number, values.values()), ratio(compare(values)))


def pairs(table):
    return [
        (name, number(entry.get("c")), number(entry.get("rust")), ratio(compare(entry)))
        for name, entry in table.items()
    ]


def markdown(data):
    insns, copy = data["insns_per_window"], data["copy_insns"]
    dense, floor = insns["dense"], copy["floor"]
    above = (dense["rust"] - floor) / (dense["c"] - floor)
    apart = (dense["rust"] - floor) / (dense["c"] - copy["c"])
    head = ("", "C", "Rust", "Rust/C")
    others = ("", "no collapse", "C", "Rust", "Rust/C")
    verdicts = []
    for name, value, limit, aim in targets(data):
        said = verdict(value, limit, aim)
        said = f"**{said}**" if said == "missed" else said
        aim = "" if aim is None else f"{aim:g}"
        verdicts.append((name, f"{value:.3g}", f"{limit:.3g}", aim, said))
    work = [(*row, f"{100 * max(data['spread'][row[0]].values()):.1f} %") for row in pairs(insns)]
    longest = data["untouchable_longest_insns"]
    untouchable = [
        (*row, number(longest[row[0]]["c"]), number(longest[row[0]]["rust"]))
        for row in pairs(data["untouchable_insns_per_window"])
    ]
    schedule = [
        (f"{probe}: {PROBES[probe]}", number(entry["period_us"]), number(entry["cost_us"]),
         *(str(entry["count"][engine]) for engine in ALL))
        for probe, entry in data["schedule"].items()
    ]  # fmt: skip
    switch_head = (
        "windows", "thousand instructions untouchable", "longest", "µs untouchable", "ipi_tlb",
        "ipi_call", "read, p99 µs", "p999", "max",
    )  # fmt: skip
    switch = [
        (windows, *(number(entry[key]) for key in
                    ("untouchable_insns", "untouchable_longest_insns", "untouchable_us",
                     "ipi_tlb", "ipi_call")),
         *(number(entry["read_us"][key]) for key in ("p99", "p999", "max")))
        for windows, entry in data["per_switch"].items()
    ]  # fmt: skip
    redis = [
        (name, *(number(table[way].get(name)) for way in WAYS), ratio(compare(
            {engine: table[engine][name] for engine in ENGINES if name in table[engine]})))
        for table in (data["redis"], data["redis_besides"])
        for name in dict.fromkeys(name for way in WAYS for name in table[way])
    ]  # fmt: skip
    return f"""<!-- SPDX-License-Identifier: GPL-2.0 -->
# C and Rust, measured side by side

Made by `make bench` on {data["date"]}: {data["base"]}, configuration `{data["config"]}`,
{data["cpu"]}, QEMU {data["qemu"]}. Instructions are counted by TCG, whatever the accelerator;
all else ran under {data["accelerator"]}. What the figures mean, and what they do not:
[bench.md](../bench.md). All of them: [results.json](results.json).

## What was to be reached

{table(("Rust/C unless it says otherwise", "is", "at most", "aim", ""), verdicts)}
## Thousand instructions per window

{table((*head, "spread"), work)}
Copying takes {number(floor)} by words, at the least, and {number(copy["c"])} by the
function that the C code uses, on this CPU without ERMS. For dense windows Rust/C is
{above:.2f} above that least, and {apart:.2f} apart from what each copies with. The two guests
differ by {100 * data["run_to_run"]["largest"]:.2f} % at most, in {data["run_to_run"]["where"]}. The
spread is the widest distance of a round from the median.

![instructions by kind of window](work.svg)
![instructions by windows per call](calls.svg)

## Thousand instructions for which the memory of a window cannot be touched

{table((*head, "longest, C", "longest, Rust"), untouchable)}
## By how many windows share one flush at the switch

{table(switch_head, switch)}
![untouchable time and IPIs by windows per switch](switch.svg)

## Microseconds that others wait while 512 MiB are collapsed

From when an operation was due until it had ended.

{table(others, waits(data["latency_us"], PROBES))}
![latencies](threads.svg)

The same from when the operation could begin, so that each is charged for itself only:

{table(others, waits(data["own_latency_us"], data["own_latency_us"]))}
One was due every so many microseconds, and took so many without collapse; so many were measured:

{table(("", "due every", "takes", "no collapse", "C", "Rust"), schedule)}
## Per window

{table(head, pairs(data["per_window"]))}
## redis-server under an open load, its heap collapsed

{table(("", "no collapse", "C", "Rust", "khugepaged (C)", "Rust/C"), redis)}
![latencies of redis](redis.svg)
"""


def plot(data, folder):
    # The same figures are to give the same files.
    matplotlib.rcParams.update({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 9})
    colours = {"none": "#888888", "c": "#d55e00", "rust": "#0072b2", "khugepaged": "#cc79a7"}
    names = {"none": "no collapse", "c": "C", "rust": "Rust", "khugepaged": "khugepaged (C)"}
    insns = data["insns_per_window"]
    floor = data["copy_insns"]["floor"]

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

    cases = [name for name in insns if "per_call" not in name and name != "already_huge"]
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

    figure = Figure(figsize=(11, 8))
    grid = figure.subplots(3, 4).flat
    for axes, probe in zip(grid, PROBES):
        for engine in ALL:
            values = [data["latency_us"][probe][engine][key] for key in PERCENTILES]
            axes.plot(list(PERCENTILES), values, "o-", color=colours[engine], label=names[engine])
        axes.set_yscale("log")
        axes.set_title(probe, fontsize=8)
        axes.set_ylabel("µs")
    handles, labels = grid[0].get_legend_handles_labels()
    for axes in grid[len(PROBES) :]:
        axes.axis("off")
    grid[-1].legend(handles, labels, loc="center")
    save(figure, "threads")

    figure = Figure(figsize=(6, 3.5))
    axes = figure.subplots()
    keys = ("p50_ms", "p99_ms", "p999_ms")
    for way in WAYS:
        values = [data["redis"][way][key] for key in keys]
        axes.plot([key[:-3] for key in keys], values, "o-", color=colours[way], label=names[way])
    axes.set_yscale("log")
    axes.set_ylabel("ms from due to answered")
    axes.legend()
    save(figure, "redis")

    figure = Figure(figsize=(6, 3.5))
    axes = figure.subplots()
    curve = data["per_switch"]
    axes.plot(
        PER_SWITCH, [curve[str(windows)]["untouchable_insns"] for windows in PER_SWITCH],
        "o-", color=colours["rust"], label="untouchable",
    )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(PER_SWITCH, PER_SWITCH)
    axes.set_ylim(0)
    axes.set_xlabel("windows that share a flush at the switch")
    axes.set_ylabel("thousand instructions untouchable")
    ipis = axes.twinx()
    ipis.plot(
        PER_SWITCH,
        [curve[str(windows)]["ipi_tlb"] + curve[str(windows)]["ipi_call"] for windows in PER_SWITCH],
        "s--", color=colours["c"], label="IPIs",
    )  # fmt: skip
    ipis.set_ylim(0)
    ipis.set_ylabel("IPIs per window")
    handles = [handle for shown in (axes, ipis) for handle in shown.get_legend_handles_labels()[0]]
    axes.legend(handles=handles, loc="upper center")
    save(figure, "switch")


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
        pair["ratio"] = compare(pair) or 1
        passed = pair["ratio"] <= SHORT_LIMIT
        said = "pass" if passed else "fail"
        print(f"{said} bench: a dense window takes at most {SHORT_LIMIT} of C's instructions")
        print(f"    thousand instructions: {pair}", file=sys.stderr)
        return int(not passed)
    if arguments == ["--part"]:
        measured = Measured(read(sys.stdin, None)[0])
        for part, name, engine in measured.found:
            rounds = measured.rounds(part, name, engine)
            values = measured.pooled(part, name, engine)
            if len(values) > len(rounds) and part != "schedule":
                said = " ".join(
                    f"{key} {number(value)}" for key, value in percentiles(values).items()
                )
                print(f"{part} {name} {engine}: {said}, of {len(values)}")
            else:
                print(f"{part} {name} {engine}: {' '.join(map(number, values))}")
        return 0
    if len(arguments) != 3 or arguments[0].startswith("-"):
        sys.exit(__doc__)
    folder = pathlib.Path(arguments[0])
    found, accelerator = read(sys.stdin, Progress())
    measured = Measured(found)
    if not accelerator:
        sys.exit("error: the guests did not measure all, so there is no report; see above")
    data = summary(measured, conditions(*arguments[1:], accelerator))
    (folder / "results.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    (folder / "results.md").write_text(markdown(data), encoding="utf-8")
    plot(data, folder)
    for name, value, limit, aim in targets(data):
        print(f"    {verdict(value, limit, aim):11} {value:8.3g} (at most {limit:.3g})  {name}")
    worst = data["run_to_run"]
    if worst["largest"] >= RUN_TO_RUN:
        sys.exit(f"error: the two guests differ by {worst['largest']:.1%} in {worst['where']}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
