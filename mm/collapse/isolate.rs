// SPDX-License-Identifier: GPL-2.0

//! Quiescing the sources of a window.
//!
//! # What makes a source quiet
//!
//! For each present PTE, under the PTE table lock: try to lock the folio, clear the PTE, write a
//! migration entry, and compare the folio's references with those that its mappings and the swap
//! cache explain. Our own mapping is among them: its rmap and its reference stay until the source
//! is released, so that we need none of our own.
//!
//! The order is what counts. GUP-fast takes its reference first and then looks whether the PTE is
//! still what it was; we clear the PTE, which is a full barrier, and then look at the references.
//! One of the two sees the other. Who pinned the page before is seen in the count, and who comes by
//! the page table after finds a migration entry, and waits for the folio lock. The TLBs may hold
//! the old translation until they are flushed, once for all windows of a batch, before the first
//! copy.
//!
//! After that, nobody writes to the page. If it was exclusive, we had the only mapping. If it was
//! not, all its mappings are read-only, and to be written in place it would have to become
//! exclusive to another process, which cannot be as long as our mapping and its reference are
//! counted. So shared pages can be copied without being unshared first, and KSM pages are shared
//! pages.
//!
//! References may still come: from the LRU lists, from a speculative lookup, from another process's
//! read. They can read what we also only read. So counting is enough. The count need not be frozen:
//! a frozen folio could neither be munlocked nor end its writeback, and one that is mapped outside
//! of the window too cannot be frozen.
//!
//! More than one slot may map a large folio, by its pages, or one that KSM has merged, by its only
//! page. Such a recurring folio is locked once, and its count is compared after the last of its
//! PTEs in this window was cleared. What maps it outside of the window may come and go meanwhile,
//! under locks that we do not have: see [`Folio::has_expected_refs_racing`]. Who pins any of its
//! pages keeps all of them where they are.
//!
//! # Who can still reach a quiesced slot
//!
//! - Whoever zaps finds a migration entry, and takes the page off the rss, but drops neither rmap
//!   nor reference: in page migration a moving page has given up both. We have not, so those of a
//!   slot that was zapped are ours to drop. The zap can even free the whole table. See [`Sources`].
//! - userfaultfd's write-protect and NUMA balancing change migration entries in place. Such an
//!   entry is ours still, but must not be replaced by the PTE that we saved: that would undo them.
//! - UFFDIO_MOVE and faults wait for the folio lock. Reclaim, compaction, KSM, splitting and memory
//!   failure need the folio lock to change any mapping of the folio.
//! - Nobody else writes a migration entry for this page to this slot, for that takes the folio lock
//!   too. A migration entry for this page is ours, then.
//!
//! # Deadlock
//!
//! We hold many folio locks, which have no order. Every one of them is a trylock, and between the
//! first one and its release nothing here waits for a sleeping lock, nor allocates.

use crate::{
    control::{
        Kit,
        Saved, //
    },
    outcome::Refusal,
    policy::Limits,
    scan,
    trace, //
};
use kernel::{
    alloc::KVBox,
    mm::{
        folio::{
            Folio,
            FolioLock,
            FolioPtr,
            HugeFolio,
            PageRef,
            PutBatch, //
        },
        pgtable::{
            Entry,
            PmdSlot,
            Pte,
            PteSlot,
            PteTable,
            PTRS_PER_PTE, //
        },
        tlb::OwedFlush,
    },
};

/// Why a window was not isolated.
pub(crate) enum NotIsolated {
    /// It was refused.
    Refused(Refusal),
    /// A folio is locked, perhaps for another window of the same batch.
    Locked(FolioPtr),
}

impl NotIsolated {
    /// What it is to one who does not know the other windows.
    pub(crate) fn refusal(&self) -> Refusal {
        match self {
            NotIsolated::Refused(refusal) => *refusal,
            NotIsolated::Locked(_) => Refusal::Locked,
        }
    }
}

impl From<Refusal> for NotIsolated {
    fn from(refusal: Refusal) -> Self {
        NotIsolated::Refused(refusal)
    }
}

/// The page that a saved PTE maps.
///
/// # Safety
///
/// The reference of that mapping is held for `'a`.
#[inline(always)]
pub(crate) unsafe fn source_page<'a>(pte: Pte) -> PageRef<'a> {
    // SAFETY: Only PTEs of refcounted pages are saved, and the caller vouches for the reference.
    unsafe { PageRef::from_pfn(pte.pfn()) }
}

