#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Tests that thp-collapse does no harm: to processes it works on, and to others.

usage: harm.py PROGRAM

Prints a line "pass", "fail" or "skip" for each test. Details of failures go to standard error.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time

from harness import (
    ERROR,
    MIB,
    PARTIAL,
    PROGRAM,
    REFUSED,
    SUCCESS,
    WINDOW,
    Skip,
    equal,
    main,
    process,
    run,
    run_json,
)

HERE = pathlib.Path(__file__).resolve().parent
CGROUPS = pathlib.Path("/sys/fs/cgroup")
WRONG = 2
# An emulated CPU takes many times as long as a real one.
SLOWER = 20 if "TCG" in pathlib.Path("/proc/cpuinfo").read_text() else 1

# Common to the programs below: memory that begins at a window.
COMMON = """
import ctypes, mmap, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
window, page = 2 << 20, 4096
def memory(windows):
    mapped = mmap.mmap(-1, (windows + 1) * window, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
    return mapped, -start % window, start + -start % window
def touch(mapped, begin, windows, pages):
    for at in range(begin, begin + windows * window, window):
        if pages == 512:
            mapped[at:at + window] = bytes([1]) * window
            continue
        for number in range(pages):
            mapped[at + number * page] = 1
def ready(line="ready"):
    print(line, flush=True)
"""

# Some pages of each window. Then, at a line of input, so many MiB more, to the last page.
SPARSE = COMMON + """
windows, pages, more = map(int, sys.argv[1:])
mapped, begin, start = memory(windows)
touch(mapped, begin, windows, pages)
ready(f"{start:x}")
sys.stdin.readline()
other = mmap.mmap(-1, max(1, more) << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
other.write(bytes([1]) * (more << 20))
ready("fine")
time.sleep(1000)
"""

# Memory that a child shares, which exits at a line of input.
FORKED = COMMON + """
mapped, begin, start = memory(16)
touch(mapped, begin, 16, 512)
child = os.fork()
if not child:
    time.sleep(1000)
ready(child)
sys.stdin.readline()
os.kill(child, 9)
os.waitpid(child, 0)
ready()
time.sleep(1000)
"""

# A page of each of the first windows is held by a pipe.
PINNED = COMMON + """
pinned, free = map(int, sys.argv[1:])
mapped, begin, start = memory(pinned + free)
touch(mapped, begin, pinned + free, 512)
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
pipe = os.pipe()
for number in range(pinned):
    vector = Vector(start + number * window + 7 * page, page)
    assert libc.vmsplice(pipe[1], ctypes.byref(vector), ctypes.c_size_t(1), 0) == page
ready()
time.sleep(1000)
"""

# Pairs of mappings, neither of which is large enough for a huge page.
MANY = COMMON + """
pairs = int(sys.argv[1])
mapped = mmap.mmap(-1, pairs * 2 * page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
start = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
for number in range(pairs):
    assert libc.mprotect(ctypes.c_void_p(start + number * 2 * page), ctypes.c_size_t(page), 1) == 0
ready()
time.sleep(1000)
"""

# Rules out huge pages for itself: PR_SET_THP_DISABLE.
DISABLED = COMMON + """
mapped, begin, start = memory(4)
touch(mapped, begin, 4, 512)
assert libc.prctl(41, 1, 0, 0, 0) == 0
ready()
time.sleep(1000)
"""

# Has many children that do nothing.
CROWD = """
import os, sys, time
for _ in range(int(sys.argv[1])):
    if not os.fork():
        time.sleep(1000)
print("ready", flush=True)
time.sleep(1000)
"""

# Starts a program as process NUMBER: clone3() with set_tid.
REUSE = """
import ctypes, os, signal, sys
number = ctypes.c_int32(int(sys.argv[1]))
arguments = (ctypes.c_uint64 * 11)(0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(number), 1, 0)
pid = ctypes.CDLL(None, use_errno=True).syscall(435, arguments, 88)
if pid == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
assert pid == number.value, ctypes.get_errno()
os.waitpid(pid, 0)
"""

