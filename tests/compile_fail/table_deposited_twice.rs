// SPDX-License-Identifier: GPL-2.0
//
// A page table is deposited for two huge pages.
//
// rule: The split of a huge page takes the table that was deposited with it, and frees or uses it.
// crate: kernel
// error: E0382 use of moved value: `deposit`

use kernel::mm::internal::{
    folio::FilledFolio,
    pgtable::{
        LockedHidden,
        PteTable, //
    },
};

pub fn misuse<'v>(
    a: LockedHidden<'_, 'v>,
    b: LockedHidden<'_, 'v>,
    [folio_a, folio_b]: [FilledFolio; 2],
    deposit: PteTable<'v>,
) {
    // SAFETY: None: this is not to run.
    unsafe {
        drop(a.replace(folio_a, deposit));
        // mended: drop((b, folio_b));
        drop(b.replace(folio_b, deposit)); // misuse
    }
}
