// SPDX-License-Identifier: GPL-2.0

//! Locking the sources of a window, and counting their references.

use crate::{
    hooks::fail_count,
    judge::{
        judge_page,
        judge_softleaf,
        PteCounts, //
    },
    outcome::Refusal,
    policy::Limits,
    pool::{
        Prealloc,
        Prepared, //
    },
    snapshot::Snapshot,
    window::Window, //
};
use core::ffi::c_int;
use kernel::{
    alloc::KVBox,
    mm::internal::{
        folio::{
            Folio,
            FolioLock,
            FolioPtr,
            Full,
            HugeFolio,
            MappedFolios,
            OwnedRefs,
            Unexpected, //
        },
        pgtable::{
            Change,
            PmdSlot,
            Pte,
            PteKind,
            PteSlot,
            PteTable, //
        },
    }, //
};

/// Locks the folios of all sources, and takes `PINS` pins of each. On failure, those that were had
/// are in the snapshot.
///
/// Not inlined: its loop needs the registers for itself.
#[inline(never)]
pub(crate) fn lock_sources<'t, const PINS: c_int>(
    slots: impl Iterator<Item = PteSlot<'t>>,
    snapshot: &mut Snapshot,
    limits: &Limits,
    counts: &mut PteCounts,
) -> Result<(), NotTaken> {
    let mut filled = 0;

    snapshot.folios.clear();
    let result = lock_slots::<PINS>(slots, snapshot, limits, counts, &mut filled);
    if result.is_err() {
        // Forgets entries of an earlier window.
        for source in snapshot.ptes.iter_mut().skip(filled) {
            *source = Pte::NONE;
        }
    }
    result
}

#[inline(always)]
fn lock_slots<'t, const PINS: c_int>(
    slots: impl Iterator<Item = PteSlot<'t>>,
    snapshot: &mut Snapshot,
    limits: &Limits,
    counts: &mut PteCounts,
    filled: &mut usize,
) -> Result<(), NotTaken> {
    let Snapshot {
        ptes,
        installed,
        folios,
    } = snapshot;
    let mut latest: Option<FolioPtr> = None;

    for ((slot, source), installed) in slots.zip(ptes).zip(installed) {
        (*source, *installed) = match slot.classify() {
            PteKind::None => {
                counts.holes += 1;
                (Pte::NONE, Pte::NONE)
            }
            PteKind::Zero => {
                counts.zeroes += 1;
                (Pte::NONE, slot.read())
            }
            PteKind::Special => return Err(Refusal::Foreign.into()),
            PteKind::Softleaf(pte, softleaf) => {
                // All pages that can be faulted in were: this entry came later.
                judge_softleaf(pte, softleaf)?;
                return Err(Refusal::Raced.into());
            }
            PteKind::Page(pte, page) => {
                let folio = page.folio();

                judge_page(pte, page, folio)?;
                counts.note_shared(folio, limits)?;
                if latest != Some(folio.as_non_null()) && lock_source::<PINS>(folio, folios)? {
                    latest = Some(folio.as_non_null());
                }
                if pte.is_dirty() && (!page.is_anon_exclusive() || folio.is_swapcache()) {
                    // Other processes that map the page, or read it from swap, must not lose that
                    // it was written.
                    // SAFETY: The lock is ours, and is left as it was.
                    let lock = unsafe { FolioLock::adopt(folio) };

                    lock.mark_dirty();
                    lock.keep_locked();
                }
                counts.sources += 1;
                (pte, pte)
            }
        };
        *filled += 1;
    }
    counts.judge_holes(limits)?;
    for folio in folios.multi() {
        // SAFETY: Its mappings in this window hold references.
        unsafe { Folio::from_raw(folio) }.check_refs_racing(PINS)?;
    }
    Ok(())
}

/// Locks and pins a source, unless this window has done so already. Returns whether more PTEs may
/// map it.
#[inline(always)]
fn lock_source<const PINS: c_int>(
    folio: &Folio,
    folios: &mut MappedFolios,
) -> Result<bool, NotTaken> {
    let ptr = folio.as_non_null();

    match folio.try_lock() {
        Some(lock) => {
            // Asked for now: KSM takes the lock to merge a page.
            let multi = folio.maybe_mapped_by_many_ptes();

            // There is room for as many as there are slots.
            if multi {
                folios.push_multi(ptr).map_err(|Full| Refusal::Foreign)?;
            } else {
                folios.push_small(ptr).map_err(|Full| Refusal::Foreign)?;
            }
            for _ in 0..PINS {
                folio.pin();
            }
            lock.keep_locked();
            Ok(multi)
        }
        None if folios.multi().any(|folio| folio == ptr) => Ok(true),
        None => Err(NotTaken::Locked(ptr)),
    }
}

