#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# The whole test suite. A test is a line "pass", "fail" or "skip" and its name;
# failures are repeated at the end, before the totals.
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
lock_cache
use_base
"$ROOT/scripts/tree.sh" sync

results=$BUILD/test-results times=$BUILD/test-times
mkdir -p "$BUILD"
: >"$results"
: >"$times"

# report: result lines from standard input, shown without the many that pass.
report() {
	local lines
	lines=$(cat)
	flock "$results" tee -a "$results" <<<"$lines" >/dev/null
	grep -v '^pass' <<<"$lines" | sed 's/^/    /' || true
}

# took NAME START: for the table at the end.
took() {
	printf '%5d s  from minute %3d  %s\n' $((SECONDS - $2)) $(($2 / 60)) "$1" >>"$times"
}

# step NAME COMMAND...: runs one test. Its exit status is its result.
step() {
	local name=$1 start=$SECONDS
	shift
	say "$name"
	if "$@"; then echo "pass $name"; else echo "fail $name"; fi | report
	took "$name" $start
}

# suite NAME COMMAND...: prints result lines of its own; must print some.
suite() {
	local name=$1 lines status=0 start=$SECONDS
	shift
	say "$name"
	lines=$("$@") || status=$?
	[ $status -eq 0 ] || grep -q '^fail' <<<"$lines" || lines+=$'\n'"fail $name: ended with status $status"
	report <<<"${lines:-fail $name: printed no result}"
	say "$name: $(grep -c '^pass' <<<"$lines" || true) passed"
	took "$name" $start
}

# The kernel's own tests, run while it boots: KTAP in its messages.
kunit() {
	"$ROOT/scripts/boot.sh" -t 600 -l kunit -a "kunit.enable=1 kunit.autorun=1" debug true >&2 || { echo "fail KUnit: the debug kernel boots" && return; }
	cp "$BUILD/boot/debug-kunit/console" "$BUILD/boot/kunit.tap"
	python3 "$ROOT/scripts/tap.py" "$BUILD/boot/kunit.tap"
}

# selftests KERNEL: compares the results of our selftests and upstream's with the unpatched base.
selftests() {
	"$ROOT/scripts/selftests.sh" "$1" >"$BUILD/$1.selftests" || return
	against_baseline "$1" "$BUILD/$1.selftests" | sed "s/ / $1: /"
}

# in_guest LABEL KERNEL COMMAND: the result lines that COMMAND prints in a guest.
in_guest() {
	local status=0 output
	output=$("$ROOT/scripts/boot.sh" -t 900 -l "$1" "$2" "$3") || status=$?
	grep -v '^\(pass\|fail\|skip\) ' <<<"$output" >&2 || true
	grep '^\(pass\|fail\|skip\) ' <<<"$output" | sed "s/ / $2: /" || true
	return $status
}

# Prints an object's bytes without the line numbers in the names of initcalls, which
# any edit above an initcall changes.
without_lines() {
	perl -pe 's/(__initcall__kmod_\w+?__)(\d+_\d+)/$1 . "#" x length $2/ge' "$1"
}

# With the option off, mm/ compiles to the very bytes of the base, but for these: patches
# that come before the engine mend them for every configuration, some by an inlined function.
MENDED='^mm/(compaction|folio|gup|khugepaged|memory|mlock|page_alloc|pagewalk|rmap|shmem|userfaultfd|vmscan)\.o$'
same_objects() {
	local object ours theirs differ=0 objects=0
	"$ROOT/scripts/kernel.sh" base-off mm/ && "$ROOT/scripts/kernel.sh" off mm/ || return
	while read -r object; do
		objects=$((objects + 1))
		! [[ $object =~ $MENDED ]] || continue
		ours=$BUILD/off/$object theirs=$BUILD/base-off/$object
		cmp -s <(without_lines "$ours") <(without_lines "$theirs") || { echo "$object differs from the base's with the option off" >&2 && differ=1; }
	done < <(cd "$BUILD/base-off" && find mm -name '*.o')
	[ "$(find "$BUILD/off/mm" -name '*.o' | wc -l)" -eq $objects ] && [ $differ -eq 0 ] && [ $objects -gt 50 ]
}

# The types cost nothing at run time: no calls are left in the loop over 512 PTEs.
scan_calls_nothing() {
	"$ROOT/scripts/calls_in_loops.py" "llvm-objdump-$LLVM_MAJOR" "$BUILD/release/mm/collapse/collapse.o" \
		'8collapse4scan(?:4scan|11scan_window)' 0x200 >&2
}

# The switch to the C code is for tests and measurements.
no_switch_in_release() {
	! grep -q collapse_engine_c "$BUILD/release/System.map" && grep -q collapse_engine_c "$BUILD/debug/System.map"
}

# The runner itself: a failure in the guest must not go unseen.
# fails_as PATTERN BOOT_ARGUMENTS...: it fails, and says why.
fails_as() {
	local pattern=$1 log
	shift
	if log=$("$ROOT/scripts/boot.sh" -l runner "$@" 2>&1); then
		echo "succeeded, should have failed" >&2
		return 1
	fi
	grep -q "$pattern" <<<"$log" || { printf '%s\n' "$log" >&2 && return 1; }
}
status_comes_back() {
	local status=0 output
	output=$("$ROOT/scripts/boot.sh" -l runner release \
		"echo 'virtme-ng-init: WARNING: not the kernel' >/dev/kmsg; echo out; echo err >&2; exit 7" 2>/dev/null) || status=$?
	[ $status -eq 7 ] && [ "$output" = $'out\nerr' ]
}

