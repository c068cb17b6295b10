#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs sparse and kernel-doc on the C code that the series touches, and on that of
# the base. Shows messages that only our code gets, and fails if there are any.
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
lock_cache
use_base
use_tools || die "the toolchain is not set up: run 'make setup'"

mapfile -t files < <("$ROOT/scripts/overlay.py" commits | cut -f 3 | sort -u | grep -E '^(mm|arch|include)/.*[.][ch]$')
mapfile -t objects < <(printf '%s\n' "${files[@]}" | sed -n '/^mm.collapse/d; s/[.]c$/.o/p')

# said: prints a tool's messages without line numbers and the path of the tree.
said() {
	grep -E ': (warning|error): |^Warning: ' |
		sed -E 's#^.*/(mm/|arch/|include/)#\1#; s#:[0-9]+(:[0-9]+)?[: ]#: #g' | sort -u
}

# sparse_on TREE CONFIGURATION OBJECT...: Debian's sparse does not know one keyword
# that the kernel's check for a sparse of today uses. An empty CONFIG_RUST has make
# not look after Rust first.
sparse_on() {
	local log=$BUILD/sparse-$2.log
	kmake "$1" "$BUILD/$2" C=2 CHECK=sparse CF=-D__typeof_unqual__=__typeof__ CONFIG_RUST= "${@:3}" \
		>"$log" 2>&1 || die "sparse did not run ($2): $(tail -n 5 "$log")"
	grep -q '^  CHECK  *\(mm\|arch\)/' "$log" || die "sparse was not run on anything ($2): $log"
	said <"$log" || true
}

kernel_doc_on() { (cd "$1" && scripts/kernel-doc -none -Wall "${@:2}" 2>&1) | said || true; }

cd "$BASE"
mapfile -t known < <(ls -- "${files[@]}" 2>/dev/null)
before=$(sparse_on "$BASE" base-off "${objects[@]}" && kernel_doc_on "$BASE" "${known[@]}")
now=$(sparse_on "$TREE" off "${objects[@]}" && sparse_on "$TREE" release "${objects[@]}" &&
	sparse_on "$TREE" debug mm/collapse/debug.o && kernel_doc_on "$TREE" "${files[@]}")
[ -n "$now" ] || die "neither sparse nor kernel-doc said anything, even of what the base has"
new=$(comm -13 <(sort -u <<<"$before") <(sort -u <<<"$now"))
[ -z "$new" ] || { printf '%s\n' "$new" >&2 && exit 1; }
say "sparse and kernel-doc say nothing of ${#files[@]} files that they do not say of the base"
