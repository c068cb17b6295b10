#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: check_arch.sh [NAME...]
#
# Builds rust/ and mm/ of kernels that cannot be run here: Rust on other architectures,
# where our option is not to be had, and configurations of x86. Each configs/arch-NAME.config
# is one. One line each, "pass", "fail" or "skip" and the name. A kernel whose
# toolchain is not there, or whose base does not build either, is skipped.
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
lock_cache
use_base
use_tools || die "the toolchain is not set up: run 'make setup'"

if [ $# -eq 0 ]; then
	set -- "$ROOT"/configs/arch-*.config
	set -- "${@##*/arch-}"
	set -- "${@%.config}"
fi

targets=$(rustc --print target-list)
failed=0
for name in "$@"; do
	config=$ROOT/configs/arch-$name.config
	[ -f "$config" ] || die "there is no configs/arch-$name.config"
	read -r arch target < <(sed -n 's/^# ARCH=\([a-z0-9]*\) TARGET=/\1 /p' "$config")
	# User mode Linux is built for the machine that builds it.
	for_clang=$(sed -n "s/^CLANG_TARGET_FLAGS_${arch/um/x86}[[:space:]]*:= //p" "$BASE/scripts/Makefile.clang")
	if ! grep -qxF -- "$target" <<<"$targets"; then
		echo "skip check-arch: $name (this rustc has no target $target)"
	elif ! "clang-$LLVM_MAJOR" --target="$for_clang" -x c -c -o /dev/null /dev/null 2>/dev/null; then
		echo "skip check-arch: $name (this clang has no target $for_clang)"
	elif "$ROOT/scripts/kernel.sh" "arch-$name" rust/ mm/; then
		echo "pass check-arch: $name"
	elif ! log=$("$ROOT/scripts/kernel.sh" "base-arch-$name" rust/ mm/ 2>&1); then
		printf '%s\n' "$log" >&2
		echo "skip check-arch: $name (the base does not build either: $(grep -m 1 '^error: ' <<<"$log"))"
	else
		echo "fail check-arch: $name"
		failed=1
	fi
done
exit $failed