# Frees every other object of its heap, and checks the rest at a line of input.
ALLOCATOR = """
import sys, time
objects = [bytes([number % 251]) * 40000 for number in range(2400)]
kept = objects[::2]
del objects
print("ready", flush=True)
sys.stdin.readline()
good = all(one == bytes([2 * number % 251]) * 40000 for number, one in enumerate(kept))
print("good" if good else "bad", flush=True)
"""


@contextlib.contextmanager
def started(source, *args, cgroup=None, environment=None):
    """A Python program that takes lines of input; it, and its first line of output."""
    command = ["python3", "-c", source, *map(str, args)]
    # In its own cgroup from the start, so that all of its memory counts there.
    if cgroup:
        command = ["sh", "-c", f'echo $$ >"{cgroup}/cgroup.procs"; exec "$@"', "sh", *command]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, env=environment) as child:
        try:
            line = child.stdout.readline().strip()
            assert line, "it printed nothing"
            yield child, line
        finally:
            child.kill()


def asked(child):
    """Gives a process a line of input; the line that it answers."""
    child.stdin.write("\n")
    child.stdin.flush()
    return child.stdout.readline().strip()


@contextlib.contextmanager
def group(name, limit=None):
    """A cgroup, with a limit of memory for it and the ones below it."""
    path = CGROUPS / name
    path.mkdir()
    try:
        if limit:
            (path / "memory.max").write_text(str(limit))
            (path / "cgroup.subtree_control").write_text("+memory")
        yield path
    finally:
        for _ in range(100):
            if not (path / "cgroup.procs").read_text():
                break
            time.sleep(0.1)
        path.rmdir()


def limited():
    """A cgroup with a limit, and memory for the cgroups below it."""
    (CGROUPS / "cgroup.subtree_control").write_text("+memory")
    return group("limited", limit=80 * MIB)


def number(path, key):
    """The number behind a key in a file."""
    for line in path.read_text().splitlines():
        if line.startswith(key):
            return int(line.removeprefix(key).split()[0])
    raise LookupError(f"{path} has no {key}")


def resident(pid):
    return number(pathlib.Path(f"/proc/{pid}/status"), "VmRSS:") << 10


def proportional(*pids):
    """The proportional set size of some processes together."""
    return sum(number(pathlib.Path(f"/proc/{pid}/smaps_rollup"), "Pss:") << 10 for pid in pids)


def watch(*args, prefix=()):
    """Runs watch; its exit status, summary and events."""
    status, output, errors = run("--json", "watch", *args, prefix=prefix)
    equal(errors, "")
    lines = [json.loads(line) for line in output.splitlines()]
    equal({line["schema"] for line in lines}, {1})
    return status, lines[-1].get("summary"), lines[:-1]


def test_sparse_memory_does_not_grow():
    with started(SPARSE, 128, 1, 0) as (child, _):
        before = resident(child.pid)
        status, report = run_json("collapse", child.pid)
        equal((status, report["windows"]["collapsed"], report["growth"]), (SUCCESS, 0, 0))
        assert report["windows"]["sparse"] >= 128, report
        status, summary, _ = watch("--pid", child.pid, "--rounds", 2)
        equal((status, summary["collapsed"], summary["covered"]), (SUCCESS, 0, 1))
        assert resident(child.pid) <= before * 1.01 + MIB // 4


def test_a_cgroup_that_grows_later_stays_alive():
    # 32 MiB of 256 are in memory, of 80 that may be.
    with (
        limited() as parent,
        group("limited/leaf") as leaf,
        started(SPARSE, 128, 64, 20, cgroup=leaf) as (child, _),
    ):
        watch("--cgroup", parent, "--rounds", 3)
        equal(asked(child), "fine")
        events = parent / "memory.events"
        equal((number(events, "max "), number(events, "oom_kill ")), (0, 0))


