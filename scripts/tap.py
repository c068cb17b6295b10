#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Reads test output in (K)TAP, and compares results with a recorded baseline.

    tap.py FILE...                     one line a test: "<result> <suite>: <name>"
    tap.py --baseline BASE RESULTS     results that differ from the baseline's,
                                       again as one line a test

<result> is pass, fail, skip or xfail. A baseline's line may end in a tab and the
reason why it is not expected to pass; "flaky" there lets the test end either way,
"may skip" lets it skip.
"""

import collections
import pathlib
import re
import sys

LINE = re.compile(r"^\s*(?:\[[\s\d.]+\]\s*)?(not ok|ok) \d+ ?-? ?(.*)$")
DIRECTIVE = re.compile(r"(?:^|\s)# (SKIP|XFAIL)\b ?(.*)$", re.IGNORECASE)


def parse(text, suite):
    """Yields (result, name) for every test line, leaf tests and groups alike."""
    seen = collections.Counter()
    for line in text.splitlines():
        match = LINE.match(line)
        if not match:
            continue
        rest = re.sub(r"\x1b\[[0-9;]*m", "", match[2])
        directive = DIRECTIVE.search(rest)
        # kselftest's C helper puts the name behind the directive.
        name = (rest[: directive.start()].strip() or directive[2]) if directive else rest.strip()
        seen[name] += 1
        if seen[name] > 1:
            name += f" ({seen[name]})"
        if directive:
            result = directive[1].lower()
        else:
            result = "pass" if match[1] == "ok" else "fail"
        yield result, f"{suite}: {name}"
    # A plan at the left margin is the suite's own: tests that it names must be there.
    plan = re.search(r"^1\.\.(\d+)", text, re.MULTILINE)
    if plan and sum(seen.values()) < int(plan[1]):
        yield "fail", f"{suite}: {sum(seen.values())} results, {plan[1]} were planned"
    if not seen:
        yield "fail", f"{suite}: printed no test result at all"


def read(path):
    """A file of result lines as {name: (result, reason)}."""
    results = {}
    for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            entry, _, reason = line.partition("\t")
            result, _, name = entry.partition(" ")
            results[name] = (result, reason)
    return results


def compare(baseline, results):
    """Yields the verdict of each test: a test that passed before must pass, and none may vanish."""
    for name, (expected, reason) in baseline.items():
        result = results[name][0] if name in results else "missing"
        if result == "pass":
            yield "pass", name
        elif reason.startswith("may skip") and result == "skip":
            yield "skip", f"{name} ({reason})"
        elif expected == "pass" and not reason.startswith("flaky"):
            yield "fail", f"{name} (passes on the base, here: {result})"
        elif result == "fail" and expected in ("skip", "xfail"):
            yield "fail", f"{name} ({expected} on the base)"
        elif expected == "fail" and not reason:
            yield "fail", f"{name} (fails on the base for no recorded reason)"
        else:
            yield "skip", f"{name} ({result}; base: {reason or expected})"
    for name, (result, _) in results.items():
        if name not in baseline:
            yield ("skip" if result in ("skip", "xfail") else result), name


def main(arguments):
    if arguments[:1] == ["--baseline"] and len(arguments) == 3:
        verdicts = compare(read(arguments[1]), read(arguments[2]))
    elif arguments and not arguments[0].startswith("-"):
        verdicts = (
            verdict
            for path in map(pathlib.Path, arguments)
            for verdict in parse(path.read_text(encoding="utf-8", errors="replace"), path.stem)
        )
    else:
        sys.exit(__doc__)
    for result, name in verdicts:
        print(result, name)


if __name__ == "__main__":
    main(sys.argv[1:])
