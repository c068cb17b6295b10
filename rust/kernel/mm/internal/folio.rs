// SPDX-License-Identifier: GPL-2.0

//! Folios and their pages.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h),
//! [`include/linux/page-flags.h`](srctree/include/linux/page-flags.h),
//! [`include/linux/rmap.h`](srctree/include/linux/rmap.h)

use crate::{
    alloc::Flags,
    bindings,
    mm::{
        virt::VmaRef,
        MmWithUser, //
    },
    prelude::*,
    sync::aref::AlwaysRefCounted,
    types::Opaque, //
};
use core::{
    ffi::c_int,
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    },
};

/// Order of a folio that one PMD entry maps.
pub(super) const PMD_ORDER: u32 = bindings::PMD_ORDER;
/// Number of pages of such a folio, and of entries of the PTE table in its place.
pub(super) const HPAGE_PMD_NR: usize = 1 << PMD_ORDER;

const FOLIO_BATCH_SIZE: usize = bindings::FOLIO_BATCH_SIZE as usize;

/// Number of NUMA nodes that there can be.
pub const MAX_NUMNODES: usize = bindings::MAX_NUMNODES as usize;

/// A pointer to a folio. Nothing says how long it is valid: it tells folios apart.
pub type FolioPtr = NonNull<bindings::folio>;

/// A folio: one page, or a naturally aligned power of two of them.
///
/// # Invariants
///
/// Somebody holds a reference for as long as the folio is borrowed.
#[repr(transparent)]
pub struct Folio(Opaque<bindings::folio>);

impl Folio {
    /// Borrows a folio.
    ///
    /// # Safety
    ///
    /// `folio` points at a folio, not at a tail page, and somebody holds a reference for `'a`.
    #[inline(always)]
    pub unsafe fn from_raw<'a>(folio: FolioPtr) -> &'a Self {
        // SAFETY: The caller vouches for it. Layouts agree due to repr(transparent).
        unsafe { folio.cast().as_ref() }
    }

    #[inline(always)]
    fn as_ptr(&self) -> *mut bindings::folio {
        self.0.get()
    }

    /// Returns a raw pointer to the folio, known not to be null.
    #[inline(always)]
    pub fn as_non_null(&self) -> FolioPtr {
        NonNull::from(self).cast()
    }

    /// Returns the folio as one of PMD order, if it is one.
    #[inline]
    pub fn as_pmd_folio(&self) -> Option<&PmdFolio> {
        // SAFETY: By the type invariants this is a folio.
        if unsafe { bindings::folio_order(self.as_ptr()) } != PMD_ORDER {
            return None;
        }
        // INVARIANT: Checked above.
        // SAFETY: Layouts agree due to repr(transparent).
        Some(unsafe { &*ptr::from_ref(self).cast() })
    }

    /// Whether this folio has more than one page.
    #[inline(always)]
    fn is_large(&self) -> bool {
        // SAFETY: By the type invariants this is a folio.
        unsafe { bindings::folio_test_large(self.as_ptr()) }
    }

    /// Whether its pages are anonymous memory. Does not change while they are mapped.
    #[inline(always)]
    pub fn is_anon(&self) -> bool {
        // SAFETY: By the type invariants this is a folio.
        unsafe { bindings::folio_test_anon(self.as_ptr()) }
    }

    /// Whether a page table maps any of its pages, by now or a moment ago.
    #[inline(always)]
    pub fn is_mapped(&self) -> bool {
        // SAFETY: By the type invariants this is a folio.
        unsafe { bindings::folio_mapped(self.as_ptr()) }
    }

    /// Whether somebody has it locked, by now or a moment ago.
    #[inline(always)]
    pub fn is_locked(&self) -> bool {
        // SAFETY: By the type invariants this is a folio.
        unsafe { bindings::folio_test_locked(self.as_ptr()) }
    }

    /// Whether it is in the swap cache. Stable while it is locked.
    #[inline(always)]
    pub fn is_swapcache(&self) -> bool {
        // SAFETY: By the type invariants this is a folio.
        unsafe { bindings::folio_test_swapcache(self.as_ptr()) }
    }

    /// Whether it is the memory of a device.
    #[inline(always)]
    pub fn is_zone_device(&self) -> bool {
        // SAFETY: By the type invariants this is a folio.
        unsafe { bindings::folio_is_zone_device(self.as_ptr()) }
    }

    /// Whether more than one process may map it, by now or a moment ago. For a large folio this is
    /// a guess that may be too high.
    #[inline(always)]
    pub fn maybe_mapped_shared(&self) -> bool {
        // SAFETY: By the type invariants this is a folio.
        unsafe { bindings::folio_maybe_mapped_shared(self.as_ptr()) }
    }

