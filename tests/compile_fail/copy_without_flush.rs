// SPDX-License-Identifier: GPL-2.0
//
// Sources are copied although TLBs may still let threads write them unseen.
//
// rule: mm/collapse/protect.rs: windows whose PTEs were changed are returned only by the flush that
// is owed for them, and by no other flush.
// crate: collapse
// error: E0616 field `windows` of struct `Unflushed` is private

use crate::{
    protect::{Pinned, Unflushed},
    sources::Held,
    window::Room,
};

type Windows<'v, 'mm> = Room<Held<'mm, Pinned<'v>>>;

fn misuse<'v, 'mm>(protected: Unflushed<'v, Windows<'v, 'mm>>) -> Windows<'v, 'mm> {
    // mended: protected.flush()
    protected.windows // misuse
}