/// The quiesced sources of a window. To drop them is to put them back.
///
/// # Invariants
///
/// For each of the first `filled` slots whose `saved.ptes` is not none:
///
/// - that PTE's page is mapped by this window in rmap and reference count,
/// - `saved.left` is the migration entry that was written to the slot,
/// - the folio is locked by us, and is once in `saved.folios`.
pub(crate) struct Sources<'v> {
    slot: PmdSlot<'v>,
    saved: Option<KVBox<Saved>>,
    filled: usize,
    /// How many slots have a source.
    nr: usize,
}

/// A window with its sources quiesced.
pub(crate) struct Isolated<'v, 'mm> {
    pub(crate) sources: Sources<'v>,
    pub(crate) folio: HugeFolio,
    pub(crate) table: PteTable<'mm>,
}

impl<'v, 'mm> Isolated<'v, 'mm> {
    /// Isolates all sources of the window of `slot`, or none.
    pub(crate) fn new(
        slot: PmdSlot<'v>,
        kit: Kit<'mm>,
        limits: &Limits,
        owed: &OwedFlush<'v>,
    ) -> Result<Self, (Kit<'mm>, NotIsolated)> {
        let Kit {
            folio,
            table,
            mut saved,
        } = kit;

        match isolate(slot, &mut saved, limits, owed) {
            Ok(nr) => Ok(Isolated {
                // INVARIANT: `isolate()` went through all slots.
                sources: Sources {
                    slot,
                    saved: Some(saved),
                    filled: PTRS_PER_PTE,
                    nr,
                },
                folio,
                table,
            }),
            Err(why) => Err((
                Kit {
                    folio,
                    table,
                    saved,
                },
                why,
            )),
        }
    }

    /// Puts the sources back.
    pub(crate) fn roll_back(self) -> Option<Kit<'mm>> {
        let Isolated {
            sources,
            folio,
            table,
        } = self;

        sources.put_back().map(|saved| Kit {
            folio,
            table,
            saved,
        })
    }
}

/// Quiesces all sources of a window, or none, and returns how many they are.
///
/// Not inlined: its loop wants the registers for itself, which is 15 instructions a page.
#[inline(never)]
fn isolate<'v>(
    slot: PmdSlot<'v>,
    saved: &mut Saved,
    limits: &Limits,
    owed: &OwedFlush<'v>,
) -> Result<usize, NotIsolated> {
    let mut table = slot.lock_table().ok_or(Refusal::Raced)?;
    let mut tally = Tally::default();
    let mut filled = 0;

    saved.folios.clear();
    let result = isolate_slots(table.slots(), saved, limits, owed, &mut tally, &mut filled);
    if result.is_err() {
        // The lock was not given up, so nobody has seen what we wrote, and every slot is still
        // ours. No flush either: the PTEs that return say what stale TLB entries may say.
        restore(table.slots(), saved, filled, slot);
    }
    trace::isolated(
        tally.holes + tally.zeroes,
        result.as_ref().err().map(NotIsolated::refusal),
    );
    result.map(|()| tally.sources)
}

#[derive(Default)]
struct Tally {
    sources: usize,
    shared: usize,
    holes: usize,
    zeroes: usize,
}

