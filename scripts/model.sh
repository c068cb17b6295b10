#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: model.sh [test | long | lint]
#
# Explores the model of the protocol in tests/model/, and prints a line "pass" or
# "fail" for each of its scopes. test, the default, explores the small ones, and
# takes out of the protocol, one after the other, what the model has to miss then.
# long explores the larger scopes. How much was explored goes to standard error.
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
lock_cache
use_base
use_tools || die "the toolchain is not set up: run 'make setup'"

cargo_for_model() { run_cargo model tests/model "$@"; }

case ${1:-test} in
test)
	cargo_for_model test --release
	# Result lines, for scripts/test.sh.
	sed -nE 's/^test (.*) \.\.\. ok$/pass model: \1/p' "$BUILD/model.log"
	"$BUILD/model/release/collapse-model"
	;;
long)
	cargo_for_model build --release
	"$BUILD/model/release/collapse-model" --long
	;;
lint) cargo_for_model clippy --all-targets -- -D warnings ;;
*) die "usage: model.sh [test | long | lint]" ;;
esac
