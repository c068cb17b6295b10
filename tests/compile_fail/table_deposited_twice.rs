// SPDX-License-Identifier: GPL-2.0
//
// A page table is deposited for two huge pages.
//
// rule: Whoever splits a huge page takes the table that was deposited with it, and frees or uses
// it.
// crate: kernel
// error: E0382 use of moved value: `table`

use kernel::mm::{
    folio::HugeFolio,
    pgtable::{PmdGuard, PteTable, Unhooked},
    tlb::Flushed,
};

pub fn misuse<'v>(
    pmd: &mut PmdGuard<'v>,
    [a, b]: [Unhooked<'v>; 2],
    [folio_a, folio_b]: [HugeFolio; 2],
    table: PteTable<'v>,
    flushed: &Flushed<'v>,
) {
    drop(pmd.map_huge(a, folio_a, table, flushed));
    // mended: drop((b, folio_b));
    drop(pmd.map_huge(b, folio_b, table, flushed)); // misuse
}
