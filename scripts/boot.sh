#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: boot.sh [options] KERNEL [COMMAND]
#
# Boots a kernel that kernel.sh built, on this machine's own root file system
# (read-only), runs a shell COMMAND there as root and returns its exit status;
# without one, an interactive shell. Fails as well when the kernel complains,
# dies or hangs.
#   -t SECONDS   time limit (default 300)
#   -p CPUS      processors (default 2)
#   -i           one processor, emulated, and time counts its instructions:
#                each is a nanosecond
#   -m SIZE      memory (default 3G)
#   -a ARGS      more kernel arguments
#   -q ARGS      more QEMU arguments
#   -l LABEL     name of the folder for its logs (default: run)
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

limit=300 cpus=2 memory=3G append=() qemu=() label=run instructions=''
while getopts t:p:im:a:q:l: option; do
	case $option in
	t) limit=$OPTARG ;;
	p) cpus=$OPTARG ;;
	i) cpus=1 instructions=' -icount shift=0,sleep=off' ;;
	m) memory=$OPTARG ;;
	a) append+=(--append "$OPTARG") ;;
	q) qemu+=("--qemu-opts=$OPTARG") ;;
	l) label=$OPTARG ;;
	*) die "see the head of $0 for its options" ;;
	esac
done
shift $((OPTIND - 1))
kernel=${1:?usage: boot.sh [options] KERNEL [COMMAND]}
command=${2:-}
use_base
use_tools || true
image=$BUILD/$kernel/arch/x86/boot/bzImage
[ -f "$image" ] || die "no kernel '$kernel' is built yet: run 'make kernel'"

# Messages by which the kernel reports a fault.
SPLAT='WARNING: |BUG: |BUG at |UBSAN: |INFO: (task|possible|inconsistent|suspicious|rcu)|possible (circular|recursive|irq)'
SPLAT+='|rcu: .*(stall|detected)|Oops|general protection|Kernel panic|Bad rss-counter|Bad page|soft lockup'
SPLAT+='|kmemleak: [1-9][0-9]* new suspected|kmemleak: .*disabled|refcount_t: |sleeping function|leaked|Call Trace:'

# The guest answers through files in a folder that it shares with us, so that its
# output, its exit status and the kernel's own messages stay apart.
# new_logs COMMAND: makes a new folder $logs for the answers to it.
new_logs() {
	rm -rf "$logs"
	mkdir -p "$logs"
	printf '%s\n' "$1" >"$logs/command"
	touch "$logs/output"
}

# in_guest SECONDS: runs $logs/command; 124 when it had not ended by then.
in_guest() {
	local seconds=$1
	# In a session of its own, so that QEMU goes when it is told to.
	setsid vng "${guest[@]}" "${accelerator[@]}" --verbose --rwdir="$logs" \
		--append "oops=panic panic=-1" --exec "bash '$ROOT/guest/run.sh' '$logs'" \
		</dev/null >"$logs/console" 2>&1 &
	guest_pid=$!
	local waited=0
	while kill -0 "$guest_pid" 2>/dev/null; do
		if [ $waited -ge "$seconds" ]; then
			end_guest
			return 124
		fi
		sleep 1
		waited=$((waited + 1))
	done
	wait "$guest_pid" || true
}

end_guest() {
	{ kill -KILL -- "-$guest_pid" && wait "$guest_pid"; } 2>/dev/null || true
}

# A nested KVM may open and yet not run a kernel: only trying tells. Tried once
# in a machine's uptime.
choose_accelerator() {
	local known logs=$BUILD/boot/probe
	known=$CACHE/accelerator-$(cat /proc/sys/kernel/random/boot_id)
	accelerator=()
	if [ ! -f "$known" ] && [ -z "$instructions" ]; then
		rm -f "$CACHE"/accelerator-*
		new_logs true
		if [ -e /dev/kvm ] && [ ! -w /dev/kvm ]; then
			say "you may not write /dev/kvm (join its group for fast guests): guests run under software emulation (TCG)"
		elif [ -e /dev/kvm ] && in_guest 20 && [ -s "$logs/status" ]; then
			echo kvm >"$known"
		else
			say "KVM cannot run this kernel here: guests run under software emulation (TCG)"
			echo tcg >"$known"
		fi
	fi
	# TCG runs 'rep movsb' byte by byte; without ERMS the kernel copies words.
	[ -z "$instructions" ] && [ "$(cat "$known" 2>/dev/null)" = kvm ] ||
		accelerator=(--disable-kvm "--qemu-opts=-cpu max,-erms,-fsrm$instructions")
}

# no5lvl: while identify_cpu() runs, boot_cpu_data has no LA57; an interrupt in
# that moment makes KASAN take the direct map of five levels for wild addresses.
# no_timer_check: on a busy machine an emulated timer can be late by more than the
# kernel waits for it at boot, which panics then. Guests of KVM do without that too.
guest=(--append "no5lvl no_timer_check" --run "$image" --force-9p --cpus "$cpus" --memory "$memory" "${append[@]}" "${qemu[@]}")
guest_pid=
choose_accelerator
if [ -z "$command" ]; then
	say "an interactive shell in the guest; leave it with 'exit'"
	exec vng "${guest[@]}" "${accelerator[@]}"
fi

logs=$BUILD/boot/$kernel-$label
new_logs "$command"
tail -n +1 -F "$logs/output" 2>/dev/null &
tail_pid=$!
trap 'kill $tail_pid 2>/dev/null || true; [ -z "$guest_pid" ] || end_guest' EXIT
verdict=0
in_guest "$limit" || verdict=$?
# On a busy machine an emulated interrupt can come before the kernel is ready for it.
if [ $verdict -eq 0 ] && [ ! -s "$logs/status" ] && ! grep -aq 'Run .* as init process' "$logs/console"; then
	say "kernel $kernel died before it ran init: once more"
	verdict=0
	in_guest "$limit" || verdict=$?
fi
sleep 0.2
kill $tail_pid 2>/dev/null || true

fail() {
	printf 'error: %s\n' "$*" >&2
	echo "the kernel's messages: $logs/console" >&2
	exit 1
}
# virtme's init program warns in the kernel's log, too, of features that a small machine
# lacks. And the stack of a task that ran out of memory is no complaint.
if sed '/ invoked oom-killer: /,/Call Trace:/d' "$logs/console" |
	grep -aE "$SPLAT" | grep -av 'virtme-ng-init: ' >"$logs/splat"; then
	grep -aFA30 -m1 "$(head -n1 "$logs/splat")" "$logs/console" | head -n 45 >&2
	fail "kernel $kernel complained ($(wc -l <"$logs/splat") lines)"
fi
if [ -s "$logs/leaks" ]; then
	head -n 45 "$logs/leaks" >&2
	fail "kernel $kernel leaked memory (or its detector did not run): $logs/leaks"
fi
[ $verdict -ne 124 ] || fail "the guest had not ended after $limit s: hung, or too slow"
[ -s "$logs/status" ] || { tail -n 20 "$logs/console" >&2 && fail "the guest died before its command ended"; }
exit "$(cat "$logs/status")"
