// SPDX-License-Identifier: GPL-2.0
//
// A PTE table is unhooked after the PMD lock was given up.
//
// rule: Documentation/mm/process_addrs.rst, page tables: to replace a PMD entry takes the PMD lock,
// and the lock of the PTE table inside it.
// crate: kernel
// error: E0505 cannot move out of `pmd` because it is borrowed

use kernel::mm::{
    folio::HugeFolio,
    pgtable::{PmdGuard, PmdSlot, Unhooked},
    tlb::OwedFlush,
};

pub fn misuse<'v>(
    mut pmd: PmdGuard<'v>,
    slot: PmdSlot<'v>,
    folio: &HugeFolio,
    owed: &OwedFlush<'v>,
) -> Option<Unhooked<'v>> {
    let table = pmd.lock_table(slot)?;

    drop(pmd); // misuse
               // SAFETY: None: this is not to compile.
    Some(unsafe { table.unhook(folio, owed) })
}
