#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0
#
# usage: send.sh FOLDER [OPTION...]
#
# Sends the mails in FOLDER by git send-email, with its OPTIONs. Each patch must
# carry the Signed-off-by of the person that git sends as, who thereby certifies
# what Documentation/process/submitting-patches.rst asks for. No script signs.
# 'make series' writes mails without: sign the commits of 'make branch' instead,
# by 'git rebase --signoff base', and format those.
#
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

[ -d "${1:-}" ] || die "usage: send.sh FOLDER [OPTION...]"
folder=$1
shift
sender=$(git var GIT_COMMITTER_IDENT) || die "git does not know your name: set user.name and user.email"
sender=${sender%>*}\>
mails=("$folder"/*.patch)
[ -f "${mails[0]}" ] || die "there is no mail in $folder"
for mail in "${mails[@]}"; do
	grep -q '^diff --git ' "$mail" || continue # the cover letter
	grep -qxF "Signed-off-by: $sender" "$mail" || die "$mail is not signed off by $sender"
done
exec git send-email "$@" "${mails[@]}"
