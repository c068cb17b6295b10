#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs the mm selftests on the unpatched base and records what passes there, for
# both configurations. Reasons written into the old record are kept.
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
lock_cache
use_base

for kernel in release debug; do
	record=$ROOT/tests/baseline/$kernel
	"$ROOT/scripts/kernel.sh" "base-$kernel"
	lines=$("$ROOT/scripts/selftests.sh" "base-$kernel")
	mkdir -p "$(dirname "$record")"
	touch "$record"
	# Join on the test's name; a reason follows its test behind a tab.
	awk -F'\t' -v head="# Upstream mm selftests on the unpatched base, configuration $kernel (make baseline)." '
		FILENAME != "-" { if ($2 != "") { name = $1; sub(/^[a-z]+ /, "", name); reason[name] = $2 } next }
		FNR == 1 { print head }
		{ name = $0; sub(/^[a-z]+ /, "", name); print $0 (name in reason ? "\t" reason[name] : "") }
	' "$record" - <<<"$lines" >"$record.new"
	mv "$record.new" "$record"
	say "$record: $(grep -c '^pass' "$record") pass, $(grep -c '^fail' "$record" || true) fail"
	grep '^fail' "$record" | grep -v $'\t' && warn "the tests above fail and have no reason recorded: write it behind a tab"
done
exit 0