#[inline(always)]
fn isolate_slots<'t>(
    slots: impl Iterator<Item = PteSlot<'t>>,
    saved: &mut Saved,
    limits: &Limits,
    owed: &OwedFlush<'_>,
    tally: &mut Tally,
    filled: &mut usize,
) -> Result<(), NotIsolated> {
    let mut latest: Option<FolioPtr> = None;

    for (i, mut slot) in slots.enumerate() {
        let (mut source, mut left) = (Pte::NONE, Pte::NONE);
        let mut result: Result<(), NotIsolated> = Ok(());

        match slot.look() {
            Entry::None => tally.holes += 1,
            // Zero pages stay: nobody can write them, and who writes here replaces the mapping.
            Entry::Zero => {
                tally.zeroes += 1;
                left = slot.read();
            }
            Entry::Special => return Err(Refusal::Foreign.into()),
            Entry::Leaf(pte, leaf) => {
                // What can be faulted in was: this came since.
                return Err(scan::judge_leaf(pte, leaf)
                    .err()
                    .unwrap_or(Refusal::Raced)
                    .into());
            }
            Entry::Page(pte, page) => {
                let folio = page.folio();

                scan::judge_page(pte, page, folio)?;
                if limits.shared < PTRS_PER_PTE && folio.maybe_mapped_shared() {
                    tally.shared += 1;
                    if tally.shared > limits.shared {
                        return Err(Refusal::TooManyShared.into());
                    }
                }
                let recurs = latest == Some(folio.as_non_null()) || lock_source(folio, saved)?;
                if recurs {
                    latest = Some(folio.as_non_null());
                }

                let exclusive = page.is_anon_exclusive();
                source = slot.take(owed);
                left = source.to_migration(exclusive);
                // SAFETY: The slot was cleared just now and the folio is locked. It stays so until
                // the sources are put back or their table is unhooked.
                unsafe { slot.set(left) };
                tally.sources += 1;
                if source.is_dirty() && (!exclusive || folio.is_swapcache()) {
                    // Others who map it, or read it from swap, must not lose that it was written.
                    // SAFETY: The lock is ours, and is left as it was.
                    let lock = unsafe { FolioLock::adopt(folio) };

                    lock.mark_dirty();
                    lock.leave();
                }
                if !recurs && !folio.has_expected_refs() {
                    result = Err(Refusal::Referenced.into());
                }
            }
        }

        // Slots and arrays are of one length, so this always finds its place.
        if let (Some(s), Some(l)) = (saved.ptes.get_mut(i), saved.left.get_mut(i)) {
            *s = source;
            *l = left;
        }
        *filled = i + 1;
        result?;
    }

    scan::judge_holes(tally.holes, tally.zeroes, limits)?;
    for folio in saved.folios.recurring() {
        // SAFETY: Its mappings in this window hold references.
        if !unsafe { Folio::from_raw(folio) }.has_expected_refs_racing() {
            return Err(Refusal::Referenced.into());
        }
    }
    Ok(())
}

/// Locks a source, unless this window has it locked already. Returns whether it may recur.
#[inline(always)]
fn lock_source(folio: &Folio, saved: &mut Saved) -> Result<bool, NotIsolated> {
    let ptr = folio.as_non_null();

    match folio.try_lock() {
        Some(lock) => {
            // Asked for now: KSM takes the lock to merge a page.
            let recurs = folio.may_recur();

            // There is room for as many as there are slots.
            if recurs {
                saved.folios.push_recurring(ptr).ok_or(Refusal::Foreign)?;
            } else {
                saved.folios.push_small(ptr).ok_or(Refusal::Foreign)?;
            }
            lock.leave();
            Ok(recurs)
        }
        None if saved.folios.recurring().any(|folio| folio == ptr) => Ok(true),
        None => Err(NotIsolated::Locked(ptr)),
    }
}

impl<'v> Sources<'v> {
    /// The window.
    pub(crate) fn slot(&self) -> PmdSlot<'v> {
        self.slot
    }

    /// How many slots have no source.
    pub(crate) fn holes(&self) -> usize {
        PTRS_PER_PTE - self.nr
    }

    /// What was left in each slot.
    #[inline(always)]
    pub(crate) fn left(&self) -> &[Pte] {
        self.saved.as_deref().map_or(&[], |saved| &saved.left)
    }

    /// The PTEs of the sources, none where there is no source.
    #[inline(always)]
    pub(crate) fn ptes(&self) -> &[Pte] {
        self.saved.as_deref().map_or(&[], |saved| &saved.ptes)
    }

    /// Whether a recurring folio is among them.
    pub(crate) fn has_recurring(&self, folio: FolioPtr) -> bool {
        self.saved
            .as_ref()
            .is_some_and(|saved| saved.folios.recurring().any(|recurring| recurring == folio))
    }

    /// Whether somebody waits for a page of them.
    pub(crate) fn are_waited_for(&self) -> bool {
        let has_waiters = |folio| {
            // SAFETY: The mapping of the source holds a reference.
            unsafe { Folio::from_raw(folio) }.has_waiters()
        };

        self.saved
            .as_ref()
            .is_some_and(|saved| saved.folios.iter().any(has_waiters))
    }

    /// Gives up the sources to one who releases them.
    pub(crate) fn into_saved(mut self) -> Option<KVBox<Saved>> {
        self.saved.take()
    }

    /// Puts the sources back, and returns the buffer that told of them.
    fn put_back(mut self) -> Option<KVBox<Saved>> {
        self.put_back_once()
    }

    fn put_back_once(&mut self) -> Option<KVBox<Saved>> {
        let mut saved = self.saved.take()?;

        put_back(self.slot, &mut saved, self.filled);
        Some(saved)
    }
}