# Nor may a soak go unsaid that never began.
hours_refused() {
	local hours
	for hours in '' 0 0.0 -1 1h 1,5 1e3 .; do
		! "$ROOT/scripts/soak.sh" "$hours" 2>/dev/null || { echo "HOURS=$hours is not refused" >&2 && return 1; }
	done
}

suite "style and lint" "$ROOT/scripts/check.sh"
step "tests of the overlay and of reading results" python3 -B "$ROOT/tests/test_overlay.py"
step "option off: mm/ has the base's object code" same_objects
suite "patches that edit C: each step compiles, option on and off" "$ROOT/scripts/bisect.sh" --objects
step "build the debug kernel" "$ROOT/scripts/kernel.sh" debug
step "build the release kernel" "$ROOT/scripts/kernel.sh" release
step "build the mm selftests" "$ROOT/scripts/selftests.sh" build
program=$("$ROOT/scripts/agent.sh") || report <<<"fail thp-collapse is built"

# Builds that run beside the guests of the debug kernel.
builds() {
	suite "thp-collapse: unit tests" "$ROOT/scripts/agent.sh" test
	suite "a model of the protocol" "$ROOT/scripts/model.sh" test
	step "build with no more than the option depends on" "$ROOT/scripts/kernel.sh" small vmlinux
	suite "what modules get of our Rust code" "$ROOT/scripts/exports.sh"
	suite "what the types are to prevent" "$ROOT/scripts/compile_fail.sh"
	step "the scan loop calls nothing (release)" scan_calls_nothing
	step "sparse and kernel-doc: nothing that the base does not have" "$ROOT/scripts/sparse.sh"
	step "no switch to the C code in the release kernel" no_switch_in_release
	step "build the kernel that is measured" "$ROOT/scripts/kernel.sh" bench
}

release_guests() {
	if unshare --mount --net true 2>/dev/null; then
		step "set-up says what it cannot do" python3 -B "$ROOT/tests/test_setup.py"
	else
		report <<<"skip set-up says what it cannot do (no right to make namespaces)"
	fi
	step "runner: output and exit status come back" status_comes_back
	step "runner: a hanging guest fails" fails_as "had not ended" -t 25 release "sleep 1000"
	step "runner: a dying guest fails" fails_as "Kernel panic\|died" release "echo c >/proc/sysrq-trigger"
	step "runner: a kernel splat fails" fails_as "complained" release "echo 'WARNING: made by a test' >/dev/kmsg"
	step "soak: what is no number of hours is refused" hours_refused
	step "runner: a guest without its leak detector fails" fails_as "leaked memory\|complained" -a kmemleak=off debug true
	suite "thp-collapse in a guest" in_guest agent release "python3 '$ROOT/guest/agent.py' '$program'"
	suite "thp-collapse does no harm, in a guest" in_guest harm release "python3 '$ROOT/guest/harm.py' '$program'"
	step "redis-server's heap is collapsed, its data intact (release)" \
		"$ROOT/scripts/boot.sh" -l redis release "bash '$ROOT/guest/redis.sh' '$program' 100000"
	suite "DAMON by damo, stress-ng beside thp-collapse (release)" in_guest programs release \
		"python3 '$ROOT/guest/programs.py' '$program' '$CACHE/venv/bin/damo'"
	suite "instructions of C and Rust" "$ROOT/scripts/bench.sh" short
	suite "mm selftests, release kernel" selftests release
}

debug_guests() {
	suite "KUnit" kunit
	step "redis-server's heap is collapsed, its data intact (debug)" \
		"$ROOT/scripts/boot.sh" -t 600 -l redis debug "bash '$ROOT/guest/redis.sh' '$program' 20000"
	suite "stress-ng beside thp-collapse (debug)" in_guest programs debug "python3 '$ROOT/guest/programs.py' '$program'"
	suite "mm selftests, debug kernel" selftests debug
}

# The guests of the debug kernel take longest. The rest runs beside them if there is memory for six
# guests: most guests keep one processor busy.
join() { wait "$1" || report <<<"fail the guests of a kernel: ended with status $?"; }
trap 'trap - INT TERM; kill 0' INT TERM
debug_guests &
debug=$!
[ "$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo)" -ge 20 ] || { join $debug && debug=; }
builds
release_guests &
join $!
[ -z "$debug" ] || join $debug

say "where $((SECONDS / 60)) minutes went; builds and the guests of two kernels ran side by side"
sort -rn "$times" | head -n 20 | sed 's/^/    /' >&2
grep '^fail' "$results" | sed 's/^/    /' || true
count() { grep -c "^$1 " "$results" || true; }
echo "$(count pass) passed, $(count fail) failed, $(count skip) skipped"
[ "$(count fail)" -eq 0 ] && [ "$(count pass)" -gt 0 ]
