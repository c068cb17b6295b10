#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Collapse as real programs use it: DAMON, by the commands that our documentation tells, and
stress-ng beside thp-collapse.

usage: programs.py THP-COLLAPSE [DAMO]

Prints a line "pass" or "fail" for each test. Details of failures go to standard error.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time

from harness import (
    MIB,
    PARTIAL,
    PROGRAM,
    SUCCESS,
    TRACING,
    WINDOW,
    equal,
    main,
    process,
    run_json,
)

DAMO = sys.argv[2:]
PAGE = pathlib.Path(__file__).parents[1] / "Documentation/admin-guide/mm/collapse.rst"

# Reads a byte of each page of the first half, over and over, and compares. TLBs that hold all of it
# would hide that from the accessed bits of page tables; to unmap more than a few pages empties them.
HALVES = """
import ctypes, mmap, os, signal, sys
half = int(sys.argv[1]) << 20
memory = mmap.mmap(-1, 2 * half, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
other = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
stamps = os.urandom(2 * half // 4096)
memory[::4096] = stamps
hot = stamps[:half // 4096]
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
print(ctypes.addressof(ctypes.c_char.from_buffer(memory)), flush=True)
while not ended:
    assert memory[:half:4096] == hot
    other[::4096] = bytes(256)
    other.madvise(mmap.MADV_DONTNEED)
assert memory[::4096] == stamps
"""


@contextlib.contextmanager
def traced():
    """What the event of the engine in Rust has seen, by a function."""
    instance = TRACING / "instances/programs"
    instance.mkdir()
    try:
        (instance / "events/huge_memory/mm_collapse_batch/enable").write_text("1")
        yield (instance / "trace").read_text
    finally:
        instance.rmdir()


def shell(commands, pid=0):
    """Runs commands as an administrator would, with damo in PATH and a process in PID."""
    path = f"{pathlib.Path(DAMO[0]).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PID": str(pid)}
    done = subprocess.run(["sh", "-ec", commands], env=environment, capture_output=True, text=True, check=False)
    equal((done.returncode, done.stdout + done.stderr), (0, ""))


def documented(begin):
    """Returns commands of the page for administrators, from the one that begins with `begin`."""
    block = PAGE.read_text().split(f"    # {begin}")[1].split("\n\n")[0]
    return begin + block.replace("\n    # ", "\n")


def huge(pid, start, size):
    """Returns how many windows of a range are huge."""
    bounds = f"{start:x}-{start + size:x}"
    return run_json("collapse", pid, "--range", bounds, "--dry-run")[1]["windows"]["already_huge"]


def collapses_the_half_that_is_hot(commands):
    half = 32 * MIB
    windows = half // WINDOW - 1
    with process(HALVES, half // MIB) as (child, line), traced() as trace:
        start = int(line)
        shell(commands, child.pid)
        for _ in range(200):
            time.sleep(1)
            if huge(child.pid, start, half) >= windows * 3 // 4:
                break
        found = huge(child.pid, start, half), huge(child.pid, start + half, half)
        shell("damo stop")
        assert found[0] >= windows * 3 // 4 and found[1] <= windows // 8, found
        assert "kdamond" in trace(), trace()
        child.terminate()
        equal(child.wait(), 0)


def test_damon_by_damo_collapses_the_half_that_is_hot():
    collapses_the_half_that_is_hot(documented("damo start"))


def test_damon_by_sysfs_collapses_the_half_that_is_hot():
    collapses_the_half_that_is_hot(documented("cd /sys/kernel/mm/damon"))


# Run by user nobody: stress-ng of root poisons its own memory, and dies of it.
STRESS = """
echo $$ >/sys/fs/cgroup/stress/cgroup.procs
exec setpriv --reuid=65534 --regid=65534 --clear-groups nice -n 19 stress-ng --verify --timeout 150 \
    --temp-path /tmp --vm 1 --vm-bytes 64m --vm-method all --vm-keep --malloc 1 --malloc-bytes 64m \
    --mmap 1 --mmap-bytes 32m --mremap 1 --mremap-bytes 16m --madvise 1 --mmapfork 1
"""


def test_stress_ng_verifies_memory_that_is_collapsed():
    cgroup = pathlib.Path("/sys/fs/cgroup/stress")
    cgroup.mkdir()
    watch = [PROGRAM, "--json", "watch", "--cgroup", cgroup, "--budget", "800", "--rounds", "120"]
    collapsed, begin = 0, time.monotonic()
    with (
        traced() as trace,
        subprocess.Popen(["sh", "-c", STRESS], stderr=subprocess.PIPE, text=True) as stress,
        subprocess.Popen(watch, stdout=subprocess.PIPE, text=True) as agent,
    ):
        for line in agent.stdout:
            collapsed += json.loads(line).get("report", {"windows": {"collapsed": 0}})["windows"]["collapsed"]
            if collapsed >= 20 and time.monotonic() > begin + 20:
                break
        agent.terminate()
        stress.terminate()
        said = stress.communicate()[1]
        assert "successful run" in said and stress.returncode == 0, said
        assert agent.wait() in (SUCCESS, PARTIAL) and collapsed >= 20, collapsed
        assert "thp-collapse" in trace(), trace()
    cgroup.rmdir()


if __name__ == "__main__":
    # The debug kernel takes minutes to load damo.
    main("programs", {name: test for name, test in globals().items() if DAMO or "damon" not in name})
