#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Finds sentences that are hard to read, in all text that ships.

Two kinds are refused. The first has a clause for its subject, as in "Who waits
for it has no reference" or "What was copied is released": a reader learns late
what the sentence is about. The second is the documentation of a Rust function
that begins with "Whether": in the kernel it begins with "Returns".

Questions may begin as they like, and so may headings. --list shows all sentences.
"""

import fnmatch
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# These files are not written by hand.
SKIPPED = ("COPYING", "tests/baseline", "docs/bench/results.md", "*.lock", "*.svg", "*.json", ".gitignore")
# These files are text as a whole. Of all other files, only the comments are text.
TEXT = ("*.rst", "*.md", "*/Kconfig", "series/series.toml")

CLAUSE = re.compile(
    r"""^(?:who|whom|whoever|what|whatever)\b
      | (?:[;:]|[,;]?\ (?:and|but|or|so|for|then|hence|because|since|while|that|than|if|when|where|as))\ +whoever\b
      | (?:[;:]\ +|^(?:and|but|or|so|for|then|hence|because|since|while|if|when|where|as)\ )(?:who|what|whatever)\b
      | ,\ (?:and|but|or|so|for|because|since|while)\ who\b""",
    re.VERBOSE | re.IGNORECASE,
)
SENTENCE = re.compile(r"(?<=[.!?])[)\"'`*]*\s+(?=[\"'(`*\[]*[A-Z0-9])")
ITEM = re.compile(r"\s*(?:[-*+|#]|\d+\.|\(?[a-z0-9]\)|\* -|@\w+:)\s+(?:-\s+)?")
UNDERLINE = re.compile(r"\s*([=\-~^\"])\1{3,}\s*$")


def comments(name, lines):
    """Yields the text of each line of a file, or None where there is none."""
    inside = None  # What ends the comment or string that a line is in.
    for line in lines:
        if name.endswith((".c", ".h", ".py")):
            opens, closes = ('"""', '"""') if name.endswith(".py") else ("/*", "*/")
            if inside is None:
                before, found, line_text = line.partition(opens)
                if found and not (name.endswith(".py") and before.strip()):
                    inside = closes
                else:
                    mark = re.match(r"\s*#(?:\s|$)(.*)" if name.endswith(".py") else r".*//\s(.*)", line)
                    yield mark[1] if mark else None
                    continue
                line_text = line_text.removeprefix("*")
            else:
                line_text = line if name.endswith(".py") else re.sub(r"^\s*\*(?!/) ?", "", line)
            if closes in line_text:
                line_text, inside = line_text.partition(closes)[0], None
                yield line_text
            else:
                yield line_text
        elif name.endswith(".rs"):
            mark = re.match(r"(?:\s*|.*[^\"]\s)//[/!]?(?:\s|$)(.*)", line)
            yield mark[1] if mark else None
        else:
            mark = re.match(r"\s*#+(?:\s|$)(.*)", line)
            yield mark[1] if mark else None


def text_of(name, lines):
    """Returns the text of each line, or None where there is none."""
    if name.startswith("man/"):
        return [None if re.match(r"\.(TP|IP|P|RS|RE|SH|\\\")", x) else re.sub(r"^\.[BIR]+ ", "", x) for x in lines]
    if any(fnmatch.fnmatch(name, pattern) for pattern in TEXT):
        return lines
    return list(comments(name, lines))


def parts(name, lines):
    """Yields the files that a file shows: itself, or what a patch adds to each file."""
    if not name.endswith(".patch"):
        yield name, list(enumerate(lines, 1))
        return
    target, added = None, []
    for number, line in enumerate(lines, 1):
        if line.startswith("+++ "):
            if target:
                yield target, added
            target, added = line[6:].split("\t")[0].strip(), []
        elif target and line.startswith("+"):
            added.append((number, line[1:]))
        elif target:
            # The base's own text, which ends a paragraph of ours.
            added.append((number, ""))
    if target:
        yield target, added


def paragraphs(name, lines):
    """Yields lists of (number, text): lines that belong together."""
    for part, numbered in parts(name, lines):
        paragraph = []
        for (number, _), text in zip(numbered, text_of(part, [line for _, line in numbered])):
            if text is not None and UNDERLINE.match(text):
                paragraph = []  # It was a heading.
                continue
            if text is None or not text.strip() or ITEM.match(text):
                if paragraph:
                    yield paragraph
                paragraph = []
            if text is not None and text.strip() and not text.startswith("#"):
                paragraph.append((number, ITEM.sub("", text, count=1).strip()))
        if paragraph:
            yield paragraph


def sentences(name, lines):
    """Yields each sentence with the number of the line that it begins in."""
    for paragraph in paragraphs(name, lines):
        text, starts = "", []
        for number, line in paragraph:
            text += " " if text else ""
            starts.append((len(text), number))
            text += line
        at = 0
        for end in [m.end() for m in SENTENCE.finditer(text)] + [len(text)]:
            yield [n for start, n in starts if start <= at][-1], text[at:end].strip()
            at = end


def whether(lines):
    """Yields the documentation of functions of Rust that begins with "Whether"."""
    for number, line in enumerate(lines):
        if re.match(r"\s*/// Whether\b", line) and not re.match(r"\s*///", lines[number - 1]):
            code = next((x for x in lines[number:] if not re.match(r"\s*(///|#\[|//)", x)), "")
            if re.search(r"\bfn\b", code):
                yield number + 1, line.strip()


def main():
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], check=True, cwd=ROOT, capture_output=True, text=True
    ).stdout.splitlines()
    found = seen = 0
    for name in sorted(set(names)):
        if not (ROOT / name).is_file() or any(fnmatch.fnmatch(name, pattern) for pattern in SKIPPED):
            continue
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        for number, sentence in sentences(name, lines):
            seen += 1
            if "--list" in sys.argv:
                print(f"{name}:{number}: {sentence}")
            elif CLAUSE.search(sentence.lstrip("\"'(`*")) and not sentence.rstrip("\"')`*").endswith("?"):
                print(f"{name}:{number}: the subject is a clause: {sentence}")
                found += 1
        for number, line in whether(lines) if name.endswith(".rs") and "--list" not in sys.argv else ():
            print(f'{name}:{number}: say what the function returns, "Returns whether" or "Returns `true` if": {line}')
            found += 1
    if not seen:
        sys.exit("error: no sentence was found: this check does not see the texts")
    if found:
        sys.exit(f"error: {found} of {seen} sentences are hard to read: put a noun first, and the verb next to it")


if __name__ == "__main__":
    main()
