// SPDX-License-Identifier: GPL-2.0
//
// A PTE is cleared after the flush that is owed for it was paid.
//
// rule: TLBs go on to hold the translation of an entry that is cleared after the flush.
// crate: kernel
// error: E0382 borrow of moved value: `owed`

use kernel::mm::{
    pgtable::{Pte, PteTableGuard},
    tlb::{Flushed, OwedFlush},
};

pub fn misuse<'v>(
    table: &mut PteTableGuard<'v>,
    owed: OwedFlush<'v>,
) -> Option<(Flushed<'v>, Pte)> {
    let mut slot = table.slots().next()?;

    // mended: let pte = slot.take(&owed);
    let flushed = owed.flush();
    let pte = slot.take(&owed); // misuse
    Some((flushed, pte))
}
