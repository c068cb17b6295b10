#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: tree.sh sync | refresh [PATCH] | format | clean
#
# The unpacked kernel tree with our series in it: see overlay.py.
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
lock_cache
use_base

case ${1:-} in
sync)
	"$ROOT/scripts/overlay.py" sync "$BASE" "$TREE"
	say "the tree: $TREE"
	;;
refresh) "$ROOT/scripts/overlay.py" refresh "$BASE" "$TREE" --patch "${2:-}" ;;
format) "$ROOT/scripts/overlay.py" format "$BASE" "$BUILD/series" ;;
clean)
	say "removing $BUILD"
	rm -rf "$BUILD"
	;;
*) die "usage: tree.sh sync | refresh [PATCH] | format | clean" ;;
esac
