// SPDX-License-Identifier: GPL-2.0

//! Replacing the sources of a window by migration entries, where it does not do to protect them.
//!
//! That is so where a page can be written without its PTE telling, see [`Pinnable`], and for a
//! window that is written everywhere and all the time. Threads that touch such a page wait for its
//! folio lock, as in page migration, until its batch is done.
//!
//! # Why nobody writes an unmapped source
//!
//! For each present PTE, under the PTE table lock: lock the folio, clear the PTE, write a migration
//! entry; then compare the references of the folio with those that its mappings and the swap cache
//! explain. Our own mapping is among them: its rmap and its reference stay until the source is
//! released, so that we need none of our own.
//!
//! GUP-fast takes its reference first and then checks that the PTE is what it was. We clear the
//! PTE, execute a full memory barrier, and then read the references. One of the two sees the other.
//! A pin that was taken before shows up in the count. A page table walk that comes later finds a
//! migration entry, and waits for the folio lock. TLBs may hold the old translation until they are
//! flushed, once for all windows of a batch, before the first copy.
//!
//! An exclusive page had our mapping only. All mappings of any other page are read-only, and to be
//! written in place it would have to become exclusive to another process, which is impossible as
//! long as our mapping and its reference are counted. So shared pages can be copied without being
//! unshared first, and KSM pages are shared pages.
//!
//! References may still come: from the LRU lists, from a speculative lookup, from another process's
//! read. They can read what we also only read. So counting is enough. The count need not be frozen:
//! a frozen folio could neither be munlocked nor end its writeback, and one that is mapped outside
//! of the window too cannot be frozen.
//!
//! # What can still reach an unmapped slot
//!
//! - A zap finds a migration entry, and takes the page off the rss, but drops neither rmap nor
//!   reference: in page migration a moving page has given up both. We have not, so those of a
//!   slot that was zapped are ours to drop. The zap can even free the whole table.
//! - userfaultfd's write-protect and NUMA balancing change migration entries in place. Such an
//!   entry is ours still, but must not be replaced by the PTE that we saved: that would undo them.
//! - UFFDIO_MOVE and faults wait for the folio lock. Reclaim, compaction, KSM, splitting and memory
//!   failure need the folio lock to change any mapping of the folio.
//! - Nothing else writes a migration entry for this page to this slot, for that takes the folio
//!   lock too. A migration entry for this page is ours, then.
//!
//! [`Pinnable`]: crate::protect::Pinnable

use crate::{
    judge::PteCounts,
    outcome::Refusal,
    policy::Limits,
    pool::{
        Prealloc,
        Prepared, //
    },
    protect::Unflushed,
    snapshot::{
        source_page,
        Snapshot, //
    },
    sources::{
        check_refs,
        lock_sources,
        Held,
        NotTaken,
        Sources, //
    },
    trace,
    window::{
        Failed,
        Room, //
    },
};
use kernel::{
    alloc::KVBox,
    mm::internal::{
        folio::{
            Folio,
            FolioLock,
            OwnedRefs,
            PutBatch, //
        },
        pgtable::{
            Change,
            PmdSlot,
            Pte,
            PteSlot,
            PTRS_PER_PTE, //
        },
        tlb::{
            OwedFlush,
            Touched, //
        },
    },
    sync::barrier::{
        smp_mb,
        Full, //
    },
    types::ScopeGuard, //
};

/// The sources of a window, with migration entries in their place. To drop them is to put them
/// back, which takes the lock of their PTE table: neither that nor the PMD lock may be held.
///
/// # Invariants
///
/// For each slot whose `snapshot.ptes` is not none:
///
/// - that PTE's page is mapped by this window in rmap and reference count,
/// - `snapshot.installed` is the migration entry that was written to the slot,
/// - the folio is locked by us, and is once in `snapshot.folios`.
pub(crate) struct Unmapped<'v> {
    slot: PmdSlot<'v>,
    /// How many slots have a source.
    nr: usize,
    #[expect(clippy::type_complexity, reason = "what is dropped, and how")]
    guard: ScopeGuard<(PmdSlot<'v>, KVBox<Snapshot>), fn((PmdSlot<'v>, KVBox<Snapshot>))>,
}

