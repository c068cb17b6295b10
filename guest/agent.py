#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Tests thp-collapse on the kernel that runs: on real processes, and on its own memory.

usage: agent.py PROGRAM

Prints a line "pass" or "fail" for each test; what is wrong goes to standard error.
"""

import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import time
import traceback

PROGRAM = sys.argv[1]
MIB = 1 << 20
WINDOW = 2 * MIB
SUCCESS, ERROR, PARTIAL, REFUSED = 0, 1, 3, 4
THP = pathlib.Path("/sys/kernel/mm/transparent_hugepage")
RUST = pathlib.Path("/sys/kernel/tracing/events/huge_memory/mm_collapse_batch")
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]

# Of the MiB that are mapped, the first ones are written.
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


@contextlib.contextmanager
def target(mapped, written, *advice, prefix=(), cgroup=None):
    """A process to collapse memory of."""
    command = [*prefix, "python3", "-c", TARGET, str(mapped), str(written), *advice]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            if cgroup:
                (cgroup / "cgroup.procs").write_text(str(process.pid))
            yield process
        finally:
            process.kill()


def run(*args, prefix=()):
    """Runs the program; its exit status, output and errors."""
    done = subprocess.run([*prefix, PROGRAM, *map(str, args)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def run_json(*args, prefix=()):
    """Runs the program with --json; its exit status and the one document that it prints."""
    status, output, errors = run("--json", *args, prefix=prefix)
    assert errors == "", errors
    assert output.count("\n") == 1, output
    return status, json.loads(output)


def equal(found, expected):
    assert found == expected, f"{found!r}, expected {expected!r}"


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


def test_engine_leaves_no_trace_behind():
    equal(list(pathlib.Path("/sys/kernel/tracing/instances").iterdir()), [])


def test_collapses_a_process_and_only_once():
    with target(96, 40) as process:
        mapping = heap(process.pid)
        equal((mapping["kind"], mapping["huge"], mapping["eligible"]), ("anon", 0, False))
        assert mapping["resident"] >= 40 * MIB, mapping
        status, report = run_json("collapse", process.pid, "--range", mapping["range"], "--dry-run")
        equal((status, report["ended"], heap(process.pid)["huge"]), (SUCCESS, "dry_run", 0))
        wanted = report["windows"]["untried"]
        assert 19 <= wanted <= 21, report
        status, report = run_json("collapse", process.pid, "--range", mapping["range"])
        equal((status, report["windows"]["collapsed"], report["refusals"]), (SUCCESS, wanted, []))
        # What nobody has touched stays as it is.
        assert report["windows"]["empty"] >= 26, report
        equal(heap(process.pid)["huge"], wanted * WINDOW)
        status, report = run_json("collapse", process.pid, "--range", mapping["range"])
        equal((status, report["windows"]["collapsed"]), (SUCCESS, 0))
        equal(report["windows"]["already_huge"], wanted)


def test_opt_out_stands_unless_it_is_overruled():
    with target(32, 32, "MADV_NOHUGEPAGE") as process:
        mapping = heap(process.pid)
        equal(mapping["advice"], "nohuge")
        run_json("collapse", process.pid)
        equal(heap(process.pid)["huge"], 0)
        # Given the range, it is up to the kernel: 7.3's C code does not do it.
        status, report = run_json("collapse", process.pid, "--range", mapping["range"])
        windows = report["windows"]
        assert windows["collapsed"] + windows["refused"] >= 15, report
        equal(status, SUCCESS if windows["refused"] == 0 else REFUSED)
        equal(heap(process.pid)["huge"], windows["collapsed"] * WINDOW)


def test_range_and_min_coverage():
    with target(64, 64) as process:
        start, end = (int(address, 16) for address in heap(process.pid)["range"].split("-"))
        start = -(-start // WINDOW) * WINDOW
        status, report = run_json("collapse", process.pid, "--range", f"{start:x}-{start + 3 * WINDOW:x}")
        equal((status, report["windows"]["collapsed"]), (SUCCESS, 3))
        equal(heap(process.pid)["huge"], 3 * WINDOW)
        status, report = run_json("collapse", process.pid, "--range", f"{start:x}-{end:x}", "--min-coverage", 5)
        equal((status, report["ended"], report["windows"]["collapsed"]), (SUCCESS, "covered", 0))


def test_budget_ends_it():
    with target(400, 400) as process:
        status, report = run_json("collapse", process.pid, "--budget", 1)
        equal((status, report["ended"], report["verdict"]), (PARTIAL, "budget", "partial"))
        assert report["windows"]["untried"] > 0 < report["windows"]["collapsed"], report


def test_flags_are_known_or_said_to_be_unknown():
    with target(8, 5) as process:
        mapping = heap(process.pid)
        _, shown = run_json("status", process.pid)
        for flag, known in shown["kernel"]["flags"].items():
            status, report = run_json("collapse", process.pid, "--range", mapping["range"], f"--{flag}", "--dry-run")
            equal(status, SUCCESS if known else ERROR)
            assert known or f"--{flag}" in report["error"], report
        if not shown["kernel"]["flags"]["limits"]:
            return
        limit = THP / "khugepaged/max_ptes_none"
        before = limit.read_text()
        limit.write_text("0")
        try:
            status, report = run_json("collapse", process.pid, "--range", mapping["range"], "--limits")
            equal(report["refusals"][0]["errno"], "EBUSY")
            assert "max_ptes" in report["refusals"][0]["why"], report
        finally:
            limit.write_text(before)


def test_exit_midway_is_no_error():
    with target(800, 800) as process:
        command = [PROGRAM, "collapse", str(process.pid)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as agent:
            # It has begun, and has most of the work before it.
            assert "windows" in agent.stderr.readline()
            process.kill()
            output, _ = agent.communicate()
            equal(agent.returncode, SUCCESS)
            assert "the process has exited" in output, output


def test_signal_ends_it_with_a_report():
    with target(800, 800) as process:
        command = [PROGRAM, "collapse", str(process.pid)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as agent:
            assert "windows" in agent.stderr.readline()
            agent.send_signal(signal.SIGINT)
            output, _ = agent.communicate()
            equal(agent.returncode, PARTIAL)
            assert "interrupted" in output and "not come to" in output, output


def test_no_such_process():
    with target(4, 4) as process:
        pass
    for command in ("status", "collapse"):
        status, report = run_json(command, process.pid)
        equal((status, report["verdict"]), (ERROR, "error"))
        assert "there is no process" in report["error"], report


def test_missing_capabilities_are_named():
    with target(8, 8) as process:
        # A process of root, for somebody else.
        for command in ("status", "collapse"):
            status, report = run_json(command, process.pid, prefix=NOBODY)
            equal((status, report["verdict"]), (REFUSED, "refused"))
            assert "CAP_SYS_PTRACE is missing" in report["error"], report
        equal(heap(process.pid)["huge"], 0)
    with target(8, 8, prefix=NOBODY) as process:
        status, report = run_json("collapse", process.pid, prefix=NOBODY)
        equal(status, REFUSED)
        assert "CAP_SYS_NICE, which is missing" in report["error"], report
        nice = [*NOBODY, "--inh-caps=+sys_nice", "--ambient-caps=+sys_nice"]
        status, shown = run_json("status", process.pid, prefix=nice)
        equal(status, SUCCESS)
        status, report = run_json("collapse", process.pid, prefix=nice)
        if shown["kernel"]["flags"]["limits"]:
            # Who has no more than that must ask with limits.
            equal(status, REFUSED)
            assert "CAP_SYS_ADMIN, which is missing, or --limits" in report["error"], report
            status, report = run_json("collapse", process.pid, "--limits", prefix=nice)
        assert status in (SUCCESS, PARTIAL), report
        assert heap(process.pid)["huge"] > 0


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
        status, events, summary = watched(*selection, "--min-coverage", 70, "--budget", 500, "--rounds", 4)
        equal((status, summary["processes"], summary["covered"]), (SUCCESS, 2, 2))
        equal({event["pid"] for event in events}, {first.pid, second.pid})
        assert heap(first.pid)["huge"] >= 28 * MIB and heap(second.pid)["huge"] >= 28 * MIB
        equal(heap(other.pid)["huge"], 0)
        name = pathlib.Path(f"/proc/{other.pid}/comm").read_text().strip()
        status, _, summary = watched("--command", name, "--min-coverage", 70, "--budget", 900, "--rounds", 3)
        assert summary["processes"] >= 3 and heap(other.pid)["huge"] >= 28 * MIB, summary
    cgroup.rmdir()
    # A budget in which processes can hardly be listed: one has its turn all the same.
    with target(40, 40) as process:
        _, events, summary = watched("--pid", process.pid, "--budget", 1, "--rounds", 1)
        assert len(events) == 1 and summary["collapsed"] > 0, events


def test_watch_stops_at_sigterm():
    with target(8, 8) as process:
        command = [PROGRAM, "watch", "--pid", str(process.pid), "--min-coverage", "1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as agent:
            assert "huge pages" in agent.stdout.readline()
            agent.terminate()
            begin = time.monotonic()
            output, _ = agent.communicate(timeout=20)
            equal((agent.returncode, "1 of 1 processes covered" in output), (SUCCESS, True))
            assert time.monotonic() - begin < 10


def test_terminal_has_a_bar_and_a_log_has_none():
    with target(400, 400) as process:
        status, output, errors = run("collapse", process.pid, "--budget", 1)
        equal(status, PARTIAL)
        assert "\x1b" not in output + errors and "\r" not in output + errors
        assert "before: " in output and "after : " in output, output
        command = f"stty cols 100; {PROGRAM} collapse {process.pid}"
        shown = subprocess.run(["script", "-qec", command, "/dev/null"], capture_output=True, text=True, check=False)
        assert "\x1b" in shown.stdout and "windows collapsed in" in shown.stdout, shown
        table = run("status", process.pid)[1]
        assert " anon " in table and "this kernel has MADV_COLLAPSE" in table, table


def main():
    failed = False
    # Nobody else is to make huge pages: page faults and khugepaged do of what is advised only.
    (THP / "enabled").write_text("madvise")
    for name, test in list(globals().items()):
        if not name.startswith("test_"):
            continue
        try:
            test()
            result = "pass"
        except (AssertionError, LookupError, OSError, TypeError, ValueError, subprocess.SubprocessError):
            traceback.print_exc()
            failed, result = True, "fail"
        print(f"{result} thp-collapse: {name[5:].replace('_', ' ')}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
