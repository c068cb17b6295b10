// SPDX-License-Identifier: GPL-2.0
//
// A table is still hidden when the PMD lock is given up.
//
// rule: Documentation/mm/process_addrs.rst, page tables: to replace a PMD entry takes the PMD lock. Only
// as long as it is held can the table be put back.
// crate: kernel
// error: E0505 cannot move out of `pmd` because it is borrowed

use kernel::mm::internal::{
    folio::FilledFolio,
    mmu_notifier::InvalidateRange,
    pgtable::{
        PmdGuard,
        PmdSlot, //
    },
};

pub fn misuse<'v>(
    pmd: PmdGuard<'v>,
    slot: PmdSlot<'v>,
    range: &InvalidateRange<'v>,
    folio: &FilledFolio,
) -> Option<()> {
    // SAFETY: `hidden` is dropped below, and `folio` lives longer.
    let [hidden] = unsafe { pmd.hide(range, [Some((slot, folio.stand_in()))]) };

    drop(pmd); // misuse
    hidden.map(drop)
}
