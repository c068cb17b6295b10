// SPDX-License-Identifier: GPL-2.0
//
// A window is rolled back that was handed to the next pass.
//
// rule: mm/collapse/collapse.rs, passes: a window is in one state at a time. To restore PTEs of
// sources that are released would map pages that may be free.
// crate: collapse
// error: E0382 use of moved value: `window`

use crate::{copy::Copied, isolate::Isolated};
use kernel::mm::tlb::Flushed;

fn misuse<'v, 'mm>(window: Isolated<'v, 'mm>, flushed: &Flushed<'v>) -> Option<Copied<'v, 'mm>> {
    let copied = window.copy(flushed).ok();

    drop(window.roll_back()); // misuse
    copied
}
