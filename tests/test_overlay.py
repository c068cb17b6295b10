#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Tests of scripts/overlay.py and scripts/tap.py on a tree of a few files."""

import contextlib
import io
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import overlay
import tap

MANIFEST = """
[cover]
prefix = "PATCH"
subject = "a subject"
text = "a text"
[[commit]]
message = "mm: first"
files = ["mm/new/*"]
patches = ["one.patch"]
[[commit]]
message = "mm: second"
patches = ["two.patch"]
"""
BASE = "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n"
ONE = "--- a/mm/old.c\n+++ b/mm/old.c\n@@ -1,3 +1,4 @@\n a\n+one\n b\n c\n"
TWO = "--- a/mm/old.c\n+++ b/mm/old.c\n@@ -9,3 +9,4 @@\n h\n i\n+two\n j\n"


class Overlay(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        top = pathlib.Path(folder.name)
        self.repo, self.base, self.tree = top / "repo", top / "base", top / "tree"
        self.write(self.base / "mm/old.c", BASE)
        self.write(self.base / "mm/other.c", "other\n")
        self.write(self.repo / "mm/new/new.c", "new\n")
        self.write(self.repo / "patches/one.patch", ONE)
        self.write(self.repo / "patches/two.patch", TWO)
        self.write(self.repo / "series/series.toml", MANIFEST)
        self.addCleanup(setattr, overlay, "ROOT", overlay.ROOT)
        overlay.ROOT = self.repo

    @staticmethod
    def write(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def quietly(self, function, *args):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return function(overlay.Series(), self.base, self.tree, *args)

    def sync(self):
        self.quietly(overlay.sync)
        return (self.tree / "mm/old.c").read_text()

    def refused(self, function, *args):
        with self.assertRaises((SystemExit, overlay.Misfit)) as stop:
            self.quietly(function, *args)
        return str(stop.exception)

    def test_sync_applies_files_and_patches(self):
        self.assertEqual(self.sync(), BASE.replace("a\n", "a\none\n").replace("i\n", "i\ntwo\n"))
        self.assertEqual((self.tree / "mm/new/new.c").read_text(), "new\n")

    def test_sync_leaves_what_is_the_same(self):
        self.sync()
        before = (self.tree / "mm/old.c").stat().st_mtime_ns
        self.sync()
        self.assertEqual((self.tree / "mm/old.c").stat().st_mtime_ns, before)

    def test_sync_takes_back_what_left_the_series(self):
        self.sync()
        manifest = MANIFEST.replace('["two.patch"]', "[]")
        self.write(self.repo / "series/series.toml", manifest)
        (self.repo / "patches/two.patch").unlink()
        self.assertNotIn("two", self.sync())

    def test_sync_of_the_first_commits(self):
        self.sync()
        with contextlib.redirect_stdout(io.StringIO()):
            overlay.sync(overlay.Series(1), self.base, self.tree)
        self.assertEqual((self.tree / "mm/old.c").read_text(), BASE.replace("a\n", "a\none\n"))
        with contextlib.redirect_stdout(io.StringIO()):
            overlay.sync(overlay.Series(0), self.base, self.tree)
        self.assertEqual((self.tree / "mm/old.c").read_text(), BASE)
        # Or make would take what was built of it for up to date.
        self.assertGreater(
            (self.tree / "mm/old.c").stat().st_mtime_ns, (self.base / "mm/old.c").stat().st_mtime_ns
        )
        self.assertFalse((self.tree / "mm/new/new.c").exists())
        self.assertIn("two", self.sync())

    def grow(self, word):
        """Has an early commit bring all of new.c but the blocks with a word."""
        manifest = MANIFEST.replace('files = ["mm/new/*"]', f'without = {{ "mm/new/new.c" = ["{word}"] }}')
        self.write(self.repo / "series/series.toml", manifest + 'files = ["mm/new/*"]\n')
        self.write(self.repo / "mm/new/new.c", "early\n\nint late;\n\nint early;\n")

    def test_a_new_file_may_come_in_parts(self):
        self.grow("late")
        with contextlib.redirect_stderr(io.StringIO()):
            overlay.sync(overlay.Series(1), self.base, self.tree)
        self.assertEqual((self.tree / "mm/new/new.c").read_text(), "early\n\nint early;\n")
        self.sync()
        self.assertEqual((self.tree / "mm/new/new.c").read_text(), "early\n\nint late;\n\nint early;\n")

    def test_a_part_that_is_not_there_is_named(self):
        self.grow("never")
        self.assertIn("no block with 'never'", self.refused(overlay.sync))

    def test_sync_never_overwrites_an_edit(self):
        self.sync()
        for path in ("mm/old.c", "mm/other.c", "mm/new/new.c", "mm/extra.c"):
            kept = (self.tree / path).read_text() if (self.tree / path).exists() else None
            self.write(self.tree / path, "edited\n")
            self.assertIn(path, self.refused(overlay.sync))
            self.assertEqual((self.tree / path).read_text(), "edited\n")
            (self.tree / path).unlink() if kept is None else self.write(self.tree / path, kept)
        self.sync()

    def test_files_that_git_ignores_are_no_edits(self):
        self.write(self.base / ".gitignore", "# rules\n.*\n!.keep\n*.o\n\\#*#\n/*\n!/mm/\n")
        self.sync()
        for path in (".checkpatch-camelcase.date.1", "mm/old.o", "mm/#old.c#"):
            self.write(self.tree / path, "left by a tool\n")
        self.write(self.base / ".checkpatch-camelcase.date.2", "left by a tool\n")
        self.sync()
        for path in ("mm/.keep", "mm/extra.c", "mm/oo"):
            self.write(self.tree / path, "new\n")
            self.assertIn(path, self.refused(overlay.sync))
            (self.tree / path).unlink()
        self.sync()

    def test_edits_of_what_the_base_has_are_edits_whatever_git_ignores(self):
        self.write(self.base / "mm/.hidden", "hidden\n")
        self.write(self.base / ".gitignore", ".*\n*.c\n")
        self.sync()
        for path in ("mm/.hidden", "mm/other.c", "mm/old.c"):
            kept = (self.tree / path).read_text()
            self.write(self.tree / path, "edited\n")
            self.assertIn(path, self.refused(overlay.sync))
            self.write(self.tree / path, kept)
        self.sync()

    def test_refresh_brings_edits_home(self):
        text = self.sync()
        self.write(self.tree / "mm/old.c", text.replace("two", "two and more"))
        self.write(self.tree / "mm/new/new.c", "newer\n")
        self.quietly(overlay.refresh, "")
        self.assertIn("+two and more", (self.repo / "patches/two.patch").read_text())
        self.assertNotIn("more", (self.repo / "patches/one.patch").read_text())
        self.assertEqual((self.repo / "mm/new/new.c").read_text(), "newer\n")
        self.assertIn("two and more", self.sync())

    def test_refresh_fits_later_patches_to_an_edit(self):
        text = self.sync()
        edited = text.replace("one", "one and more").replace("g\n", "g\ng and more\n")
        self.write(self.tree / "mm/old.c", edited)
        self.quietly(overlay.refresh, "one")
        self.assertIn("+one and more", (self.repo / "patches/one.patch").read_text())
        self.assertIn("+g and more", (self.repo / "patches/one.patch").read_text())
        self.assertIn(" g and more", (self.repo / "patches/two.patch").read_text())
        self.assertNotIn("+g and more", (self.repo / "patches/two.patch").read_text())
        self.assertEqual(self.sync(), edited)

    def test_refresh_says_which_patch_an_edit_belongs_to(self):
        text = self.sync()
        self.write(self.tree / "mm/old.c", text.replace("two", "two and more"))
        self.assertIn("name a later patch", self.refused(overlay.refresh, "one"))
        self.assertEqual((self.repo / "patches/one.patch").read_text(), ONE)

    def test_refresh_overwrites_nothing_in_the_repository(self):
        self.sync()
        self.write(self.tree / "mm/new/new.c", "edited in the tree\n")
        self.write(self.repo / "mm/new/new.c", "edited here\n")
        self.assertIn("mm/new/new.c", self.refused(overlay.refresh, ""))
        self.assertEqual((self.repo / "mm/new/new.c").read_text(), "edited here\n")

    def test_refresh_asks_where_an_edit_belongs(self):
        self.sync()
        self.write(self.tree / "mm/other.c", "edited\n")
        self.assertIn("mm/other.c is in no patch", self.refused(overlay.refresh, ""))
        self.quietly(overlay.refresh, "two")
        self.assertIn("+edited", (self.repo / "patches/two.patch").read_text())
        self.sync()
        self.assertEqual((self.tree / "mm/other.c").read_text(), "edited\n")

    def test_a_file_in_no_commit_is_refused(self):
        self.write(self.repo / "mm/stray.c", "stray\n")
        self.assertIn("mm/stray.c", self.refused(overlay.sync))

    def test_a_patch_that_does_not_apply_is_named(self):
        self.write(self.base / "mm/old.c", "something else\n")
        self.assertIn("patches/one.patch does not apply", self.refused(overlay.sync))

    def fits(self):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            overlay.fits(overlay.Series(), self.base)
        return said.getvalue()

    def test_a_base_that_fits(self):
        self.assertIn("all of 2 patches apply", self.fits())

    def test_a_base_that_does_not_fit_is_told_by_hunk(self):
        self.write(self.base / "mm/old.c", BASE.replace("i\n", "another\n"))
        said = io.StringIO()
        with self.assertRaises(SystemExit) as stop, contextlib.redirect_stdout(said):
            overlay.fits(overlay.Series(), self.base)
        self.assertIn("1 of 2 patches do not apply", str(stop.exception))
        self.assertIn("0002 mm: second", said.getvalue())
        self.assertIn("Hunk #1 FAILED", said.getvalue())
        self.assertNotIn("0001", said.getvalue())

    def test_format_gives_the_overlays_tree(self):
        self.quietly(overlay.format_series)
        mails = sorted(path.name for path in self.tree.iterdir())
        self.assertEqual(mails, ["0000-cover-letter.patch", "0001-mm-first.patch", "0002-mm-second.patch"])
        self.assertIn("a subject", (self.tree / mails[0]).read_text())

    def test_nothing_signs_for_the_person_who_sends(self):
        self.quietly(overlay.format_series, "base-version: v1")
        mails = {path.name: path.read_text() for path in self.tree.iterdir()}
        self.assertFalse([name for name, text in mails.items() if "Signed-off-by" in text])
        self.assertIn("a text\n\nbase-version: v1\n", mails["0000-cover-letter.patch"])

    def test_what_is_local_is_applied_and_not_sent(self):
        local = MANIFEST.replace('files = ["mm/new/*"]', 'without = { "mm/new/new.c" = ["late"] }')
        self.write(self.repo / "series/series.toml", local + '[[local]]\nfiles = ["mm/new/*"]\n')
        self.write(self.repo / "mm/new/new.c", "early\n\nint late;\n")
        self.write(self.repo / "mm/new/test.c", "test\n")
        self.sync()
        self.assertEqual((self.tree / "mm/new/new.c").read_text(), "early\n\nint late;\n")
        self.assertTrue((self.tree / "mm/new/test.c").exists())
        self.quietly(overlay.format_series)
        mails = "".join(path.read_text() for path in self.tree.iterdir())
        self.assertIn("+early", mails)
        self.assertNotIn("late", mails)
        self.assertNotIn("test.c", mails)

    def git(self, *args):
        run = subprocess.run(["git", "-C", self.tree, *args], check=False, capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stderr)
        return run.stdout

    def test_branch_has_a_commit_for_each_patch(self):
        self.quietly(overlay.branch)
        self.assertEqual(self.git("log", "--format=%s", "base..collapse"), "mm: second\nmm: first\n")
        self.assertEqual(self.git("diff", "--name-only", "base", "collapse~1"), "mm/new/new.c\nmm/old.c\n")
        self.assertEqual((self.tree / "mm/old.c").read_text(), BASE.replace("a\n", "a\none\n").replace("i\n", "i\ntwo\n"))
        self.assertEqual((self.tree / "mm/other.c").read_text(), "other\n")
        self.assertIn("a subject", self.git("config", "branch.collapse.description"))
        self.git("config", "branch.collapse.description", "mine\n--- b4-submit-tracking ---")
        self.quietly(overlay.branch)
        self.assertIn("mine", self.git("config", "branch.collapse.description"))

    def test_branch_is_made_anew_only_when_the_series_changed(self):
        self.quietly(overlay.branch)
        first = self.git("rev-parse", "collapse")
        self.quietly(overlay.branch)
        self.assertEqual(self.git("rev-parse", "collapse"), first)
        self.write(self.repo / "mm/new/new.c", "newer\n")
        self.quietly(overlay.branch)
        self.assertEqual(self.git("rev-parse", "collapse-before"), first)
        self.assertEqual(self.git("show", "collapse:mm/new/new.c"), "newer\n")
        self.assertEqual(self.git("status", "--porcelain"), "")

    def test_branch_overwrites_no_work(self):
        self.quietly(overlay.branch)
        self.write(self.tree / "mm/old.c", "edited\n")
        self.assertIn("not committed", self.refused(overlay.branch))
        self.git("-c", "user.name=n", "-c", "user.email=e@e", "commit", "--quiet", "--all", "--message=mine")
        self.assertIn("commits of your own", self.refused(overlay.branch))
        self.assertEqual(self.git("log", "-1", "--format=%s", "collapse"), "mine\n")
        # Given another name, it is out of the way.
        self.git("branch", "--move", "collapse", "mine")
        self.quietly(overlay.branch)
        self.assertEqual(self.git("log", "-1", "--format=%s", "mine"), "mine\n")
        self.assertEqual(self.git("log", "-1", "--format=%s", "collapse"), "mm: second\n")

    def test_unsigned_patches_are_not_sent_from_the_branch(self):
        self.quietly(overlay.branch)
        hook = self.tree / ".git/hooks/sendemail-validate"
        for text, result in (("diff --git a b\n", 1), ("cover\n", 0), ("Signed-off-by: A <a@b>\n---\ndiff --git a b\n", 0)):
            self.write(self.repo / "mail", text)
            self.assertEqual(subprocess.run([hook, self.repo / "mail"], check=False, capture_output=True).returncode, result)

    def test_unsigned_mails_are_not_sent(self):
        self.quietly(overlay.format_series)
        send = [ROOT / "scripts/send.sh", self.tree]
        run = subprocess.run(send, check=False, capture_output=True, text=True)
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("0001-mm-first.patch is not signed off by", run.stderr)


class Tap(unittest.TestCase):
    def test_parse(self):
        text = "TAP version 13\nok 1 first\nnot ok 2 - second\n    ok 1 third # SKIP why\nok 2 fourth # XFAIL\nok 5 first\n"
        text += "ok 6 # SKIP fifth\n"
        self.assertEqual(
            list(tap.parse(text, "s")),
            [
                ("pass", "s: first"),
                ("fail", "s: second"),
                ("skip", "s: third"),
                ("xfail", "s: fourth"),
                ("pass", "s: first (2)"),
                ("skip", "s: fifth"),
            ],
        )

    def test_a_plan_that_is_not_fulfilled_is_a_failure(self):
        results = list(tap.parse("1..3\nok 1 first\nok 2 second\n", "s"))
        self.assertEqual(results[-1], ("fail", "s: 2 results, 3 were planned"))

    def test_silence_is_a_failure(self):
        self.assertEqual(list(tap.parse("nothing\n", "s")), [("fail", "s: printed no test result at all")])

    def test_compare(self):
        base = {n: (r, why) for n, r, why in (
            ("good", "pass", ""), ("fit", "pass", "may skip: why"), ("unfit", "pass", "may skip: why"), ("lost", "pass", ""), ("gone", "pass", ""), ("moody", "pass", "flaky: why"),
            ("bad", "fail", "why"), ("unexplained", "fail", ""), ("skipped", "skip", ""), ("turned", "skip", ""),
        )}
        here = {n: (r, "") for n, r in (
            ("good", "pass"), ("fit", "skip"), ("unfit", "fail"), ("lost", "fail"), ("moody", "fail"), ("bad", "fail"), ("unexplained", "fail"),
            ("skipped", "skip"), ("turned", "fail"), ("new", "fail"),
        )}
        verdicts = {name.split(" ")[0]: result for result, name in tap.compare(base, here)}
        self.assertEqual(verdicts, {
            "good": "pass", "fit": "skip", "unfit": "fail", "lost": "fail", "gone": "fail", "moody": "skip", "bad": "skip",
            "unexplained": "fail", "skipped": "skip", "turned": "fail", "new": "fail",
        })


if __name__ == "__main__":
    unittest.main()
