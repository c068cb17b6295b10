// SPDX-License-Identifier: GPL-2.0
//
// A PTE is handed out by reference.
//
// rule: Documentation/mm/process_addrs.rst, page tables: hardware sets accessed and dirty bits at
// any time, so a PTE is read once, and is a value from then on.
// crate: kernel
// error: E0515 cannot return reference to temporary value

use kernel::mm::internal::pgtable::{Pte, PteSlot};

pub fn misuse<'t>(slot: &'t PteSlot<'_>, none: &'t Pte) -> &'t Pte {
    // mended: none
    &slot.read() // misuse
}
