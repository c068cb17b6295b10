# SPDX-License-Identifier: GPL-2.0
"""Helpers of the tests in a guest: a process to work on, thp-collapse, and lines of results.

The first argument of a program that imports this is the path of thp-collapse.
"""

import contextlib
import json
import pathlib
import subprocess
import sys
import traceback

PROGRAM = sys.argv[1]
MIB = 1 << 20
WINDOW = 2 * MIB
SUCCESS, ERROR, PARTIAL, REFUSED = 0, 1, 3, 4
THP = pathlib.Path("/sys/kernel/mm/transparent_hugepage")
TRACING = pathlib.Path("/sys/kernel/tracing")
# Only the engine in Rust has this event.
RUST = TRACING / "events/huge_memory/mm_collapse_batch"


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


@contextlib.contextmanager
def process(source, *args, prefix=(), cgroup=None):
    """A process that runs a Python program, and its first line of output."""
    command = [*prefix, "python3", "-c", source, *map(str, args)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            line = child.stdout.readline().strip()
            assert line, "it printed nothing"
            if cgroup:
                (cgroup / "cgroup.procs").write_text(str(child.pid))
            yield child, line
        finally:
            child.kill()


class Skip(Exception):
    """Raised by a test that cannot be run, with the reason."""


def main(label, tests):
    """Runs the functions test_* of a module. Prints a line "pass", "fail" or "skip" for each."""
    failed = False
    # Page faults and khugepaged must make no huge pages: they do so only for advised memory.
    (THP / "enabled").write_text("madvise")
    for name, test in list(tests.items()):
        if not name.startswith("test_"):
            continue
        try:
            test()
            result, why = "pass", ""
        except Skip as skip:
            result, why = "skip", f" ({skip})"
        except (AssertionError, LookupError, OSError, TypeError, ValueError, subprocess.SubprocessError):
            traceback.print_exc()
            failed, result, why = True, "fail", ""
        print(f"{result} {label}: {name[5:].replace('_', ' ')}{why}", flush=True)
    sys.exit(failed)
