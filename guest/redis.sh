#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: redis.sh PROGRAM KEYS
#
# The demonstration: a redis-server with KEYS values of 1 KiB from its own
# benchmark client has its heap collapsed by PROGRAM (thp-collapse); coverage
# before and after, and a digest over all of its data. COLUMNS is set where a
# terminal of that width shows it.

program=${1:?} keys=${2:?}
# shellcheck source=guest/redis_server.sh
source "$(dirname "$0")/redis_server.sh"

start_redis
trap 'kill $pid' EXIT

echo "redis-server $(redis-cli -s $socket info server | sed -n 's/redis_version:\([0-9.]*\).*/\1/p'): loading $keys values of 1 KiB"
load_redis "$keys"
before=$(redis-cli -s $socket debug digest)
[[ $before =~ ^[0-9a-f]{40}$ ]] || die "redis gave no digest of its data: $before"

command="'$program' collapse $pid --engine"
# If our output goes to a terminal, the program runs on one, too, and shows its bar there.
[ -z "${COLUMNS:-}" ] || command="script -qec \"stty cols $COLUMNS -onlcr; $command\" /dev/null"
bash -c "$command" 2>&1 | tee /tmp/collapse.log
# 3: some windows were refused, or have nothing in them.
case ${PIPESTATUS[0]} in 0 | 3) ;; *) die "the heap was not collapsed" ;; esac
grep -qE '(^|[^0-9])[1-9][0-9]* windows? collapsed in' /tmp/collapse.log || die "no window was collapsed"
engine=''
[ ! -d /sys/kernel/tracing/events/huge_memory/mm_collapse_batch ] || engine='the engine in Rust'
grep -q "served by $engine" /tmp/collapse.log || die "this kernel has ${engine:-an engine}, and it did not serve"

after=$(redis-cli -s $socket debug digest)
[ "$before" = "$after" ] || die "redis' data has changed: digest $before before, $after after"
redis-cli -s $socket ping | grep -q PONG || die "redis does not answer any more"
echo "data intact: digest $after over $(redis-cli -s $socket dbsize) keys, before and after"
