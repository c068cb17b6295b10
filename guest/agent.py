#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Tests thp-collapse on the kernel that runs: on real processes, and on its own memory.

usage: agent.py PROGRAM

Prints a line "pass" or "fail" for each test. Details of failures go to standard error.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time

from harness import (
    ERROR,
    MIB,
    PARTIAL,
    PROGRAM,
    REFUSED,
    RUST,
    SUCCESS,
    THP,
    TRACING,
    WINDOW,
    equal,
    main,
    process,
    run,
    run_json,
)

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]

# Maps some MiB, and writes to the first of them.
TARGET = """
import mmap, sys, time
mapped, written = (int(arg) << 20 for arg in sys.argv[1:3])
memory = mmap.mmap(-1, mapped, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for advice in sys.argv[3:]:
    memory.madvise(getattr(mmap, advice))
memory.write(b"x" * written)
print("ready", flush=True)
time.sleep(1000)
"""

# Of 32 MiB under the eyes of userfaultfd, every other page of the first half is missing.
WATCHED = """
import ctypes, fcntl, mmap, struct, time
size = 32 << 20
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory[:size // 2:8192] = b"x" * (size // 2 // 8192)
memory[size // 2:] = b"x" * (size // 2)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
userfaultfd = ctypes.CDLL(None).syscall(323, 1)
fcntl.ioctl(userfaultfd, 0xc018aa3f, struct.pack("QQQ", 0xaa, 0, 0))
fcntl.ioctl(userfaultfd, 0xc020aa00, struct.pack("QQQQ", start, size, 1, 0))
print("ready", flush=True)
time.sleep(1000)
"""

# Of 8 MiB, all of it huge pages, two are split by mprotect().
SPLIT = """
import ctypes, mmap, time
window, size = 2 << 20, 8 << 20
memory = mmap.mmap(-1, size + window, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
libc = ctypes.CDLL(None, use_errno=True)
start = -(-ctypes.addressof(ctypes.c_char.from_buffer(memory)) // window) * window
ctypes.memset(start, 1, size)
done = libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), 25)
for at in (start + window, start + 3 * window):
    for access in (mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE):
        done |= libc.mprotect(ctypes.c_void_p(at), ctypes.c_size_t(4096), access)
print("failed" if done else "ready", flush=True)
time.sleep(1000)
"""


@contextlib.contextmanager
def target(mapped, written, *advice, **how):
    """A process to collapse memory of."""
    with process(TARGET, mapped, written, *advice, **how) as (child, _):
        yield child


def heap(pid):
    """The largest mapping of a process."""
    status, shown = run_json("status", pid)
    equal(status, SUCCESS)

    def size(mapping):
        start, end = (int(address, 16) for address in mapping["range"].split("-"))
        return end - start

    return max(shown["mappings"], key=size)


def test_self_test():
    status, report = run_json("collapse", "--self-test", "--engine")
    equal((status, report["verdict"], report["intact"]), (SUCCESS, "success", True))
    equal(report["windows"]["collapsed"], 32)
    equal(report["after"]["percent"], 100.0)
    equal(report["before"]["huge"], 0)
    assert ("Rust" in report["engine"]) == RUST.exists(), report["engine"]


def test_self_test_says_that_memory_is_intact():
    status, output, _ = run("collapse", "--self-test")
    equal((status, "the memory is intact" in output), (SUCCESS, True))
    status, _, errors = run("collapse", "--self-test", "--engine", prefix=NOBODY)
    equal((status, "CAP_DAC_OVERRIDE" in errors), (REFUSED, True))


def test_engine_leaves_no_trace_behind():
    equal(list((TRACING / "instances").iterdir()), [])


def test_collapses_a_process_and_only_once():
    with target(96, 40) as child:
        mapping = heap(child.pid)
        equal((mapping["kind"], mapping["huge"], mapping["eligible"]), ("anon", 0, False))
        assert mapping["resident"] >= 40 * MIB, mapping
        status, report = run_json("collapse", child.pid, "--range", mapping["range"], "--dry-run")
        equal((status, report["ended"], heap(child.pid)["huge"]), (SUCCESS, "dry_run", 0))
        wanted = report["windows"]["untried"]
        assert 19 <= wanted <= 21, report
        status, report = run_json("collapse", child.pid, "--range", mapping["range"])
        equal((status, report["windows"]["collapsed"], report["refusals"]), (SUCCESS, wanted, []))
        # Windows that were never touched stay empty.
        assert report["windows"]["empty"] >= 26, report
        equal(heap(child.pid)["huge"], wanted * WINDOW)
        status, report = run_json("collapse", child.pid, "--range", mapping["range"])
        equal((status, report["windows"]["collapsed"]), (SUCCESS, 0))
        equal(report["windows"]["already_huge"], wanted)


def test_huge_pages_that_were_split_are_not_copied():
    with process(SPLIT) as (child, line):
        equal(line, "ready")
        mapping = heap(child.pid)
        status, report = run_json("collapse", child.pid, "--range", mapping["range"], "--engine")
        equal((status, report["windows"]["collapsed"], report["windows"]["already_huge"]), (SUCCESS, 2, 2))
        equal(report["remapped"], 2 if RUST.exists() else 0)


