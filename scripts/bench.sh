#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: bench.sh [short | record | part PART]
#
# Measures MADV_COLLAPSE by C and by Rust in one kernel: instructions, in two
# guests side by side that must agree, and what others wait for, in a guest with
# two CPUs. bench.py makes a report of it. "short" compares instructions of dense
# windows only; "record" takes the report of the last run into docs/bench/; "part"
# measures one part only (of collapse_bench, or redis) and shows what is measured.
# ROUNDS is how often each is measured (3 unless given), COLLAPSE_KIND the only kind
# of windows or operation, for "part".
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
part) part=${2:?usage: bench.sh part PART} ;;
record)
	[ -f "$report/results.md" ] || die "there is no report yet: run 'make bench'"
	mkdir -p "$ROOT/docs/bench"
	cp "$report"/results.{md,json} "$report"/*.svg "$ROOT/docs/bench/"
	exit
	;;
*) die "usage: bench.sh [short | record | part PART]" ;;
esac

"$ROOT/scripts/tree.sh" sync
"$ROOT/scripts/kernel.sh" bench
binaries=$("$ROOT/scripts/selftests.sh" build)

# guest NAME BOOT_ARGUMENTS...: prints the output of a guest, each line behind its name.
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
load=$report/redis_load
gcc -O2 -Wall -Wextra -Werror -o "$load" "$ROOT/guest/redis_load.c" -lhiredis ||
	die "guest/redis_load.c does not compile (libhiredis-dev: run 'make setup')"

# parts PART...: the command for a guest; it ends at the first that fails.
parts() {
	echo "export COLLAPSE_KIND=${COLLAPSE_KIND:-}
		for part in $*; do '$binaries/collapse_bench' \$part $rounds || exit; done"
}
heap="bash '$ROOT/guest/redis_latency.sh' '$program' '$load' 300000 $rounds"

if [ -n "${part:-}" ]; then
	case $part in
	work | untouchable) boot=(-i bench "$(parts "$part")") ;;
	redis) boot=(-m 2G bench "$heap") ;;
	*) boot=(-m 2G bench "$(parts "$part")") ;;
	esac
	guest "$part" -t 3600 "${boot[@]}" | python3 "$ROOT/scripts/bench.py" --part
	exit
fi

unset COLLAPSE_KIND
measure() {
	local first second status=0
	guest first -t 3600 -i bench "$(parts work untouchable)" &
	first=$!
	guest second -t 3600 -i bench "$(parts work untouchable)" &
	second=$!
	wait $first || status=$?
	wait $second || status=$?
	[ $status -eq 0 ] || return $status
	guest beside -t 5400 -m 2G bench "$(parts threads switch locks memory)
		$heap"
	# Where KVM was of no use, boot.sh may not have noted it.
	echo "beside accelerator $(cat "$CACHE"/accelerator-* 2>/dev/null || echo tcg)"
}
say "measuring, for half an hour or so: other load changes all figures but those of instructions"
measure | python3 "$ROOT/scripts/bench.py" "$report" "$(basename "$BASE")" \
	"common rust release collapse collapse-bench"
say "the report: $report (results.md, results.json, plots)"
