// SPDX-License-Identifier: GPL-2.0
//
// One PTE is reached by two slots at once.
//
// rule: A value that was read from a PTE holds until the PTE is written. With two slots of one PTE,
// one could write unseen by the other.
// crate: kernel
// error: E0499 cannot borrow `table` as mutable more than once at a time

use kernel::mm::internal::{pgtable::PteTableGuard, tlb::OwedFlush};

pub fn misuse<'v>(mut table: PteTableGuard<'v>, owed: &OwedFlush<'v>) -> Option<()> {
    let mut slot = table.slots().next()?;
    // mended: slot.write_protect(owed);
    // mended: let mut slot = table.slots().next()?;
    table.slots().next()?.write_protect(owed); // misuse
    slot.write_protect(owed);
    Some(())
}
