#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Compares the lines of the engine that the last "make test" did not reach, in all its
# runs on the debug kernel, with those that tests/uncovered lists.
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
use_base

ran=("$BUILD"/boot/debug-{kunit,redis,programs,selftests-ours,selftests-upstream,selftests-userfaultfd}/coverage)
for file in "${ran[@]}"; do
	[ -f "$file" ] || die "$file is missing: run 'make test' first"
done
python3 "$ROOT/scripts/coverage.py" "$LLVM_MAJOR" "$TREE" "$BUILD/debug" "$ROOT/tests/uncovered" "${ran[@]}"
