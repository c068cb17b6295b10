#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Says whether the series applies to the base that it is made for, or to the tree
# that KERNEL_SRC names, and to the newest version of the base that BASE_SUITE
# offers. Where it does not, tells the patch and the hunk.
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/debian.sh
source "$ROOT/scripts/debian.sh"
lock_cache
use_base

failed=0
say "the base: $BASE"
"$ROOT/scripts/overlay.py" fits "$BASE" || failed=1

if ! newest=$(suite_newest "$BASE_PACKAGE"); then
	warn "cannot look up what $BASE_SUITE has for $BASE_PACKAGE (no network?); apt says: $(grep -m1 '^[EW]:' "$CACHE/apt.log")"
elif [ "$newest" = "$BASE_VERSION" ] && [ -z "${KERNEL_SRC:-}" ]; then
	say "$BASE_SUITE has nothing newer"
else
	say "the newest of $BASE_SUITE: $BASE_PACKAGE $newest"
	# Just the files that the series touches; of new files there are none to unpack.
	paths=$("$ROOT/scripts/overlay.py" commits | cut -f 3 | sort -u | sed "s|^|$BASE_PACKAGE/|")
	tree=$CACHE/base/newest/$(sha256sum <<<"$newest $paths" | cut -c 1-12)/$BASE_PACKAGE-$newest
	if [ ! -d "$tree" ]; then
		unpacking=$CACHE/base/newest/unpacking
		rm -rf "$CACHE/base/newest"
		mkdir -p "$unpacking" "${tree%/*}"
		fetch_deb "$BASE_PACKAGE" "$newest" signed "$unpacking/deb"
		tar -xf "$unpacking/deb/usr/src/$BASE_PACKAGE.tar.xz" -C "$unpacking" -T - <<<"$paths" 2>/dev/null || true
		mv "$unpacking/$BASE_PACKAGE" "$tree"
		rm -rf "$unpacking"
	fi
	"$ROOT/scripts/overlay.py" fits "$tree" || failed=1
fi
exit $failed