def test_headroom_is_left_below_limits_of_all_ancestors():
    everything = ["--max-holes", 512, "--max-growth", "1000%", "--min-headroom", 30 * MIB]
    with (
        limited() as parent,
        group("limited/leaf") as leaf,
        started(SPARSE, 128, 64, 20, cgroup=leaf) as (child, _),
    ):
        status, summary, events = watch("--cgroup", leaf, "--rounds", 3, "--budget", "1s", *everything)
        equal(status, PARTIAL)
        assert summary["collapsed"] > 0 and summary["growth"] > 0, summary
        limits = [event["report"].get("limit") for event in events if "report" in event]
        assert f"memory.max of {parent}" in limits, limits
        assert number(parent / "memory.peak", "") <= 50 * MIB
        status, report = run_json("collapse", child.pid, *everything)
        # The kernel may have freed some more pages meanwhile.
        equal((status, report["ended"]), (PARTIAL, "headroom"))
        assert report["windows"]["collapsed"] <= 2 and number(parent / "memory.peak", "") <= 50 * MIB, report
        equal(asked(child), "fine")
        equal(number(parent / "memory.events", "oom_kill "), 0)


def test_what_a_fork_shares_is_not_copied():
    with started(FORKED) as (child, other):
        pids = child.pid, int(other)
        before = proportional(*pids)
        _, summary, _ = watch("--pid", pids[0], "--pid", pids[1], "--rounds", 2, "--budget", "1s")
        status, report = run_json("collapse", child.pid)
        equal((status, summary["collapsed"] + report["windows"]["collapsed"]), (SUCCESS, 0))
        assert report["windows"]["shared"] >= 16, report
        assert proportional(*pids) <= before * 1.05, (before, proportional(*pids))
        equal(asked(child), "ready")
        # Memory that is no longer shared is collapsed.
        status, report = run_json("collapse", child.pid)
        assert status == SUCCESS and report["windows"]["collapsed"] >= 16, report


