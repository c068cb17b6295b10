#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs upstream's longest selftests on the debug kernel, for which 'make test' has no time,
# and records what did not pass in tests/long.
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
lock_cache
use_base

"$ROOT/scripts/kernel.sh" debug
lines=$("$ROOT/scripts/selftests.sh" debug long)
results=$(against_baseline debug /dev/stdin long <<<"$lines")
count() { grep -c "^$1 " <<<"$results" || true; }
{
	echo "# SPDX-License-Identifier: GPL-2.0"
	echo "# Upstream's longest selftests on the debug kernel, as 'make long' records them."
	echo "# $(date -I), commit $(git -C "$ROOT" describe --always --dirty --abbrev=12):" \
		"$(count pass) passed, $(count fail) failed, $(count skip) skipped"
	grep -v '^pass' <<<"$results" | sort || true
} | tee "$ROOT/tests/long"
[ "$(count fail)" -eq 0 ] && [ "$(count pass)" -gt 0 ]
