#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Builds all documentation of ours, which must not give a warning: the pages by the
# kernel's Sphinx, and the Rust code by rustdoc. Prints one line each, "pass" or "fail"
# and its name. The places of the results go to standard error.
#
# The functions are called through document(), which shellcheck cannot see.
# shellcheck disable=SC2317
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
lock_cache
use_base
use_tools || die "the toolchain is not set up: run 'make setup'"
out=$BUILD/docs
mkdir -p "$out"
failed=0

# document NAME PLACE COMMAND...
document() {
	local name=$1 place=$2 log
	shift 2
	if log=$("$@" 2>&1) && [ -s "$place" ]; then
		say "$name: $place"
		echo "pass documentation: $name"
	else
		printf '%s\n' "$log" | tail -n 60 >&2
		echo "fail documentation: $name"
		failed=1
	fi
}

# Other pages of these folders link to pages outside of them, so only warnings of ours
# count. Sphinx does not repeat warnings of pages that it has read before: it has to read
# these again.
pages() {
	find "$out" -name collapse.doctree -delete -o -name transhuge.doctree -delete
	kmake "$TREE" "$out" SPHINXDIRS="admin-guide/mm mm" htmldocs >"$out/log" 2>&1 ||
		{ tail -n 20 "$out/log" && return 1; }
	! grep -E '/mm/(collapse|transhuge)\.rst:' "$out/log"
}

# Private items are included: the documentation is for developers of the crate.
collapse() {
	local command
	command=$(collapse_rustc) || return
	command=${command/ rustc / rustdoc }
	cd "$BUILD/release" || return
	# As in the kernel's own call, since rustdoc takes no such scope, and forgets modifiers.
	eval "RUSTC_BOOTSTRAP=1 ${command//--remap-path-scope=macro/} -Cunsafe-allow-abi-mismatch=fixed-x18 \
		-D warnings -A rustdoc::private_intra_doc_links --document-private-items --output ${out@Q}/rustdoc ${TREE@Q}/mm/collapse/collapse.rs"
}

document "Sphinx" "$out/Documentation/output/mm/collapse.html" pages
document "rustdoc of the kernel crate" "$BUILD/release/Documentation/output/rust/rustdoc/kernel/mm/index.html" \
	"$ROOT/scripts/kernel.sh" release rustdoc
document "rustdoc of mm/collapse" "$out/rustdoc/collapse/index.html" collapse
document "rustdoc of thp-collapse" "$BUILD/agent/doc/thp_collapse/index.html" "$ROOT/scripts/agent.sh" doc
exit $failed