    /// The NUMA node that it lies on.
    #[inline(always)]
    pub fn nid(&self) -> usize {
        // SAFETY: By the type invariants this is a folio.
        let nid = unsafe { bindings::folio_nid(self.as_ptr()) };

        // CAST: Node ids are not negative.
        nid as usize
    }

    /// How many references a pin is: more than others hold at a time, for a small folio.
    #[inline(always)]
    fn refs_of_pin(&self) -> c_int {
        if self.has_pincount() {
            1
        } else {
            // CAST: A small number.
            bindings::GUP_PIN_COUNTING_BIAS as c_int
        }
    }

    /// Whether pins are counted apart from other references.
    #[inline(always)]
    fn has_pincount(&self) -> bool {
        // SAFETY: By the type invariants this is a folio.
        unsafe { bindings::folio_has_pincount(self.as_ptr()) }
    }

    /// Pins the folio, as FOLL_PIN does, but does not count the pin in /proc/vmstat.
    ///
    /// As long as an exclusive page is pinned, a mapping that is writable stays so, unless a lock
    /// is taken for write: reclaim, NUMA balancing, migration and KSM leave pinned pages mapped as
    /// they are.
    ///
    /// A pin that is not given up keeps the folio for ever.
    #[inline(always)]
    pub fn pin(&self) {
        // SAFETY: By the type invariants this is a folio, and it is referenced.
        unsafe { bindings::folio_pin_uncounted(self.as_ptr()) };
    }

    /// Gives up a pin of a folio that stays referenced without it.
    ///
    /// # Safety
    ///
    /// The pin is the caller's. Another reference keeps the folio beyond this call.
    #[inline]
    pub unsafe fn unpin_referenced(&self) {
        // SAFETY: By the type invariants this is a folio; the caller vouches for the pin.
        unsafe { bindings::folio_unpin_uncounted(self.as_ptr()) };
    }

    /// Tells whether there are references beyond those that mappings and the swap cache explain,
    /// and beyond `pins`, which are the caller's. Some page table maps the folio.
    ///
    /// That is exact only if no mapping of the folio comes or goes meanwhile: if all of them are
    /// the caller's, and the folio is locked.
    #[inline(always)]
    pub fn check_refs(&self, pins: c_int) -> Result<(), Unexpected> {
        let ours = pins.wrapping_mul(self.refs_of_pin());
        // SAFETY: By the type invariants this is a folio.
        let refs = unsafe { bindings::folio_ref_count(self.as_ptr()) }.wrapping_sub(ours);

        // A mapping has a reference, so that a single one is explained without counting further.
        if refs == 1 {
            return Ok(());
        }
        self.check_refs_apart(refs, pins)
    }

    /// The same for a folio that is known to be small.
    #[inline(always)]
    fn check_refs_of_small(&self, pins: c_int) -> Result<(), Unexpected> {
        // CAST: A small number.
        let ours = pins.wrapping_mul(bindings::GUP_PIN_COUNTING_BIAS as c_int);
        // SAFETY: By the type invariants this is a folio.
        let refs = unsafe { bindings::folio_ref_count(self.as_ptr()) };

        if refs == ours.wrapping_add(1) {
            return Ok(());
        }
        self.check_refs_apart(refs.wrapping_sub(ours), pins)
    }

    #[inline(always)]
    fn check_refs_apart(&self, refs: c_int, pins: c_int) -> Result<(), Unexpected> {
        // SAFETY: By the type invariants this is a folio.
        let expected = unsafe { bindings::folio_expected_ref_count(self.as_ptr()) };

        if refs == expected {
            return Ok(());
        }
        let pinned = if self.has_pincount() {
            // SAFETY: As above; a folio with a count of pins has one.
            unsafe { bindings::folio_pincount(self.as_ptr()) > pins }
        } else {
            refs.wrapping_sub(expected) >= self.refs_of_pin()
        };

        Err(if pinned {
            Unexpected::Pin
        } else {
            Unexpected::Reference
        })
    }

    /// The same for a folio that others may map and unmap meanwhile.
    ///
    /// Mapping takes the reference before it raises the mapcount, and unmapping drops it after it
    /// has lowered that, so there are never fewer references than mappings. For a large folio, the
    /// lock of the mapcount keeps it while the references are read, so that no mapping that comes
    /// or goes can hide a reference of another kind.
    ///
    /// # Context
    ///
    /// Any. For a large folio a bit spinlock is taken.
    #[inline]
    pub fn check_refs_racing(&self, pins: c_int) -> Result<(), Unexpected> {
        if !self.is_large() {
            return self.check_refs(pins);
        }
        // SAFETY: By the type invariants this is a folio, and it is large. The lock is given up
        // again.
        unsafe { bindings::folio_lock_large_mapcount(self.as_ptr()) };
        let result = self.check_refs(pins);
        // SAFETY: As above, and the lock was taken just now.
        unsafe { bindings::folio_unlock_large_mapcount(self.as_ptr()) };
        result
    }

