// SPDX-License-Identifier: GPL-2.0
//
// A PTE table is unhooked, and the window is left like that.
//
// rule: mm/collapse/install.rs: what stands in for the table maps nothing. The process would find
// its memory gone.
// crate: kernel
// error: unused_must_use unused `Unhooked` that must be used

use kernel::mm::{
    folio::HugeFolio,
    pgtable::{NestedTable, Unhooked},
    tlb::OwedFlush,
};

pub fn misuse<'v>(
    [first, second]: [NestedTable<'_, 'v>; 2],
    folio: &HugeFolio,
    owed: &OwedFlush<'v>,
) -> Unhooked<'v> {
    // SAFETY: None: this is not to compile.
    unsafe { first.unhook(folio, owed) }; // misuse
                                          // SAFETY: None: this is not to compile.
    unsafe { second.unhook(folio, owed) }
}
