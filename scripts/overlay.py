#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The overlay on the kernel tree: apply it, take edits back, make the series.

The repository holds new files at their kernel path and edits to existing files
as patches; series/series.toml orders them and says which form which commit.
"""

import argparse
import fnmatch
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The kernel's top-level folders in which this repository keeps new files. Its
# own scripts/ is not among them: no file of the series lives there.
OVERLAY_DIRS = ("Documentation", "include", "mm", "rust", "tools")
# Written into the source tree by the selftests' build.
NOT_EDITS = ("local_config.*", "*.orig", "*.rej", "*.pyc", "*~", ".*.swp")


def fail(message):
    sys.exit(f"error: {message}")


def run(*args, **kwargs):
    return subprocess.run(args, check=True, text=True, **kwargs)


def overlay_files():
    """New files of the series, as paths relative to the kernel's root."""
    for top in OVERLAY_DIRS:
        for path in sorted((ROOT / top).rglob("*")):
            ignored = "target" in path.parts or any(fnmatch.fnmatch(path.name, p) for p in NOT_EDITS)
            if path.is_file() and not ignored:
                yield str(path.relative_to(ROOT))


class Series:
    """The content of series/series.toml, checked against the files of the repository.

    With `length`, just its first commits.
    """

    def __init__(self, length=None):
        with open(ROOT / "series/series.toml", "rb") as manifest:
            data = tomllib.load(manifest)
        self.cover = data["cover"]
        self.commits = data["commit"]
        # Applied like commits, after all of them, and not sent: for tests here.
        self.local = data.get("local", [])
        unclaimed = set(overlay_files())
        for commit in self.commits + self.local:
            commit.setdefault("patches", [])
            commit.setdefault("without", {})
            commit["paths"] = []
            for path in commit["without"].keys() - unclaimed:
                fail(f"series.toml: {path} is named under 'without', but no commit after that has it as a whole")
            for pattern in commit.get("files", []):
                found = sorted(fnmatch.filter(unclaimed, pattern))
                if not found:
                    fail(f"series.toml: no file matches '{pattern}' that an earlier commit has not taken")
                commit["paths"] += found
                unclaimed -= set(found)
        if unclaimed:
            fail(f"series.toml puts these files into no commit: {' '.join(sorted(unclaimed))}")
        self.patches = [p for c in self.commits + self.local for p in c["patches"]]
        on_disk = {p.name for p in (ROOT / "patches").glob("*.patch")}
        if sorted(self.patches) != sorted(on_disk):
            fail(f"series.toml and patches/ differ: {' '.join(sorted(set(self.patches) ^ on_disk))}")
        if length is not None:
            del self.commits[length:], self.local[:]


def part_of(path, words):
    """A new file less its blocks, set off by an empty line, that hold one of `words`."""
    blocks = re.split(r"\n\n(?=\S)", (ROOT / path).read_text(encoding="utf-8"))
    for word in words:
        if not any(word in block for block in blocks):
            fail(f"series.toml: {path} has no block with '{word}'")
    return "\n\n".join(b for b in blocks if not any(w in b for w in words)).rstrip("\n") + "\n"


def patched_files(name):
    """Paths that a patch touches, from its '+++ b/' lines."""
    with open(ROOT / "patches" / name, encoding="utf-8") as patch:
        return [line[6:].split("\t")[0].strip() for line in patch if line.startswith("+++ b/")]


def copy_in(paths, source, target):
    """Copies files, making the folders they need."""
    for path in paths:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / path, target / path)


class Misfit(Exception):
    """The series does not fit this base."""


def add_from_base(paths, base, stage):
    """Puts the base's version of `paths` into `stage` where none is there."""
    absent = [path for path in paths if not (stage / path).exists()]
    for path in absent:
        if not (base / path).exists():
            raise Misfit(f"a patch edits {path}, which this base does not have")
    copy_in(absent, base, stage)


def apply_patch(name, base, stage):
    """Applies one patch in `stage`, and fetches the files that it touches from `base`."""
    add_from_base(patched_files(name), base, stage)
    with open(ROOT / "patches" / name, encoding="utf-8") as patch:
        done = subprocess.run(
            ["patch", "-p1", "--fuzz=0", "--no-backup-if-mismatch", "--forward", "-r", "-"],
            check=False, cwd=stage, stdin=patch, capture_output=True, text=True,
        )
    if done.returncode:
        raise Misfit(f"patches/{name} does not apply to this base:\n{done.stdout}{done.stderr}")


