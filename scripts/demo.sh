#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: demo.sh [shell]
#
# The demonstration, or a shell, in a guest that runs this clone's release
# kernel: the cache is held from the build on, lest another clone's be booted.
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
lock_cache

"$ROOT/scripts/tree.sh" sync
"$ROOT/scripts/kernel.sh" release
if [ "${1:-}" = shell ]; then
	exec "$ROOT/scripts/boot.sh" release
fi
program=$("$ROOT/scripts/agent.sh")
columns=''
[ ! -t 1 ] || columns=$(tput cols 2>/dev/null || echo 80)
exec "$ROOT/scripts/boot.sh" -l run release "COLUMNS=$columns bash '$ROOT/guest/redis.sh' '$program' 250000"
