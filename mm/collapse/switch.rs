// SPDX-License-Identifier: GPL-2.0

//! Putting huge pages in the place of page tables.
//!
//! For a few windows at a time, under the PMD lock: take their tables out of the page table and
//! flush, so that no CPU can access them any more, and no page table walk finds them. Then, for
//! each window, under the lock of its table, and in this order:
//!
//! 1. Compare every slot with what was left in it. A hole that a fault has filled, a source that
//!    was zapped, an entry that userfaultfd has changed: all of these are seen here.
//! 2. Count the references of the sources once more. A device that was given a page meanwhile may
//!    still write it. Nobody can be given one now.
//! 3. Copy again what was written. A page that was counted before its last copy is complete; in the
//!    other order a device could write between the copy and the count.
//! 4. Clear the slots, and map the huge page.
//!
//! Until 4, which cannot fail, dropping what is at hand puts the table back as it was.
//!
//! A hole that was filled and zapped again in between is a hole again. That is correct, except for
//! holes made by the OOM reaper: reading its victim's memory must fail, so nothing is mapped once
//! MMF_UNSTABLE is set.

use crate::{
    copy::Copied,
    outcome::Refusal,
    release::Switched,
    snapshot::{
        source_page,
        SlotSet, //
    },
    sources::Sources,
    trace,
    window::{
        Failed,
        Room, //
    },
};
use kernel::{
    alloc::KVec,
    mm::internal::{
        mmu_notifier::InvalidateRange,
        pgtable::{
            Change,
            Hidden,
            LockedHidden, //
        }, //
    },
    sync::barrier::{
        smp_mb,
        Read, //
    },
};

/// Pages that may be copied while nobody can access the window.
pub(crate) const RECOPY_MAX: usize = 32;

/// Windows that nobody can access at a time, at most.
pub(crate) const SWITCH_MAX: usize = 16;

/// Why a window was not switched.
#[derive(Clone, Copy)]
pub(crate) enum NotSwitched {
    /// It was refused.
    Refused(Refusal),
    /// More of it was written than can be copied again here.
    Written,
}

impl From<Refusal> for NotSwitched {
    fn from(refusal: Refusal) -> Self {
        NotSwitched::Refused(refusal)
    }
}

/// A hidden window whose slots are what was left in them, but for writes.
struct Compared<'g, 'v> {
    table: LockedHidden<'g, 'v>,
    written: SlotSet,
}

/// The same, and nothing else holds the sources.
struct Counted<'g, 'v>(Compared<'g, 'v>);

/// The same, and the huge folio holds all that the sources hold.
struct Complete<'g, 'v>(LockedHidden<'g, 'v>);

impl<'g, 'v> Compared<'g, 'v> {
    #[inline(always)]
    fn new<S: Sources<'v>>(
        mut table: LockedHidden<'g, 'v>,
        sources: &S,
    ) -> Result<Self, NotSwitched> {
        let mut written = SlotSet::default();

        for (nr, (slot, installed)) in table.slots().zip(&sources.snapshot().installed).enumerate()
        {
            match S::change(*installed, slot.read()) {
                Change::Same => {}
                Change::Written => {
                    // SAFETY: The sources hold references.
                    if !unsafe { source_page(*installed) }.is_anon_exclusive() {
                        return Err(Refusal::Raced.into());
                    }
                    written.insert(nr);
                }
                Change::Other => return Err(Refusal::Raced.into()),
            }
        }
        if written.len() > RECOPY_MAX {
            return Err(NotSwitched::Written);
        }
        Ok(Self { table, written })
    }

    #[inline(always)]
    fn count<S: Sources<'v>>(self, sources: &S) -> Result<Counted<'g, 'v>, Refusal> {
        sources.count()?;
        // A device may have written, and dropped its reference after that. The copy must not
        // read what was there before.
        smp_mb(Read);
        Ok(Counted(self))
    }
}

