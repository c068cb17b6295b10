#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: bench.sh [short | record]
#
# Measures MADV_COLLAPSE by C and by Rust in one kernel: instructions, in two
# guests side by side that must agree, and what others wait for, in a guest with
# two CPUs. bench.py makes a report of it. "short" compares instructions of dense
# windows only; "record" takes the report of the last run into docs/bench/.
# ROUNDS is how often each is measured (3 unless given).
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
lock_cache
use_base
use_tools || die "the toolchain is not set up: run 'make setup'"
report=$BUILD/benchmark
rounds=${ROUNDS:-3}
[[ $rounds =~ ^[1-9][0-9]?$ ]] || die "ROUNDS=$rounds is no number from 1 to 99"

case ${1:-} in
'' | short) ;;
record)
	[ -f "$report/results.md" ] || die "there is no report yet: run 'make bench'"
	mkdir -p "$ROOT/docs/bench"
	cp "$report"/results.md "$report"/*.svg "$ROOT/docs/bench/"
	exit
	;;
*) die "usage: bench.sh [short | record]" ;;
esac

"$ROOT/scripts/tree.sh" sync
"$ROOT/scripts/kernel.sh" bench
binaries=$("$ROOT/scripts/selftests.sh" build)

# guest NAME BOOT_ARGUMENTS...: what it prints, each line behind its name.
guest() {
	"$ROOT/scripts/boot.sh" -l "$1" "${@:2}" | sed -u "s/^/$1 /"
}

if [ "${1:-}" = short ]; then
	guest short -t 900 -i bench "COLLAPSE_KIND=dense '$binaries/collapse_bench' work 1" |
		python3 "$ROOT/scripts/bench.py" --short
	exit
fi

program=$("$ROOT/scripts/agent.sh")
mkdir -p "$report"
measure() {
	local first second status=0
	guest first -t 1800 -i bench "'$binaries/collapse_bench' work $rounds" &
	first=$!
	guest second -t 1800 -i bench "'$binaries/collapse_bench' work $rounds" &
	second=$!
	wait $first || status=$?
	wait $second || status=$?
	[ $status -eq 0 ] || return $status
	guest beside -t 3600 -m 2G bench "for part in threads locks memory; do
			'$binaries/collapse_bench' \$part $rounds || exit
		done
		bash '$ROOT/guest/redis_latency.sh' '$program' 200000 20000 $rounds"
	# Where KVM was of no use, boot.sh may not have noted it.
	echo "beside accelerator $(cat "$CACHE"/accelerator-* 2>/dev/null || echo tcg)"
}
say "measuring, for minutes: other load changes all figures but those of instructions"
measure | python3 "$ROOT/scripts/bench.py" "$report" "$(basename "$BASE")" \
	"common rust release collapse collapse-bench"
say "the report: $report (results.md, bench.json, plots)"
