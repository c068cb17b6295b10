// SPDX-License-Identifier: GPL-2.0
//
// A PTE is changed on a debt that can still be given up.
//
// rule: A window that was made read-only owes its flush, whether it is refused or not: mprotect() would
// find nothing to flush. So entries can only be changed on a debt that only a flush ends.
// crate: kernel
// error: E0308 mismatched types

use kernel::mm::internal::{
    pgtable::PteTableGuard,
    tlb::{
        Flushed,
        OwedFlush,
        Untouched, //
    },
};

pub fn misuse<'v>(
    table: &mut PteTableGuard<'v>,
    owed: OwedFlush<'v, Untouched>,
) -> Option<Flushed<'v>> {
    let mut slot = table.slots().next()?;

    slot.write_protect(&owed); // misuse
    let owed = owed.touch();
    slot.write_protect(&owed);
    Some(owed.flush())
}
