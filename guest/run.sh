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

# Swap in compressed memory: what is swapped out stays in the guest.
echo 1G >/sys/block/zram0/disksize &&
	mkswap /dev/zram0 >/dev/null &&
	swapon /dev/zram0

export TMPDIR=/tmp HOME=/tmp
cd /tmp || exit
bash "$folder/command"
status=$?

# The debug kernel's leak detector needs two looks: what was freed between them
# or is still referenced is no leak. What it finds it says in the kernel's log.
if [ -w /sys/kernel/debug/kmemleak ]; then
	for _ in 1 2; do
		echo scan >/sys/kernel/debug/kmemleak
		sleep 1
	done
	cat /sys/kernel/debug/kmemleak >"$folder/leaks"
fi
echo $status >"$folder/status"
sync
