// SPDX-License-Identifier: GPL-2.0

//! Making the sources of a window read-only, while they stay mapped.
//!
//! Reads of the window go on, and a write costs one page fault, which makes the page writable
//! again. The switch finds by their PTEs the pages that were written until then, and copies them
//! again.
//!
//! # Why a write cannot be missed
//!
//! - An exclusive page is pinned. Reclaim, migration, NUMA balancing and KSM could otherwise unmap
//!   it, or write-protect it, and map it read-only again: the PTE would say that nothing was
//!   written. They leave a pinned page as it is, so a PTE that became writable stays so. See
//!   [`Pte::change_since`].
//! - A page that is not exclusive cannot be written in place in any process: to reuse it, a write
//!   fault would have to find no other reference than its own.
//! - References of others are counted after the PTEs are read-only. GUP-fast takes its reference
//!   and then reads the PTE again. Either it sees that the PTE changed, or the count includes its
//!   reference.
//! - [`Pinnable`] excludes the VMAs in which pages are written through read-only PTEs.
//!
//! The folio locks are not needed for any of this. They keep membership in the swap cache, and
//! with it the count, stable; and they make page migration, FOLL_LONGTERM, UFFDIO_MOVE and memory
//! failure wait for us instead of failing because of our pin.
//!
//! Every folio lock is a trylock. Between the first of them and its release nothing here allocates
//! memory, or waits for a sleeping lock, but for notifier callbacks. Rmap walks call these under a
//! folio lock as well, so they never wait for one. So folio locks need no order.
//!
//! [`Pte::change_since`]: kernel::mm::internal::pgtable::Pte::change_since

use crate::{
    copy::Copied,
    judge::PteCounts,
    outcome::Refusal,
    policy::Limits,
    pool::{
        Prealloc,
        Prepared, //
    },
    snapshot::{
        source_page,
        SlotSet,
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
use core::marker::PhantomData;
use kernel::{
    alloc::KVBox,
    mm::{
        internal::{
            folio::{
                Folio,
                FolioLock,
                FolioPtr,
                OwnedRefs,
                PutBatch, //
            },
            pgtable::{
                Change,
                PmdSlot,
                Pte,
                PteTableGuard,
                PTRS_PER_PTE, //
            },
            tlb::{
                OwedFlush,
                Touched, //
            },
        },
        virt::{
            flags,
            VmaRef, //
        },
    },
    sync::barrier::{
        smp_mb,
        Full, //
    },
    types::ScopeGuard,
};

/// A VMA in which a page that is written has a writable PTE, from the write on.
///
/// That excludes VMAs without VM_WRITE, since FOLL_FORCE writes exclusive pages through read-only
/// PTEs there; and those in which userfaultfd may take write permission away again under no lock
/// but one for reading.
pub(crate) struct Pinnable<'v>(PhantomData<&'v VmaRef>);

impl<'v> Pinnable<'v> {
    /// Returns [`None`] where that is not so.
    pub(crate) fn of(vma: &'v VmaRef) -> Option<Self> {
        if vma.flags() & flags::WRITE == 0 || vma.is_userfaultfd_protecting() {
            return None;
        }
        Some(Self(PhantomData))
    }
}

/// The locked and pinned sources of a window. To drop them is to unpin and unlock them, which takes
/// the lock of their PTE table: neither that nor the PMD lock may be held. Their PTEs may be left
/// read-only, which costs the next write to an exclusive page one page fault.
///
/// # Invariants
///
/// Each folio of the snapshot is locked and pinned once, by us. Its pins are counted.
pub(crate) struct Pinned<'v> {
    slot: PmdSlot<'v>,
    /// How many slots have a source.
    nr: usize,
    #[expect(clippy::type_complexity, reason = "what is dropped, and how")]
    guard: ScopeGuard<(PmdSlot<'v>, KVBox<Snapshot>), fn((PmdSlot<'v>, KVBox<Snapshot>))>,
}

