#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What scripts/setup.sh says on a machine that it cannot set up.

Each machine is made of namespaces, which takes root.
"""

import os
import pathlib
import subprocess
import tempfile
import unittest

SETUP = pathlib.Path(__file__).resolve().parent.parent / "scripts/setup.sh"


@unittest.skipUnless(os.geteuid() == 0, "needs root to make namespaces")
class Setup(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.top = pathlib.Path(folder.name)

    def refusal(self, mount="", network=True, **environment):
        """Runs set-up with an empty cache; its one sentence, and that it fails."""
        command = f"{mount} {SETUP}"
        unshare = ["unshare", "--mount"] + ([] if network else ["--net"])
        clean = {k: v for k, v in os.environ.items() if k not in ("KERNEL_SRC", "THP_COLLAPSE_LOCKED")}
        done = subprocess.run(
            [*unshare, "bash", "-c", command],
            env={**clean, "XDG_CACHE_HOME": str(self.top / "cache"), **environment},
            capture_output=True, text=True, check=False, timeout=300,
        )
        self.assertNotEqual(done.returncode, 0, done.stderr)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        self.assertEqual(len(errors), 1, done.stderr)
        return errors[0]

    def bind(self, text, path):
        """A mount command that puts `text` in the place of the file `path`."""
        (self.top / "file").write_text(text)
        return f"mount --bind {self.top}/file {path} &&"

    def test_wrong_distribution(self):
        error = self.refusal(self.bind("ID=arch\n", "/etc/os-release"))
        self.assertIn("Debian 12 and 13, this is 'arch", error)

    def test_too_little_memory(self):
        error = self.refusal(self.bind("MemTotal:  2000000 kB\n", "/proc/meminfo"))
        self.assertIn("has 1 GiB of memory", error)

    def test_too_little_disk(self):
        error = self.refusal(f"mkdir {self.top}/cache && mount -t tmpfs -o size=1G none {self.top}/cache &&")
        self.assertIn("has 1 GB free, a build from nothing needs 20", error)

    def test_cache_that_cannot_be_made(self):
        self.assertIn("set XDG_CACHE_HOME", self.refusal(XDG_CACHE_HOME="/proc/none"))

    def test_no_network(self):
        # The first download depends on the tools that this machine has.
        self.assertRegex(self.refusal(network=False), "network|could not build bindgen|pip failed")

    def test_unfit_rust_and_no_network(self):
        rustc = self.top / "bin/rustc"
        rustc.parent.mkdir()
        rustc.write_text("#!/bin/sh\necho 'rustc 1.70.0'\necho 'LLVM version: 16.0.0'\n")
        rustc.chmod(0o755)
        error = self.refusal(network=False, PATH=f"{rustc.parent}:/usr/sbin:/usr/bin:/sbin:/bin")
        self.assertRegex(error, "apt-get failed|could not build bindgen")

    def test_kernel_src(self):
        self.assertIn("neither a kernel tree nor a tarball", self.refusal(KERNEL_SRC=f"{self.top}/none"))


if __name__ == "__main__":
    unittest.main()
