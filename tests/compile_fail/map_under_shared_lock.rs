// SPDX-License-Identifier: GPL-2.0
//
// A PMD is mapped through a reference to its lock that others may share.
//
// rule: Documentation/mm/process_addrs.rst, page tables: to write a PMD entry takes the PMD lock,
// alone.
// crate: kernel
// error: E0596 cannot borrow `*pmd` as mutable, as it is behind a `&` reference

use kernel::mm::{
    folio::HugeFolio,
    pgtable::{DetachedTable, PmdGuard, PteTable, Unhooked},
    tlb::Flushed,
};

pub fn misuse<'v>(
    // mended: pmd: &mut PmdGuard<'v>,
    pmd: &PmdGuard<'v>, // misuse
    window: Unhooked<'v>,
    folio: HugeFolio,
    table: PteTable<'v>,
    flushed: &Flushed<'v>,
) -> DetachedTable<'v> {
    // mended: pmd.map_huge(window, folio, table, flushed)
    pmd.map_huge(window, folio, table, flushed) // misuse
}