impl<'v> Sources<'v> for Pinned<'v> {
    const REFS: OwnedRefs = OwnedRefs::MappingAndPin;

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
        now.change_since(installed)
    }

    fn count(&self) -> Result<(), Refusal> {
        check_refs::<1>(&self.guard.1.folios)
    }

    fn give_back(self) -> KVBox<Snapshot> {
        let (slot, mut snapshot) = self.guard.dismiss();

        unpin_unlock(slot, &mut snapshot);
        snapshot
    }

    fn into_snapshot(self) -> KVBox<Snapshot> {
        self.guard.dismiss().1
    }
}

/// Unpins and unlocks the folios of a snapshot, in this order wherever possible: code that waits
/// for the lock of a folio, such as UFFDIO_MOVE and FOLL_LONGTERM, fails for good if it finds a pin
/// then.
///
/// While the table is locked, a mapping that is still there keeps its folio. A source that was
/// zapped may be held by nothing but our pin: it is unlocked first, and put without the lock.
fn unpin_unlock(slot: PmdSlot<'_>, snapshot: &mut Snapshot) {
    // SAFETY: By the type invariants of `Pinned` the folios are pinned.
    unsafe { snapshot.folios.count_pins(false) };

    if let Ok(mut table) = slot.lock_table_or_pmd() {
        let Snapshot {
            ptes,
            installed,
            folios,
        } = snapshot;

        // From here on, what is left in a slot tells whether it maps its source.
        for ((slot, source), installed) in table.slots().zip(ptes.iter()).zip(installed.iter_mut())
        {
            let now = slot.read();
            let mapped = !source.is_none() && now.is_present() && now.pfn() == source.pfn();

            *installed = if mapped { now } else { Pte::NONE };
        }
        let mut slots = ptes
            .iter()
            .zip(installed.iter())
            .filter(|(source, _)| !source.is_none());
        // SAFETY: The folio is pinned, or was unpinned below but is still mapped by a table that is
        // locked.
        let folio_of = |source: Pte| unsafe { source_page(source) }.folio().as_non_null();

        // Small folios are in the order of their slots.
        folios.retain_small(|ptr| {
            let mapped = slots
                .find(|(source, _)| folio_of(**source) == ptr)
                .is_some_and(|(_, installed)| !installed.is_none());

            if mapped {
                // SAFETY: The mapping keeps the folio, whose lock and pin are ours.
                unsafe { unpin_unlock_mapped(ptr) };
            }
            !mapped
        });
        folios.retain_multi(|ptr| {
            // All folios that are still mapped are kept by that.
            let mapped = ptes
                .iter()
                .zip(installed.iter())
                .any(|(source, installed)| !installed.is_none() && folio_of(*source) == ptr);

            if mapped {
                // SAFETY: As above.
                unsafe { unpin_unlock_mapped(ptr) };
            }
            !mapped
        });
    }

    let folios = &mut snapshot.folios;
    for folio in folios.multi() {
        // SAFETY: The folio is pinned, and we locked it once.
        let lock = unsafe { FolioLock::adopt(Folio::from_raw(folio)) };

        if !lock.is_mapped() {
            lock.free_swap();
        }
    }
    let mut batch: Option<PutBatch> = None;
    for folio in folios.multi() {
        // SAFETY: The pin is ours, and the folio was unlocked.
        unsafe { batch.get_or_insert_with(PutBatch::new).unpin(folio) };
    }
    // SAFETY: Each of them was locked and pinned by us.
    unsafe { folios.unlock_put_small(OwnedRefs::Pin) };
    folios.clear();
}

/// # Safety
///
/// Lock and pin are the caller's, and the folio stays mapped.
unsafe fn unpin_unlock_mapped(ptr: FolioPtr) {
    // SAFETY: By this function's contract.
    unsafe {
        let folio = Folio::from_raw(ptr);

        folio.unpin_referenced();
        drop(FolioLock::adopt(folio));
    }
}