def stage_commit(commit, base, stage):
    """Adds the files and edits of one commit to `stage`."""
    for path in commit["paths"]:
        if (base / path).exists():
            raise Misfit(f"{path} exists in the base: an edit to it belongs under patches/")
    copy_in(commit["paths"], ROOT, stage)
    for path, words in commit["without"].items():
        (stage / path).parent.mkdir(parents=True, exist_ok=True)
        (stage / path).write_text(part_of(path, words), encoding="utf-8")
    for name in commit["patches"]:
        apply_patch(name, base, stage)


def stage_series(series, base, stage):
    """Fills `stage` with every file that the series changes."""
    for commit in series.commits:
        stage_commit(commit, base, stage)


def stage_all(series, base, stage):
    """Fills `stage` with every file that differs from the base."""
    stage_series(series, base, stage)
    for commit in series.local:
        stage_commit(commit, base, stage)


def files_below(root):
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()} if root.exists() else set()


def walk(root):
    """Yields every file below `root`, with the data that show whether it changed."""
    todo = [""]
    while todo:
        folder = todo.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if entry.name != ".git":
                        todo.append(path)
                elif not any(fnmatch.fnmatch(entry.name, p) for p in NOT_EDITS):
                    stat = entry.stat(follow_symlinks=False)
                    yield path, (stat.st_size, stat.st_mtime_ns)


def ignored_names(base):
    """The patterns in the base's .gitignore that are for file names in any folder.

    Patterns with a slash are left out: Debian's tree ignores all at its top, "/*".
    """
    path = base / ".gitignore"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [line.replace("\\", "") for line in lines if line and not line.startswith("#") and "/" not in line]


def is_ignored(path, patterns):
    """Returns whether git ignores a file that it does not track. The last match decides."""
    name = path.rpartition("/")[2]
    last = [p for p in patterns if fnmatch.fnmatchcase(name, p.removeprefix("!"))][-1:]
    return bool(last) and not last[0].startswith("!")


def tree_edits(base, tree, staged):
    """Paths edited in the unpacked tree since it was last written from here."""
    known = files_below(staged)
    ignored = ignored_names(base)
    before = dict(walk(base))
    now = dict(walk(tree))
    edits = []
    for path in sorted(before.keys() | now.keys() | known):
        if path in known:
            if path not in now or (tree / path).read_bytes() != (staged / path).read_bytes():
                edits.append(path)
        elif before.get(path) != now.get(path):
            if path not in before or path not in now:
                # Tools leave such files: checkpatch.pl does, at the top.
                if not is_ignored(path, ignored):
                    edits.append(path)
            elif (base / path).read_bytes() != (tree / path).read_bytes():
                edits.append(path)
    return edits


