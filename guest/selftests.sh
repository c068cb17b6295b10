#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: selftests.sh BINARIES SUITES RESULTS
#
# Runs the selftests listed in the file SUITES, each in its own process and with
# its own time limit. The output of a test goes to RESULTS/<name>.tap. If the test
# fails, the end of its output is shown.

binaries=${1:?} suites=${2:?} results=${3:?}
PATH=$binaries:$PATH

# Some tests make files where they stand: give them a file system on a disk.
disk=zram$(cat /sys/class/zram-control/hot_add) || exit
echo 512M >"/sys/block/$disk/disksize"
mkfs.ext4 -q "/dev/$disk" && mkdir -p /tmp/disk && mount "/dev/$disk" /tmp/disk && cd /tmp/disk || exit

# khugepaged puts together what a test has just split, if the test takes its time.
# Tests of khugepaged set their own pace.
echo 3600000 >/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs

# where_threads_are: of each thread of a test, what it does in the kernel.
where_threads_are() {
	local thread
	for thread in /proc/[0-9]*/task/*; do
		[[ $(readlink "$thread/exe") == "$binaries"/* ]] || continue
		echo "# $(cat "$thread/comm") ${thread##*/}: $(cat "$thread/syscall"), $(grep State "$thread/status")"
		sed 's/^/#   /' "$thread/stack"
	done 2>/dev/null
}

# The debug kernel takes minutes for the random calls that others make in seconds.
[ ! -e /sys/kernel/debug/kmemleak ] || export COLLAPSE_CALLS=5000

while IFS=$'\t' read -r name limit command tries; do
	start=$SECONDS
	# A test that was killed has not undone its settings.
	if [ -d /sys/kernel/debug/thp_collapse ]; then
		echo none >/sys/kernel/debug/thp_collapse/hold
		echo rust >/sys/kernel/debug/thp_collapse/engine
	fi
	# uffd-unit-tests and others want hugetlb pages. The other tests never see them.
	echo 64 >/proc/sys/vm/nr_hugepages
	for try in $(seq "${tries:-1}"); do
		: >"$results/$name.tap"
		(trap 'kill $!' TERM; sleep "$limit" & wait $! && where_threads_are) >>"$results/$name.tap" &
		observer=$!
		timeout -k 10 $((limit + 5)) bash -c "$command" </dev/null >>"$results/$name.tap" 2>&1
		status=$?
		{ kill $observer && wait $observer; } 2>/dev/null
		[ $status -ne 0 ] || break
		[ "$try" -eq "${tries:-1}" ] || echo "    $name: exit $status, once more"
	done
	# Adds a failure that the test did not report itself.
	case $status in
	0 | 4) ;;
	124 | 137) echo "not ok 9999 ended within $limit s" >>"$results/$name.tap" ;;
	*) grep -q '^not ok' "$results/$name.tap" || echo "not ok 9999 exit status $status" >>"$results/$name.tap" ;;
	esac
	echo 0 >/proc/sys/vm/nr_hugepages
	echo "    $name: exit $status, $((SECONDS - start)) s"
	case $status in
	0 | 4) ;;
	*) grep -v '^ok' "$results/$name.tap" | tail -n 150 | sed 's/^/        /' ;;
	esac
done <"$suites"
cd / && umount /tmp/disk
exit 0