/// A window whose sources are locked and pinned, with its table locked. No entry was changed yet.
pub(crate) struct Judged<'v, 'mm> {
    // The order of these fields is that in which they are dropped: giving back the sources may free
    // memory.
    table: PteTableGuard<'v>,
    held: Held<'mm, Pinned<'v>>,
    /// Holes and zero pages.
    empty: usize,
}

impl<'v, 'mm> Judged<'v, 'mm> {
    /// Locks and pins all sources of the window of `slot`, or none.
    pub(crate) fn new(
        slot: PmdSlot<'v>,
        prepared: Prepared<'mm>,
        limits: &Limits,
        _pinnable: &Pinnable<'v>,
    ) -> Result<Self, Failed<Prepared<'mm>, NotTaken>> {
        let Some(mut table) = slot.lock_table() else {
            return Err(Failed::new(prepared, Refusal::Raced));
        };
        let Prepared {
            window,
            prealloc:
                Prealloc {
                    folio,
                    table: deposit,
                    mut snapshot,
                },
        } = prepared;
        let mut counts = PteCounts::default();

        let result = lock_sources::<1>(table.slots(), &mut snapshot, limits, &mut counts);
        // SAFETY: The folios are pinned.
        unsafe { snapshot.folios.count_pins(true) };
        let held = Held {
            window,
            folio,
            deposit,
            // INVARIANT: `lock_sources()` locks and pins what it puts into the snapshot.
            sources: Pinned {
                slot,
                nr: counts.sources,
                guard: ScopeGuard::new_with_data((slot, snapshot), |(slot, mut snapshot)| {
                    unpin_unlock(slot, &mut snapshot)
                }),
            },
        };

        match result {
            Ok(()) => Ok(Self {
                table,
                held,
                empty: counts.empty(),
            }),
            Err(cause) => {
                drop(table);
                trace::isolated(counts.empty(), Some(cause.refusal()));
                Err(Failed::new(held.give_back(), cause))
            }
        }
    }
}

/// Windows whose PTEs were changed, with the flush that is owed for them. They can only be had by
/// making that flush.
pub(crate) struct Unflushed<'v, W> {
    owed: OwedFlush<'v, Touched>,
    windows: W,
}

impl<'v, W> Unflushed<'v, W> {
    /// Flushes. That is due for a window that was refused, as well: see [`OwedFlush`]. And it is
    /// due where nothing was changed: a PTE that was read-only already may have a writable
    /// translation that somebody else has yet to flush.
    pub(crate) fn flush(self) -> W {
        self.owed.flush();
        self.windows
    }
}

impl<'v, W> Unflushed<'v, Room<W>> {
    /// No windows so far. `room` is to hold them.
    pub(crate) fn new(owed: OwedFlush<'v, Touched>, room: Room<W>) -> Self {
        Self {
            owed,
            windows: room,
        }
    }

    /// The debt, and the windows so far.
    pub(crate) fn parts(&mut self) -> (&OwedFlush<'v, Touched>, &mut Room<W>) {
        (&self.owed, &mut self.windows)
    }
}

/// Windows whose sources are locked.
impl<'v, 'mm, S: Sources<'v>> Unflushed<'v, Room<Held<'mm, S>>> {
    /// Returns whether a folio that several PTEs may map is locked for one of them.
    pub(crate) fn have_multi(&self, folio: FolioPtr) -> bool {
        self.windows
            .iter()
            .any(|window| window.sources.has_multi(folio))
    }
}

impl<'v, 'mm> Unflushed<'v, Room<Held<'mm, Pinned<'v>>>> {
    /// Makes the PTEs of a window read-only, and adds the window unless it is refused then.
    pub(crate) fn protect(&mut self, judged: Judged<'v, 'mm>) -> Result<(), Failed<Prepared<'mm>>> {
        let Judged {
            mut table,
            mut held,
            empty,
        } = judged;
        let result = protect_sources(&mut table, &mut held.sources.guard.1, &self.owed);

        drop(table);
        trace::isolated(empty, result.err());
        match result {
            Ok(()) => {
                self.windows.put(held);
                Ok(())
            }
            Err(refusal) => Err(Failed::new(held.give_back(), refusal)),
        }
    }
}

