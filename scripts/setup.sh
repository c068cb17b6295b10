#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Installs what is missing: Debian packages, a Rust toolchain that fits clang,
# bindgen, a Python environment and the base tree. Does nothing when all is there.
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/debian.sh
source "$ROOT/scripts/debian.sh"
lock_cache

PACKAGES="clang-$LLVM_MAJOR lld-$LLVM_MAJOR llvm-$LLVM_MAJOR libclang-$LLVM_MAJOR-dev
	make gcc libc6-dev flex bison bc perl patch git rsync cpio kmod lz4 xz-utils zstd
	libelf-dev libssl-dev libcap-dev libnuma-dev liburing-dev
	ca-certificates iproute2 e2fsprogs ccache shellcheck sparse python3-venv
	qemu-system-x86 redis-tools libhiredis-dev stress-ng python3-sphinx python3-yaml groff-base"
RUST_PACKAGES="rustc-web cargo-web rust-web-src rust-web-clippy rustfmt-web"

check_machine() {
	[ "$(uname -m)" = x86_64 ] || die "the guest kernel is x86_64 and so must be this machine, which is $(uname -m)"
	local id version free memory
	id=$(sed -n 's/^ID=//p' /etc/os-release | tr -d '"')
	version=$(sed -n 's/^VERSION_ID=//p' /etc/os-release | tr -d '"')
	case $id:$version in
	debian:12 | debian:13) ;;
	*) die "set-up knows Debian 12 and 13, this is '$id $version'; use one of them, a container will do" ;;
	esac
	free=$(df --output=avail -BG "$CACHE" | tail -n1 | tr -dc 0-9)
	[ -d "$CACHE/build" ] || [ "$free" -ge 20 ] ||
		die "$CACHE has ${free} GB free, a build from nothing needs 20: free some, or set XDG_CACHE_HOME"
	[ -z "${KERNEL_SRC:-}" ] || base_key >/dev/null
	memory=$(($(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo) / 1024 / 1024))
	[ "$memory" -ge 7 ] || die "this machine has ${memory} GiB of memory, the debug guest and its build need 8"
}