    /// Whether somebody sleeps until the folio is unlocked. It may be somebody who waits for
    /// another page whose queue is the same.
    #[inline(always)]
    pub fn has_waiters(&self) -> bool {
        // SAFETY: By the type invariants this is a folio.
        unsafe { bindings::folio_test_waiters(self.as_ptr()) }
    }

    /// Whether several PTEs that follow each other may map the folio: because it is large, or
    /// because KSM has merged equal pages into it.
    ///
    /// The answer can change from no to yes, unless the folio is locked.
    #[inline(always)]
    pub fn may_recur(&self) -> bool {
        // SAFETY: By the type invariants this is a folio.
        self.is_large() || unsafe { bindings::folio_test_ksm(self.as_ptr()) }
    }

    /// Tries to lock the folio.
    ///
    /// Returns [`None`] when somebody else has it locked.
    ///
    /// # Context
    ///
    /// Does not sleep; spinlocks may be held. To hold several folio locks is safe only where all
    /// but the first are had by this.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::mm::internal::folio::PageRef;
    ///
    /// /// Marks the folio of a page dirty, unless it is locked.
    /// fn try_mark_dirty(page: PageRef<'_>) -> bool {
    ///     match page.folio().try_lock() {
    ///         Some(lock) => {
    ///             lock.mark_dirty();
    ///             true
    ///         }
    ///         None => false,
    ///     }
    /// }
    /// ```
    #[inline(always)]
    pub fn try_lock(&self) -> Option<FolioLock<'_>> {
        // SAFETY: By the type invariants this is a folio, and it is referenced.
        if unsafe { bindings::folio_trylock(self.as_ptr()) } {
            // INVARIANT: The lock was taken just now.
            Some(FolioLock(self))
        } else {
            None
        }
    }
}

// SAFETY: A folio has a count of references, which these functions raise and lower.
unsafe impl AlwaysRefCounted for Folio {
    #[inline]
    fn inc_ref(&self) {
        // SAFETY: By the type invariants this is a folio, and it is referenced.
        unsafe { bindings::folio_get(self.as_ptr()) };
    }

    #[inline]
    unsafe fn dec_ref(folio: NonNull<Self>) {
        // SAFETY: The caller owns a reference.
        unsafe { bindings::folio_put(folio.cast().as_ptr()) };
    }
}

/// A folio of PMD order: one that a PMD entry can map.
///
/// # Invariants
///
/// The folio is of PMD order.
#[repr(transparent)]
pub struct PmdFolio(Folio);

impl PmdFolio {
    #[inline(always)]
    pub(super) fn as_ptr(&self) -> *mut bindings::folio {
        self.0.as_ptr()
    }

    /// Returns what the PMD entry of a hidden table says.
    #[inline]
    pub fn stand_in(&self) -> StandIn<'_> {
        // INVARIANT: By the type invariants it is of PMD order.
        StandIn {
            folio: self.as_ptr(),
            _folio: PhantomData,
        }
    }

    /// The number of its first page frame.
    #[inline]
    pub(super) fn pfn(&self) -> usize {
        // SAFETY: By the type invariants this is a folio.
        unsafe { bindings::folio_pfn(self.as_ptr()) }
    }

    /// Returns whether a PMD entry may map it in the place of PTEs that map all of its pages.
    ///
    /// A folio that was once found to be partially mapped keeps that mark, even if all of its pages
    /// are mapped again.
    #[inline]
    pub(super) fn is_remappable(&self) -> bool {
        // SAFETY: By the type invariants this is a folio, and it is large.
        let partially_mapped = unsafe { bindings::folio_test_partially_mapped(self.as_ptr()) };

        self.is_anon() && !self.is_zone_device() && !partially_mapped
    }
}

// SAFETY: As for any folio.
unsafe impl AlwaysRefCounted for PmdFolio {
    #[inline]
    fn inc_ref(&self) {
        self.0.inc_ref();
    }

    #[inline]
    unsafe fn dec_ref(folio: NonNull<Self>) {
        // SAFETY: The caller owns a reference. Layouts agree due to repr(transparent).
        unsafe { Folio::dec_ref(folio.cast()) };
    }
}

impl Deref for PmdFolio {
    type Target = Folio;