/// Checks that nothing but mappings, the swap cache and `PINS` pins of each holds the folios.
#[inline(always)]
pub(crate) fn check_refs<const PINS: c_int>(folios: &MappedFolios) -> Result<(), Refusal> {
    let then = || {
        if fail_count() {
            return Err(Refusal::Referenced);
        }
        Ok(())
    };

    // SAFETY: Our mapping holds a reference, or our pin does.
    unsafe { folios.check_refs_of_small(PINS, then) }?;
    for folio in folios.multi() {
        // SAFETY: As above.
        unsafe { Folio::from_raw(folio) }.check_refs_racing(PINS)?;
        then()?;
    }
    Ok(())
}

/// Why the sources of a window could not be had.
pub(crate) enum NotTaken {
    /// It was refused.
    Refused(Refusal),
    /// A folio is locked, perhaps for another window of the same batch.
    Locked(FolioPtr),
}

impl NotTaken {
    /// The refusal, for code that does not know the other windows.
    pub(crate) fn refusal(&self) -> Refusal {
        match self {
            NotTaken::Refused(refusal) => *refusal,
            NotTaken::Locked(_) => Refusal::Locked,
        }
    }
}

impl From<Refusal> for NotTaken {
    fn from(refusal: Refusal) -> Self {
        NotTaken::Refused(refusal)
    }
}

impl From<Unexpected> for NotTaken {
    fn from(unexpected: Unexpected) -> Self {
        NotTaken::Refused(unexpected.into())
    }
}

/// The sources of a window, locked. To drop them is to give them back to the process.
///
/// There are two kinds: [`Pinned`], which stay mapped, and [`Unmapped`], which have migration
/// entries in their place.
///
/// [`Pinned`]: crate::protect::Pinned
/// [`Unmapped`]: crate::unmap::Unmapped
pub(crate) trait Sources<'v>: Sized {
    /// The references to each small source that are ours when its mapping is gone.
    const REFS: OwnedRefs;

    /// The window.
    fn slot(&self) -> PmdSlot<'v>;

    /// The entries that were found and left in its slots.
    fn snapshot(&self) -> &Snapshot;

    /// How many slots have no source.
    fn holes(&self) -> usize;

    /// Compares an entry that was left as `installed`, and reads as `now`.
    fn change(installed: Pte, now: Pte) -> Change;

    /// Checks that nothing else holds the sources, by now. Nothing can get at them through the page
    /// table meanwhile.
    fn count(&self) -> Result<(), Refusal>;

    /// Gives the sources back. Takes the lock of the PTE table, hence it must not be held.
    fn give_back(self) -> KVBox<Snapshot>;

    /// Passes the sources on, to be released.
    fn into_snapshot(self) -> KVBox<Snapshot>;

    /// Returns whether somebody waits for a page of them.
    fn are_waited_for(&self) -> bool {
        // SAFETY: The sources are referenced.
        unsafe { self.snapshot().folios.have_waiters() }
    }

    /// Returns whether a folio that several PTEs may map is among them.
    fn has_multi(&self, folio: FolioPtr) -> bool {
        self.snapshot().folios.multi().any(|multi| multi == folio)
    }
}

/// A window whose sources are locked, to be copied.
pub(crate) struct Held<'mm, S> {
    pub(crate) window: Window,
    pub(crate) folio: HugeFolio,
    pub(crate) deposit: PteTable<'mm>,
    pub(crate) sources: S,
}

impl<'v, 'mm, S: Sources<'v>> Held<'mm, S> {
    /// Gives the sources back.
    pub(crate) fn give_back(self) -> Prepared<'mm> {
        Prepared {
            window: self.window,
            prealloc: Prealloc {
                folio: self.folio,
                table: self.deposit,
                snapshot: self.sources.give_back(),
            },
        }
    }
}
