// SPDX-License-Identifier: GPL-2.0
//
// A window passes for copied that is only isolated.
//
// rule: mm/collapse/collapse.rs, passes: only Isolated::copy() makes a copied window.
// crate: collapse
// error: E0423 cannot initialize a tuple struct which contains private fields

use crate::{copy::Copied, isolate::Isolated};
use kernel::mm::tlb::Flushed;

fn misuse<'v, 'mm>(window: Isolated<'v, 'mm>, flushed: &Flushed<'v>) -> Option<Copied<'v, 'mm>> {
    // mended: window.copy(flushed).ok()
    Some(Copied(window)) // misuse
}
