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
    pgtable::{
        PmdGuard,
        PmdSlot, //
    },
};

pub fn misuse<'v>(pmd: PmdGuard<'v>, slot: PmdSlot<'v>, folio: &FilledFolio) -> Option<()> {
    let [hidden] = pmd.hide([Some((slot, folio.stand_in()))]);

    drop(pmd); // misuse
    hidden.map(drop)
}