    #[inline(always)]
    fn deref(&self) -> &Folio {
        &self.0
    }
}

/// A folio of PMD order in the place of a hidden table: the PMD entry is that of the folio, but
/// invalid. See [`PmdGuard::hide`].
///
/// # Invariants
///
/// `folio` is of PMD order, and referenced for `'a`.
///
/// [`PmdGuard::hide`]: super::pgtable::PmdGuard::hide
#[derive(Clone, Copy)]
pub struct StandIn<'a> {
    pub(super) folio: *mut bindings::folio,
    _folio: PhantomData<&'a Folio>,
}

/// A reference that nothing explains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unexpected {
    /// One that may go in a moment, such as that of an LRU cache.
    Reference,
    /// A pin: of a device that reads or writes the page, or of another collapse.
    Pin,
}

/// The lock of a folio.
///
/// Its holder may sleep. The lock belongs to no task: what one leaves locked, another may adopt.
///
/// # Invariants
///
/// The folio is locked, and the lock is ours to give up.
#[must_use = "the folio is unlocked when the guard is dropped"]
pub struct FolioLock<'a>(&'a Folio);

impl Deref for FolioLock<'_> {
    type Target = Folio;

    #[inline(always)]
    fn deref(&self) -> &Folio {
        self.0
    }
}

impl<'a> FolioLock<'a> {
    /// Takes over a lock that was left behind by [`FolioLock::leave`].
    ///
    /// # Safety
    ///
    /// The folio was locked by the caller, who gives the lock away.
    #[inline(always)]
    pub unsafe fn adopt(folio: &'a Folio) -> Self {
        debug_assert!(folio.is_locked());

        // INVARIANT: The caller vouches for it.
        Self(folio)
    }

    /// Leaves the folio locked, for [`FolioLock::adopt`]. A lock that is never adopted makes
    /// everything that wants it wait for ever.
    #[inline(always)]
    pub fn leave(self) {
        let _ = ManuallyDrop::new(self);
    }

    /// Frees the swap slots of the folio if no swap entry needs them any more.
    ///
    /// # Context
    ///
    /// Takes locks of the swap cache, which are spinlocks. Does not sleep.
    #[inline(always)]
    pub fn free_swap(&self) {
        if self.0.is_swapcache() {
            // SAFETY: By the type invariants the folio is locked.
            unsafe { bindings::folio_free_swap(self.0.as_ptr()) };
        }
    }

    /// Notes that the folio was written through a mapping that is gone.
    ///
    /// # Context
    ///
    /// Does not sleep for anonymous memory; page tables may be locked.
    #[inline]
    pub fn mark_dirty(&self) {
        // SAFETY: By the type invariants the folio is locked.
        unsafe { bindings::folio_mark_dirty(self.0.as_ptr()) };
    }
}

impl Drop for FolioLock<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: By the type invariants the lock is ours.
        unsafe { bindings::folio_unlock(self.0.as_ptr()) };
    }
}

/// A page of a folio that is kept in being for `'a`.
#[derive(Clone, Copy)]
pub struct PageRef<'a> {
    page: NonNull<bindings::page>,
    _folio: PhantomData<&'a Folio>,
}

impl<'a> PageRef<'a> {
    /// The page of a page frame number.
    ///
    /// # Safety
    ///
    /// `pfn` is the number of a refcounted page of a folio that somebody holds a reference to for
    /// `'a`.
    #[inline(always)]
    pub unsafe fn from_pfn(pfn: usize) -> Self {
        // SAFETY: The page exists, so its descriptor does.
        let page = unsafe { NonNull::new_unchecked(bindings::pfn_to_page(pfn)) };

        Self {
            page,
            _folio: PhantomData,
        }
    }

    #[inline(always)]
    pub(super) fn as_ptr(self) -> *mut bindings::page {
        self.page.as_ptr()
    }

    /// The folio that the page belongs to.
    #[inline(always)]
    pub fn folio(self) -> &'a Folio {
        // SAFETY: The page belongs to a folio that is referenced for `'a`.
        unsafe { Folio::from_raw(NonNull::new_unchecked(bindings::page_folio(self.as_ptr()))) }
    }

    /// Whether one process alone maps the page, and may write it in place. Stable while the page
    /// table that maps it is locked. Means nothing for a page that is not anonymous.
    #[inline(always)]
    pub fn is_anon_exclusive(self) -> bool {
        // SAFETY: The page is valid.
        unsafe { bindings::page_anon_exclusive(self.as_ptr()) }
    }

    /// Whether the page is known to be bad.
    #[inline(always)]
    pub fn is_hwpoison(self) -> bool {
        // SAFETY: The page is valid.
        unsafe { bindings::PageHWPoison(self.as_ptr()) }
    }

    /// Removes the rmap of `nr` PTEs that mapped this and the following pages.
    ///
    /// # Safety
    ///
    /// - The pages belong to one folio, and it is referenced beyond this call.
    /// - `vma` mapped them, by PTEs that are gone and whose rmap was not removed yet.
    /// - The lock of the PTE table that mapped them is held.
    #[inline(always)]
    pub unsafe fn remove_rmap(self, nr: usize, vma: &VmaRef) {
        // SAFETY: The caller vouches for all of it. CAST: No folio has 2^31 pages.
        unsafe {
            bindings::folio_remove_rmap_ptes(
                self.folio().as_ptr(),
                self.as_ptr(),
                nr as core::ffi::c_int,
                vma.as_ptr(),
            )
        };
    }
}

