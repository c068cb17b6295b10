// SPDX-License-Identifier: GPL-2.0

//! Mapping a huge page by a PMD entry again.
//!
//! The PTEs of a window may map one whole huge page, each page of it in its place. mprotect() or
//! mlock() of a part leave that behind, for instance: they split the PMD mapping, but not the
//! folio. There is nothing to copy then: the table is taken out of reach as in [`crate::switch`],
//! and the huge page itself is put in its place. The pages do not move, so it does not matter if
//! something else holds references to them.
//!
//! That is the counterpart of __split_huge_pmd_locked() in mm/huge_memory.c.

use crate::{
    outcome::Refusal,
    trace, //
};
use kernel::{
    mm::internal::{
        mmu_notifier::InvalidateRange,
        pgtable::{
            PmdSlot,
            PteTable, //
        },
    },
    sync::aref::ARef, //
};

/// Why the huge page of a window could not be mapped.
pub(crate) enum NotRemapped {
    /// The window was refused.
    Refused(Refusal),
    /// It does not map a whole huge page any more, or one that is in the swap cache.
    Changed,
}

/// Maps the huge page of the window of `slot` by a PMD entry. `range` spans the window.
pub(crate) fn remap<'v, 'mm: 'v>(
    slot: PmdSlot<'v>,
    deposit: PteTable<'mm>,
    range: &InvalidateRange<'_>,
    held: &mut trace::Held,
) -> Result<(), NotRemapped> {
    let Some(mut table) = slot.lock_table() else {
        return Err(NotRemapped::Refused(Refusal::Raced));
    };
    // Once the table is unlocked, nothing else keeps the folio.
    let Some(folio) = table.first_pmd_folio().map(ARef::from) else {
        return Err(NotRemapped::Changed);
    };
    // The lock keeps the folio from being split, and out of the swap cache.
    let Some(lock) = folio.try_lock() else {
        return Err(NotRemapped::Refused(Refusal::Locked));
    };

    lock.free_swap();
    // Looked at now, since it takes longer than to compare the entries when they are hidden.
    let Some(exclusive) = table.exclusive_folio(&folio, &lock) else {
        return Err(NotRemapped::Changed);
    };
    drop(table);
    let result = {
        let pmd = slot.lock();

        held.untouchable_begin();
        // SAFETY: `hidden` is consumed below. `folio` is held until after that.
        let [hidden] = unsafe { pmd.hide(range, [Some((slot, folio.stand_in()))]) };
        match hidden {
            Some(hidden) => hidden
                .lock()
                .remap(exclusive, deposit, || held.untouchable_end())
                .map_err(|deposit| {
                    held.untouchable_end();
                    (NotRemapped::Changed, deposit)
                }),
            None => Err((NotRemapped::Refused(Refusal::Raced), deposit)),
        }
    };

    // The table that is not used is freed here, without the PMD lock.
    result.map(drop).map_err(|(cause, _)| cause)
}
