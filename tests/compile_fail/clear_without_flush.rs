// SPDX-License-Identifier: GPL-2.0
//
// A PTE is cleared while no flush is announced.
//
// rule: A zap that finds the entry gone concludes that there is nothing to flush:
// mm_tlb_flush_pending() has to tell it otherwise, from before the first entry is cleared.
// crate: kernel
// error: E0061 this method takes 1 argument but 0 arguments were supplied

use kernel::mm::{
    pgtable::{Pte, PteTableGuard},
    tlb::OwedFlush,
};

pub fn misuse<'v>(table: &mut PteTableGuard<'v>, owed: &OwedFlush<'v>) -> Option<Pte> {
    let mut slot = table.slots().next()?;

    // mended: Some(slot.take(owed))
    Some(slot.take()) // misuse
}