impl<'v> Sources<'v> for Unmapped<'v> {
    const REFS: OwnedRefs = OwnedRefs::Mapping;

    fn slot(&self) -> PmdSlot<'v> {
        self.slot
    }

    fn snapshot(&self) -> &Snapshot {
        &self.guard.1
    }

    fn holes(&self) -> usize {
        PTRS_PER_PTE - self.nr
    }

    #[inline(always)]
    fn change(installed: Pte, now: Pte) -> Change {
        // Hardware may have set the accessed bit of a zero page's PTE.
        if now == installed
            || (installed.is_zero_page() && now.change_since(installed) == Change::Same)
        {
            Change::Same
        } else {
            Change::Other
        }
    }

    fn count(&self) -> Result<(), Refusal> {
        // They were counted when they were unmapped. References that were taken later can only be
        // used to read them.
        Ok(())
    }

    fn give_back(self) -> KVBox<Snapshot> {
        let (slot, mut snapshot) = self.guard.dismiss();

        remove_migration_entries(slot, &mut snapshot);
        snapshot
    }

    fn into_snapshot(self) -> KVBox<Snapshot> {
        self.guard.dismiss().1
    }
}

impl<'v, 'mm> Unflushed<'v, Room<Held<'mm, Unmapped<'v>>>> {
    /// Unmaps all sources of the window of `slot`, or none, and adds the window if it has them.
    pub(crate) fn unmap(
        &mut self,
        slot: PmdSlot<'v>,
        prepared: Prepared<'mm>,
        limits: &Limits,
    ) -> Result<(), Failed<Prepared<'mm>, NotTaken>> {
        let Prepared {
            window,
            prealloc:
                Prealloc {
                    folio,
                    table: deposit,
                    mut snapshot,
                },
        } = prepared;
        let (owed, windows) = self.parts();

        match unmap(slot, &mut snapshot, limits, owed) {
            Ok(nr) => {
                windows.put(Held {
                    window,
                    folio,
                    deposit,
                    // INVARIANT: `unmap()` went through all slots.
                    sources: Unmapped {
                        slot,
                        nr,
                        guard: ScopeGuard::new_with_data(
                            (slot, snapshot),
                            |(slot, mut snapshot)| remove_migration_entries(slot, &mut snapshot),
                        ),
                    },
                });
                Ok(())
            }
            Err(cause) => Err(Failed::new(
                Prepared {
                    window,
                    prealloc: Prealloc {
                        folio,
                        table: deposit,
                        snapshot,
                    },
                },
                cause,
            )),
        }
    }
}

/// Unmaps all sources of a window, or none, and returns how many they are.
fn unmap<'v>(
    slot: PmdSlot<'v>,
    snapshot: &mut Snapshot,
    limits: &Limits,
    owed: &OwedFlush<'v, Touched>,
) -> Result<usize, NotTaken> {
    let mut table = slot.lock_table().ok_or(Refusal::Raced)?;
    let mut counts = PteCounts::default();
    let mut result = lock_sources::<0>(table.slots(), snapshot, limits, &mut counts);

    if result.is_err() {
        // The mappings hold references, as long as the table is locked.
        unlock_sources(snapshot);
    } else {
        write_entries(table.slots(), snapshot, owed);
        // Pairs with GUP-fast, which takes a reference and then reads the PTE again.
        smp_mb(Full);
        if let Err(refusal) = check_refs::<0>(&snapshot.folios) {
            // The lock was not given up, so nobody has seen what we wrote, and every slot is still
            // ours.
            restore_ptes(table.slots(), snapshot, slot);
            result = Err(refusal.into());
        }
    }
    trace::isolated(counts.empty(), result.as_ref().err().map(NotTaken::refusal));
    result.map(|()| counts.sources)
}

/// Writes migration entries in the place of the sources.
#[inline(always)]
fn write_entries<'t>(
    slots: impl Iterator<Item = PteSlot<'t>>,
    snapshot: &mut Snapshot,
    owed: &OwedFlush<'_, Touched>,
) {
    let Snapshot {
        ptes, installed, ..
    } = snapshot;

    for ((mut slot, source), installed) in slots.zip(ptes).zip(installed) {
        if source.is_none() {
            continue;
        }
        // SAFETY: The mapping holds a reference, which passes to us.
        let exclusive = unsafe { source_page(*source) }.is_anon_exclusive();
        // SAFETY: Reference and rmap go back to a PTE when the sources are put back, or are dropped
        // when they are released. The entry is present.
        *source = unsafe { slot.get_and_clear(owed) };
        *installed = source.to_migration(exclusive);
        // SAFETY: The slot was cleared just now and the folio is locked. It stays so until the
        // sources are put back or their table is cleared.
        unsafe { slot.set(*installed) };
    }
}