/// The folios that a PTE table maps, each of them once.
///
/// Those that one PTE maps are small; to these the same can be done at once. Those that several
/// may map, see [`Folio::may_recur`], are kept apart. Together they are no more than the table has
/// entries.
#[derive(Zeroable)]
pub struct MappedFolios {
    /// Small ones from the front, recurring ones from the back.
    folios: [Option<FolioPtr>; HPAGE_PMD_NR],
    small: usize,
    recurring: usize,
}

impl MappedFolios {
    /// Forgets the folios.
    #[inline]
    pub fn clear(&mut self) {
        (self.small, self.recurring) = (0, 0);
    }

    #[inline(always)]
    fn is_full(&self) -> bool {
        self.small.wrapping_add(self.recurring) >= HPAGE_PMD_NR
    }

    /// Adds a small folio that no other PTE maps. Returns [`None`] when there are as many folios as
    /// a table can map.
    #[inline(always)]
    pub fn push_small(&mut self, folio: FolioPtr) -> Option<()> {
        if self.is_full() {
            return None;
        }
        *self.folios.get_mut(self.small)? = Some(folio);
        self.small = self.small.wrapping_add(1);
        Some(())
    }

    /// Adds a folio that other PTEs may map too. Returns [`None`] when there are as many folios as
    /// a table can map.
    #[inline]
    pub fn push_recurring(&mut self, folio: FolioPtr) -> Option<()> {
        if self.is_full() {
            return None;
        }
        let last = HPAGE_PMD_NR.checked_sub(self.recurring.wrapping_add(1))?;

        *self.folios.get_mut(last)? = Some(folio);
        self.recurring = self.recurring.wrapping_add(1);
        Some(())
    }

    /// The recurring folios, the latest one first.
    #[inline]
    pub fn recurring(&self) -> impl Iterator<Item = FolioPtr> + '_ {
        let first = HPAGE_PMD_NR.saturating_sub(self.recurring);

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

