#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# Checks style and lint of everything in the repository. Prints one line a check:
# "pass", "fail" or "skip", and its name. Details go to standard error.
#
# The functions are called through check(), which shellcheck cannot see.
# shellcheck disable=SC2317
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
lock_cache
use_base
use_tools || die "the toolchain is not set up: run 'make setup'"
cd "$ROOT"
failed=0

check() { result check "$@"; }

formatted() {
	local files
	files=$(git ls-files -co --exclude-standard '*.rs') && [ -n "$files" ] || return
	mapfile -t files <<<"$files"
	rustfmt --check --edition 2021 --config-path "$BASE/.rustfmt.toml" "${files[@]}"
}

checkpatch() {
	# Helpers have the names of the functions that they call, and ELF and C11 have names of
	# their own. TRACE_EVENT() has a layout of its own, and mm breaks lines by two tabs. New
	# files are looked up in MAINTAINERS below, for the series as a whole.
	local types=CAMELCASE,OPEN_ENDED_LINE,PARENTHESIS_ALIGNMENT,FILE_PATH_CHANGES
	# With a git folder it would ask spdxcheck.py about licences: see spdx().
	GIT_DIR=/none "$BASE/scripts/checkpatch.pl" --root="$BASE" --strict --quiet --no-summary \
		--ignore "$types${ignore:+,$ignore}" "$@"
}

# The parts of a mail that checkpatch wants (a description, a sign-off) are checked
# on the series instead.
patches_and_files() {
	local status=0
	ignore=COMMIT_MESSAGE,MISSING_SIGN_OFF checkpatch patches/*.patch || status=1
	git ls-files -z -co --exclude-standard mm rust tools include Documentation |
		xargs -0 bash -c 'checkpatch --file "$@"' _ || status=1
	return "$status"
}

# No sign-off is made up, neither by git nor in series.toml.
unsigned() { ! grep -H '^Signed-off-by:' "$@"; }

series_mails() {
	local mails
	"$ROOT/scripts/overlay.py" format "$BASE" "$BUILD/series" || return
	mails=("$BUILD"/series/*.patch)
	# The person who sends them signs them: see send.sh.
	ignore=MISSING_SIGN_OFF checkpatch "${mails[@]:1}" && unsigned "${mails[@]}"
}

# The pages themselves are not at hand: the parts of them that the patch shows are formatted.
man_pages() {
	local warnings
	git apply --numstat man-pages/*.patch || return
	warnings=$({ printf '.TH PAGE 2 1970-01-01 X\n.SH NAME\n' && sed -n -e '/^+++ /d' -e '/^@@/,$s/^[ +]//p' man-pages/*.patch; } |
		groff -man -Tutf8 -ww -z 2>&1) || return
	printf '%s' "$warnings" && [ -z "$warnings" ]
}

export -f checkpatch
export BASE

spdx() {
	local file files missing=0
	files=$(git ls-files -co --exclude-standard) || return
	while read -r file; do
		head -n 3 "$file" | grep -q 'SPDX-License-Identifier: GPL-2.0' && continue
		# JSON has no comments.
		case $file in *.patch | *.json | README.md | .gitignore | COPYING | tests/baseline) continue ;; esac
		echo "$file has no SPDX line"
		missing=1
	done <<<"$files"
	return "$missing"
}

# absent PATTERN FILE...: no line matches; those that do are shown. Comments may.
absent() {
	local hits status=0
	hits=$(grep -nE -- "$@" /dev/null) || status=$?
	[ "$status" -le 1 ] && ! grep -vE '^[^:]*:[0-9]*: *//' <<<"$hits" | grep .
}

