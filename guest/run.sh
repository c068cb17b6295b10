#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: run.sh FOLDER
#
# The first program of our own in the guest: gives it what tests and programs
# expect, runs FOLDER/command, and leaves output and exit status in FOLDER.

folder=${1:?}
exec </dev/null >>"$folder/output" 2>&1

mount_once() { mountpoint -q "$3" || { mkdir -p "$3" && mount -t "$1" "$2" "$3"; }; }
mount_once debugfs debugfs /sys/kernel/debug
mount_once tracefs tracefs /sys/kernel/tracing
mount_once cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up 2>/dev/null || ifconfig lo up

# Swap is compressed memory of the guest, so that pages do not leave the guest.
echo 1G >/sys/block/zram0/disksize &&
	mkswap /dev/zram0 >/dev/null &&
	swapon /dev/zram0

export TMPDIR=/tmp HOME=/tmp
cd /tmp || exit
bash "$folder/command"
status=$?

# Which code of the engine ran, see scripts/coverage.py.
coverage=/sys/kernel/debug/thp_collapse/coverage
[ ! -r $coverage ] || cat $coverage >"$folder/coverage"

# The debug kernel's leak detector reports an object that is older than five seconds
# and stayed unreferenced and unchanged over two scans. Any report is a failure.
leaks=/sys/kernel/debug/kmemleak
if [ -w $leaks ]; then
	sleep 6
	echo scan >$leaks && echo scan >$leaks || echo "the leak detector is disabled" >"$folder/leaks"
	cat $leaks >>"$folder/leaks"
fi
echo $status >"$folder/status"
sync
