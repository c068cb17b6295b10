// SPDX-License-Identifier: GPL-2.0
//
// PTEs are cleared by one who knows where they are and has not locked their
// table.
//
// rule: Documentation/mm/process_addrs.rst, page tables: to write a PTE takes the lock of its
// table.
// crate: kernel
// error: E0599 no method named `drop_zero_page` found for struct `PmdSlot

use kernel::mm::{pgtable::PmdSlot, tlb::OwedFlush};

pub fn misuse<'v>(slot: PmdSlot<'v>, owed: &OwedFlush<'v>) -> Option<()> {
    slot.drop_zero_page(owed); // misuse
    let mut table = slot.lock_table()?;
    let mut first = table.slots().next()?;

    first.drop_zero_page(owed);
    Some(())
}
