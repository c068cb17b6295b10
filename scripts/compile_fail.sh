#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: compile_fail.sh [NAME...]
#
# Checks that misuse of the types does not compile. Each file of tests/compile_fail is
# a misuse. It is compiled against the kernel crate of the release build, or as one
# more module of mm/collapse. The compiler has to reject it with the error that its
# head names and no other, in a line that is marked "// misuse". Then the file is
# mended: marked lines are deleted, and code behind "// mended:" is put in. The mended
# file has to compile, so that nothing else can be the reason. Prints one line a case,
# "pass" or "fail" and its name.
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

cases=$ROOT/tests/compile_fail

# A child of ours that compiles one case.
if [ -n "${COMPILE_FAIL_CASE:-}" ]; then
	set +e
	case=$COMPILE_FAIL_CASE name=${COMPILE_FAIL_CASE##*/}
	name=${name%.rs}
	work=$COMPILE_FAIL_WORK/$name
	head_line() { sed -n "s,^// $1: ,,p" "$case"; }
	crate=$(head_line crate) error=$(head_line error)
	code=${error%% *} message=${error#* }

	# fail REASON: reports a failure, with the compiler's messages on standard error.
	fail() {
		printf '%s: %s\n' "$name" "$1" >&2
		sed 's/^/    /' "$work/log" >&2
		echo "fail does not compile: $name"
		exit 0
	}

	# compile SOURCE: in the build's folder, with its flags.
	compile() {
		local root=$1
		if [ "$crate" = collapse ]; then
			cp "$1" "$work/crate/misuse.rs"
			root=$work/crate/collapse.rs
		fi
		eval "RUSTC_BOOTSTRAP=1 $COMPILE_FAIL_RUSTC -A warnings -D unused_must_use \
			--emit=metadata -o ${work@Q}/out.rmeta ${root@Q}" >"$work/log" 2>&1
	}

	mkdir -p "$work/crate"
	: >"$work/log"
	case $crate in
	kernel) ;;
	collapse)
		ln -sf "$TREE"/mm/collapse/*.rs "$work/crate/"
		rm -f "$work/crate/collapse.rs"
		cat "$TREE/mm/collapse/collapse.rs" - >"$work/crate/collapse.rs" <<<'mod misuse;'
		;;
	*) fail "its head does not say which crate it belongs to" ;;
	esac

	! compile "$case" || fail "compiles"
	# One error, or several of one kind: if a guard cannot be sent to another thread,
	# the compiler reports that for each of its fields.
	grep -A1 -E '^error(\[E[0-9]+\])?: ' "$work/log" | grep -v '^error: aborting due to' >"$work/errors"
	mapfile -t messages < <(sed -n 's/^error//p' "$work/errors")
	mapfile -t lines < <(sed -n 's/^ *--> .*:\([0-9]*\):[0-9]*$/\1/p' "$work/errors")
	case $code in
	E[0-9]*) expected="[$code]: " ;;
	*)
		expected=": "
		grep -qF -- "-D ${code//_/-}" "$work/log" || fail "is not rejected by the lint $code"
		;;
	esac
	for found in "${messages[@]}"; do
		[ "${found#"$expected"}" != "$found" ] || fail "is not rejected with $code alone"
	done
	[[ "${messages[*]}" == *"$message"* ]] || fail "is not rejected because \"$message\""
	[ ${#lines[@]} -eq ${#messages[@]} ] || fail "is rejected for something without a place"
	for line in "${lines[@]}"; do
		sed -n "${line}p" "$case" | grep -q '// misuse$' || fail "is rejected in line $line, which is not marked"
	done

	sed -e '/\/\/ misuse$/d' -e 's,// mended: ,,' "$case" >"$work/mended.rs"
	compile "$work/mended.rs" || fail "does not compile when it is mended"
	echo "pass does not compile: $name"
	exit 0
fi

lock_cache
use_base
use_tools || die "the toolchain is not set up: run 'make setup'"
command=$(collapse_rustc)
if [ $# -gt 0 ]; then
	files=("${@/#/$cases/}")
	files=("${files[@]/%/.rs}")
else
	files=("$cases"/*.rs)
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$BUILD/release"
export COMPILE_FAIL_WORK=$work COMPILE_FAIL_RUSTC=$command TREE
printf '%s\0' "${files[@]}" |
	xargs -0 -P "$(nproc)" -I{} env COMPILE_FAIL_CASE={} "$ROOT/scripts/compile_fail.sh" |
	sort >"$work/results"
cat "$work/results"
[ "$(wc -l <"$work/results")" -eq ${#files[@]} ] && ! grep -q '^fail' "$work/results"