# apt_install PACKAGES...: those of them that are not installed.
apt_install() {
	local p missing=() as=()
	for p in "$@"; do
		[ "$(dpkg-query -Wf '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	if [ "$(id -u)" -ne 0 ]; then
		command -v sudo >/dev/null ||
			die "these packages are missing and neither root nor sudo is at hand; have them installed: ${missing[*]}"
		as=(sudo)
	fi
	say "installing ${#missing[@]} Debian packages, about 2 minutes: ${missing[*]}"
	{ "${as[@]}" apt-get update && "${as[@]}" env DEBIAN_FRONTEND=noninteractive \
		apt-get install -y --no-install-recommends "${missing[@]}"; } >"$CACHE/apt.log" 2>&1 ||
		die "apt-get failed (no network, or a mirror without these packages?): $(grep -m3 '^E:' "$CACHE/apt.log" || tail -n3 "$CACHE/apt.log")"
}

setup_rust() {
	local version
	if ! use_tools; then
		version=$(rustc --version 2>/dev/null | cut -d' ' -f2 || true)
		if [ "$version" = "$RUST_SRC_FOR" ] && rustc_fits "$(command -v rustc)"; then
			say "fetching the Rust library source $RUST_SRC_VERSION (45 MB)"
			fetch_deb rust-src "$RUST_SRC_VERSION" "$RUST_SRC_SHA256" "$CACHE/rust-src-$version"
		else
			[ -z "$version" ] || say "rustc $version does not fit (want at least $RUSTC_MIN on LLVM $LLVM_MAJOR, with its library source): adding Debian's"
			# shellcheck disable=SC2086
			apt_install $RUST_PACKAGES
		fi
		use_tools || die "no usable Rust: rustc of at least $RUSTC_MIN built on LLVM $LLVM_MAJOR, with its library source, is needed; found: $(rustc -vV 2>&1 | tr '\n' ' ')"
	fi
	[ "$("$CACHE/tools/bin/bindgen" --version 2>/dev/null)" = "bindgen $BINDGEN_VERSION" ] && return 0
	say "building bindgen $BINDGEN_VERSION, about a minute"
	cargo install --quiet --locked --force --root "$CACHE/tools" --version "$BINDGEN_VERSION" bindgen-cli >"$CACHE/cargo.log" 2>&1 ||
		die "cargo could not build bindgen $BINDGEN_VERSION: $(tail -n3 "$CACHE/cargo.log")"
}

setup_python() {
	cmp -s "$CACHE/venv/pins" - <<<"$PYTHON_WHEELS" && return 0
	say "making the Python environment (virtme-ng, damo, ruff, matplotlib)"
	rm -rf "$CACHE/venv"
	python3 -m venv "$CACHE/venv"
	echo "$PYTHON_WHEELS" >"$CACHE/venv/requirements.txt"
	"$CACHE/venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes --only-binary=:all: \
		-r "$CACHE/venv/requirements.txt" 2>"$CACHE/pip.log" || die "pip failed: $(tail -n3 "$CACHE/pip.log")"
	mv "$CACHE/venv/requirements.txt" "$CACHE/venv/pins"
}

setup_base() {
	local key tmp
	mkdir -p "$CACHE/base"
	key=$(base_key)
	tmp=$CACHE/base/.unpacking
	if [ -n "${KERNEL_SRC:-}" ] && [ -d "$KERNEL_SRC" ]; then
		[ -f "$KERNEL_SRC/mm/khugepaged.c" ] || die "KERNEL_SRC=$KERNEL_SRC is no kernel tree (mm/khugepaged.c is not there)"
		say "bringing the copy of $KERNEL_SRC up to date"
		rsync -a --delete --exclude=.git --itemize-changes "$KERNEL_SRC/" "$CACHE/base/$key/" >"$CACHE/base/.changes"
		[ ! -e "$CACHE/base/$key/.config" ] || make -s -C "$CACHE/base/$key" mrproper
		# The patched tree of the old content may have edits: it is put aside, not updated.
		if [ -s "$CACHE/base/.changes" ] && [ -d "$CACHE/tree/$key" ]; then
			mv "$CACHE/tree/$key" "$CACHE/tree/$key.$(date +%s)"
			warn "$KERNEL_SRC has changed; the tree made of it before is kept beside the new one in $CACHE/tree"
		fi
		return 0
	fi
	[ ! -f "$CACHE/base/$key/Makefile" ] || return 0
	rm -rf "$tmp"
	mkdir -p "$tmp"
	if [ -n "${KERNEL_SRC:-}" ]; then
		say "unpacking $KERNEL_SRC"
		tar -xf "$KERNEL_SRC" -C "$tmp" || die "cannot unpack KERNEL_SRC=$KERNEL_SRC"
	else
		say "fetching and unpacking Linux $BASE_VERSION (167 MB, half a minute)"
		fetch_deb "$BASE_PACKAGE" "$BASE_VERSION" "$BASE_SHA256" "$tmp/deb"
		key=linux-$(tr '~+' '--' <<<"$FETCHED")
		tar -xf "$tmp/deb/usr/src/$BASE_PACKAGE.tar.xz" -C "$tmp"
		rm -rf "$tmp/deb"
	fi
	local roots=("$tmp"/*/mm/khugepaged.c)
	[ -f "${roots[0]}" ] || die "what was unpacked is no kernel tree (mm/khugepaged.c is not there)"
	mv "${roots[0]%/mm/khugepaged.c}" "$CACHE/base/$key"
	rm -rf "$tmp"
	[ -n "${KERNEL_SRC:-}" ] || echo "$key" >"$CACHE/base/default-$BASE_VERSION"
}

check_machine
# shellcheck disable=SC2086
apt_install $PACKAGES
setup_rust
setup_python
setup_base
