#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: agent.sh [build | test | lint | doc]
#
# Builds the command-line agent as a static program (build, the default: prints
# where it is), runs its unit tests, lints it, or builds its documentation.
# Cargo.lock pins all it is made of; once these crates are on the machine, no
# network is needed.
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
lock_cache
use_base
use_tools || die "the toolchain is not set up: run 'make setup'"

agent=$ROOT/agent
export CARGO_TARGET_DIR=$BUILD/agent
log=$BUILD/agent.log
mkdir -p "$BUILD"

# run_cargo ARGS...: quiet unless it fails.
run_cargo() {
	(cd "$agent" && cargo "$1" --locked "${@:2}") >"$log" 2>&1 || {
		tail -n 60 "$log" >&2
		die "cargo $1 failed for thp-collapse (a first build fetches its crates; is there a network?): $log"
	}
}

case ${1:-build} in
build)
	# With a target named, macros, which run while building, are not linked statically.
	target=$(rustc -vV | sed -n 's/^host: //p')
	say "building thp-collapse: a minute from nothing"
	RUSTFLAGS=-Ctarget-feature=+crt-static run_cargo build --release --target "$target"
	program=$BUILD/agent/thp-collapse
	cp "$BUILD/agent/$target/release/thp-collapse" "$program"
	# A guest has this machine's libraries. Other machines may not have them.
	! readelf -l "$program" | grep -q INTERP || die "$program is not static"
	echo "$program"
	;;
test)
	run_cargo test
	# Result lines, for scripts/test.sh.
	sed -n 's/^test \(.*\) \.\.\. ok$/pass thp-collapse: \1/p' "$log"
	;;
lint) run_cargo clippy --all-targets --all-features -- -D warnings ;;
doc) RUSTDOCFLAGS='-D warnings' run_cargo doc --no-deps --document-private-items ;;
*) die "usage: agent.sh [build | test | lint | doc]" ;;
esac
