// SPDX-License-Identifier: GPL-2.0
//
// A flush is announced, and the value that stands for the debt is not kept.
//
// rule: PTEs that are changed afterwards are changed with no flush pending.
// crate: kernel
// error: unused_must_use unused `OwedFlush` that must be used

use kernel::mm::internal::{
    stable::StableVma,
    tlb::{
        Flushed,
        OwedFlush, //
    },
};

pub fn misuse<'v>(vma: &'v StableVma<'v>) -> Flushed<'v> {
    OwedFlush::begin(vma, vma.start(), vma.end()); // misuse
    let owed = OwedFlush::begin(vma, vma.start(), vma.end());

    owed.touch().flush()
}