def sync(series, base, tree):
    """Makes `tree` the base plus our series, and touches only files that changed."""
    staged = tree.with_name(tree.name + ".staged")
    if not tree.exists():
        print(f"==> copying the base to {tree}", file=sys.stderr)
        shutil.rmtree(staged, ignore_errors=True)
        unfinished = tree.with_name(tree.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        run("cp", "-a", str(base), str(unfinished))
        unfinished.rename(tree)
    edits = tree_edits(base, tree, staged)
    if edits:
        fail(
            f"{tree} has edits that are not in the repository: {' '.join(edits)}\n"
            f"Run 'make refresh' to take them over, or remove that folder to drop them."
        )
    with tempfile.TemporaryDirectory() as name:
        stage = pathlib.Path(name)
        stage_all(series, base, stage)
        for path in files_below(staged) - files_below(stage):
            if (base / path).exists():
                # With the time of now, so that it is built again.
                shutil.copy(base / path, tree / path)
            else:
                (tree / path).unlink()
        for path in files_below(stage):
            target = tree / path
            if not target.exists() or target.read_bytes() != (stage / path).read_bytes():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(stage / path, target)
        shutil.rmtree(staged, ignore_errors=True)
        shutil.copytree(stage, staged)


def diff_of(path, before, after):
    """A unified diff of one file with the kernel's a/ b/ names and no dates."""
    old = str(before / path) if (before / path).exists() else "/dev/null"
    done = subprocess.run(
        ["diff", "-up", "--label", f"a/{path}", "--label", f"b/{path}", old, str(after / path)],
        check=False, capture_output=True, text=True,
    )
    return f"diff --git a/{path} b/{path}\n{done.stdout}" if done.stdout else ""


def merge(path, now, before, after):
    """Applies the change of `path` from `before` to `after` to the file in `now`."""
    return subprocess.run(
        ["git", "merge-file", "--quiet", *(str(folder / path) for folder in (now, before, after))],
        check=False, capture_output=True,
    ).returncode == 0


def patches_with(series, patched, base, tree, work):
    """Names and texts of the patches that change when the one that `patched` names
    for a path takes the edit of it. Later patches of that path are fitted to it."""
    final, old, old_before, new, new_before = (work / d for d in ("final", "old", "old-before", "new", "new-before"))
    for folder in (final, old, new):
        folder.mkdir()
    names = series.patches + sorted(set(patched.values()) - set(series.patches))
    touched = {name: patched_files(name) if name in series.patches else [] for name in names}
    add_from_base(patched, base, final)
    for name in series.patches:
        apply_patch(name, base, final)
    edited, texts = set(), []
    for name in names:
        mine = [path for path, target in patched.items() if target == name]
        for folder in (old, new):
            add_from_base(mine + touched[name], base, folder)
        for folder, before in ((old, old_before), (new, new_before)):
            shutil.rmtree(before, ignore_errors=True)
            shutil.copytree(folder, before)
        if touched[name]:
            apply_patch(name, base, old)
        for path in touched[name]:
            if path not in edited:
                shutil.copy(old / path, new / path)
            elif not merge(path, new, old_before, old):
                fail(f"patches/{name} changes the same lines of {path}: have it take the edit with PATCH={name}")
        for path in mine:
            edited.add(path)
            if not merge(path, new, final, tree):
                fail(f"patches/{name} does not have the lines of {path} that were edited: name a later patch with PATCH=")
        if edited.intersection(mine + touched[name]):
            paths = sorted({*mine, *touched[name]})
            texts.append((name, "".join(diff_of(path, new_before, new) for path in paths)))
    for path in patched:
        if (new / path).read_bytes() != (tree / path).read_bytes():
            fail(f"the edit of {path} cannot be divided among the patches: name another with PATCH=")
    return texts


def same(one, other):
    return other.exists() and one.read_bytes() == other.read_bytes()


def refresh(series, base, tree, into):
    """Takes edits made in the unpacked tree back into overlay and patches."""
    staged = tree.with_name(tree.name + ".staged")
    edits = tree_edits(base, tree, staged)
    with tempfile.TemporaryDirectory() as name:
        now = pathlib.Path(name)
        stage_all(series, base, now)
        both = [
            path
            for path in edits
            if (now / path).exists()
            and not same(now / path, staged / path)
            and not same(now / path, tree / path)
        ]
    if both:
        fail(f"edited both in {tree} and in the repository, merge by hand: {' '.join(both)}")
    if into and not into.endswith(".patch"):
        into += ".patch"
    owner = {path: name for name in series.patches for path in patched_files(name)}
    new_patch = into and into not in series.patches
    overlay, patched = [], {}
    for path in edits:
        if not (tree / path).exists():
            fail(f"{path} was removed in the tree: remove it from the repository by hand")
        if not (base / path).exists():
            if not path.startswith(tuple(d + "/" for d in OVERLAY_DIRS)):
                fail(f"{path} is new and outside {' '.join(OVERLAY_DIRS)}: not ours to keep")
            overlay.append(path)
        elif path in owner or into:
            patched[path] = into if into and (path not in owner or not new_patch) else owner.get(path, into)
        else:
            fail(f"{path} is in no patch yet: say which with 'make refresh PATCH=name'")
    with tempfile.TemporaryDirectory() as name:
        for patch, text in patches_with(series, patched, base, tree, pathlib.Path(name)):
            (ROOT / "patches" / patch).write_text(text, encoding="utf-8")
            print(f"    patches/{patch}")
    copy_in(overlay, tree, ROOT)
    for path in overlay:
        print(f"    {path}")
    copy_in(edits, tree, staged)
    if new_patch:
        print(f"    patches/{into} is new: name it in a commit of series/series.toml")
    print(f"==> {len(edits)} edited files taken over")


def git(repo, *args, **kwargs):
    command = ["git", "-C", str(repo), "-c", "core.autocrlf=false", "-c", "gc.auto=0"]
    if subprocess.run(["git", "config", "user.email"], capture_output=True, check=False).returncode:
        # Good enough for checking; mails to be sent want a name of one's own.
        command += ["-c", "user.name=thp-collapse", "-c", "user.email=thp-collapse@localhost"]
    return run(*command, *args, **kwargs)


def base_repo(base, paths, repo):
    """A git repository with just the base's version of `paths`."""
    copy_in((path for path in paths if (base / path).exists()), base, repo)
    git(repo, "init", "--quiet")
    git(repo, "add", "--all", "--force")
    git(repo, "commit", "--quiet", "--allow-empty", "--message", "base")


def cover_text(series, made_for):
    """The text of the cover letter. `made_for` is a line that names the base."""
    return series.cover["text"].strip() + (f"\n\n{made_for}" if made_for else "")


def format_series(series, base, out, made_for=""):
    """Writes the mails of the series to `out`, and checks that they apply.

    The mails are not signed off: the person who sends them does that.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as name:
        work, again, stage = (pathlib.Path(name, d) for d in ("work", "again", "stage"))
        for folder in (work, again, stage):
            folder.mkdir()
        stage_series(series, base, stage)
        base_repo(base, files_below(stage), work)
        base_repo(base, files_below(stage), again)
        for commit in series.commits:
            stage_commit(commit, base, work)
            git(work, "add", "--all", "--force")
            git(work, "commit", "--quiet", "--file", "-", input=commit["message"])
        git(
            work, "format-patch", "--quiet", "--cover-letter", f"--subject-prefix={series.cover['prefix']}",
            f"--output-directory={out}", f"HEAD~{len(series.commits)}",
        )
        cover = out / "0000-cover-letter.patch"
        text = cover.read_text(encoding="utf-8")
        text = text.replace("*** SUBJECT HERE ***", series.cover["subject"])
        cover.write_text(text.replace("*** BLURB HERE ***", cover_text(series, made_for)), encoding="utf-8")
        mails = [str(m) for m in sorted(out.glob("*.patch"))[1:]]
        git(again, "am", "--quiet", *mails)
        ours = {path for commit in series.local for path in [*commit["paths"], *commit["without"]]}
        copy_in(set(overlay_files()) - ours, ROOT, stage)
        for path in files_below(stage):
            if (again / path).read_bytes() != (stage / path).read_bytes():
                fail(f"the series gives another {path} than the overlay")
    print(f"==> {len(series.commits)} patches and a cover letter in {out}; git am takes them and gives the overlay's tree")


SIGNED = """#!/bin/sh
# Patches are sent by the person who signed them. A cover letter is not signed.
if grep -q '^diff --git ' "$1" && ! grep -q '^Signed-off-by: ' "$1"; then
	echo "$1 has no Signed-off-by: run 'git rebase --signoff base' first" >&2
	exit 1
fi
"""


def import_base(base, repo):
    """A git repository with all of the base in one commit, which the tag "base" names."""
    print(f"==> importing the base into {repo}: some minutes, the first time", file=sys.stderr)
    unfinished = repo.with_name(repo.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    git(unfinished, "init", "--quiet", "--initial-branch=collapse")
    # The threshold has all files go into one pack at once.
    git(
        base, f"--git-dir={unfinished / '.git'}", "--work-tree=.", "-c", "core.bigFileThreshold=1",
        "add", "--all", "--force",
    )
    git(unfinished, "commit", "--quiet", "--message", "The base, as it was released")
    git(unfinished, "tag", "base")
    git(unfinished, "config", "format.coverFromDescription", "subject")
    git(unfinished, "config", "b4.prep-cover-strategy", "branch-description")
    hook = unfinished / ".git/hooks/sendemail-validate"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(SIGNED, encoding="utf-8")
    hook.chmod(0o755)
    git(unfinished, "reset", "--quiet", "--hard")
    unfinished.rename(repo)


def ask(repo, *args, **kwargs):
    return git(repo, *args, stdout=subprocess.PIPE, **kwargs).stdout.strip()


def branch(series, base, repo, made_for=""):
    """Makes the series the commits of branch "collapse" in `repo`, on top of the base.

    The branch as it was made before becomes "collapse-before". Work of others on it
    is never overwritten.
    """
    if not repo.exists():
        import_base(base, repo)
    before, written = (ask(repo, "for-each-ref", "--format=%(objectname)", ref) for ref in
                       ("refs/heads/collapse", "refs/overlay/written"))
    if before and written and before != written:
        fail(f"branch 'collapse' of {repo} has commits of your own: give it another name, 'git branch -m collapse NAME'")
    if ask(repo, "status", "--porcelain", "--untracked-files=no"):
        fail(f"{repo} has changes that are not committed")
    head = ask(repo, "rev-parse", "base^{commit}")
    with tempfile.TemporaryDirectory() as name:
        stage = pathlib.Path(name, "stage")
        stage.mkdir()
        env = {**os.environ, "GIT_DIR": str(repo.resolve() / ".git"), "GIT_INDEX_FILE": str(pathlib.Path(name, "index"))}
        git(repo, "read-tree", head, env=env)
        for commit in series.commits:
            stage_commit(commit, base, stage)
            paths = {*commit["paths"], *commit["without"]}.union(*(patched_files(p) for p in commit["patches"]))
            git(stage, "--work-tree=.", "add", "--force", "--", *sorted(paths), env=env)
            tree = ask(stage, "write-tree", env=env)
            head = ask(repo, "commit-tree", tree, "-p", head, "-F", "-", input=commit["message"].strip() + "\n")
    contents = [ask(repo, "log", "--reverse", "--format=%T %B", f"base..{x}") if x else "" for x in (before, head)]
    if contents[0] != contents[1]:
        if before and written:
            git(repo, "branch", "--force", "collapse-before", before)
        git(repo, "checkout", "--quiet", "-B", "collapse", head)
        git(repo, "update-ref", "refs/overlay/written", head)
    described = subprocess.run(
        ["git", "-C", str(repo), "config", "branch.collapse.description"], check=False, capture_output=True, text=True
    ).stdout
    # b4 keeps its own data of a series there.
    if "b4-submit-tracking" not in described:
        text = f"{series.cover['subject']}\n\n{cover_text(series, made_for)}"
        git(repo, "config", "branch.collapse.description", text)
    git(repo, "config", "format.subjectPrefix", series.cover["prefix"])
    print(f"==> {len(series.commits)} commits on branch 'collapse' of {repo}, from tag 'base'")


def list_commits(series):
    """Prints for each commit, one line a file: its number, its subject, a path."""
    for number, commit in enumerate(series.commits, 1):
        subject = commit["message"].strip().splitlines()[0]
        paths = {*commit["paths"], *commit["without"]}.union(*(patched_files(p) for p in commit["patches"]))
        for path in sorted(paths):
            print(f"{number}\t{subject}\t{path}")


def fits(series, base):
    """Prints each commit that does not fit `base`, with the reason."""
    misfits = 0
    with tempfile.TemporaryDirectory() as name:
        for number, commit in enumerate(series.commits, 1):
            try:
                stage_commit(commit, base, pathlib.Path(name))
            except Misfit as why:
                misfits += 1
                print(f"{number:04} {commit['message'].strip().splitlines()[0]}\n    {why}")
    if misfits:
        fail(f"{misfits} of {len(series.commits)} patches do not apply to {base.name}")
    print(f"==> all of {len(series.commits)} patches apply to {base.name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, helptext in (
        ("sync", "write base + series, or its first commits, to TREE"),
        ("refresh", "take edits in TREE back into the repository"),
        ("format", "write the series as mails to TREE (a folder)"),
        ("branch", "make the series a branch of TREE (a git repository)"),
        ("fits", "say which patches apply to BASE, and which hunks do not"),
        ("commits", "list the files of each commit"),
    ):
        command = commands.add_parser(name, help=helptext)
        if name != "commits":
            command.add_argument("base", type=pathlib.Path)
        if name in ("sync", "refresh", "format", "branch"):
            command.add_argument("tree", type=pathlib.Path)
        if name == "refresh":
            command.add_argument("--patch", default="", help="the patch that takes edits of files in none yet")
        if name in ("format", "branch"):
            command.add_argument("--made-for", default="", help="a line for the cover letter that names the base")
        if name == "sync":
            command.add_argument("--commits", type=int, help="how many")
    args = parser.parse_args()
    series = Series(getattr(args, "commits", None))
    try:
        if args.command == "sync":
            sync(series, args.base, args.tree)
        elif args.command == "refresh":
            refresh(series, args.base, args.tree, args.patch)
        elif args.command == "format":
            format_series(series, args.base, args.tree, args.made_for)
        elif args.command == "branch":
            branch(series, args.base, args.tree, args.made_for)
        elif args.command == "fits":
            fits(series, args.base)
        else:
            list_commits(series)
    except Misfit as why:
        fail(why)


if __name__ == "__main__":
    main()
