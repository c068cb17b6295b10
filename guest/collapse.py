#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Collapses all anonymous memory of a process through process_madvise(2).

usage: collapse.py PID

Prints coverage before and after, windows and time, and which engine served it.
"""

import ctypes
import os
import pathlib
import re
import sys
import time

SYS_PROCESS_MADVISE = 440
MADV_COLLAPSE = 25
WINDOW = 2 << 20
TRACING = pathlib.Path("/sys/kernel/tracing")
# The first of these whose event was seen: only Rust works in batches.
ENGINES = {
    "the engine in Rust (mm/collapse)": "huge_memory/mm_collapse_batch",
    "7.3's C code (mm/khugepaged.c)": "huge_memory/mm_collapse_huge_page",
}


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]


libc = ctypes.CDLL(None, use_errno=True)


def collapse(pidfd, start, end):
    """One call for one mapping; the errno, or 0."""
    iovec = Iovec(start, end - start)
    done = libc.syscall(SYS_PROCESS_MADVISE, pidfd, ctypes.byref(iovec), ctypes.c_size_t(1), MADV_COLLAPSE, 0)
    return 0 if done >= 0 else ctypes.get_errno()


def anonymous_ranges(pid):
    """Private anonymous mappings, brk heap included, with at least one window."""
    for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, permissions, _, _, inode, *name = line.split(None, 5)
        start, end = (int(address, 16) for address in span.split("-"))
        anonymous = permissions.endswith("p") and inode == "0" and name[:1] in ([], ["[heap]"])
        if anonymous and -(-start // WINDOW) * WINDOW + WINDOW <= end:
            yield start, end


def smaps(pid):
    """(Anonymous, AnonHugePages) of the whole process, in KiB."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return tuple(int(re.search(rf"^{key}: +(\d+) kB", text, re.MULTILINE)[1]) for key in ("Anonymous", "AnonHugePages"))


def show(label, sizes):
    anonymous, huge = sizes
    print(f"{label}: {anonymous // 1024} MiB anonymous, {huge // 1024} MiB of it huge pages ({100 * huge // anonymous} %)")


def main():
    if len(sys.argv) != 2 or not sys.argv[1].isdigit():
        sys.exit(__doc__)
    pid = int(sys.argv[1])
    pidfd = os.pidfd_open(pid)
    known = {engine: event for engine, event in ENGINES.items() if (TRACING / "events" / event).exists()}
    for event in known.values():
        (TRACING / "events" / event / "enable").write_text("1")
    before = smaps(pid)
    show("before", before)
    begin = time.monotonic()
    errors = [os.strerror(error) for start, end in anonymous_ranges(pid) if (error := collapse(pidfd, start, end))]
    seconds = time.monotonic() - begin
    after = smaps(pid)
    show("after ", after)
    trace = (TRACING / "trace").read_text()
    served = [engine for engine, event in known.items() if f" {event.split('/')[1]}: " in trace]
    windows = (after[1] - before[1]) // (WINDOW // 1024)
    print(f"{windows} windows collapsed in {seconds * 1000:.0f} ms, served by {next(iter(served), 'nobody')}")
    for error in sorted(set(errors)):
        print(f"{errors.count(error)} mappings not wholly collapsed: {error}")
    if len(known) == len(ENGINES) and served[:1] != list(known)[:1]:
        sys.exit("error: this kernel has the engine in Rust, and it did not serve")
    sys.exit(windows <= 0 or not served)


if __name__ == "__main__":
    main()
