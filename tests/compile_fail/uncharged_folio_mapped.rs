// SPDX-License-Identifier: GPL-2.0
//
// A huge folio is mapped that no memory cgroup pays for.
//
// rule: Documentation/admin-guide/cgroup-v2.rst: memory is charged when it is allocated. To charge
// may sleep, and so cannot be done later, under the PMD lock.
// crate: kernel
// error: E0308 mismatched types

use kernel::mm::{
    folio::{HugeFolio, UnchargedFolio},
    pgtable::{DetachedTable, PmdGuard, PteTable, Unhooked},
    tlb::Flushed,
};

pub fn misuse<'v>(
    pmd: &mut PmdGuard<'v>,
    window: Unhooked<'v>,
    // mended: folio: HugeFolio,
    folio: UnchargedFolio, // misuse
    table: PteTable<'v>,
    flushed: &Flushed<'v>,
) -> DetachedTable<'v> {
    // mended: pmd.map_huge(window, folio, table, flushed)
    pmd.map_huge(window, folio, table, flushed) // misuse
}