    /// Forgets those recurring folios that `keep` does not name.
    pub fn retain_recurring(&mut self, mut keep: impl FnMut(FolioPtr) -> bool) {
        let mut kept = 0;

        for i in 1..=self.recurring {
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
        self.recurring = kept;
    }

    /// All folios.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = FolioPtr> + '_ {
        Iterator::chain(self.small(), self.recurring())
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

        self.small().fold(false, either) || self.recurring().fold(false, either)
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
        let nr = self.small.wrapping_add(self.recurring);

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
    /// Those folios are anonymous. The caller owns the lock of each, and gives it up. What `refs`
    /// names is owned for each folio, and given up too.
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

/// References that are dropped together: when the batch is full, and when it is dropped.
///
/// # Examples
///
/// ```
/// use kernel::mm::internal::folio::{
///     FolioPtr,
///     PutBatch, //
/// };
///
/// /// Drops a reference to each of some folios.
/// ///
/// /// # Safety
/// ///
/// /// The caller owns these references, and passes them on.
/// unsafe fn put_all(folios: &[FolioPtr]) {
///     let mut batch = PutBatch::new();
///
///     for folio in folios {
///         // SAFETY: The caller vouches for it.
///         unsafe { batch.put(*folio, 1) };
///     }
/// }
///
/// // Dropping no references is fine.
/// // SAFETY: There are none.
/// unsafe { put_all(&[]) };
/// ```
///
/// # Invariants
///
/// The first `batch.nr` folios of `batch` are valid, and as many references to each as `refs` says
/// are owned.
pub struct PutBatch {
    batch: bindings::folio_batch,
    refs: [u32; FOLIO_BATCH_SIZE],
}

impl PutBatch {
    /// An empty batch.
    #[inline]
    pub fn new() -> Self {
        Self {
            batch: pin_init::zeroed(),
            refs: [0; FOLIO_BATCH_SIZE],
        }
    }

    /// Adds `refs` references to a folio.
    ///
    /// # Safety
    ///
    /// The caller owns them, and passes them on. The folio is not locked by the caller.
    #[inline(always)]
    pub unsafe fn put(&mut self, folio: FolioPtr, refs: u32) {
        let nr = usize::from(self.batch.nr);

        if let (Some(slot), Some(count)) = (self.batch.folios.get_mut(nr), self.refs.get_mut(nr)) {
            *slot = folio.as_ptr();
            *count = refs;
            // INVARIANT: The caller gives us its references. No overflow: `nr` is in bounds.
            self.batch.nr = self.batch.nr.wrapping_add(1);
        }
        if usize::from(self.batch.nr) >= FOLIO_BATCH_SIZE {
            self.flush();
        }
    }

    /// Adds a pin of a folio, see [`Folio::pin`].
    ///
    /// # Safety
    ///
    /// The caller owns it, and passes it on. The folio is not locked by the caller.
    #[inline]
    pub unsafe fn unpin(&mut self, folio: FolioPtr) {
        // SAFETY: The caller's pin keeps the folio.
        let refs = unsafe {
            let folio = Folio::from_raw(folio);

            if folio.has_pincount() {
                bindings::folio_pincount_dec(folio.as_ptr());
            }
            folio.refs_of_pin()
        };

        // SAFETY: The caller vouches for it. CAST: The number is positive.
        unsafe { self.put(folio, refs as u32) };
    }

    /// Drops the references.
    ///
    /// # Context
    ///
    /// Takes LRU and zone locks, which are spinlocks. Does not sleep.
    #[inline(never)]
    fn flush(&mut self) {
        // SAFETY: By the type invariants the references are ours. The batch is empty afterwards.
        unsafe { bindings::folios_put_refs(&mut self.batch, self.refs.as_mut_ptr()) };
        self.batch.nr = 0;
    }
}

impl Default for PutBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for PutBatch {
    fn drop(&mut self) {
        self.flush();
    }
}

/// A set of NUMA nodes.
///
/// # Examples
///
/// ```
/// use kernel::mm::internal::folio::{
///     NodeMask,
///     MAX_NUMNODES, //
/// };
///
/// let mut nodes = NodeMask::empty();
/// assert!((0..MAX_NUMNODES).all(|nid| !nodes.contains(nid)));
///
/// nodes.insert(0);
/// nodes.insert(MAX_NUMNODES - 1);
/// assert!(nodes.contains(0) && nodes.contains(MAX_NUMNODES - 1));
/// assert!(!nodes.contains(1));
///
/// // There is no such node.
/// nodes.insert(usize::MAX);
/// assert!(!nodes.contains(usize::MAX));
///
/// assert!((0..MAX_NUMNODES).any(|nid| NodeMask::online().contains(nid)));
/// ```
#[derive(Clone, Copy)]
pub struct NodeMask(bindings::nodemask_t);

impl NodeMask {
    /// No nodes.
    #[inline]
    pub fn empty() -> Self {
        // SAFETY: A bitmap of zeroes is a valid one.
        Self(unsafe { core::mem::zeroed() })
    }

    /// All nodes that are online.
    #[inline]
    pub fn online() -> Self {
        // SAFETY: Bits of this mask change when a node comes or goes, and whoever uses such a mask
        // has to expect that. It is read as C code does.
        Self(unsafe { bindings::node_online_mask() })
    }

    /// Adds a node, if there can be such a one.
    #[inline]
    pub fn insert(&mut self, nid: usize) {
        let bits = usize::BITS as usize;

        if let Some(word) = self.0.bits.get_mut(nid / bits) {
            *word |= 1 << (nid % bits);
        }
    }

    /// Whether a node is in the set.
    #[inline]
    pub fn contains(&self, nid: usize) -> bool {
        let bits = usize::BITS as usize;

        self.0
            .bits
            .get(nid / bits)
            .is_some_and(|word| word & (1 << (nid % bits)) != 0)
    }
}

/// The only reference to a folio of PMD order, whose contents are undefined at first.
///
/// # Invariants
///
/// The folio is of PMD order, and its only reference is owned.
struct OnlyRef(FolioPtr);

impl Drop for OnlyRef {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the reference is ours.
        unsafe { bindings::folio_put(self.0.as_ptr()) };
    }
}

/// A folio of PMD order that belongs to no memory cgroup yet: it cannot be mapped.
///
/// # Examples
///
/// ```
/// use kernel::mm::{
///     internal::folio::{
///         ChargeError,
///         HugeFolio,
///         NodeMask,
///         UnchargedFolio, //
///     },
///     MmWithUser, //
/// };
///
/// fn provide(mm: &MmWithUser) -> Option<Result<HugeFolio, ChargeError>> {
///     let folio = UnchargedFolio::alloc(GFP_KERNEL, 0, &NodeMask::online())?;
///
///     Some(folio.charge(mm, GFP_KERNEL))
/// }
///
/// // There may be no such folio free, and that is no error.
/// drop(UnchargedFolio::alloc(GFP_KERNEL, 0, &NodeMask::online()));
/// // But there is no such node.
/// assert!(UnchargedFolio::alloc(GFP_KERNEL, usize::MAX, &NodeMask::online()).is_none());
/// ```
///
/// # Invariants
///
/// The folio is not charged.
pub struct UnchargedFolio(OnlyRef);

impl UnchargedFolio {
    /// Allocates a folio.
    ///
    /// `nodes` are those that may serve when `nid` cannot. Returns [`None`] when none of them can,
    /// and when `nid` is not online.
    ///
    /// # Context
    ///
    /// May sleep, reclaim and compact if `gfp` lets it.
    #[inline]
    pub fn alloc(gfp: Flags, nid: usize, nodes: &NodeMask) -> Option<Self> {
        if !NodeMask::online().contains(nid) {
            return None;
        }

        let mut nodes = *nodes;
        // SAFETY: The node exists and the nodemask is valid for the call. CAST: Node ids are small.
        let folio = unsafe {
            bindings::__folio_alloc(
                gfp.as_raw(),
                PMD_ORDER,
                nid as core::ffi::c_int,
                &mut nodes.0,
            )
        };

        // INVARIANT: It was allocated just now, and nothing of it is charged.
        NonNull::new(folio).map(|folio| Self(OnlyRef(folio)))
    }

