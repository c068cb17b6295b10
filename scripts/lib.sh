# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
#
# Shared by the scripts: pins, places, messages, the lock on the cache.

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/thp-collapse
# shellcheck source=versions.env
source "$ROOT/versions.env"

say() { printf '==> %s\n' "$*" >&2; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}

# Prints the base tree's name in the cache, made of its version, path or checksum.
base_key() {
	if [ -z "${KERNEL_SRC:-}" ]; then
		cat "$CACHE/base/default-$BASE_VERSION" 2>/dev/null || printf '%s\n' "linux-$BASE_VERSION" | tr '~+' '--'
	elif [ -d "$KERNEL_SRC" ]; then
		printf 'user-%s\n' "$(cd "$KERNEL_SRC" && pwd -P | sha256sum | cut -c1-12)"
	elif [ -f "$KERNEL_SRC" ]; then
		printf 'tar-%s\n' "$(sha256sum "$KERNEL_SRC" | cut -c1-12)"
	else
		die "KERNEL_SRC=$KERNEL_SRC is neither a kernel tree nor a tarball"
	fi
}

# Sets the places that depend on the base: BASE, TREE, BUILD. THP_COLLAPSE_COPY names
# places of one's own for a tree and what is built from it.
use_base() {
	local key copy=${THP_COLLAPSE_COPY:+-$THP_COLLAPSE_COPY}
	key=$(base_key)
	BASE=$CACHE/base/$key         # as Linux released it, never written
	TREE=$CACHE/tree/$key$copy    # the same with our overlay and patches
	BUILD=$CACHE/build/$key$copy  # output folders, one a configuration
	[ -f "$BASE/Makefile" ] || die "no base tree yet: run 'make setup'"
}

# Takes the lock of the cache, which all clones share. Children inherit the lock.
lock_cache() {
	[ -z "${THP_COLLAPSE_LOCKED:-}" ] || return 0
	mkdir -p "$CACHE" 2>/dev/null ||
		die "cannot create the cache folder $CACHE: set XDG_CACHE_HOME to a folder you may write"
	exec 9>"$CACHE/lock"
	if ! flock -n 9; then
		say "another run uses $CACHE, waiting for it"
		flock 9
	fi
	export THP_COLLAPSE_LOCKED=1
}

# Puts the pinned tools first: bindgen, a fitting rustc, the Python environment.
# Sets RUST_LIB_SRC. Returns 1 where no usable rustc is found.
use_tools() {
	PATH=$CACHE/venv/bin:$CACHE/tools/bin:$PATH
	export PATH CCACHE_DIR="$CACHE/ccache" CCACHE_MAXSIZE=4G
	local dir version
	# The user's own rustc first, then Debian's for browsers (rustc-web).
	for dir in "$(dirname "$(command -v rustc || echo /none/rustc)")" /usr/bin; do
		[ -x "$dir/rustc" ] || continue
		rustc_fits "$dir/rustc" || continue
		version=$("$dir/rustc" --version | cut -d' ' -f2)
		for RUST_LIB_SRC in \
			"$("$dir/rustc" --print sysroot)/lib/rustlib/src/rust/library" \
			"$CACHE/rust-src-$version/usr/lib/rustlib/src/rust/library" \
			"/usr/src/rustc-$version/library"; do
			[ -f "$RUST_LIB_SRC/core/src/lib.rs" ] || continue
			PATH=$CACHE/venv/bin:$CACHE/tools/bin:$dir:$PATH
			export PATH RUST_LIB_SRC
			return 0
		done
	done
	return 1
}

rustc_fits() {
	local version llvm
	version=$("$1" --version 2>/dev/null | cut -d' ' -f2) || return 1
	llvm=$("$1" -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
	[ "$llvm" = "$LLVM_MAJOR" ] &&
		printf '%s\n%s\n' "$RUSTC_MIN" "$version" | sort -VC
}

# Prints the command by which the release kernel compiles mm/collapse, without the source
# and the output. It has to be run in the kernel's output folder.
collapse_rustc() {
	local command
	command=$(sed -n 's/^savedcmd_[^ ]* := \(.*\) --out-dir .*/\1/p' "$BUILD/release/mm/collapse/.collapse.o.cmd") ||
		die "the release kernel is not built"
	[ -n "$command" ] || die "cannot tell how $BUILD/release/mm/collapse/collapse.o is compiled"
	printf '%s\n' "$command"
}

# kmake TREE OUT ARGS...: the kernel's make, the same for everything we build.
# Fixed build identity: the same source gives the same image, byte for byte.
kmake() {
	local tree=$1 out=$2
	shift 2
	make -C "$tree" O="$out" LLVM=-"$LLVM_MAJOR" CC="ccache clang-$LLVM_MAJOR" \
		KBUILD_BUILD_TIMESTAMP=@0 KBUILD_BUILD_VERSION=1 KBUILD_BUILD_USER=thp KBUILD_BUILD_HOST=collapse \
		"$@"
}

# copy_build FROM TO PATH NEW: copies a folder of the kernel's make, so that make takes it for its
# own: its command and dependency files contain paths. An unfinished copy is none.
copy_build() {
	rm -rf "$2.unfinished"
	cp -a "$1" "$2.unfinished"
	{ grep -rlZ --include='.*.cmd' --include='.*.d' "$3" "$2.unfinished" || true; } |
		xargs -0 -r sed -i "s#$3#$4#g"
	mv "$2.unfinished" "$2"
}

# Options for boot.sh: two nodes, too far apart for a kernel with zone_reclaim_mode.
TWO_NODES=(-q "-object memory-backend-ram,id=near,size=1536M -object memory-backend-ram,id=far,size=1536M"
	-q "-numa node,memdev=near,cpus=0-1 -numa node,memdev=far -numa dist,src=0,dst=1,val=40")

# against_baseline KERNEL FILE [long]: compares the output of the selftests with the results of
# the unpatched base. On the debug kernel the long tests are a run of their own.
against_baseline() {
	python3 "$ROOT/scripts/tap.py" --baseline <(
		awk -F'\t' -v kernel="$1" -v choice="${3:-}" '
			NR == FNR { long[$1] = $5; next }
			{ suite = $1; sub(/^[a-z]+ /, "", suite); sub(/: .*/, "", suite) }
			kernel != "debug" || long[suite] == choice
		' "$ROOT/tests/suites" "$ROOT/tests/baseline"
	) "$2"
}

# result GROUP NAME COMMAND...: prints "pass" or "fail", GROUP and NAME. Details of what fails go to
# standard error, and $failed is 1 then.
result() {
	local group=$1 name=$2 log
	shift 2
	if log=$("$@" 2>&1); then
		echo "pass $group: $name"
	else
		printf '%s\n' "$log" | tail -n 60 >&2
		echo "fail $group: $name"
		failed=1
	fi
}

# run_cargo NAME CRATE COMMAND ARGUMENTS...: quiet unless it fails. Its output is in
# $BUILD/NAME.log, and its build folder is $BUILD/NAME.
run_cargo() {
	local name=$1 crate=$2 log=$BUILD/$1.log
	shift 2
	mkdir -p "$BUILD"
	(cd "$ROOT/$crate" && CARGO_TARGET_DIR=$BUILD/$name cargo "$1" --locked "${@:2}") >"$log" 2>&1 || {
		tail -n 60 "$log" >&2
		die "cargo $1 failed for $crate (a first build fetches its crates; is there a network?): $log"
	}
}
