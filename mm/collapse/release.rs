// SPDX-License-Identifier: GPL-2.0

//! Giving up the sources of a window that was collapsed.

use crate::{
    snapshot::{
        source_page,
        Snapshot, //
    },
    sources::Sources,
    window::Window, //
};
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
            lru,
            pgtable::{
                DetachedTable,
                Pte, //
            },
        },
        virt::{
            flags,
            VmaRef, //
        },
    },
    types::ScopeGuard, //
};

/// A window that is huge now, with the table and the sources that it had before.
///
/// To drop it is to release the sources.
pub(crate) struct Switched<'v> {
    window: Window,
    before: ScopeGuard<Before<'v>, fn(Before<'v>)>,
}

/// The table and the sources that a window had before.
struct Before<'v> {
    table: DetachedTable<'v>,
    vma: &'v VmaRef,
    snapshot: KVBox<Snapshot>,
    /// The references to each source that are ours.
    refs: OwnedRefs,
}

impl<'v> Switched<'v> {
    pub(crate) fn new<S: Sources<'v>>(
        window: Window,
        table: DetachedTable<'v>,
        sources: S,
    ) -> Self {
        let before = Before {
            table,
            vma: sources.slot().vma(),
            snapshot: sources.into_snapshot(),
            refs: S::REFS,
        };

        Self {
            window,
            before: ScopeGuard::new_with_data(before, |mut before| before.release()),
        }
    }

    /// Releases the sources, and returns the buffer that told of them.
    pub(crate) fn release(self) -> (Window, KVBox<Snapshot>) {
        let mut before = self.before.dismiss();

        before.release();
        (self.window, before.snapshot)
    }
}

/// Consecutive pages of a folio that several PTEs may map, mapped by consecutive PTEs.
struct Run {
    pte: Pte,
    folio: FolioPtr,
    nr: usize,
}

impl Run {
    #[inline]
    fn continues_with(&self, pte: Pte, folio: FolioPtr) -> bool {
        self.folio == folio && self.pte.pfn().wrapping_add(self.nr) == pte.pfn()
    }
}

/// Calls `f` for the sources that several PTEs may map: those that follow each other in a folio
/// together.
///
/// # Safety
///
/// The references of all sources are held until `f` has been called for them.
unsafe fn for_each_run(ptes: &[Pte], mut f: impl FnMut(Run)) {
    let mut run: Option<Run> = None;

    for pte in ptes {
        if pte.is_none() {
            continue;
        }
        // SAFETY: The caller holds the reference.
        let folio = unsafe { source_page(*pte) }.folio();

        if !folio.maybe_mapped_by_many_ptes() {
            continue;
        }
        match &mut run {
            Some(run) if run.continues_with(*pte, folio.as_non_null()) => run.nr += 1,
            _ => {
                let next = Run {
                    pte: *pte,
                    folio: folio.as_non_null(),
                    nr: 1,
                };
                if let Some(run) = run.replace(next) {
                    f(run);
                }
            }
        }
    }
    if let Some(run) = run {
        f(run);
    }
}

impl Before<'_> {
    /// Drops rmaps, locks and references of the sources, in this order.
    ///
    /// Waiters for the lock of a folio may have found it by its migration entry, and have no
    /// reference until they are woken: so the lock goes before the reference. A folio that
    /// several PTEs may map stays one without its lock: a large folio cannot be split as long as
    /// it has references that its mappings do not explain, and those that we have not dropped yet
    /// are such; and what KSM has merged once stays KSM's.
    fn release(&mut self) {
        let Self {
            table,
            vma,
            snapshot,
            refs,
        } = self;
        let Snapshot { ptes, folios, .. } = &mut **snapshot;
        let pinned = *refs == OwnedRefs::MappingAndPin;
        let multi = folios.multi().next().is_some();
        let lock = table.lock();

        // SAFETY: The table that mapped the folios is locked. Their PTEs are gone, the references
        // of these are ours.
        unsafe { folios.remove_rmap_of_small(vma) };
        if multi {
            // SAFETY: As above, and the pages of a run belong to one folio and follow each other.
            // The references are ours until they are dropped below.
            unsafe { for_each_run(ptes, |run| source_page(run.pte).remove_rmap(run.nr, vma)) };
        }
        drop(lock);
        if vma.flags() & flags::LOCKED != 0 {
            // munlock is batched, and such a batch has references.
            lru::mlock_drain();
        }
        if pinned {
            // SAFETY: The folios are referenced until they are put below.
            unsafe { folios.count_pins(false) };
        }

        if multi {
            for folio in folios.multi() {
                // SAFETY: The folio is referenced, and we locked it once.
                let lock = unsafe { FolioLock::adopt(Folio::from_raw(folio)) };

                if !lock.is_mapped() {
                    lock.free_swap();
                }
            }
            let mut batch = PutBatch::new();
            // SAFETY: These references were those of the mappings, and are ours until they are
            // dropped here. CAST: A run has no more than 512 pages.
            unsafe { for_each_run(ptes, |run| batch.put(run.folio, run.nr as u32)) };
            if pinned {
                for folio in folios.multi() {
                    // SAFETY: The pin is ours.
                    unsafe { batch.unpin(folio) };
                }
            }
        }
        // SAFETY: Each of them was locked by us, and mapped by one PTE, whose reference is ours;
        // and so is the pin, where `refs` says so.
        unsafe { folios.unlock_put_small(*refs) };
    }
}