/// Puts back the sources, wherever the slots still are ours.
fn remove_migration_entries(slot: PmdSlot<'_>, snapshot: &mut Snapshot) {
    match slot.lock_table_or_pmd() {
        Ok(mut table) => restore_ptes(table.slots(), snapshot, slot),
        Err(pmd) => {
            // A zap of the whole window has freed the table: it took every one of our entries, so
            // that all sources are ours alone. The PMD lock stands in for that of the table.
            for (pte, installed) in snapshot.ptes.iter().zip(snapshot.installed.iter_mut()) {
                if !pte.is_none() {
                    *installed = Pte::NONE;
                    // SAFETY: The zap dropped neither rmap nor reference; the latter is dropped
                    // below, after this.
                    unsafe { source_page(*pte).remove_rmap(1, slot.vma()) };
                }
            }
            drop(pmd);
            unlock_sources(snapshot);
        }
    }
    put_zapped(snapshot);
}

/// Unlocks the folios of the sources.
///
/// They stay referenced: by references of ours, or by those of PTEs whose table is locked.
fn unlock_sources(snapshot: &Snapshot) {
    for folio in snapshot.folios.iter() {
        // SAFETY: The folio is referenced, see above, and we locked it once.
        drop(unsafe { FolioLock::adopt(Folio::from_raw(folio)) });
    }
}

/// Restores what the slots mapped, where they still are ours.
///
/// For those that are not, the rmap is dropped here; the reference remains, and what was installed
/// becomes none to say so. The caller drops it once the table is unlocked.
///
/// The folios are unlocked here, with the table still locked: once a PTE is back, a zap may drop
/// its reference as soon as the table is unlocked, and nothing else would keep the folio.
fn restore_ptes<'t>(
    slots: impl Iterator<Item = PteSlot<'t>>,
    snapshot: &mut Snapshot,
    window: PmdSlot<'_>,
) {
    let vma = window.vma();

    for ((mut slot, pte), installed) in slots
        .zip(snapshot.ptes.iter())
        .zip(snapshot.installed.iter_mut())
    {
        if pte.is_none() {
            continue;
        }
        let now = slot.read();
        // SAFETY: The mapping's reference is ours until it is given back to a PTE here.
        let page = unsafe { source_page(*pte) };

        if now == *installed {
            // No flush: this is the translation that stale TLB entries may still hold.
            // SAFETY: The slot holds no mapping, and rmap and reference are those of this PTE.
            unsafe { slot.set(*pte) };
        } else if now.migration_pfn() == Some(pte.pfn()) {
            // Ours, but it was write-protected. Then the entry knows better than the PTE that we
            // snapshot. No flush: since the table was unlocked for that, the batch was flushed.
            if pte.is_dirty() {
                // Not every CPU's migration entries can say this.
                // SAFETY: We hold the lock for this PTE, and go on to hold it.
                let lock = unsafe { FolioLock::adopt(page.folio()) };

                lock.mark_dirty();
                lock.keep_locked();
            }
            let pte = now.from_migration(page, vma);
            // SAFETY: As above.
            unsafe { slot.set(pte) };
        } else {
            *installed = Pte::NONE;
            // SAFETY: The slot was zapped. That dropped neither rmap nor reference, since it held
            // a migration entry. The table is locked, and the reference is dropped later.
            unsafe { page.remove_rmap(1, vma) };
        }
    }
    unlock_sources(snapshot);
}

/// Drops the references of sources whose slots are not ours any more.
fn put_zapped(snapshot: &Snapshot) {
    let mut batch: Option<PutBatch> = None;

    for (pte, installed) in snapshot.ptes.iter().zip(snapshot.installed.iter()) {
        if pte.is_none() || !installed.is_none() {
            continue;
        }
        // SAFETY: The reference is ours, and the folio was unlocked.
        unsafe {
            let folio = source_page(*pte).folio().as_non_null();

            batch.get_or_insert_with(PutBatch::new).put(folio, 1);
        }
    }
}
