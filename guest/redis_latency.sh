#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: redis_latency.sh PROGRAM KEYS REQUESTS ROUNDS
#
# What redis' clients wait for while its heap (KEYS values of 1 KiB) is collapsed by
# PROGRAM (thp-collapse): by the C code, by that in Rust, or not at all. The server
# has a CPU of its own; the client shares the other one with PROGRAM. Prints lines
# "redis NAME ENGINE NUMBER", as collapse_bench does.

program=${1:?} keys=${2:?} requests=${3:?} rounds=${4:?}
# shellcheck source=guest/redis_server.sh
source "$(dirname "$0")/redis_server.sh"
engine_file=/sys/kernel/debug/thp_collapse/engine
[ -w $engine_file ] || die "no $engine_file in this kernel"

# seconds_since TIME: TIME is of EPOCHREALTIME.
seconds_since() {
	awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.2f", to - from }'
}

# measure ENGINE
measure() {
	local engine=$1 began collapse='' collapsed=0
	start_redis
	taskset -acp 1 "$pid" >/dev/null || die "two CPUs are needed"
	load_redis "$keys"
	redis-cli -s $socket config resetstat >/dev/null
	if [ "$engine" != none ]; then
		echo "$engine" >$engine_file
		began=$EPOCHREALTIME
		# Some windows of the heap hold nothing, which it calls partial success.
		(
			status=0
			taskset -c 0 "$program" collapse "$pid" >/tmp/collapse.log 2>&1 || status=$?
			seconds_since "$began" >/tmp/collapse.seconds
			[ $status -eq 0 ] || [ $status -eq 3 ]
		) &
		collapse=$!
	fi
	began=$EPOCHREALTIME
	taskset -c 0 redis-benchmark --csv -s $socket -t set -n "$requests" -r "$keys" -d 1024 -c 8 \
		>/tmp/benchmark.csv 2>/tmp/benchmark.log ||
		die "redis-benchmark failed: $(tail -n3 /tmp/benchmark.log)"
	echo "redis benchmark_s $engine $(seconds_since "$began")"
	# "test","rps","avg_latency_ms","min","p50","p95","p99","max"
	tr -d '"' </tmp/benchmark.csv | awk -F, -v engine="$engine" '
		$1 == "SET" {
			print "redis p50_ms", engine, $5
			print "redis p99_ms", engine, $7
			print "redis max_ms", engine, $8
		}'
	# latency_percentiles_usec_set:p50=3.007,p99=10.047,p99.9=40.191
	redis-cli -s $socket info latencystats | tr -d '\r' | tr '=,:' '   ' |
		awk -v engine="$engine" '$1 ~ /_set$/ {
			print "redis server_p99_us", engine, $5
			print "redis server_p999_us", engine, $7
		}'
	if [ -n "$collapse" ]; then
		wait "$collapse" || die "thp-collapse failed: $(tail -n3 /tmp/collapse.log)"
		echo "redis collapse_s $engine $(cat /tmp/collapse.seconds)"
		collapsed=$(sed -n 's/^\([0-9]*\) windows* collapsed in.*/\1/p' /tmp/collapse.log)
		[ "${collapsed:-0}" -gt 0 ] || die "no window was collapsed: $(tail -n3 /tmp/collapse.log)"
		echo "redis windows $engine $collapsed"
	fi
	# Not "kill": nobody may be there to wait for it, so that its end could not be told.
	redis-cli -s $socket shutdown nosave >/dev/null
}

finished=0
for _ in $(seq "$rounds"); do
	for engine in none c rust; do
		measure "$engine"
		finished=$((finished + 1))
		echo "progress redis $finished $((3 * rounds))"
	done
done