def test_opt_out_stands_unless_it_is_overruled():
    with target(32, 32, "MADV_NOHUGEPAGE") as child:
        mapping = heap(child.pid)
        equal(mapping["advice"], "nohuge")
        run_json("collapse", child.pid)
        equal(heap(child.pid)["huge"], 0)
        # Given the range, it is up to the kernel: 7.3's C code does not do it.
        status, report = run_json("collapse", child.pid, "--range", mapping["range"])
        windows = report["windows"]
        assert windows["collapsed"] + windows["refused"] >= 15, report
        equal(status, SUCCESS if windows["refused"] == 0 else REFUSED)
        equal(heap(child.pid)["huge"], windows["collapsed"] * WINDOW)


def test_range_and_min_coverage():
    with target(64, 64) as child:
        start, end = (int(address, 16) for address in heap(child.pid)["range"].split("-"))
        start = -(-start // WINDOW) * WINDOW
        status, report = run_json("collapse", child.pid, "--range", f"{start:x}-{start + 3 * WINDOW:x}")
        equal((status, report["windows"]["collapsed"]), (SUCCESS, 3))
        equal(heap(child.pid)["huge"], 3 * WINDOW)
        status, report = run_json("collapse", child.pid, "--range", f"{start:x}-{end:x}", "--min-coverage", 5)
        equal((status, report["ended"], report["windows"]["collapsed"]), (SUCCESS, "covered", 0))
        status, report = run_json("collapse", child.pid, "--range", f"{start:x}-{end:x}", "--min-coverage", 50)
        equal((status, report["ended"], report["windows"]["untried"]), (SUCCESS, "done", 0))


def test_budget_ends_it():
    with target(400, 400) as child:
        status, report = run_json("collapse", child.pid, "--budget", 1)
        equal((status, report["ended"], report["verdict"]), (PARTIAL, "budget", "partial"))
        assert report["windows"]["untried"] > 0 < report["windows"]["collapsed"], report


def test_flags_are_known_or_said_to_be_unknown():
    with target(8, 5) as child:
        mapping = heap(child.pid)
        _, shown = run_json("status", child.pid)
        for flag, known in shown["kernel"]["flags"].items():
            status, report = run_json("collapse", child.pid, "--range", mapping["range"], f"--{flag}", "--dry-run")
            equal(status, SUCCESS if known else ERROR)
            assert known or f"--{flag}" in report["error"], report
        if not shown["kernel"]["flags"]["limits"]:
            return
        limit = THP / "khugepaged/max_ptes_none"
        before = limit.read_text()
        limit.write_text("0")
        try:
            bounds = ("--max-holes", 511, "--max-growth", "64M")
            status, report = run_json("collapse", child.pid, "--range", mapping["range"], "--limits", *bounds)
            equal(report["refusals"][0]["errno"], "EBUSY")
            assert "max_ptes" in report["refusals"][0]["why"], report
        finally:
            limit.write_text(before)


def test_holes_that_userfaultfd_watches_do_not_keep_the_rest_from_being_collapsed():
    with process(WATCHED) as (child, _):
        bounds = ["--max-holes", 511, "--max-growth", "1000%"]
        status, report = run_json("collapse", child.pid, "--range", heap(child.pid)["range"], *bounds)
        equal((status, report["ended"], report["refusals"][0]["errno"]), (PARTIAL, "done", "EBUSY"))
        assert "userfaultfd" in report["refusals"][0]["why"], report
        assert report["windows"]["refused"] >= 7 and report["windows"]["collapsed"] >= 7, report


def test_exit_midway_is_told():
    with target(800, 800) as child:
        command = [PROGRAM, "collapse", str(child.pid)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as agent:
            # The agent has begun, and has most of its work before it.
            assert "windows" in agent.stderr.readline()
            child.kill()
            output, _ = agent.communicate()
            equal(agent.returncode, PARTIAL)
            assert "the process has exited" in output and "not come to" in output, output


def test_signal_ends_it_with_a_report():
    with target(800, 800) as child:
        command = [PROGRAM, "collapse", str(child.pid)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as agent:
            assert "windows" in agent.stderr.readline()
            agent.send_signal(signal.SIGINT)
            output, _ = agent.communicate()
            equal(agent.returncode, PARTIAL)
            assert "interrupted" in output and "not come to" in output, output


def test_who_reads_no_further_is_not_told():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([PROGRAM, "status", "1"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    equal((done.returncode, done.stderr), (ERROR, ""))


def test_no_such_process():
    with target(4, 4) as child:
        pass
    for command in ("status", "collapse"):
        status, report = run_json(command, child.pid)
        equal((status, report["verdict"]), (ERROR, "error"))
        assert "there is no process" in report["error"], report


def test_missing_capabilities_are_named():
    with target(8, 8) as child:
        # User nobody may not collapse a process of root.
        for command in ("status", "collapse"):
            status, report = run_json(command, child.pid, prefix=NOBODY)
            equal((status, report["verdict"]), (REFUSED, "refused"))
            assert "CAP_SYS_PTRACE is missing" in report["error"], report
        status, _, errors = run("watch", "--pid", child.pid, "--rounds", 1, prefix=NOBODY)
        equal((status, errors), (REFUSED, ""))
        equal(heap(child.pid)["huge"], 0)
    with target(8, 8, prefix=NOBODY) as child:
        status, report = run_json("collapse", child.pid, prefix=NOBODY)
        equal(status, REFUSED)
        assert "CAP_SYS_NICE, which is missing" in report["error"], report
        nice = [*NOBODY, "--inh-caps=+sys_nice", "--ambient-caps=+sys_nice"]
        status, shown = run_json("status", child.pid, prefix=nice)
        equal(status, SUCCESS)
        status, report = run_json("collapse", child.pid, prefix=nice)
        if shown["kernel"]["flags"]["limits"]:
            # A process with CAP_SYS_NICE alone must ask with limits.
            equal(status, REFUSED)
            assert "CAP_SYS_ADMIN, which is missing, or --limits" in report["error"], report
            status, report = run_json("collapse", child.pid, "--limits", prefix=nice)
        assert status in (SUCCESS, PARTIAL), report
        assert heap(child.pid)["huge"] > 0


def test_what_has_no_memory():
    # The kernel's own threads, and zombies.
    for command in ("status", "collapse"):
        status, report = run_json(command, 2)
        equal((status, "process 2 has no memory" in report["error"]), (ERROR, True))
    equal(run_json("watch", "--pid", 2, "--rounds", 2)[0], ERROR)
    with subprocess.Popen(["true"]) as child:
        while "State:\tZ" not in pathlib.Path(f"/proc/{child.pid}/status").read_text():
            time.sleep(0.1)
        status, report = run_json("collapse", child.pid)
        assert status == ERROR and str(child.pid) in report["error"], report
        status, report = run_json("watch", "--pid", child.pid, "--rounds", 2)
        equal((status, report["error"]), (ERROR, "no process matches"))


def watched(*args):
    """Runs watch; its exit status, events and summary."""
    status, output, errors = run("--json", "watch", *args)
    equal(errors, "")
    *events, last = (json.loads(line) for line in output.splitlines())
    return status, events, last["summary"]


def test_watch_keeps_processes_covered():
    cgroup = pathlib.Path("/sys/fs/cgroup/watched")
    cgroup.mkdir()
    with target(40, 40, cgroup=cgroup) as first, target(40, 40) as second, target(40, 40) as other:
        selection = ["--cgroup", cgroup, "--pid", second.pid]
        status, events, summary = watched(*selection, "--min-coverage", 70, "--budget", 500, "--rounds", 8)
        equal((status, summary["processes"], summary["covered"]), (SUCCESS, 2, 2))
        equal({event["pid"] for event in events}, {first.pid, second.pid})
        assert heap(first.pid)["huge"] >= 28 * MIB and heap(second.pid)["huge"] >= 28 * MIB
        equal(heap(other.pid)["huge"], 0)
        name = pathlib.Path(f"/proc/{other.pid}/comm").read_text().strip()
        status, _, summary = watched("--command", name, "--min-coverage", 70, "--budget", 900, "--rounds", 6)
        assert summary["processes"] >= 3 and heap(other.pid)["huge"] >= 28 * MIB, summary
    cgroup.rmdir()
    # A budget in which no more than a few mappings can be looked at: it gets on all the same.
    with target(8, 8) as child:
        _, events, summary = watched("--pid", child.pid, "--budget", 20, "--rounds", 20)
        assert len(events) >= 1 and summary["collapsed"] > 0, events


def test_watch_stops_at_sigterm():
    with target(8, 8) as child:
        command = [PROGRAM, "watch", "--pid", str(child.pid), "--min-coverage", "1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as agent:
            assert "huge pages" in agent.stdout.readline()
            agent.terminate()
            begin = time.monotonic()
            output, _ = agent.communicate(timeout=20)
            equal((agent.returncode, "of 1 processes covered" in output), (SUCCESS, True))
            assert time.monotonic() - begin < 10


def test_terminal_has_a_bar_and_a_log_has_none():
    with target(400, 400) as child:
        status, output, errors = run("collapse", child.pid, "--budget", 1)
        equal(status, PARTIAL)
        assert "\x1b" not in output + errors and "\r" not in output + errors
        assert "before: " in output and "after : " in output, output
        command = f"stty cols 100; {PROGRAM} collapse {child.pid}"
        shown = subprocess.run(["script", "-qec", command, "/dev/null"], capture_output=True, text=True, check=False)
        assert "\x1b" in shown.stdout and "windows collapsed in" in shown.stdout, shown
        table = run("status", child.pid)[1]
        assert " anon " in table and "this kernel has MADV_COLLAPSE" in table, table


if __name__ == "__main__":
    main("thp-collapse", globals())