impl Drop for Sources<'_> {
    fn drop(&mut self) {
        self.put_back_once();
    }
}

/// Puts back the sources of the first `filled` slots, wherever these still are ours.
fn put_back(slot: PmdSlot<'_>, saved: &mut Saved, filled: usize) {
    match slot.lock_table() {
        Some(mut table) => restore(table.slots(), saved, filled, slot),
        None => {
            // A zap of the whole window has freed the table: it took every one of our entries, so
            // that all sources are ours alone. The PMD lock stands in for that of the table.
            let lock = slot.lock();
            for (pte, left) in saved.ptes.iter().zip(saved.left.iter_mut()).take(filled) {
                if !pte.is_none() {
                    *left = Pte::NONE;
                    // SAFETY: The zap dropped neither rmap nor reference; the latter is dropped
                    // below, after this.
                    unsafe { source_page(*pte).remove_rmap(1, slot.vma()) };
                }
            }
            drop(lock);
            unlock_sources(saved);
        }
    }
    drop_abandoned(saved, filled);
}

/// Unlocks the folios of the sources.
///
/// Whoever calls this has made sure that they stay referenced: by references of ours, or by those
/// of PTEs whose table is locked.
fn unlock_sources(saved: &Saved) {
    for folio in saved.folios.iter() {
        // SAFETY: The folio is referenced, see above, and we locked it once.
        drop(unsafe { FolioLock::adopt(Folio::from_raw(folio)) });
    }
}

/// Restores what the first `filled` slots mapped, where they still are ours.
///
/// For those that are not, the rmap is dropped here; the reference remains, and `saved.left` is
/// none to say so. The caller drops it once the table is unlocked.
///
/// The folios are unlocked here, with the table still locked: once a PTE is back, a zap may drop
/// its reference as soon as the table is unlocked, and nothing else would keep the folio.
fn restore<'t>(
    slots: impl Iterator<Item = PteSlot<'t>>,
    saved: &mut Saved,
    filled: usize,
    window: PmdSlot<'_>,
) {
    let vma = window.vma();

    for ((mut slot, pte), left) in slots
        .zip(saved.ptes.iter())
        .zip(saved.left.iter_mut())
        .take(filled)
    {
        if pte.is_none() {
            continue;
        }
        let now = slot.read();
        // SAFETY: The mapping's reference is ours until it is given back to a PTE here.
        let page = unsafe { source_page(*pte) };

        if now == *left {
            // No flush: this is the translation that stale TLB entries may still hold.
            // SAFETY: The slot holds no mapping, and rmap and reference are those of this PTE.
            unsafe { slot.set(*pte) };
        } else if now.migration_pfn() == Some(pte.pfn()) {
            // Ours, but it was write-protected. Then the entry knows better than the PTE that we
            // saved. No flush: since the table was unlocked for that, the batch was flushed.
            if pte.is_dirty() {
                // Not every CPU's migration entries can say this.
                // SAFETY: We hold the lock for this PTE, and go on to hold it.
                let lock = unsafe { FolioLock::adopt(page.folio()) };

                lock.mark_dirty();
                lock.leave();
            }
            let pte = now.from_migration(page, vma);
            // SAFETY: As above.
            unsafe { slot.set(pte) };
        } else {
            *left = Pte::NONE;
            // SAFETY: The slot was zapped. That dropped neither rmap nor reference, since it held
            // a migration entry. The table is locked, and the reference is dropped later.
            unsafe { page.remove_rmap(1, vma) };
        }
    }
    unlock_sources(saved);
}

/// Drops the references of sources whose slots are not ours any more.
fn drop_abandoned(saved: &mut Saved, filled: usize) {
    let mut batch: Option<PutBatch> = None;

    for (pte, left) in saved.ptes.iter().zip(saved.left.iter()).take(filled) {
        if pte.is_none() || !left.is_none() {
            continue;
        }
        // SAFETY: The reference is ours, and the folio was unlocked.
        unsafe {
            let folio = source_page(*pte).folio().as_non_null();

            batch.get_or_insert_with(PutBatch::new).put(folio, 1);
        }
    }
}
