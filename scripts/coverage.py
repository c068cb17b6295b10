#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Finds lines of mm/collapse that no test has reached, and compares them with the known ones.

    coverage.py LLVM_MAJOR TREE OUT KNOWN RAN...

OUT holds the kernel that was built from TREE. The files RAN list the addresses that
ran, as guests read them from thp_collapse/coverage in debugfs. KNOWN lists the lines
that no test reaches, as "file: text of the line", in blocks. Each block ends with
indented lines that give the reason. A reason that begins with "By chance" lets lines be
reached or not.

A line is one that a block of code begins with: the compiler marks these. It is reached
when any of its blocks is. Prints one line of result for each difference, and one for all
the rest.
"""

import collections
import itertools
import json
import pathlib
import re
import subprocess
import sys

MARK = "__sanitizer_cov_trace_pc"
# The compiler calls this, with KASAN, before a function that does not return, as panic().
PANICS = "__asan_handle_no_return"
HERE = "mm/collapse/"
# Tests run at boot, and on their own. They are at the end of their file.
TESTS = "#[cfg(CONFIG_THP_COLLAPSE_RUST_KUNIT_TEST)]"


def output(*command, **options):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def symbols(llvm, file):
    """Returns the addresses of the functions in a file, by name."""
    fields = (line.split() for line in output(f"llvm-nm-{llvm}", file).splitlines())
    return {f[2]: int(f[0], 16) for f in fields if len(f) == 3 and f[1] in "tT"}


def marks(llvm, vmlinux, names):
    """Returns the return address of each mark, as the kernel records it.

    A mark that is called by a jump, at the end of a function, is recorded for the caller of the
    function: it is left out. So are the marks of overflow checks and assertions, which panic.
    """
    found = set()
    for i in range(0, len(names), 200):
        marked = False
        code = output(
            f"llvm-objdump-{llvm}", "-d", "--no-show-raw-insn",
            f"--disassemble-symbols={','.join(names[i : i + 200])}", vmlinux,
        )  # fmt: skip
        for line in code.splitlines():
            match = re.match(r"\s*([0-9a-f]+):\s+(.*)", line)
            if match and marked and PANICS not in match[2]:
                found.add(int(match[1], 16))
            marked = bool(match) and match[2].startswith("call") and MARK in match[2]
    return found


def lines_of(llvm, vmlinux, addresses):
    """Yields each address with our lines for it: its own, and the lines it is inlined into."""
    text = output(
        f"llvm-symbolizer-{llvm}", "-e", vmlinux, "--output-style=JSON", "--inlines",
        # Within the call, not after it.
        input="\n".join(hex(address - 1) for address in addresses),
    )  # fmt: skip
    for address, entry in zip(addresses, text.splitlines(), strict=True):
        frames = json.loads(entry)["Symbol"]
        places = [(frame["FileName"].partition(HERE), frame["Line"]) for frame in frames]
        yield address, {(name, line) for (_, ours, name), line in places if ours and line}


def lines(llvm, tree, out, ran):
    """All lines in order, as (file, number, text), and whether each was reached."""
    vmlinux = out / "vmlinux"
    code = symbols(llvm, vmlinux)
    names = symbols(llvm, out / HERE / "collapse.o").keys() & code.keys()
    start = code["_stext"]
    reached = {start + int(line, 16) for file in ran for line in file.read_text().split()}
    hits = collections.Counter()
    for address, places in lines_of(llvm, vmlinux, sorted(marks(llvm, vmlinux, sorted(names)))):
        for place in places:
            hits[place] += address in reached
    for name, places in itertools.groupby(sorted(hits), key=lambda place: place[0]):
        text = (tree / HERE / name).read_text(encoding="utf-8").splitlines()
        end = text.index(TESTS) if TESTS in text else len(text)
        for _, number in places:
            if number <= end:
                yield (name, number, text[number - 1].strip()), hits[name, number] > 0


def read_known(path):
    """{(file, text): [reason of one such line, of another one]}"""
    known = collections.defaultdict(list)
    text = re.sub("^#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for block in text.strip().split("\n\n"):
        reason = " ".join(line.strip() for line in block.splitlines() if line.startswith("\t"))
        for line in block.splitlines():
            if not line.startswith("\t"):
                if not reason:
                    sys.exit(f"no reason why this is not reached: {line}")
                known[tuple(line.split(": ", 1))].append(reason)
    return known


def main(llvm, tree, out, known, *ran):
    tree, out, known = map(pathlib.Path, (tree, out, known))
    ran = [pathlib.Path(file) for file in ran]
    built = (out / "vmlinux").stat().st_mtime
    old = [file for file in ran if file.stat().st_mtime < built]
    if old:
        sys.exit(f"{old[0]} is of an older kernel than {out}/vmlinux")
    known = read_known(known)
    found = list(lines(llvm, tree, out, ran))
    failed = False
    for (name, number, text), reached in found:
        if not reached and not known[name, text]:
            failed = True
            print(f"fail coverage: no test reaches {name}:{number}: {text}")
        elif not reached:
            known[name, text].pop()
    there = {(name, text) for (name, _, text), _ in found}
    for (name, text), reasons in known.items():
        if any((name, text) not in there or not reason.startswith("By chance") for reason in reasons):
            failed = True
            print(f"fail coverage: known as not reached, but reached or gone: {name}: {text}")
    if not failed:
        ran = sum(reached for _, reached in found)
        print(f"pass coverage: {ran} of {len(found)} lines of {HERE} ran, all but known")
    return failed


if __name__ == "__main__":
    if len(sys.argv) < 6:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
