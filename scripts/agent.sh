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

cargo_for_agent() { run_cargo agent agent "$@"; }

case ${1:-build} in
build)
	# With a target named, macros, which run while building, are not linked statically.
	target=$(rustc -vV | sed -n 's/^host: //p')
	say "building thp-collapse: a minute from nothing"
	RUSTFLAGS=-Ctarget-feature=+crt-static cargo_for_agent build --release --target "$target"
	program=$BUILD/agent/thp-collapse
	cp "$BUILD/agent/$target/release/thp-collapse" "$program"
	# A guest has this machine's libraries. Other machines may not have them.
	! readelf -l "$program" | grep -q INTERP || die "$program is not static"
	echo "$program"
	;;
test)
	cargo_for_agent test
	# Result lines, for scripts/test.sh.
	sed -n 's/^test \(.*\) \.\.\. ok$/pass thp-collapse: \1/p' "$BUILD/agent.log"
	;;
lint) cargo_for_agent clippy --all-targets --all-features -- -D warnings ;;
doc) RUSTDOCFLAGS='-D warnings' cargo_for_agent doc --no-deps --document-private-items ;;
*) die "usage: agent.sh [build | test | lint | doc]" ;;
esac