# C is called through rust/kernel/mm/internal/, and by three files whose job that is.
bindings_at_the_border() {
	local files
	mapfile -t files < <(git ls-files -co --exclude-standard 'mm/collapse/*.rs' ':!mm/collapse/entry.rs' \
		':!mm/collapse/file.rs' ':!mm/collapse/hooks.rs')
	[ ${#files[@]} -gt 5 ] && absent '\bbindings::|use .*\bbindings\b|^ *bindings,' "${files[@]}"
}

# then_some() makes its argument in any case, and drops it if the condition is false. If
# it is a guard, that releases a lock that another task holds.
lazy_guards() {
	local files
	mapfile -t files < <(git ls-files -co --exclude-standard 'mm/collapse/*.rs' 'rust/kernel/mm/internal/*.rs')
	[ ${#files[@]} -gt 10 ] && absent '\bthen_some\(' "${files[@]}"
}

# The files of the engine do not import each other in circles: see the map in collapse.rs.
no_circle() {
	local imports
	imports=$(for file in mm/collapse/*.rs; do
		sed -nE '/^use crate::\{/,/^\};/s/^    ([a-z_]+).*/\1/p; s/^use crate::([a-z_]+).*/\1/p' "$file" |
			sed "s,^,$(basename "$file" .rs) ,"
	done)
	[ "$(wc -l <<<"$imports")" -gt 50 ] && tsort <<<"$imports"
}

# Spinlocks are held in these passes, and folio locks between them. Each allocation in
# Rust names its GFP flags, and our own types allocate by functions called alloc().
nothing_allocated() {
	absent '\bGFP_|\balloc\(|\bFlags\b|\bprelude\b' mm/collapse/{judge,scan,snapshot,sources,protect,unmap,copy,switch,remap,release}.rs
}

# thp-collapse is built without the kernel's headers: compares its constants with them.
uapi_constants() {
	local constants
	constants=$(sed 's/\([0-9a-f]\)_\([0-9a-f]\)/\1\2/g' agent/src/linux.rs |
		sed -nE 's/^const ((MADV|PAGE)[A-Z_]*): [^=]*= ([0-9a-fx< ]*);/_Static_assert(\1 == (\3), "\1");/p')
	[ "$(wc -l <<<"$constants")" -ge 8 ] && cat - <<<"#include <linux/fs.h>
#include \"$TREE/include/uapi/asm-generic/mman-common.h\"
$constants" | gcc -xc -fsyntax-only -I"$TREE/tools/include/uapi" -I"$TREE/tools/include" -
}

# perf makes a table of the advices of a header. It has its own copy of that header, and will
# have our flags when it is updated.
perf_advices() {
	local table
	table=$("$TREE/tools/perf/trace/beauty/madvise_behavior.sh" "$TREE/include/uapi/asm-generic/") || return
	grep -q '= "COLLAPSE"' <<<"$table" && [ -z "$(sed -n 's/^\t*\(\[.*\]\).*/\1/p' <<<"$table" | sort | uniq -d)" ]
}

# Each new file has a maintainer besides the maintainer of everything.
maintainers() {
	local path nobody=0
	cd "$TREE"
	while read -r path; do
		[ ! -e "$BASE/$path" ] || continue
		scripts/get_maintainer.pl --nogit --nogit-fallback --norolestats --nol -f "$path" 2>&1 |
			grep '@' | grep -qv '^Linus Torvalds' && continue
		echo "get_maintainer.pl names nobody for $path"
		nobody=1
	done < <("$ROOT/scripts/overlay.py" commits | cut -f 3 | sort -u)
	return "$nobody"
}

# Mutations take something out that is there.
mutations_apply() {
	local patch failed=0
	for patch in tests/mutations/*.patch; do
		patch -d "$TREE" -p1 -F0 --dry-run -s <"$patch" && continue
		echo "$patch does not apply"
		failed=1
	done
	return "$failed"
}

check shellcheck shellcheck -x scripts/*.sh guest/*.sh .ci/run
check ruff ruff check --quiet scripts guest tests
check "no clause is the subject of a sentence" python3 -B scripts/prose.py
check "SPDX lines" spdx
check "bindings in entry.rs, file.rs and hooks.rs only" bindings_at_the_border
check "no circle of imports in mm/collapse" no_circle
check "no guard is made to be dropped" lazy_guards
check "no allocation from scan to release" nothing_allocated
check rustfmt formatted
check "checkpatch --strict" patches_and_files
check "man-pages: well-formed, no warning" man_pages
check "series: formats, applies, checkpatch --strict" series_mails
check "mutations apply" mutations_apply
check "get_maintainer.pl names somebody for each new file" maintainers
check "perf's table of advices has no element twice" perf_advices
check "constants of thp-collapse are those of the headers" uapi_constants
# The debug kernel is built with clippy. Here only code in Rust is built.
if command -v clippy-driver >/dev/null; then
	check clippy "$ROOT/scripts/kernel.sh" debug prepare mm/collapse/
	check "clippy: thp-collapse" "$ROOT/scripts/agent.sh" lint
	check "clippy: model" "$ROOT/scripts/model.sh" lint
else
	echo "skip check: clippy (this toolchain has no clippy-driver)"
	echo "skip check: clippy: thp-collapse (this toolchain has no clippy-driver)"
	echo "skip check: clippy: model (this toolchain has no clippy-driver)"
fi
exit $failed
