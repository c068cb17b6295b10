#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Fails when a loop of a compiled function calls anything.

usage: calls_in_loops.py OBJDUMP OBJECT FUNCTION BOUND

FUNCTION is a regular expression that the end of the mangled name matches. An
instruction belongs to a loop if it can be reached from itself, so code that is
laid out elsewhere but comes back counts, and code that leaves for good does
not. BOUND is what the counter of at least one loop is compared with: if the
loop that is meant were compiled into another function, that would be missed.
"""

import re
import subprocess
import sys
from typing import NamedTuple

LABEL = re.compile(r"^[0-9a-f]{16} <(?P<name>[^>]+)>:$")
RELOCATION = re.compile(r"^\s+[0-9a-f]{16}:\s+R_X86_64_\w+\s+(?P<target>\S+)$")
INSTRUCTION = re.compile(
    r"^\s+(?P<addr>[0-9a-f]+):\s+(?P<name>\S+)\s*(?P<operands>.*)$"
)


class Instruction(NamedTuple):
    addr: int
    name: str
    operands: str
    relocations: list[str]

    def is_call(self) -> bool:
        return self.name.startswith("call")

    def describe(self) -> str:
        return (
            f"{self.addr:x}: {self.name} {' '.join(self.relocations) or self.operands}"
        )


def functions(text: str) -> dict[str, list[Instruction]]:
    """The instructions of each function in the output of objdump."""
    found: dict[str, list[Instruction]] = {}
    body: list[Instruction] = []
    for line in text.splitlines():
        if match := LABEL.match(line):
            body = found.setdefault(match["name"], [])
        elif match := RELOCATION.match(line):
            body[-1].relocations.append(match["target"])
        elif match := INSTRUCTION.match(line):
            body.append(
                Instruction(
                    int(match["addr"], 16), match["name"], match["operands"], []
                )
            )
    return found


def jump_tables(text: str) -> dict[tuple[str, int], int]:
    """The addresses of code that data refers to, by section and offset of the reference."""
    section, found = "", {}
    for line in text.splitlines():
        if line.startswith("RELOCATION RECORDS FOR ["):
            section = line.split("[")[1].rstrip("]:")
        elif match := re.match(
            r"^([0-9a-f]{16}) R_X86_64_64\s+\.text\+0x([0-9a-f]+)$", line
        ):
            found[section, int(match[1], 16)] = int(match[2], 16)
    return found


def switch_targets(
    jump: Instruction, tables: dict[tuple[str, int], int], index: dict[int, int]
) -> list[int]:
    """Returns the targets of a jump by a table. Entries of the next table may be among them."""
    match = re.match(
        r"(\.[.\w]+)\+0x([0-9a-f]+)$", jump.relocations[0] if jump.relocations else ""
    )
    targets = []
    if match:
        offset = int(match[2], 16)
        while tables.get((match[1], offset)) in index:
            targets.append(index[tables[match[1], offset]])
            offset += 8
    if not targets:
        raise SystemExit(f"cannot follow {jump.describe()}")
    return targets


def successors(
    body: list[Instruction], tables: dict[tuple[str, int], int]
) -> list[list[int]]:
    """Returns for each instruction the indices of those that may run next."""
    index = {instruction.addr: i for i, instruction in enumerate(body)}
    result = []
    for i, instruction in enumerate(body):
        following = [i + 1] if i + 1 < len(body) else []
        if instruction.name.startswith("ret"):
            following = []
        elif instruction.name.startswith("j"):
            if instruction.name in ("jmp", "jmpq"):
                following = []
            if instruction.operands.startswith("*"):
                following = switch_targets(instruction, tables, index)
            elif not instruction.relocations:
                target = index.get(int(instruction.operands.split()[0], 16))
                following += (
                    [] if target is None else [target]
                )  # none: it leaves for good
        # Code after ud2 runs after a warning, so it stays a successor.
        result.append(following)
    return result


def loops(edges: list[list[int]]) -> list[set[int]]:
    """The strongly connected components that have a cycle (Tarjan's, without recursion)."""
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    result = []
    for root in range(len(edges)):
        work = [(root, iter(edges[root]))] if root not in order else []
        while work:
            node, following = work[-1]
            if node not in order:
                order[node] = low[node] = len(order)
                stack.append(node)
            for child in following:
                if child not in order:
                    work.append((child, iter(edges[child])))
                    break
                if child in stack:
                    low[node] = min(low[node], order[child])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == order[node]:
                    component = set(stack[stack.index(node) :])
                    del stack[stack.index(node) :]
                    if len(component) > 1 or node in edges[node]:
                        result.append(component)
    return result


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(objdump: str, path: str, function: str, bound: str) -> int:
    relocations = run(objdump, "-r", path)
    if "[__jump_table]" in relocations:
        raise SystemExit(
            "the object has patched jumps, which the disassembly does not show"
        )
    tables = jump_tables(relocations)
    meant, calls = 0, 0
    for name, body in functions(
        run(objdump, "-d", "-r", "--no-show-raw-insn", path)
    ).items():
        if not re.search(f"(?:{function})$", name):
            continue
        for loop in loops(successors(body, tables)):
            inside = [body[i] for i in sorted(loop)]
            meant += any(
                i.name.startswith("cmp") and re.match(rf"\${bound}, %", i.operands)
                for i in inside
            )
            called = [i for i in inside if i.is_call()]
            calls += len(called)
            print(f"{name}: a loop of {len(inside)} instructions, {len(called)} calls")
            for instruction in called:
                print(f"    {instruction.describe()}")
    if not meant:
        print(f"no loop compares its counter with {bound}")
    return int(calls > 0 or not meant)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        raise SystemExit(__doc__)
    sys.exit(main(*sys.argv[1:]))
