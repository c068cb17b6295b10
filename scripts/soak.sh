#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: soak.sh HOURS
#
# Runs the random tests of collapse on the debug kernel for HOURS (0.5 is half an
# hour), in rounds, each in a fresh guest and with seeds of its own; then says how
# many there were and which failed. With COLLAPSE_SEED there is only one round, which
# begins with that: so a failure is repeated.
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

hours=${1:-}
[[ $hours =~ ^[0-9]{1,4}([.][0-9]{1,4})?$ && $hours =~ [1-9] ]] ||
	die "HOURS is '$hours': say for how many hours to run, such as HOURS=8 or HOURS=0.5"
lock_cache
use_base
"$ROOT/scripts/tree.sh" sync
"$ROOT/scripts/kernel.sh" debug
"$ROOT/scripts/selftests.sh" build >/dev/null

SECONDS=0
end=$(awk "BEGIN { print int($hours * 3600) }")
logs=$BUILD/boot/debug-soak
summary=$BUILD/soak
: >"$summary"
rounds=0
while [ $SECONDS -lt "$end" ]; do
	seed=${COLLAPSE_SEED:-$((RANDOM << 15 | RANDOM))}
	left=$((end - SECONDS)) status=0
	seconds=$((left < 1800 ? left : 1800))
	rounds=$((rounds + 1))
	say "round $rounds: seed $seed, $seconds s of $left s that are left"
	# The last test of a round may begin when its time is nearly over.
	"$ROOT/scripts/boot.sh" -t $((seconds + 1800)) -l soak "${TWO_NODES[@]}" debug \
		"bash '$ROOT/guest/soak.sh' '$BUILD/selftests/kselftest/mm' $seed $seconds '$logs'" >&2 || status=$?
	cat "$logs/round" >>"$summary" || true
	if [ $status -ne 0 ]; then
		rm -rf "$logs-$seed"
		mv "$logs" "$logs-$seed"
		# The test that failed, or that ran last if the kernel failed.
		read -r test seed seconds < <(awk '/^(ran|failed) / { last = $2 " " $3 " " $4 } END { print last }' "$logs-$seed/round")
		{
			echo "failed: round $rounds, in $test with seed $seed; all that was said: $logs-$seed"
			echo "    to repeat it: make soak HOURS=$(awk "BEGIN { printf \"%.2f\", $seconds / 3600 + 0.01 }") COLLAPSE_SEED=$seed"
		} >>"$summary"
	fi
	[ -z "${COLLAPSE_SEED:-}" ] || break
done

grep -A1 '^failed: ' "$summary" || true
failed=$(grep -c '^failed: ' "$summary" || true)
tests=$(grep -c '^ran ' "$summary" || true)
huge=$(awk '/^allocated / { sum += $2 } END { print sum + 0 }' "$summary")
echo "$rounds rounds in $((SECONDS / 60)) minutes, $failed failed: $tests tests, $huge huge pages; the seeds: $summary"
[ "$failed" -eq 0 ] && [ "$tests" -gt 0 ]
