#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: soak.sh BINARIES SEED SECONDS RESULTS
#
# Runs random tests of collapse, as long as there is time: with SEED, then with the
# next seed. RESULTS/round names each test before it runs, in case the guest dies of
# it. Ends with the first failure.

binaries=${1:?} seed=${2:?} seconds=${3:?} results=${4:?}
trap 'awk "/^thp_collapse_alloc / { print \"allocated\", \$2 }" /proc/vmstat >>"$results/round"' EXIT

# run NAME SECONDS: a test without a time limit of its own runs until it is done.
run() {
	echo "ran $1 $seed $2" >>"$results/round"
	COLLAPSE_SEED=$seed COLLAPSE_SECONDS=$2 timeout -k 10 $(($2 + 1200)) \
		"$binaries/$1" </dev/null >"$results/$1.tap" 2>&1 && return
	echo "$1: exit $?"
	tail -n 40 "$results/$1.tap"
	exit 1
}

while [ $SECONDS -lt "$seconds" ]; do
	left=$((seconds - SECONDS))
	run collapse_stress $((left < 600 ? left : 600))
	run collapse_diff 0
	run collapse_race 0
	seed=$((seed + 1))
done
