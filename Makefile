# SPDX-License-Identifier: GPL-2.0
#
# MADV_COLLAPSE in Rust: an overlay on the Linux 7.3 tree. The work is done by
# the scripts in scripts/, which can be called by themselves.
#
# KERNEL_SRC=path   a kernel tree or tarball of your own instead of the pinned one
# PATCH=name        for 'make refresh': the patch that takes edits of other files
# HOURS=n           for 'make soak'; with COLLAPSE_SEED=n it repeats a round

.DEFAULT_GOAL := help
.PHONY: help setup tree kernel run test model bench coverage soak shell check check-arch docs series series-check branch bisect refresh long mutate baseline package clean
export KERNEL_SRC COLLAPSE_SEED

help: ## what can be done here
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing: packages, toolchain, base tree
	@scripts/setup.sh

tree: setup ## bring the unpacked kernel tree up to date with this repository
	@scripts/tree.sh sync

kernel: tree ## build the release and the debug kernel
	@scripts/kernel.sh release
	@scripts/kernel.sh debug

run: setup ## demonstration: collapse a redis-server's heap in a guest
	@scripts/demo.sh

test: setup ## everything that is tested; ends with a line of totals
	@scripts/test.sh

model: setup ## explore more of the model of the protocol than 'make test' does
	@scripts/model.sh long

coverage: ## tell which lines of the engine the last 'make test' did not reach
	@scripts/coverage.sh

soak: setup ## random tests for as long as you like: HOURS=8, or 0.5
	@scripts/soak.sh "$(HOURS)"

bench: setup ## measure C and Rust in one kernel (about half an hour)
	@scripts/bench.sh

shell: setup ## a shell in a guest that runs the release kernel
	@scripts/demo.sh shell

check: tree ## rustfmt, clippy, checkpatch, shellcheck, ruff
	@scripts/check.sh

check-arch: tree ## build rust/ and mm/ for what cannot be run here: half an hour from nothing
	@scripts/check_arch.sh

docs: tree ## build the documentation, without a warning about ours
	@scripts/docs.sh

series: setup ## write the patch series as mails
	@scripts/tree.sh format

branch: setup ## make the series a git branch, for git log -p, rebase, b4, range-diff
	@scripts/tree.sh branch

series-check: setup ## say whether the series applies, here and to the newest 7.3.y
	@scripts/series_check.sh

bisect: tree ## build and boot each patch of the series, with its option on and off
	@scripts/bisect.sh

refresh: setup ## take edits in the unpacked tree back into this repository
	@scripts/tree.sh refresh "$(PATCH)"

mutate: tree ## show that the tests detect faults: takes safeguards out, one by one (hours)
	@scripts/mutate.sh

long: tree ## run upstream's longest selftests on the debug kernel (half an hour)
	@scripts/long.sh

baseline: tree ## record what the unpatched base passes (half an hour)
	@scripts/baseline.sh

package: setup ## build the packages of thp-collapse, and check them
	@scripts/package.sh

clean: ## remove the build folders of this base (the downloads stay)
	@scripts/tree.sh clean
