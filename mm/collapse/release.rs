// SPDX-License-Identifier: GPL-2.0

//! Giving up the sources of a window that was collapsed.

use crate::{
    control::Saved,
    isolate::{
        source_page,
        Sources, //
    },
};
use kernel::{
    alloc::KVBox,
    mm::{
        folio::{
            self,
            Folio,
            FolioLock,
            FolioPtr,
            PutBatch, //
        },
        pgtable::{
            DetachedTable,
            Pte, //
        },
        virt::{
            flags,
            VmaRef, //
        },
    },
};

/// A window that is huge now, with the table and the sources that it had before.
///
/// To drop it is to release the sources.
pub(crate) struct Installed<'v> {
    table: DetachedTable<'v>,
    vma: &'v VmaRef,
    saved: Option<KVBox<Saved>>,
}

impl<'v> Installed<'v> {
    pub(crate) fn new(table: DetachedTable<'v>, sources: Sources<'v>) -> Self {
        Self {
            table,
            vma: sources.slot().vma(),
            saved: sources.into_saved(),
        }
    }

    /// Releases the sources, and returns the buffer that told of them.
    pub(crate) fn release(mut self) -> Option<KVBox<Saved>> {
        self.release_once()
    }

    fn release_once(&mut self) -> Option<KVBox<Saved>> {
        let mut saved = self.saved.take()?;

        release(&self.table, self.vma, &mut saved);
        Some(saved)
    }
}

impl Drop for Installed<'_> {
    fn drop(&mut self) {
        self.release_once();
    }
}

/// Consecutive pages of a recurring folio, mapped by consecutive PTEs.
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

/// Calls `f` for the sources that may recur, those that follow each other in a folio together.
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

        if !folio.may_recur() {
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

/// Drops rmaps, locks and references of the sources, in this order.
///
/// Those who wait for a folio found it by its migration entry, and count on it until they are
/// woken: so the lock goes before the reference. What may recur goes on to do so without its lock:
/// a large folio cannot be split as long as it has references that its mappings do not explain, and
/// those that we have not dropped yet are such; and what KSM has merged once stays KSM's.
fn release(table: &DetachedTable<'_>, vma: &VmaRef, saved: &mut Saved) {
    let recurs = saved.folios.recurring().next().is_some();
    let lock = table.lock();

    // SAFETY: The table that mapped the folios is locked. Their PTEs are gone, the references of
    // these are ours.
    unsafe { saved.folios.remove_rmap_of_small(vma) };
    if recurs {
        // SAFETY: As above, and the pages of a run belong to one folio and follow each other. The
        // references are ours until they are dropped below.
        unsafe {
            for_each_run(&saved.ptes, |run| {
                source_page(run.pte).remove_rmap(run.nr, vma)
            })
        };
    }
    drop(lock);
    if vma.flags() & flags::LOCKED != 0 {
        // munlock is batched, and such a batch has references.
        folio::mlock_drain();
    }

    if recurs {
        for folio in saved.folios.recurring() {
            // SAFETY: The folio is referenced, and we locked it once.
            let lock = unsafe { FolioLock::adopt(Folio::from_raw(folio)) };

            lock.free_swap();
        }
        let mut batch = PutBatch::new();
        // SAFETY: These references were those of the mappings, and are ours until they are dropped
        // here. CAST: A run has no more than 512 pages.
        unsafe { for_each_run(&saved.ptes, |run| batch.put(run.folio, run.nr as u32)) };
    }
    // SAFETY: Each of them was locked by us, and mapped by one PTE, whose reference is ours.
    unsafe { saved.folios.unlock_put_small() };
}
