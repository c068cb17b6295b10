// SPDX-License-Identifier: GPL-2.0
//
// A huge folio is written to after it was mapped.
//
// rule: What was mapped belongs to the process, which reads and writes it from then on.
// crate: kernel
// error: E0382 borrow of moved value: `folio`

use kernel::mm::{
    folio::HugeFolio,
    pgtable::{DetachedTable, PmdGuard, PteTable, Unhooked},
    tlb::Flushed,
};

pub fn misuse<'v>(
    pmd: &mut PmdGuard<'v>,
    window: Unhooked<'v>,
    mut folio: HugeFolio,
    table: PteTable<'v>,
    flushed: &Flushed<'v>,
) -> DetachedTable<'v> {
    folio.mark_uptodate();
    let old = pmd.map_huge(window, folio, table, flushed);

    folio.mark_uptodate(); // misuse
    old
}
