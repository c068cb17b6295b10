// SPDX-License-Identifier: GPL-2.0
//
// One PTE is reached by two slots at once.
//
// rule: What was read of a PTE holds until one writes it. With two slots of one PTE one would write
// behind the back of the other.
// crate: kernel
// error: E0499 cannot borrow `table` as mutable more than once at a time

use kernel::mm::{
    pgtable::{Pte, PteTableGuard},
    tlb::OwedFlush,
};

pub fn misuse<'v>(mut table: PteTableGuard<'v>, owed: &OwedFlush<'v>) -> Option<Pte> {
    let mut slot = table.slots().next()?;
    // mended: let _ = slot.take(owed);
    // mended: let mut slot = table.slots().next()?;
    // mended: let other = Pte::NONE;
    let other = table.slots().next()?.take(owed); // misuse
    let _ = slot.take(owed);
    Some(other)
}
