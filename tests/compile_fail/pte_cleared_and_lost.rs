// SPDX-License-Identifier: GPL-2.0
//
// A PTE is cleared, and its old value is dropped.
//
// rule: Reference and rmap that a PTE stood for pass to the code that clears it. If it drops the value,
// the page leaks.
// crate: kernel
// error: unused_must_use unused return value of `PteSlot::<'t>::get_and_clear` that must be used

use kernel::mm::internal::{
    pgtable::{
        Pte,
        PteSlot, //
    },
    tlb::OwedFlush,
};

pub fn misuse<'t>(slot: &mut PteSlot<'t>, owed: &OwedFlush<'t>) -> Pte {
    // SAFETY: None: this is not to run.
    unsafe {
        slot.get_and_clear(owed); // misuse
        slot.get_and_clear(owed)
    }
}
