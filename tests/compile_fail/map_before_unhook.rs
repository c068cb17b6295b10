// SPDX-License-Identifier: GPL-2.0
//
// A huge page is mapped over a table that was not unhooked.
//
// rule: mm/collapse/install.rs: the table goes, then the TLBs are flushed, then the huge page
// comes.
// crate: collapse
// error: E0308 mismatched types

use crate::{copy::Copied, install::Hooked, release::Installed};
use kernel::mm::{pgtable::PmdGuard, tlb::Flushed};

fn misuse<'v, 'mm: 'v>(
    window: Copied<'v, 'mm>,
    hooked: Hooked<'v, 'mm>,
    pmd: &mut PmdGuard<'v>,
    flushed: &Flushed<'v>,
) -> Installed<'v> {
    drop(Hooked::map(window, pmd, flushed)); // misuse
    Hooked::map(hooked, pmd, flushed)
}