    /// Charges the folio to the memory cgroup of `mm`, and prepares what the queue of folios to be
    /// split needs, since nothing may be allocated when the folio is mapped.
    ///
    /// # Errors
    ///
    /// Says which of the two failed. The folio is freed then.
    ///
    /// # Context
    ///
    /// May sleep, and reclaim from the cgroup, if `gfp` lets it.
    #[inline]
    pub fn charge(self, mm: &MmWithUser, gfp: Flags) -> Result<HugeFolio, ChargeError> {
        let folio = self.0 .0.as_ptr();

        // SAFETY: The folio and the mm are valid, and by the type invariants nothing of the folio
        // is charged.
        if unsafe { bindings::mem_cgroup_charge(folio, mm.as_raw(), gfp.as_raw()) } != 0 {
            return Err(ChargeError::Limit);
        }
        // SAFETY: The folio is charged.
        if unsafe { bindings::folio_memcg_alloc_deferred(folio) } != 0 {
            return Err(ChargeError::NoMemory);
        }
        // INVARIANT: Both were done just now.
        Ok(HugeFolio(self.0))
    }
}

/// A folio of PMD order that nobody else knows of yet. Its contents are undefined.
///
/// # Examples
///
/// ```
/// use kernel::mm::internal::folio::{
///     FilledFolio,
///     HugeFolio, //
/// };
///
/// fn clear(folio: HugeFolio, addr: usize) -> Option<FilledFolio> {
///     let page_addr = |nr| addr.wrapping_add(nr * kernel::page::PAGE_SIZE);
///
///     folio
///         .fill(|nr, page| Ok::<_, ()>(page.clear(page_addr(nr))))
///         .ok()
/// }
/// ```
///
/// # Invariants
///
/// The folio is charged, and what it needs to be split later is allocated.
pub struct HugeFolio(OnlyRef);

impl HugeFolio {
    #[inline]
    pub(super) fn as_ptr(&self) -> *mut bindings::folio {
        self.0 .0.as_ptr()
    }

    /// The NUMA node that it lies on.
    #[inline]
    pub fn nid(&self) -> usize {
        // SAFETY: By the type invariants the folio is referenced.
        unsafe { Folio::from_raw(self.0 .0) }.nid()
    }

    /// The `nr`th page of the folio.
    #[inline(always)]
    fn page_mut(&mut self, nr: usize) -> BlankPage<'_> {
        debug_assert!(nr < HPAGE_PMD_NR);

        BlankPage {
            // SAFETY: By the type invariants the folio has this many pages.
            page: unsafe { bindings::folio_page(self.as_ptr(), nr) },
            _folio: PhantomData,
        }
    }

