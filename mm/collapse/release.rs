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
            PageRef,
            PutBatch,
            RmapBatch, //
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

    /// Releases the sources.
    pub(crate) fn release(mut self) -> Option<KVBox<Saved>> {
        let saved = self.saved.take()?;

        release(&self.table, self.vma, &saved);
        Some(saved)
    }
}

impl Drop for Installed<'_> {
    fn drop(&mut self) {
        if let Some(saved) = self.saved.take() {
            release(&self.table, self.vma, &saved);
        }
    }
}

/// Consecutive pages of a large folio, mapped by consecutive PTEs.
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

/// One or more sources.
enum Piece<'a> {
    /// A folio of one page.
    Small(Pte, PageRef<'a>),
    /// Pages of a large folio.
    Run(Run),
}

/// Calls `f` for the sources, those that follow each other in a large folio together.
///
/// # Safety
///
/// The references of the sources are held until `f` has been called for them.
#[inline(always)]
unsafe fn for_each_run<'a>(ptes: &[Pte], mut f: impl FnMut(Piece<'a>)) {
    let mut run: Option<Run> = None;

    for pte in ptes {
        if pte.is_none() {
            continue;
        }
        // SAFETY: The caller holds the reference.
        let page = unsafe { source_page(*pte) };
        let folio = page.folio();

        if !folio.is_large() {
            f(Piece::Small(*pte, page));
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
                    f(Piece::Run(run));
                }
            }
        }
    }
    if let Some(run) = run {
        f(Piece::Run(run));
    }
}

/// Drops rmaps, locks and references of the sources, in this order.
///
/// Those who wait for a folio found it by its migration entry, and count on it until they are
/// woken: so the lock goes before the reference. A large folio remains one folio all the while: it
/// cannot be split as long as it has references that its mappings do not explain, and those that we
/// have not dropped yet are such.
fn release(table: &DetachedTable<'_>, vma: &VmaRef, saved: &Saved) {
    let lock = table.lock();

    // SAFETY: The table that mapped the folios is locked.
    let mut rmaps = unsafe { RmapBatch::new(vma) };
    let remove_rmap = |piece: Piece<'_>| match piece {
        // SAFETY: The PTE is gone, its reference is not.
        Piece::Small(_, page) => unsafe { rmaps.remove(page.folio()) },
        // SAFETY: As above, the table is locked, and the pages of a run belong to one folio and
        // follow each other.
        Piece::Run(run) => unsafe { source_page(run.pte).remove_rmap(run.nr, vma) },
    };
    // SAFETY: The references are ours until they are dropped below.
    unsafe { for_each_run(&saved.ptes, remove_rmap) };
    drop(rmaps);
    drop(lock);
    if vma.flags() & flags::LOCKED != 0 {
        // munlock is batched, and such a batch has references.
        folio::mlock_drain();
    }

    let mut large = saved.large().peekable();
    if large.peek().is_some() {
        // Which of them it was does not matter: to be dirty costs no more than a write to swap.
        let dirty = saved
            .ptes
            .iter()
            .any(|pte| !pte.is_none() && pte.is_dirty());

        for folio in large {
            // SAFETY: The folio is referenced, and we locked it once.
            let lock = unsafe { FolioLock::adopt(Folio::from_raw(folio)) };

            if dirty {
                lock.mark_dirty();
            }
            lock.free_swap();
        }
    }

    let mut batch = PutBatch::new();
    let put = |piece: Piece<'_>| match piece {
        Piece::Small(pte, page) => {
            let folio = page.folio();
            // SAFETY: The folio is referenced, and we locked it for this PTE.
            let lock = unsafe { FolioLock::adopt(folio) };

            // Who maps it besides us must not lose that it was written.
            if pte.is_dirty() && (folio.is_swapcache() || folio.is_mapped()) {
                lock.mark_dirty();
            }
            lock.free_swap();
            drop(lock);
            // SAFETY: This reference was the mapping's, and is ours.
            unsafe { batch.put(folio.as_non_null(), 1) };
        }
        // SAFETY: As above. CAST: A run has no more than 512 pages.
        Piece::Run(run) => unsafe { batch.put(run.folio, run.nr as u32) },
    };
    // SAFETY: The references are ours until they are dropped here.
    unsafe { for_each_run(&saved.ptes, put) };
}
