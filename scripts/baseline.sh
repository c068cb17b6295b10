#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs the mm selftests on the unpatched base and records what passes there, in
# tests/baseline. Reasons written into the old record are kept.
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
lock_cache
use_base

record=$ROOT/tests/baseline
"$ROOT/scripts/kernel.sh" base-release
lines=$("$ROOT/scripts/selftests.sh" base-release)
# Join on the test's name; a reason follows its test behind a tab.
awk -F'\t' '
	function name(line) { sub(/^[a-z]+ /, "", line); return line }
	BEGIN { print "# The mm selftests on the unpatched base, as \"make baseline\" records them." }
	FILENAME != "-" { if ($2 != "") reason[name($1)] = $2; next }
	{ print $0 (name($0) in reason ? "\t" reason[name($0)] : "") }
' "$record" - <<<"$lines" >"$record.new"
mv "$record.new" "$record"
say "$record: $(grep -c '^pass' "$record") pass, $(grep -c '^fail' "$record" || true) fail"
if grep '^fail' "$record" | grep -v $'\t'; then
	warn "the tests above fail and have no reason recorded: write it behind a tab"
fi
