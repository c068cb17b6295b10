#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: tree.sh sync | refresh [PATCH] | format | branch | clean
#
# The unpacked kernel tree with our series in it, and the series as mails or as a
# git branch: see overlay.py.
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
lock_cache
use_base

# The line of the cover letter that names the base.
made_for() {
	local commit
	if [ -n "${KERNEL_SRC:-}" ] && commit=$(git -C "$KERNEL_SRC" rev-parse --verify --quiet HEAD 2>/dev/null); then
		echo "base-commit: $commit"
	elif [ -z "${KERNEL_SRC:-}" ]; then
		echo "base-version: v${BASE_VERSION%%-*} (Debian's $BASE_PACKAGE $BASE_VERSION)"
	fi
}

case ${1:-} in
sync)
	"$ROOT/scripts/overlay.py" sync "$BASE" "$TREE"
	say "the tree: $TREE"
	;;
refresh) "$ROOT/scripts/overlay.py" refresh "$BASE" "$TREE" --patch "${2:-}" ;;
format) "$ROOT/scripts/overlay.py" format "$BASE" "$BUILD/series" --made-for "$(made_for)" ;;
branch) "$ROOT/scripts/overlay.py" branch "$BASE" "$CACHE/branch/$(base_key)" --made-for "$(made_for)" ;;
clean)
	say "removing $BUILD"
	rm -rf "$BUILD"
	;;
*) die "usage: tree.sh sync | refresh [PATCH] | format | branch | clean" ;;
esac
