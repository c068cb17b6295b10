// SPDX-License-Identifier: GPL-2.0
//
// A PTE is made read-only after the flush that is owed for it was made.
//
// rule: TLBs go on to hold the translation of an entry that is changed after the flush.
// crate: kernel
// error: E0382 borrow of moved value: `owed`

use kernel::mm::internal::{
    pgtable::PteTableGuard,
    tlb::{
        Flushed,
        OwedFlush, //
    },
};

pub fn misuse<'v>(table: &mut PteTableGuard<'v>, owed: OwedFlush<'v>) -> Option<Flushed<'v>> {
    let mut slot = table.slots().next()?;

    // mended: slot.write_protect(&owed);
    let flushed = owed.flush();
    slot.write_protect(&owed); // misuse
    Some(flushed)
}
