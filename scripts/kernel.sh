#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: kernel.sh NAME [TARGET...]
#
# Configures and builds one kernel (bzImage unless TARGETs are named):
#   release debug             with this series
#   without                   with this series, as release, but its option off
#   bench                     the release kernel with a switch to the C code
#   small                     with this series, and no more than that depends on
#   base-release              the unpatched base, same options
#   off base-off              without Rust, for comparing object code
#   arch-X base-arch-X        of another architecture or configuration: see configs/
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

name=${1:?usage: kernel.sh NAME [TARGET...]}
shift
lock_cache
use_base
use_tools || die "the toolchain is not set up: run 'make setup'"

case $name in
release) tree=$TREE fragments=(common rust release collapse) ;;
debug) tree=$TREE fragments=(common rust debug collapse collapse-debug) ;;
bench) tree=$TREE fragments=(common rust release collapse collapse-bench) ;;
without) tree=$TREE fragments=(common rust release) ;;
small) tree=$TREE fragments=(small) ;;
base-release) tree=$BASE fragments=(common rust release) ;;
off) tree=$TREE fragments=(common release) ;;
base-off) tree=$BASE fragments=(common release) ;;
arch-* | base-arch-*)
	tree=$TREE fragments=(arch "${name#base-}")
	[ "$name" = "${name#base-}" ] || tree=$BASE
	ARCH=$(sed -n 's/^# ARCH=\([a-z0-9]*\) .*/\1/p' "$ROOT/configs/${name#base-}.config")
	[ -n "$ARCH" ] || die "configs/${name#base-}.config does not say which ARCH"
	export ARCH
	;;
*) die "no configuration '$name': see the head of scripts/kernel.sh" ;;
esac
out=$BUILD/$name
# This differs from release by one option: files that do not depend on it are built already.
if [[ $name = bench || $name = without ]] && [ ! -d "$out" ] && [ -f "$BUILD/release/configured" ]; then
	copy_build "$BUILD/release" "$out" "$BUILD/release" "$out"
fi
mkdir -p "$out"

# Options not asked for are off, as in tinyconfig. kconfig silently drops an option
# whose dependency or tool is missing: that is an error here.
configure() {
	local line option missing=() files=("${fragments[@]/#/$ROOT/configs/}")
	cat "${files[@]/%/.config}" >"$out/allconfig"
	{
		cat "$out/allconfig" && rustc -vV && bindgen --version && "clang-$LLVM_MAJOR" --version
		find "$tree/mm" "$tree/init" "$tree/lib" -name 'Kconfig*' -exec cat {} +
	} | sha256sum >"$out/configured.new"
	cmp -s "$out/configured.new" "$out/configured" && [ -f "$out/.config" ] && return 0
	say "configuring $name"
	rm -f "$out/configured"
	kmake "$tree" "$out" KCONFIG_ALLCONFIG="$out/allconfig" allnoconfig >"$out/config.log" 2>&1 ||
		die "configuring $name failed: $(tail -n5 "$out/config.log")"
	while read -r line; do
		case $line in
		'# CONFIG_'*' is not set')
			option=${line#\# } option=${option%% *}
			! grep -q "^$option=" "$out/.config" || missing+=("$option=n")
			;;
		CONFIG_*) grep -qxF "$line" "$out/.config" || missing+=("$line") ;;
		esac
	done <"$out/allconfig"
	[ ${#missing[@]} -eq 0 ] || die "kconfig did not take these options of $name: ${missing[*]}"
	mv "$out/configured.new" "$out/configured"
}

# Prints progress: about each percent on a terminal, and each tenth in a log.
progress() {
	local tty=0
	[ ! -t 2 ] || tty=1
	awk -v total="$(cat "$out/steps" 2>/dev/null || echo 2500)" -v tty=$tty -v name="$name" '
		/^  [A-Z]/ {
			n++
			part = int(100 * n / (n > total ? n : total))
			if (tty) printf "\r    %s: %d steps, about %d %% \033[K", name, n, part
			else if (int(part / 10) > tenth) { tenth = int(part / 10); print "    " name ": " n " steps, about " part " %" }
			fflush()
		}
		END { if (tty && n) print "" }' >&2
}

# Clippy lints what it compiles; it may cost speed, so not for release.
lint=()
if [ "$name" = debug ] && command -v clippy-driver >/dev/null; then lint=(CLIPPY=1); fi

configure
[ $# -gt 0 ] || set -- bzImage
say "building $name ($*): minutes from nothing, seconds after a change"
start=$SECONDS
if ! kmake "$tree" "$out" -j"$(nproc)" "${lint[@]}" "$@" 2>&1 | tee "$out/build.log" | progress; then
	grep -aE -B2 -A12 'error|\*\*\*' "$out/build.log" | head -n 60 >&2 || true
	die "building $name failed; everything it said: $out/build.log"
fi
# The number of steps of a build from nothing, for the progress of the next one.
steps=$(grep -c '^  [A-Z]' "$out/build.log" || true)
[ "$steps" -lt 1000 ] || echo "$steps" >"$out/steps"
# rustc always warns of the flags for the target in powerpc's Makefile: that is ignored.
warnings=$(grep 'warning: ' "$out/build.log" | grep -vE '^warning: ((unknown and )?unstable feature specified for|[0-9]+ warnings? emitted)' || true)
if [ -n "$warnings" ]; then
	grep -A6 'warning: ' "$out/build.log" >&2
	# A file that was compiled with a warning must be compiled again next time.
	grep -oE "$tree/[^: ]+[.](c|h|rs):" "$out/build.log" | sort -u | while read -r source; do
		source=${source#"$tree"/}
		rm -f "$out/${source%/*}"/*.o
	done || true
	rm -f "$out"/rust/*.o
	die "building $name gave compiler warnings"
fi
say "$name is built ($((SECONDS - start)) s)"
