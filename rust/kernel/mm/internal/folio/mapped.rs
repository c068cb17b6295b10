// SPDX-License-Identifier: GPL-2.0

//! The folios that a PTE table maps.

use super::{
    Folio,
    FolioPtr,
    Unexpected,
    HPAGE_PMD_NR, //
};
use crate::{
    bindings,
    mm::virt::VmaRef,
    prelude::*, //
};
use core::ffi::c_int;

/// The folios that a PTE table maps, each of them once.
///
/// Those that one PTE maps are small; to these the same can be done at once. Those that several
/// may map, see [`Folio::maybe_mapped_by_many_ptes`], are kept apart. Together they are no more
/// than the table has entries.
#[derive(Zeroable)]
pub struct MappedFolios {
    /// Small ones from the front, the others from the back.
    folios: [Option<FolioPtr>; HPAGE_PMD_NR],
    small: usize,
    multi: usize,
}

/// There is no room for another folio.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

impl MappedFolios {
    /// Forgets the folios.
    #[inline]
    pub fn clear(&mut self) {
        (self.small, self.multi) = (0, 0);
    }

    #[inline(always)]
    fn is_full(&self) -> bool {
        self.small.wrapping_add(self.multi) >= HPAGE_PMD_NR
    }

    /// Adds a small folio that no other PTE maps.
    ///
    /// # Errors
    ///
    /// When there are as many folios as a table can map.
    #[inline(always)]
    pub fn push_small(&mut self, folio: FolioPtr) -> Result<(), Full> {
        if self.is_full() {
            return Err(Full);
        }
        *self.folios.get_mut(self.small).ok_or(Full)? = Some(folio);
        self.small = self.small.wrapping_add(1);
        Ok(())
    }

    /// Adds a folio that other PTEs may map too.
    ///
    /// # Errors
    ///
    /// When there are as many folios as a table can map.
    #[inline]
    pub fn push_multi(&mut self, folio: FolioPtr) -> Result<(), Full> {
        if self.is_full() {
            return Err(Full);
        }
        let last = HPAGE_PMD_NR
            .checked_sub(self.multi.wrapping_add(1))
            .ok_or(Full)?;

        *self.folios.get_mut(last).ok_or(Full)? = Some(folio);
        self.multi = self.multi.wrapping_add(1);
        Ok(())
    }

    /// The folios that several PTEs may map, the latest one first.
    #[inline]
    pub fn multi(&self) -> impl Iterator<Item = FolioPtr> + '_ {
        let first = HPAGE_PMD_NR.saturating_sub(self.multi);

