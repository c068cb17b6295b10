#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: mutate.sh [NAME...]
#
# Shows that the tests detect faults. Each tests/mutations/NAME.patch takes one safeguard
# out of the unpacked tree. The test that it names must fail then, and for the reason that
# it names; and it must pass without the patch. Prints one line a mutation, and notes it in
# tests/mutations/RESULTS. Without a NAME it does so for all: hours, where guests are emulated.
#
# The head of a patch has lines of these kinds, each of them once:
#   # out: the safeguard that is taken out
#   # rule: the rule that is broken then
#   # kernel: bench, which is quick to build; debug, where no other kernel can tell; or none
#   # test: the command that must fail
#   # seen: a regular expression that finds the failure in the output of the test, or in the
#           kernel's messages. Or, where the kernel is "none", why no test can see the fault
#
# A copy of the tree and of the folders of the kernels that are built already is used, so
# that these stay as they are.
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
lock_cache
use_base

binaries=$("$ROOT/scripts/selftests.sh" build)
key=$(basename "$TREE") build=$BUILD commit=$(git -C "$ROOT" describe --always --dirty=+)
export THP_COLLAPSE_COPY=mutate
use_base
logs=$BUILD/mutate
results=$ROOT/tests/mutations/RESULTS
mkdir -p "$logs"

# copy FROM TO: unless that is there.
copy() {
	[ ! -d "$2" ] && [ -d "$1" ] || return 0
	say "copying $1"
	copy_build "$1" "$2" "/\(tree\|build\)/$key/" "/\1/$key-mutate/"
}

copy "$CACHE/tree/$key.staged" "$TREE.staged"
copy "$CACHE/tree/$key" "$TREE"
for kernel in release debug; do copy "$build/$kernel" "$BUILD/$kernel"; done

# head_of NAME KIND
head_of() { sed -n "s/^# $2: //p;/^diff /q" "$ROOT/tests/mutations/$1.patch"; }

# The patch that is applied now: it is reverted later if this does not come to its end.
applied=$TREE.mutation
revert() {
	[ ! -f "$applied" ] || patch -d "$TREE" -p1 -R -s --no-backup-if-mismatch <"$applied"
	rm -f "$applied"
}

# apply NAME
apply() {
	patch -d "$TREE" -p1 -F0 --dry-run -s <"$ROOT/tests/mutations/$1.patch" >&2 || return
	cp "$ROOT/tests/mutations/$1.patch" "$applied"
	patch -d "$TREE" -p1 -F0 -s --no-backup-if-mismatch <"$applied"
}

# run KERNEL < "NAME<TAB>LIMIT<TAB>COMMAND": runs tests in a guest. Fails where the guest does.
run() {
	cat >"$logs/suites"
	"$ROOT/scripts/boot.sh" -t 900 -l mutate "${TWO_NODES[@]}" "$1" \
		"bash '$ROOT/guest/selftests.sh' '$binaries' '$logs/suites' '$BUILD/boot/$1-mutate'" >"$logs/output" 2>&1
}

# passed TAP: something was tested, and nothing failed.
passed() { grep '^ok' "$1" 2>/dev/null | grep -qv '# SKIP' && ! grep -q '^not ok' "$1"; }

# note VERDICT NAME WHAT
note() {
	local others
	echo "$1 mutation: $2: $3"
	others=$(grep -v "^$2	" "$results" 2>/dev/null || printf '# SPDX-License-Identifier: GPL-2.0\n#\n%s\n' \
		"# Seen by scripts/mutate.sh: mutation, date, commit, kernel, verdict, test and what it said.")
	{
		grep '^#' <<<"$others"
		{
			grep -v '^#' <<<"$others" || true
			printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$2" "$(date -u +%F)" "$commit" "$(head_of "$2" kernel)" "$1" "$3"
		} | sort
	} >"$results"
}

# mutate NAME KERNEL
mutate() {
	local name=$1 kernel=$2 command seen line status=0 console=$BUILD/boot/$2-mutate/console
	command=$(head_of "$name" test) seen=$(head_of "$name" seen)
	apply "$name" || { note fail "$name" "the patch does not apply" && return 1; }
	"$ROOT/scripts/kernel.sh" "$kernel" >&2 || { note fail "$name" "the kernel does not build" && revert && return 1; }
	revert
	run "$kernel" <<<"$name	240	$command" || status=$?
	line=$(cat "$BUILD/boot/$kernel-mutate/$name.tap" "$logs/output" "$console" 2>/dev/null |
		tr -d '\r\000' | sed 's/^# *//' | grep -aEm1 -- "$seen" | cut -c1-120 || true)
	if [ $status -eq 0 ] && passed "$BUILD/boot/$kernel-mutate/$name.tap"; then
		note fail "$name" "survived $command" && return 1
	elif [ -z "$line" ]; then
		cp "$logs/output" "$logs/$name.output"
		echo "its output: $logs/$name.output" >&2
		note fail "$name" "$command fails, but not for the reason" && return 1
	fi
	note pass "$name" "caught by $command: $line"
}

names=("$@")
[ $# -gt 0 ] || for patch in "$ROOT"/tests/mutations/*.patch; do names+=("$(basename "$patch" .patch)"); done
revert
trap revert EXIT
"$ROOT/scripts/tree.sh" sync
failed=0
for kernel in none bench debug; do
	mine=()
	for name in "${names[@]}"; do
		[ -f "$ROOT/tests/mutations/$name.patch" ] || die "no such mutation: $name"
		[ "$(head_of "$name" kernel)" != "$kernel" ] || mine+=("$name")
	done
	[ ${#mine[@]} -gt 0 ] || continue
	if [ "$kernel" = none ]; then
		for name in "${mine[@]}"; do note skip "$name" "$(head_of "$name" seen)"; done
		continue
	fi
	say "the tests on the $kernel kernel as it is"
	"$ROOT/scripts/kernel.sh" "$kernel" >&2
	for name in "${mine[@]}"; do printf '%s\t240\t%s\n' "$name" "$(head_of "$name" test)"; done |
		sort -t '	' -u -k 3 | run "$kernel" || { cat "$logs/output" >&2 && die "the $kernel kernel fails as it is"; }
	bad=()
	while IFS='	' read -r name _ command; do
		passed "$BUILD/boot/$kernel-mutate/$name.tap" || bad+=("$command")
	done <"$logs/suites"
	for name in "${mine[@]}"; do
		command=$(head_of "$name" test)
		if printf '%s\n' "${bad[@]}" | grep -qxF -- "$command"; then
			note fail "$name" "$command fails without it, too"
			failed=1
		else
			mutate "$name" "$kernel" || failed=1
		fi
	done
done
exit $failed
