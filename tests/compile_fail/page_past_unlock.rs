// SPDX-License-Identifier: GPL-2.0
//
// A page is looked at after the table that maps it was unlocked.
//
// rule: The mapping keeps the page. Once the table is unlocked, others may remove the mapping, and
// free the page.
// crate: kernel
// error: E0505 cannot move out of `table` because it is borrowed

use kernel::mm::internal::pgtable::{PteKind, PteTableGuard};

pub fn misuse(mut table: PteTableGuard<'_>) -> Option<bool> {
    let entry = table.slots().next()?.classify();

    drop(table); // misuse
    match entry {
        PteKind::Page(_, page) => Some(page.is_hwpoison()),
        _ => None,
    }
}
