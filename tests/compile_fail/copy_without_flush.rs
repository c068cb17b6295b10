// SPDX-License-Identifier: GPL-2.0
//
// Sources are copied although TLBs may still let others write them.
//
// rule: mm/collapse/isolate.rs: a source is quiet only when the translations of its PTE are gone.
// crate: collapse
// error: E0061 this method takes 1 argument but 0 arguments were supplied

use crate::{copy::Copied, isolate::Isolated};
use kernel::mm::tlb::Flushed;

fn misuse<'v, 'mm>(window: Isolated<'v, 'mm>, flushed: &Flushed<'v>) -> Option<Copied<'v, 'mm>> {
    // mended: window.copy(flushed).ok()
    window.copy().ok() // misuse
}
