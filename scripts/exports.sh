#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Checks that our Rust code exports nothing to modules that C code does not export.
# Compares the exports of the release kernel and the small one (helpers inlined, and
# not) with those of the unpatched base, and builds the base's rust/ for that. Prints one
# line a check, "pass" or "fail" and its name. The symbols go to standard error.
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
lock_cache
use_base
for name in release small; do
	[ -f "$BUILD/$name/rust/exports.o" ] || die "rust/ of the $name kernel is not built"
done
"$ROOT/scripts/kernel.sh" base-release rust/

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

# Helpers for static inline functions of headers that modules may include, which call
# nothing but what C code exports, and capable(), which is one without MULTIUSER.
for_anyone() { printf 'rust_helper_%s\n' capable capable_noaudit cond_resched fatal_signal_pending mmap_read_lock_killable; }

# exported NAME CRATE...: a built kernel's exports, for helpers and crates of Rust.
exported() {
	local name=$1
	shift
	sed -n 's/^EXPORT_SYMBOL_RUST_GPL(\(.*\));$/\1/p' "${@/#/$BUILD/$name/rust/exports_}" | sort -u
}
# helpers TREE: those that its sources name. Others are made by macros, none of them ours.
helpers() { grep -rhoE '\brust_helper_[A-Za-z0-9_]+' "$1/rust/helpers" | sort -u; }

# none WHAT FILE: no symbol is in it.
none() {
	local what=$1 file=$2 count
	count=$(wc -l <"$file")
	if [ "$count" -eq 0 ]; then
		echo "pass exports: $what"
	else
		"llvm-cxxfilt-$LLVM_MAJOR" <"$file" >&2
		echo "fail exports: $what: $count symbols"
		failed=1
	fi
}

crates=(core_generated.h bindings_generated.h kernel_generated.h)
exported base-release "${crates[@]}" >"$work/base"
for name in release small; do
	exported "$name" "${crates[@]}" >"$work/$name"
	comm -13 "$work/base" "$work/$name" >"$work/more"
	none "Rust exports nothing that the base's does not ($name)" "$work/more"
done

comm -13 <(helpers "$BASE") <(helpers "$TREE") | grep -vxFf <(for_anyone) >"$work/ours"
[ "$(wc -l <"$work/ours")" -gt 50 ] || die "cannot tell which helpers are ours"
exported small helpers_generated.h | comm -12 - "$work/ours" >"$work/more"
none "no helper for built-in code is exported (small)" "$work/more"
"llvm-nm-$LLVM_MAJOR" --defined-only --just-symbol-name "$BUILD/release/rust/helpers/helpers_module.bc" |
	sort -u | comm -12 - "$work/ours" >"$work/more"
none "no helper for built-in code is inlined into modules (release)" "$work/more"
exit $failed
