// SPDX-License-Identifier: GPL-2.0
//
// The saved PTEs of a window are taken away, so that it cannot be rolled back.
//
// rule: mm/collapse/isolate.rs: to drop sources is to put them back. Without what was saved, the
// process would wait for migration entries that nobody removes.
// crate: collapse
// error: E0616 field `saved` of struct `Sources` is private

use crate::{control::Saved, isolate::Isolated};
use kernel::alloc::KVBox;

fn misuse(mut window: Isolated<'_, '_>) -> Option<KVBox<Saved>> {
    // mended: window.sources.into_saved()
    window.sources.saved.take() // misuse
}