/// Makes the PTEs of all sources read-only, notes what they are then, and counts references.
#[inline(never)]
fn protect_sources(
    table: &mut PteTableGuard<'_>,
    snapshot: &mut Snapshot,
    owed: &OwedFlush<'_, Touched>,
) -> Result<(), Refusal> {
    let Snapshot {
        ptes,
        installed,
        folios,
    } = snapshot;

    for mut slot in table.slots() {
        slot.write_protect(owed);
    }
    // Pairs with GUP-fast, which takes a reference and then reads the PTE again.
    smp_mb(Full);
    for ((slot, source), installed) in table.slots().zip(ptes).zip(installed) {
        if !source.is_none() {
            // Until it was read-only, hardware may have set the dirty bit.
            *installed = slot.read();
        }
    }
    check_refs::<1>(folios)
}

/// A copied window of which too much was written meanwhile, made read-only once more.
pub(crate) struct Reprotected<'v, 'mm> {
    copied: Copied<'mm, Pinned<'v>>,
    written: SlotSet,
}

impl<'v, 'mm> Unflushed<'v, Reprotected<'v, 'mm>> {
    /// Makes those PTEs of a window read-only that were written through.
    pub(crate) fn protect_again(
        mut copied: Copied<'mm, Pinned<'v>>,
        owed: OwedFlush<'v, Touched>,
    ) -> Result<Self, Failed<Prepared<'mm>>> {
        match protect_written(&mut copied.sources, &owed) {
            Ok(written) => Ok(Self {
                owed,
                windows: Reprotected { copied, written },
            }),
            Err(refusal) => Err(Failed::new(copied.give_back(), refusal)),
        }
    }
}

fn protect_written(
    sources: &mut Pinned<'_>,
    owed: &OwedFlush<'_, Touched>,
) -> Result<SlotSet, Refusal> {
    let mut table = sources.slot.lock_table().ok_or(Refusal::Raced)?;
    let Snapshot {
        installed, folios, ..
    } = &mut *sources.guard.1;
    let mut written = SlotSet::default();

    for (nr, (mut slot, installed)) in table.slots().zip(installed.iter()).enumerate() {
        match slot.read().change_since(*installed) {
            Change::Same => {}
            Change::Written => {
                slot.write_protect(owed);
                written.insert(nr);
            }
            Change::Other => return Err(Refusal::Raced),
        }
    }
    // As in `protect_sources()`.
    smp_mb(Full);
    for (nr, (slot, installed)) in table.slots().zip(installed).enumerate() {
        if written.contains(nr) {
            *installed = slot.read();
        }
    }
    check_refs::<1>(folios)?;
    Ok(written)
}

impl<'v, 'mm> Reprotected<'v, 'mm> {
    /// Copies again what was written.
    pub(crate) fn copy_again(
        self,
        held: &mut trace::Held,
    ) -> Result<Copied<'mm, Pinned<'v>>, Failed<Prepared<'mm>>> {
        let Self {
            mut copied,
            written,
        } = self;

        held.recopied += written.len();
        match copied.copy_slots(written.iter()) {
            Ok(()) => Ok(copied),
            Err(refusal) => Err(Failed::new(copied.give_back(), refusal)),
        }
    }
}

impl<'v> Pinned<'v> {
    /// How many slots were written by now.
    pub(crate) fn count_written(&self) -> Result<usize, Refusal> {
        let mut table = self.slot.lock_table().ok_or(Refusal::Raced)?;
        let mut written = 0;

        for (slot, installed) in table.slots().zip(&self.guard.1.installed) {
            match slot.read().change_since(*installed) {
                Change::Same => {}
                Change::Written => written += 1,
                Change::Other => return Err(Refusal::Raced),
            }
        }
        Ok(written)
    }
}
