#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: redis_latency.sh PROGRAM LOAD KEYS ROUNDS
#
# Measures the latencies of redis' clients while its heap (KEYS values of 1 KiB) is
# collapsed: without a collapse, by PROGRAM (thp-collapse) with the C code or the code
# in Rust, and by khugepaged, which is C, at full speed. The server has a CPU of its own.
# The task that collapses shares the other CPU with LOAD (redis_load), which has a higher
# priority. The load is open, and a quarter of the requests that the server can answer.
# Prints lines "redis NAME ENGINE NUMBER...", as collapse_bench does.

program=${1:?} load=${2:?} keys=${3:?} rounds=${4:?}
# shellcheck source=guest/redis_server.sh
source "$(dirname "$0")/redis_server.sh"
engine_file=/sys/kernel/debug/thp_collapse/engine
[ -w $engine_file ] || die "no $engine_file in this kernel"
thp=/sys/kernel/mm/transparent_hugepage
khugepaged=$thp/khugepaged
ways=(none c rust khugepaged)
seconds_without=1.5
export program pid khugepaged engine_file

# ask_redis COMMAND...
ask_redis() {
	redis-cli -s $socket "$@" | tr -d '\r'
}

# start_with_data: the same in the heap each time, in pages that are not huge.
start_with_data() {
	start_redis
	taskset -acp 1 "$pid" >/dev/null || die "two CPUs are needed"
	ask_redis debug populate "$keys" key 1024 | grep -q OK || die "redis made no data"
}

# Requests a second that the server answers when clients wait for it.
measure_capacity() {
	start_with_data
	taskset -c 0 redis-benchmark --csv -s $socket -t set -n 20000 -r "$keys" -d 1024 -c 8 \
		>/tmp/benchmark.csv 2>/tmp/benchmark.log ||
		die "redis-benchmark failed: $(tail -n3 /tmp/benchmark.log)"
	# "test","rps","avg_latency_ms","min","p50","p95","p99","max"
	capacity=$(tr -d '"' </tmp/benchmark.csv | awk -F, '$1 == "SET" { print int($2) }')
	[ "${capacity:-0}" -ge 100 ] || die "redis-benchmark said no rate: $(cat /tmp/benchmark.csv)"
	ask_redis shutdown nosave
}

# khugepaged knows the process, and waits.
prepare_khugepaged() {
	read -r usual_enabled < <(sed 's/.*\[\(.*\)\].*/\1/' $thp/enabled)
	usual_sleep=$(cat $khugepaged/scan_sleep_millisecs)
	usual_pages=$(cat $khugepaged/pages_to_scan)
	echo 1 >$khugepaged/pages_to_scan
	echo 3600000 >$khugepaged/scan_sleep_millisecs
	echo always >$thp/enabled
	# The first page fault that may be huge registers a process with khugepaged.
	ask_redis debug populate 8000 more 1024 | grep -q OK || die "redis made no data"
	taskset -cp 0 "$(pgrep -x khugepaged)" >/dev/null || die "khugepaged is not to be found"
	sleep 1
}

end_khugepaged() {
	echo "$usual_enabled" >$thp/enabled
	echo "$usual_pages" >$khugepaged/pages_to_scan
	echo "$usual_sleep" >$khugepaged/scan_sleep_millisecs
}

# Collapses beside the load, in a shell of its own. Leaves the seconds and windows in files.
cat >/tmp/collapse_beside.sh <<'END'
engine=$1 began=$EPOCHREALTIME
if [ "$engine" = khugepaged ]; then
	collapsed_before=$(<$khugepaged/pages_collapsed)
	exec 8<> <(:)
	echo 1000000000 >$khugepaged/pages_to_scan
	echo 0 >$khugepaged/scan_sleep_millisecs
	# Until khugepaged has been through once without collapsing any window.
	collapsed=-1
	until [ "$collapsed" = "$(<$khugepaged/pages_collapsed)" ]; do
		collapsed=$(<$khugepaged/pages_collapsed)
		scans=$(<$khugepaged/full_scans)
		until [ "$(<$khugepaged/full_scans)" -ge $((scans + 2)) ]; do
			# Waits without another program.
			read -rt 0.02 -u 8
		done
	done
	echo 3600000 >$khugepaged/scan_sleep_millisecs
	echo $((collapsed - collapsed_before)) >/tmp/collapse.windows
else
	"$program" collapse "$pid" >/tmp/collapse.log 2>&1
	status=$?
	# 3: some windows of the heap hold nothing, which it calls partial success.
	[ $status -eq 0 ] || [ $status -eq 3 ] || exit
	sed -n 's/^\([0-9]*\) windows* collapsed in.*/\1/p' /tmp/collapse.log >/tmp/collapse.windows
fi
awk -v from="$began" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.2f\n", to - from }' >/tmp/collapse.seconds
END

# measure WAY
measure() {
	local way=$1 beside=("$seconds_without") collapsed
	rm -f /tmp/collapse.*
	case $way in c | rust) echo "$way" >$engine_file ;; esac
	start_with_data
	[ "$way" != khugepaged ] || prepare_khugepaged
	[ "$way" = none ] || beside=(bash /tmp/collapse_beside.sh "$way")
	taskset -c 0 "$load" $socket "$keys" 1024 "$rate" "${beside[@]}" >/tmp/latencies 2>/tmp/load.log ||
		die "the load or what collapses failed: $(tail -qn3 /tmp/load.log /tmp/collapse.log 2>&1)"
	echo "redis latency_us $way $(cat /tmp/latencies)"
	# latency_percentiles_usec_set:p50=3.007,p99=10.047,p99.9=40.191
	ask_redis info latencystats | tr '=,:' '   ' | awk -v way="$way" '$1 ~ /_set$/ {
		print "redis server_p99_us", way, $5
		print "redis server_p999_us", way, $7
	}'
	if [ "$way" != none ]; then
		echo "redis collapse_s $way $(cat /tmp/collapse.seconds)"
		collapsed=$(cat /tmp/collapse.windows)
		[ "${collapsed:-0}" -gt 0 ] || die "no window was collapsed: $(tail -qn3 /tmp/collapse.log 2>&1)"
		echo "redis windows $way $collapsed"
	fi
	[ "$way" != khugepaged ] || end_khugepaged
	# Not "kill": nobody may be there to wait for it, so that its end could not be told.
	ask_redis shutdown nosave
}

measure_capacity
rate=$((capacity / 4))
echo "redis capacity_per_s none $capacity"
echo "redis rate_per_s none $rate"
finished=0
for _ in $(seq "$rounds"); do
	for way in "${ways[@]}"; do
		measure "$way"
		finished=$((finished + 1))
		echo "progress redis $finished $((${#ways[@]} * rounds))"
	done
done
