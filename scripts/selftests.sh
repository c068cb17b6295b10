#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: selftests.sh KERNEL [long] | build
#
# Builds the mm selftests from KERNEL's own tree, runs those of tests/suites in
# a guest, and prints one line a test: "pass", "fail", "skip" or "xfail" and its name.
# Tests that are marked as long run on the debug kernel only with "long", and then no
# other tests run. With "build", builds the tests of our tree, and prints their folder.
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

kernel=${1:?usage: selftests.sh KERNEL [long] | build} choice=${2:-}
[ -z "$choice" ] || [ "$kernel $choice" = "debug long" ] || die "only the debug kernel has long tests"
lock_cache
use_base
use_tools || die "the toolchain is not set up: run 'make setup'"
# Built once for all kernels of a tree.
tree=$TREE out=$BUILD/selftests
[[ $kernel != base-* ]] || tree=$BASE out=$BUILD/base-selftests
binaries=$out/kselftest/mm
mkdir -p "$out"

say "building the mm selftests"
exec 8>"$out/lock"
flock 8
{
	kmake "$tree" "$out" headers &&
		make -C "$tree/tools/testing/selftests" TARGETS=mm O="$out" CC=gcc LLVM= -j"$(nproc)"
} >"$out/build.log" 2>&1 || die "building the selftests failed: $(grep -m5 -E 'error|\*\*\*' "$out/build.log"); all of it: $out/build.log"
exec 8>&-
if [ "$kernel" = build ]; then
	echo "$binaries"
	exit
fi

# Runs our tests and upstream's side by side, each in a guest of its own. The guest of our
# tests has two nodes, and tests of ZONE_MOVABLE have a guest with that zone. The base has
# no tests of ours. If more processors are emulated than there are, those of a guest mostly
# wait for each other: so upstream's longest test has one processor, and so have all of
# upstream's tests on the debug kernel.
chosen=$out/suites/$kernel
rm -rf "$chosen" "$BUILD/boot/$kernel-selftests"-*
mkdir -p "$chosen"
while IFS=$'\t' read -r name limit command tries long; do
	[ "$kernel" != debug ] || [ "$long" = "$choice" ] || continue
	[ -f "$tree/tools/testing/selftests/mm/${command%% *}.c" ] || continue
	case $kernel:$name in
	*:collapse*) group=ours ;;
	*:zone_movable) group=movable ;;
	*:uffd*) group=userfaultfd ;;
	*) group=upstream ;;
	esac
	printf '%s\t%s\t%s\t%s\n' "$name" "$limit" "$command" "$tries" >>"$chosen/$group"
done < <(grep -v '^#' "$ROOT/tests/suites")

guests=()
for suites in "$chosen"/*; do
	group=selftests-$(basename "$suites") machine=()
	case $kernel:$group in
	*-ours) machine=("${TWO_NODES[@]}") ;;
	*-movable) machine=(-a movablecore=1G) ;;
	*-userfaultfd | debug:*) machine=(-p 1) ;;
	esac
	"$ROOT/scripts/boot.sh" -t 3000 -l "$group" "${machine[@]}" "$kernel" \
		"bash '$ROOT/guest/selftests.sh' '$binaries' '$suites' '$BUILD/boot/$kernel-$group'" >&2 &
	guests+=($!)
done
status=0
for guest in "${guests[@]}"; do wait "$guest" || status=$?; done
python3 "$ROOT/scripts/tap.py" "$BUILD/boot/$kernel-selftests"-*/*.tap
exit $status
