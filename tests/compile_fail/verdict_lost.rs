// SPDX-License-Identifier: GPL-2.0
//
// The result of protecting a window is dropped.
//
// rule: mm/collapse/batch.rs: a window that is refused has to leave its batch with a verdict.
// crate: collapse
// error: unused_must_use Result` that must be used

use crate::{
    protect::{Judged, Pinned, Unflushed},
    sources::Held,
    window::Room,
};

fn misuse<'v, 'mm>(
    protected: &mut Unflushed<'v, Room<Held<'mm, Pinned<'v>>>>,
    judged: Judged<'v, 'mm>,
) -> bool {
    // mended: protected.protect(judged).is_ok()
    protected.protect(judged); // misuse
    false // misuse
}
