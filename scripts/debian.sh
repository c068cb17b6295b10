# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
#
# Fetches packages from the Debian suite of versions.env, whatever this machine's
# own suite is. Sourced after lib.sh.

# suite_apt ARGS...: apt on BASE_SUITE with a state of its own, from the mirror
# that this machine's apt already uses. Debian's signatures are checked.
suite_apt() {
	local state=$CACHE/apt-$BASE_SUITE mirror
	if [ ! -d "$state/lists" ]; then
		mkdir -p "$state/lists/partial" "$state/archives/partial"
		# shellcheck disable=SC2016
		mirror=$(apt-get indextargets --format '$(REPO_URI) $(LABEL)' 'Created-By: Packages' | sed -n 's/ Debian$//p' | head -n1)
		[ -n "$mirror" ] || die "apt knows no Debian mirror to fetch the kernel source from; or name a tree with KERNEL_SRC"
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $BASE_SUITE main" >"$state/sources.list"
	fi
	local tool=$1
	shift
	"$tool" -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=/dev/null \
		-o Dir::State::lists="$state/lists" -o Dir::Cache="$state" \
		-o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=3 "$@"
}

# fetch_deb PACKAGE VERSION SHA256 FOLDER: downloads, verifies and unpacks it. With
# "signed" for a checksum, what Debian has signed will do.
fetch_deb() {
	local package=$1 version=$2 sha256=$3 folder=$4 tmp
	tmp=$(mktemp -d -p "$CACHE")
	suite_apt apt-get update >"$CACHE/apt.log" 2>&1 || true
	if (cd "$tmp" && suite_apt apt-get download "$package=$version") >>"$CACHE/apt.log" 2>&1; then
		[ "$sha256" = signed ] || echo "$sha256 $(echo "$tmp"/*.deb)" | sha256sum --check --quiet ||
			die "$package $version is not what versions.env pins (checksum differs): not used"
	elif [ "$package" = "$BASE_PACKAGE" ] &&
		(cd "$tmp" && suite_apt apt-get download "$package") >>"$CACHE/apt.log" 2>&1; then
		warn "$package $version has left the archive; taking $(basename "$tmp"/*.deb), signed but not pinned"
	else
		rm -rf "$tmp"
		die "cannot download $package $version; no network? apt says: $(grep -m2 '^E:' "$CACHE/apt.log" || tail -n2 "$CACHE/apt.log")"
	fi
	FETCHED=$(basename "$tmp"/*.deb .deb | cut -d_ -f2)
	dpkg-deb -x "$tmp"/*.deb "$folder"
	rm -rf "$tmp"
}

# suite_newest PACKAGE: the newest version of it that the suite offers.
suite_newest() {
	suite_apt apt-get update >"$CACHE/apt.log" 2>&1 && suite_apt apt-cache policy "$1" | sed -n 's/^ *Candidate: //p' | grep .
}
