// SPDX-License-Identifier: GPL-2.0
//
// A PTE is made read-only while no flush is announced.
//
// rule: A zap or mprotect() that finds the entry changed concludes that there is nothing to flush:
// mm_tlb_flush_pending() has to tell it otherwise, from before the first entry is changed.
// crate: kernel
// error: E0061 this method takes 1 argument but 0 arguments were supplied

use kernel::mm::internal::{pgtable::PteTableGuard, tlb::OwedFlush};

pub fn misuse<'v>(table: &mut PteTableGuard<'v>, owed: &OwedFlush<'v>) -> Option<()> {
    let mut slot = table.slots().next()?;

    // mended: slot.write_protect(owed);
    slot.write_protect(); // misuse
    Some(())
}