    /// Has `f` write every page of the folio, in the order of their numbers.
    ///
    /// # Errors
    ///
    /// That of the first page that could not be written, with the folio.
    #[inline(always)]
    pub fn fill<E>(
        mut self,
        mut f: impl FnMut(usize, BlankPage<'_>) -> Result<Written, E>,
    ) -> Result<FilledFolio, (Self, E)> {
        for nr in 0..HPAGE_PMD_NR {
            if let Err(err) = f(nr, self.page_mut(nr)) {
                return Err((self, err));
            }
        }
        // INVARIANT: Every page was written.
        Ok(FilledFolio(self))
    }
}

/// A folio of PMD order that nobody else knows of yet, and whose pages were all written.
///
/// # Invariants
///
/// Every page was written since the folio was allocated.
pub struct FilledFolio(HugeFolio);

impl FilledFolio {
    #[inline]
    pub(super) fn as_ptr(&self) -> *mut bindings::folio {
        self.0.as_ptr()
    }

    /// Returns what the PMD entry of a hidden table says.
    #[inline]
    pub fn stand_in(&self) -> StandIn<'_> {
        // INVARIANT: By the type invariants it is of PMD order.
        StandIn {
            folio: self.as_ptr(),
            _folio: PhantomData,
        }
    }

    /// The `nr`th page, to be written once more. Returns [`None`] if there is no such page.
    #[inline]
    pub fn page_mut(&mut self, nr: usize) -> Option<BlankPage<'_>> {
        (nr < HPAGE_PMD_NR).then(|| self.0.page_mut(nr))
    }

    /// Returns the folio as one whose contents do not matter.
    #[inline]
    pub fn into_blank(self) -> HugeFolio {
        self.0
    }
}

/// Why a folio could not be charged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChargeError {
    /// The memory cgroup is at its limit.
    Limit,
    /// Memory for bookkeeping is short.
    NoMemory,
}

/// A page that nobody else can see.
pub struct BlankPage<'a> {
    page: *mut bindings::page,
    _folio: PhantomData<&'a mut HugeFolio>,
}

/// Proof that a page was written.
pub struct Written(());

/// A page could not be read: its memory is bad.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MachineCheck;

impl BlankPage<'_> {
    /// Copies the page `from`, which `vma` maps at `addr`.
    ///
    /// If it is written meanwhile, the copy is a mixture of old and new.
    ///
    /// # Errors
    ///
    /// When the memory of `from` is bad. The contents of `to` are undefined then.
    ///
    /// # Context
    ///
    /// Does not sleep. Folios and page tables may be locked.
    #[inline(always)]
    pub fn copy(
        self,
        from: PageRef<'_>,
        addr: usize,
        vma: &VmaRef,
    ) -> Result<Written, MachineCheck> {
        // SAFETY: Both pages and the VMA are valid, the destination is ours. C code copies pages
        // that user space may write, too.
        let left = unsafe {
            bindings::copy_mc_user_highpage(self.page, from.as_ptr(), addr, vma.as_ptr())
        };

        if left > 0 {
            return Err(MachineCheck);
        }
        Ok(Written(()))
    }

    /// Clears the page, which is to be mapped at `addr`.
    #[inline(always)]
    pub fn clear(self, addr: usize) -> Written {
        // SAFETY: The page is valid and ours.
        unsafe { bindings::clear_user_highpage(self.page, addr) };
        Written(())
    }
}

/// Moves what this CPU holds back onto the LRU lists, and drops the references that this takes.
///
/// # Context
///
/// Takes LRU locks, which are spinlocks. Does not sleep.
#[inline]
pub fn lru_add_drain() {
    // SAFETY: May be called from any context that may be preempted.
    unsafe { bindings::lru_add_drain() };
}

/// The same for all CPUs.
///
/// # Context
///
/// Sleeps until each CPU has come by, which takes long. No lock that a worker could wait for may be
/// held.
#[inline]
pub fn lru_add_drain_all() {
    // SAFETY: May be called by whoever may sleep.
    unsafe { bindings::lru_add_drain_all() };
}

/// Finishes what munlock has put off on this CPU.
///
/// # Context
///
/// Takes LRU locks, which are spinlocks. Does not sleep.
#[inline]
pub fn mlock_drain() {
    // SAFETY: May be called from any context that may be preempted.
    unsafe { bindings::mlock_drain_local() };
}

static_assert!(size_of::<FolioLock<'_>>() == size_of::<usize>());
static_assert!(size_of::<PageRef<'_>>() == size_of::<usize>());
static_assert!(size_of::<BlankPage<'_>>() == size_of::<usize>());
static_assert!(size_of::<UnchargedFolio>() == size_of::<usize>());
static_assert!(size_of::<HugeFolio>() == size_of::<usize>());
static_assert!(size_of::<FilledFolio>() == size_of::<usize>());
static_assert!(size_of::<Written>() == 0);