def test_windows_in_use_do_not_starve_those_behind_them():
    with process(PINNED, 16, 16) as (child, _):
        command = [PROGRAM, "--json", "watch", "--pid", str(child.pid), "--budget", "1s", "--rounds", "60"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as agent:
            collapsed = 0
            for line in agent.stdout:
                collapsed += json.loads(line).get("report", {"windows": {"collapsed": 0}})["windows"]["collapsed"]
                if collapsed >= 15:
                    break
            agent.terminate()
        assert collapsed >= 15, collapsed


def test_a_dry_run_foresees_windows_and_growth():
    with started(SPARSE, 24, 490, 0) as (child, _):
        _, forecast = run_json("collapse", child.pid, "--dry-run")
        before = resident(child.pid)
        _, report = run_json("collapse", child.pid)
        grown = resident(child.pid) - before
        wanted, done = forecast["windows"]["untried"], report["windows"]["collapsed"]
        assert done >= 20 and abs(wanted - done) <= 0.05 * done, (wanted, done)
        assert abs(forecast["growth"] - grown) <= 0.1 * grown, (forecast["growth"], grown)


def test_what_is_ruled_out_is_named():
    with process(DISABLED) as (child, _):
        for command in (["collapse"], ["collapse", "--dry-run"]):
            status, report = run_json(*command, child.pid)
            equal((status, "THP_enabled: 0" in report["error"]), (REFUSED, True))
        assert "THP_enabled: 0" in run("status", child.pid)[1]


def test_a_number_that_comes_to_mean_another_process():
    with started(SPARSE, 8, 512, 0) as (child, _):
        command = [PROGRAM, "--json", "watch", "--pid", str(child.pid)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as agent:
            assert '"collapsed":' in agent.stdout.readline()
            child.kill()
            child.wait()
            with started(REUSE, child.pid, "python3", "-c", SPARSE, 8, 512, 0) as (parent, _):
                equal(int(pathlib.Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text()), child.pid)
                last = json.loads(agent.communicate(timeout=60)[0].splitlines()[-1])
                equal((agent.returncode, last["summary"]["processes"]), (SUCCESS, 0))
                equal(run_json("collapse", child.pid, "--dry-run")[1]["windows"]["already_huge"], 0)
                os.kill(child.pid, signal.SIGKILL)


def test_a_proc_of_another_namespace_is_refused():
    for command in ("status", "collapse"):
        status, report = run_json(command, 2, prefix=["unshare", "-pf"])
        equal((status, "PID namespace" in report["error"]), (ERROR, True))
    status, report = run_json("collapse", "--self-test", prefix=["unshare", "-pf", "--mount-proc"])
    equal((status, report["intact"]), (SUCCESS, True))


def test_what_matches_nothing_is_no_success():
    for wrong in (["--cgroup", ""], ["--command", ""], ["--cgroup", "/x", "--budget", "1001ms"]):
        equal(run("watch", "--rounds", 1, *wrong)[0], WRONG)
    # As in a script with a variable that is not set.
    status, report = run_json("watch", "--rounds", 1, "--cgroup", f"{CGROUPS}/")
    equal((status, "give /" in report["error"]), (ERROR, True))
    for nothing in (["--cgroup", "/nosuch"], ["--command", "nosuch"]):
        status, _, errors = run("watch", "--rounds", 1, *nothing)
        equal((status, errors.count("no process matches")), (ERROR, 2))
    status, report = run_json("watch", "--pid", 4000000)
    equal((status, "no process 4000000" in report["error"]), (ERROR, True))
    with open("/dev/full", "w", encoding="ascii") as full:
        equal(subprocess.run([PROGRAM, "--help"], stdout=full, check=False).returncode, ERROR)


def test_a_thread_is_told_from_its_process():
    thread = "import threading, time; threading.Thread(target=time.sleep, args=(1000,)).start(); print(1, flush=True)"
    with process(thread) as (child, _):
        tid = max(int(path.name) for path in pathlib.Path(f"/proc/{child.pid}/task").iterdir())
        status, report = run_json("collapse", tid)
        equal((status, report["error"]), (ERROR, f"{tid} is a thread of process {child.pid}"))


def test_60000_mappings_are_looked_at_in_no_time():
    maximum = pathlib.Path("/proc/sys/vm/max_map_count")
    before = maximum.read_text()
    maximum.write_text("200000")
    try:
        with process(MANY, 30000) as (child, _):
            maps = f"/proc/{child.pid}/maps"
            assert len(pathlib.Path(maps).read_text().splitlines()) >= 60000
            for command in (["collapse", child.pid], ["watch", "--rounds", 1, "--pid", child.pid]):
                # It makes do with this much address space.
                command = ["prlimit", f"--as={24 * MIB}", PROGRAM, *map(str, command)]
                with subprocess.Popen(command, stdout=subprocess.DEVNULL) as agent:
                    _, status, used = os.wait4(agent.pid, 0)
                    agent.returncode = os.waitstatus_to_exitcode(status)
                equal(agent.returncode, SUCCESS)
                assert used.ru_utime + used.ru_stime <= 0.06 * SLOWER, used
    finally:
        maximum.write_text(before)


def cpu_time(pid):
    """The seconds of CPU time that a process has used."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_1000_idle_processes_cost_next_to_nothing():
    with group("crowd") as crowd, started(CROWD, 1000, cgroup=crowd):
        try:
            # 64 file descriptors are enough, and none is left out.
            command = ["prlimit", "--nofile=64", PROGRAM, "--json", "watch", "--cgroup", crowd, "--budget", "1s"]
            with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True) as agent:
                lines = [json.loads(agent.stdout.readline()) for _ in range(1001)]
                assert not any("error" in line for line in lines), lines
                equal(len({line["pid"] for line in lines}), 1001)
                first, seconds = cpu_time(agent.pid), 11
                time.sleep(seconds)
                used = (cpu_time(agent.pid) - first) / seconds
                agent.terminate()
                summary = json.loads(agent.stdout.read().splitlines()[-1])["summary"]
            assert used <= 0.005 * SLOWER, used
            equal((summary["processes"], summary["covered"]), (1001, 1001))
        finally:
            (crowd / "cgroup.kill").write_text("1")


def test_a_snapshot_of_redis_is_not_copied():
    shell = f"source '{HERE}/redis_server.sh'; start_redis; load_redis 20000; echo $pid"
    server = int(subprocess.run(["bash", "-ec", shell], capture_output=True, text=True, check=True).stdout)

    def redis(*command):
        done = subprocess.run(["redis-cli", "-s", "/tmp/redis.sock", *command], capture_output=True, text=True, check=True)
        return done.stdout

    def info(key):
        return int(redis("info", "persistence").split(f"{key}:")[1].split()[0])

    try:
        digest = redis("debug", "digest")
        # The child is to be there for long.
        redis("config", "set", "rdb-key-save-delay", "1000")
        redis("config", "set", "dir", "/tmp")
        redis("bgsave")
        status, summary, _ = watch("--command", "redis-server", "--rounds", 4, "--budget", "1s")
        equal(info("rdb_bgsave_in_progress"), 1)
        copied = info("current_cow_size")
        assert summary["processes"] >= 2 and copied <= 0.05 * resident(server) + MIB, (summary, copied)
        redis("config", "set", "rdb-key-save-delay", "0")
        for _ in range(300):
            if not info("rdb_bgsave_in_progress"):
                break
            time.sleep(0.1)
        status, report = run_json("collapse", server)
        assert status in (SUCCESS, PARTIAL) and report["windows"]["collapsed"] >= 4, report
        equal(redis("debug", "digest"), digest)
    finally:
        os.kill(server, signal.SIGKILL)


def test_a_java_heap_grows_by_no_more_than_it_may():
    if not shutil.which("rmiregistry"):
        raise Skip("there is no Java here: apt-get install default-jre-headless")
    command = ["rmiregistry", "-J-Xms512m", "-J-XX:+UseParallelGC", "0"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as java:
        try:
            size = 0
            # Until it has come up.
            while java.poll() is None and size != (size := resident(java.pid)):
                time.sleep(2)
            _, forecast = run_json("collapse", java.pid, "--dry-run")
            before = resident(java.pid)
            status, report = run_json("collapse", java.pid)
            assert status in (SUCCESS, PARTIAL), report
            assert forecast["windows"]["sparse"] > 0, forecast
            # It goes on by itself meanwhile.
            assert report["growth"] <= 0.05 * before, report
            assert resident(java.pid) <= 1.05 * before + MIB, (before, resident(java.pid))
            equal(java.poll(), None)
        finally:
            java.kill()


def test_a_heap_of_jemalloc_grows_by_no_more_than_it_may():
    found = list(pathlib.Path("/usr/lib").glob("*/libjemalloc.so.2"))
    if not found:
        raise Skip("there is no libjemalloc.so.2 here")
    environment = {**os.environ, "LD_PRELOAD": str(found[0]), "PYTHONMALLOC": "malloc"}
    with started(ALLOCATOR, environment=environment) as (child, _):
        before = resident(child.pid)
        assert "libjemalloc" in pathlib.Path(f"/proc/{child.pid}/maps").read_text()
        status, report = run_json("collapse", child.pid)
        assert status in (SUCCESS, PARTIAL), report
        assert resident(child.pid) <= 1.05 * before, (before, report)
        equal(asked(child), "good")


def test_status_of_many_tells_where_it_would_pay():
    with group("several") as several, started(SPARSE, 8, 512, 0, cgroup=several) as (child, _):
        status, shown = run_json("status", "--cgroup", several)
        equal((status, [one["pid"] for one in shown["processes"]]), (SUCCESS, [child.pid]))
        assert shown["processes"][0]["forecast"]["windows"]["untried"] >= 8, shown
        assert shown["processes"][0]["forecast"]["before"]["worth"] >= 8 * WINDOW, shown
        table = run("status", child.pid, os.getpid())[1]
        assert "TO DO" in table and f" {child.pid} " in table, table


if __name__ == "__main__":
    main("thp-collapse does no harm", globals())