        self.folios.iter().skip(first).flatten().copied()
    }

    /// The small folios that one PTE maps, the earliest one first.
    #[inline(always)]
    pub fn small(&self) -> impl Iterator<Item = FolioPtr> + '_ {
        let small = self.folios.get(..self.small).unwrap_or_default();

        small.iter().flatten().copied()
    }

    /// Forgets those small folios that `keep` does not name. It is asked for each, the earliest one
    /// first.
    pub fn retain_small(&mut self, mut keep: impl FnMut(FolioPtr) -> bool) {
        let mut kept = 0;

        for i in 0..self.small {
            let Some(Some(folio)) = self.folios.get(i).copied() else {
                continue;
            };
            if keep(folio) {
                if let Some(slot) = self.folios.get_mut(kept) {
                    *slot = Some(folio);
                    kept += 1;
                }
            }
        }
        self.small = kept;
    }

    /// The same for the folios that several PTEs may map.
    pub fn retain_multi(&mut self, mut keep: impl FnMut(FolioPtr) -> bool) {
        let mut kept = 0;

        for i in 1..=self.multi {
            let Some(Some(folio)) = self.folios.get(HPAGE_PMD_NR.wrapping_sub(i)).copied() else {
                continue;
            };
            if keep(folio) {
                kept += 1;
                if let Some(slot) = self.folios.get_mut(HPAGE_PMD_NR.wrapping_sub(kept)) {
                    *slot = Some(folio);
                }
            }
        }
        self.multi = kept;
    }

    /// All folios.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = FolioPtr> + '_ {
        Iterator::chain(self.small(), self.multi())
    }

    /// Checks the references of each small folio, see [`Folio::check_refs`], and calls `then` for
    /// each that passes.
    ///
    /// # Errors
    ///
    /// The first that is found, or that `then` returns.
    ///
    /// # Safety
    ///
    /// Those folios are referenced.
    #[inline(always)]
    pub unsafe fn check_refs_of_small<E: From<Unexpected>>(
        &self,
        pins: c_int,
        mut then: impl FnMut() -> Result<(), E>,
    ) -> Result<(), E> {
        for folio in self.small() {
            // SAFETY: The caller vouches for it.
            unsafe { Folio::from_raw(folio) }.check_refs_of_small(pins)?;
            then()?;
        }
        Ok(())
    }

    /// Returns whether somebody sleeps until one of the folios is unlocked, see
    /// [`Folio::has_waiters`].
    ///
    /// # Safety
    ///
    /// The folios are referenced.
    #[inline(always)]
    pub unsafe fn have_waiters(&self) -> bool {
        // Hardly ever is there one, so it does not pay to stop at the first.
        let either = |any, folio| {
            // SAFETY: The caller vouches for it.
            any | unsafe { Folio::from_raw(folio) }.has_waiters()
        };

        self.small().fold(false, either) || self.multi().fold(false, either)
    }

    /// Counts pins of all folios, one of each, in /proc/vmstat: as acquired or as released.
    ///
    /// All are counted for the node of the first folio, at once.
    ///
    /// # Safety
    ///
    /// The folios are referenced.
    #[inline]
    pub unsafe fn count_pins(&self, acquired: bool) {
        let item = if acquired {
            bindings::node_stat_item_NR_FOLL_PIN_ACQUIRED
        } else {
            bindings::node_stat_item_NR_FOLL_PIN_RELEASED
        };
        let nr = self.small.wrapping_add(self.multi);

        if let Some(folio) = self.iter().next() {
            // SAFETY: The caller holds a reference. CAST: A table has 512 entries.
            unsafe { bindings::node_stat_mod_folio(folio.as_ptr(), item, nr as isize) };
        }
    }

    /// Removes the rmap of one PTE from each small folio.
    ///
    /// # Safety
    ///
    /// - Those folios are anonymous, and referenced.
    /// - `vma` mapped each of them, by a PTE that is gone and whose rmap was not removed yet.
    /// - The lock of the PTE table that mapped them is held.
    #[inline]
    pub unsafe fn remove_rmap_of_small(&mut self, vma: &VmaRef) {
        // SAFETY: The first `small` entries are folios; a `FolioPtr` in an `Option` is laid out as
        // a pointer. The caller vouches for the rest. CAST: No more than a table has entries.
        unsafe {
            bindings::folios_remove_rmap_pte(
                self.folios.as_mut_ptr().cast(),
                self.small as u32,
                vma.as_ptr(),
            )
        };
    }

    /// Unlocks each small folio and drops the references that the caller has. A folio that nothing
    /// maps any more is taken out of the swap cache, if nothing else needs it there. Forgets these
    /// folios.
    ///
    /// # Safety
    ///
    /// Those folios are anonymous. The caller owns the lock of each, and gives it up. The caller
    /// owns the references that `refs` names to each folio, and gives them up too.
    ///
    /// # Context
    ///
    /// Process context, without a lock that freeing memory takes.
    #[inline]
    pub unsafe fn unlock_put_small(&mut self, refs: OwnedRefs) {
        let refs = match refs {
            OwnedRefs::Mapping => 1,
            OwnedRefs::Pin => bindings::GUP_PIN_COUNTING_BIAS,
            OwnedRefs::MappingAndPin => 1 + bindings::GUP_PIN_COUNTING_BIAS,
        };

        // SAFETY: As above.
        unsafe {
            bindings::folios_unlock_put(self.folios.as_mut_ptr().cast(), self.small as u32, refs)
        };
        self.small = 0;
    }
}

/// Which references to a small folio somebody owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OwnedRefs {
    /// That of a mapping that is gone.
    Mapping,
    /// Those of a pin.
    Pin,
    /// Both.
    MappingAndPin,
}
