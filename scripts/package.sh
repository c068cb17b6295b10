#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Builds the Debian and the RPM package of thp-collapse, checks them by lintian
# and rpmlint, and installs and removes them in empty roots, as well as what
# 'make install' installs. Prints result lines, and says where the packages are.
#
# The functions are called through check(), which shellcheck cannot see.
# shellcheck disable=SC2317
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
lock_cache
use_base
use_tools || die "the toolchain is not set up: run 'make setup'"

for tool in lintian rpm rpmlint; do
	command -v $tool >/dev/null || die "$tool is missing: apt-get install lintian rpm rpmlint"
done
for tool in "cargo-deb $CARGO_DEB_VERSION" "cargo-generate-rpm $CARGO_GENERATE_RPM_VERSION"; do
	[ ! -x "$CACHE/tools/bin/${tool% *}" ] || continue
	say "building ${tool% *}: minutes"
	cargo install --quiet --locked --root "$CACHE/tools" --version "${tool#* }" "${tool% *}" >"$CACHE/cargo.log" 2>&1 ||
		die "cargo could not build $tool: $(tail -n3 "$CACHE/cargo.log")"
done

# The packages are made of files in target/, which is elsewhere.
agent=$BUILD/package
rm -rf "$agent"
mkdir -p "$agent" "$BUILD/agent"
(cd "$ROOT" && git ls-files -z -co --exclude-standard agent) | (cd "$ROOT" && xargs -0 cp --parents -t "$agent")
agent=$agent/agent
ln -s "$BUILD/agent" "$agent/target"
cd "$agent"
target=$(rustc -vV | sed -n 's/^host: //p')
failed=0

check() { result package "$@"; }

build_deb() { cargo deb --no-build --no-strip --target "$target" --output thp-collapse.deb; }
build_rpm() { cargo generate-rpm --target "$target" --output thp-collapse.rpm; }

# The folders of a root that are left when no file is.
is_empty() { [ -z "$(find "$1" -type f -not -path '*/var/lib/*' -not -path '*/var/log/*')" ]; }

# works ROOT PREFIX: checks that the files installed there are complete, and run.
works() {
	"$1/$2/sbin/thp-collapse" --version && "$1/$2/sbin/thp-collapse" status $$ &&
		man -l "$1/$2"/share/man/man8/thp-collapse-watch.8* >/dev/null &&
		bash -n "$1/$2/share/bash-completion/completions/thp-collapse"
}

install_deb() {
	local root=$PWD/root-deb
	mkdir -p "$root/var/lib/dpkg/"{info,updates}
	touch "$root/var/lib/dpkg/"{status,available}
	dpkg --root="$root" --log=/dev/null --install thp-collapse.deb && works "$root" usr &&
		dpkg --root="$root" --log=/dev/null --purge thp-collapse && is_empty "$root"
}

install_rpm() {
	local root=$PWD/root-rpm
	mkdir -p "$root"
	rpm --root "$root" --install thp-collapse.rpm && works "$root" usr &&
		rpm --root "$root" --erase thp-collapse && is_empty "$root"
}

install_make() {
	local root=$PWD/root-make
	make install DESTDIR="$root" && works "$root" usr/local &&
		make uninstall DESTDIR="$root" && is_empty "$root"
}

well_formed() {
	local warnings
	warnings=$(groff -man -Tutf8 -ww -z target/generated/*.8 2>&1)
	printf '%s' "$warnings" && [ -z "$warnings" ]
}

# Each option of each command has its place in a man page.
pages_complete() {
	local command option
	for command in status collapse watch; do
		for option in $("target/$target/release/thp-collapse" "$command" --help | grep -o -- '^ *\(-[a-z], \)\?--[a-z-]*' | grep -o -- '--[a-z-]*'); do
			sed 's/\\//g' "target/generated/thp-collapse-$command.8" | grep -q -- "$option" ||
				{ echo "$option of $command is in no man page" && return 1; }
		done
	done
}

check "it is built, with its man pages and completions" make all
check "the man pages have all options" pages_complete
check "the man pages are well-formed" well_formed
check "the schema of JSON is that of the types" diff target/generated/thp-collapse-1.json schema/thp-collapse-1.json
check "a Debian package is built" build_deb
check "lintian" lintian --fail-on error,warning --tag-display-limit 0 thp-collapse.deb
check "the Debian package can be installed and removed" install_deb
check "an RPM package is built" build_rpm
check "rpmlint" rpmlint --strict --config packaging/rpmlint.toml thp-collapse.rpm
check "the RPM package can be installed and removed" install_rpm
check "make install and make uninstall" install_make
say "the packages are $PWD/thp-collapse.deb and thp-collapse.rpm"
exit $failed