impl<'g, 'v> Counted<'g, 'v> {
    fn copy_again<'mm, S: Sources<'v>>(
        self,
        copied: &mut Copied<'mm, S>,
        held: &mut trace::Held,
    ) -> Result<Complete<'g, 'v>, Refusal> {
        let Compared { table, written } = self.0;

        held.recopied += written.len();
        copied.copy_slots(written.iter())?;
        Ok(Complete(table))
    }
}

impl<'v> Complete<'_, 'v> {
    /// Maps the huge folio. It is dirty, and so soft-dirty, whatever the sources were: no write is
    /// missed.
    fn commit<'mm: 'v, S: Sources<'v>>(self, copied: Copied<'mm, S>) -> Switched<'v> {
        let Copied {
            window,
            folio,
            deposit,
            sources,
        } = copied;
        let vma = sources.slot().vma();

        // A huge page counts in full. The sources count already, holes and zero pages do not.
        vma.add_anon_rss(sources.holes());
        // SAFETY: The table was compared with the snapshot: it maps the sources, whose rmaps and
        // references the `Switched` owns and drops, or it has our migration entries in their place.
        // `deposit` was allocated for this mm.
        let table = unsafe { self.0.replace(folio, deposit) };

        Switched::new(window, table, sources)
    }
}

/// Compares, counts and copies again, and maps the huge page. On failure the table is back.
fn switch_window<'v, 'mm: 'v, S: Sources<'v>>(
    hidden: Hidden<'_, 'v>,
    mut copied: Copied<'mm, S>,
    held: &mut trace::Held,
) -> Result<Switched<'v>, Failed<Copied<'mm, S>, NotSwitched>> {
    let complete = Compared::new(hidden.lock(), &copied.sources).and_then(|compared| {
        let counted = compared.count(&copied.sources)?;

        if copied.sources.slot().vma().mm().is_unstable() {
            return Err(Refusal::Raced.into());
        }
        Ok(counted.copy_again(&mut copied, held)?)
    });

    match complete {
        Ok(complete) => Ok(complete.commit(copied)),
        Err(cause) => Err(Failed::new(copied, cause)),
    }
}

/// Switches the last windows of `copied`, as many as `nr` and [`SWITCH_MAX`] allow, under one hold
/// of the PMD lock, and removes them there. They lie in one PMD table, and `range` spans them.
///
/// A window that `failed` takes is to be given back; that is not done here because the PMD lock is
/// held.
pub(crate) fn switch<'v, 'mm: 'v, S: Sources<'v>>(
    copied: &mut KVec<Copied<'mm, S>>,
    nr: usize,
    range: &InvalidateRange<'_>,
    switched: &mut Room<Switched<'v>>,
    failed: &mut Room<Failed<Copied<'mm, S>, NotSwitched>>,
    held: &mut trace::Held,
) {
    let first = copied.len().saturating_sub(nr.min(SWITCH_MAX));
    let Some(windows) = copied.get(first..) else {
        return;
    };
    let Some(slot) = windows.first().map(|window| window.sources.slot()) else {
        return;
    };
    let mut windows = windows.iter();
    let pmd = slot.lock();

    held.untouchable_begin();
    let stand_ins = core::array::from_fn::<_, SWITCH_MAX, _>(|_| {
        windows
            .next()
            .map(|window| (window.sources.slot(), window.folio.stand_in()))
    });
    // SAFETY: The loop below drops or consumes them all. It moves the folio of a window that fails
    // to `failed`, which frees nothing.
    let hidden = unsafe { pmd.hide(range, stand_ins) };
    for hidden in hidden.into_iter().take(copied.len() - first).rev() {
        let Some(window) = copied.pop() else { break };
        let result = match hidden {
            Some(hidden) => switch_window(hidden, window, held),
            None => Err(Failed::new(window, Refusal::Raced)),
        };

        match result {
            Ok(window) => switched.put(window),
            Err(window) => failed.put(window),
        }
    }
    held.untouchable_end();
}
