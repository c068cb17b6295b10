#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: bisect.sh [FIRST [LAST]] | --objects
#
# Applies the patches of the series one after another, from the FIRST to the LAST
# (all of them), and builds what each of them gives, with the option on and off: a
# kernel, unless it touches nothing that one is made of, and mm's selftests where it
# touches these. Boots kernels that are not, byte for byte, the one booted before. A
# warning is a failure.
#
# With --objects builds nothing but the C files that any patch edits, at the first
# patch and at each that touches C, and without Rust. That takes a minute or two.
#
# Each step builds little, since all of it happens in the one unpacked tree and its
# build folders. The tree is complete again in the end.
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
lock_cache
use_base

objects=
[ "${1:-}" != --objects ] || { objects=1 && shift; }
commits=$("$ROOT/scripts/overlay.py" commits)
patches=$(tail -n 1 <<<"$commits" | cut -f 1)
first=${1:-1} last=${2:-$patches}
if ! [[ "$first $last" =~ ^[1-9][0-9]*' '[1-9][0-9]*$ ]] || ((first > last || last > patches)); then
	die "no steps from $first to $last: the series has 1 to $patches"
fi
mapfile -t edited < <(cut -f 3 <<<"$commits" | sed -nE '/^mm.collapse./d; s/^(mm.*)[.]c$/\1.o/p' | sort -u)
mapfile -t edited_in_arch < <(cut -f 3 <<<"$commits" | sed -nE 's/^(arch.*)[.]c$/\1.o/p' | sort -u)
# Files that no kernel is built from.
apart='^(Documentation/.*[.]rst|tools/testing/.*|MAINTAINERS)$'
off=without
[ -z "$objects" ] || off=off

trap '"$ROOT/scripts/overlay.py" sync "$BASE" "$TREE"' EXIT

# build_step NAME: one configuration of the tree as it stands.
build_step() {
	local name=$1 image=$BUILD/$1/arch/x86/boot/bzImage
	if [ -n "$objects" ]; then
		# An empty CONFIG_RUST leaves the option on, but has make not build Rust first.
		"$ROOT/scripts/kernel.sh" "$name" CONFIG_RUST= "${edited[@]}" || return
		# make comes to the folders of arch/ twice, and at once unless told not to.
		! grep -q '^arch/' <<<"$paths" || "$ROOT/scripts/kernel.sh" "$name" -j1 CONFIG_RUST= "${edited_in_arch[@]}"
		return
	fi
	"$ROOT/scripts/kernel.sh" "$name" || return
	cmp -s "$image" "$BUILD/bisect-$name.booted" && return
	"$ROOT/scripts/boot.sh" -l bisect "$name" 'uname -v && grep -q thp_ /proc/vmstat' >/dev/null || return
	cp "$image" "$BUILD/bisect-$name.booted"
	echo "pass bisect: $step boots ($name)"
}

# selftests_build: and say nothing of ours.
selftests_build() {
	"$ROOT/scripts/selftests.sh" build >/dev/null || return
	! grep -E '^([^:]*/)?collapse[a-z_]*[.][ch]:.* warning: ' "$BUILD/selftests/build.log" >&2
}

rm -f "$BUILD"/bisect-*.booted
failed=0
for ((number = first; number <= last; number++)); do
	mine=$(awk -F '\t' -v n="$number" '$1 == n' <<<"$commits")
	step="$number $(head -n 1 <<<"$mine" | cut -f 2)" paths=$(cut -f 3 <<<"$mine")
	if [ -n "$objects" ]; then
		[ "$number" -eq "$first" ] || grep -qE '^(mm|arch|include)/.*[.][ch]$' <<<"$paths" || continue
	fi
	"$ROOT/scripts/overlay.py" sync --commits "$number" "$BASE" "$TREE"
	# The first patches come before the option.
	names=("$off")
	[ ! -f "$TREE/mm/collapse/Kconfig" ] || names=(release "$off")
	for name in "${names[@]}"; do
		# The first step is always built: an earlier build may be of any step.
		[ "$number" -eq "$first" ] || grep -qvE "$apart" <<<"$paths" || continue
		if build_step "$name"; then
			echo "pass bisect: $step builds ($name)"
		else
			echo "fail bisect: $step ($name)"
			failed=1
		fi
	done
	if [ -z "$objects" ] && grep -q '^tools/testing/' <<<"$paths"; then
		if selftests_build; then
			echo "pass bisect: $step: its test builds"
		else
			echo "fail bisect: $step: its test"
			failed=1
		fi
	fi
done
exit $failed
