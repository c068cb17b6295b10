// SPDX-License-Identifier: GPL-2.0
//
// PTEs are changed by code that knows where they are and has not locked their
// table.
//
// rule: Documentation/mm/process_addrs.rst, page tables: to write a PTE takes the lock of its
// table.
// crate: kernel
// error: E0599 no method named `write_protect` found for struct `PmdSlot

use kernel::mm::internal::{pgtable::PmdSlot, tlb::OwedFlush};

pub fn misuse<'v>(slot: PmdSlot<'v>, owed: &OwedFlush<'v>) -> Option<()> {
    slot.write_protect(owed); // misuse
    let mut table = slot.lock_table()?;
    let mut first = table.slots().next()?;

    first.write_protect(owed);
    Some(())
}
