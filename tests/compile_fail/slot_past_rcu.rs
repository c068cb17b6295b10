// SPDX-License-Identifier: GPL-2.0
//
// A slot of a PTE table is kept beyond the RCU section in which the table is mapped.
//
// rule: Documentation/mm/process_addrs.rst, page tables: pte_offset_map() enters an RCU section
// that ends with pte_unmap(), and then the table may be freed.
// crate: kernel
// error: E0597 `table` does not live long enough

use kernel::mm::internal::pgtable::{PmdSlot, Pte};

pub fn misuse(window: PmdSlot<'_>) -> Option<Pte> {
    let mut kept = None;
    {
        let mut table = window.lock_table()?;

        // mended: kept = table.slots().next().map(|slot| slot.read());
        kept = table.slots().next(); // misuse
    }
    // mended: kept
    kept.map(|slot| slot.read()) // misuse
}
