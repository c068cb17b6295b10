// SPDX-License-Identifier: GPL-2.0
//
// A PTE is changed after its table was unlocked.
//
// rule: Documentation/mm/process_addrs.rst, page tables: to write a PTE takes the lock of its
// table.
// crate: kernel
// error: E0505 cannot move out of `table` because it is borrowed

use kernel::mm::internal::{pgtable::PteTableGuard, tlb::OwedFlush};

pub fn misuse<'v>(mut table: PteTableGuard<'v>, owed: &OwedFlush<'v>) -> Option<()> {
    let mut slot = table.slots().next()?;

    drop(table); // misuse
    slot.write_protect(owed);
    Some(())
}
