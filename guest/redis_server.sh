# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
#
# A redis-server to collapse the heap of, for scripts that source this.

server=/tmp/redis-server
socket=/tmp/redis.sock
pidfile=/tmp/redis.pid

die() {
	echo "error: $*" >&2
	exit 1
}

# start_redis: sets pid.
start_redis() {
	# redis-tools ships the server's binary under another of its names.
	ln -sf "$(command -v redis-check-rdb)" $server || die "redis-tools is not installed"
	rm -f $socket $pidfile
	# Without --disable-thp no, redis disables huge pages for itself. No snapshots, no port.
	$server --unixsocket $socket --port 0 --save '' --disable-thp no --enable-debug-command yes \
		--daemonize yes --pidfile $pidfile --logfile /tmp/redis.log >/dev/null
	for _ in $(seq 100); do
		[ ! -s $pidfile ] || break
		sleep 0.1
	done
	# It listens before it writes this.
	[ -s $pidfile ] || die "redis-server did not start: $(tail -n3 /tmp/redis.log)"
	pid=$(cat $pidfile)
}

# load_redis KEYS: sets KEYS values of 1 KiB, from redis' own benchmark client.
load_redis() {
	redis-benchmark -q -s $socket -t set -n "$1" -r "$1" -d 1024 -P 64 >/tmp/benchmark.log 2>&1 ||
		die "redis-benchmark failed: $(tail -n3 /tmp/benchmark.log)"
}
