// SPDX-License-Identifier: GPL-2.0

//! Folios and their pages.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h),
//! [`include/linux/page-flags.h`](srctree/include/linux/page-flags.h),
//! [`include/linux/rmap.h`](srctree/include/linux/rmap.h)

use crate::{
    bindings,
    mm::virt::VmaRef,
    prelude::*,
    sync::aref::AlwaysRefCounted,
    types::Opaque, //
};
use core::{
    ffi::c_int,
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::NonNull, //
};

mod huge;
mod mapped;
mod put;

mod pmd;

pub use self::{
    huge::{
        BlankPage,
        ChargeError,
        FilledFolio,
        HugeFolio,
        MachineCheck,
        UnchargedFolio,
        Written, //
    },
    mapped::{
        Full,
        MappedFolios,
        OwnedRefs, //
    },
    put::PutBatch,
};

pub use self::pmd::{
    PmdFolio,
    StandIn, //
};

/// Order of a folio that one PMD entry maps.
pub(super) const PMD_ORDER: u32 = bindings::PMD_ORDER;
/// Number of pages of such a folio, and of entries of the PTE table in its place.
pub(super) const HPAGE_PMD_NR: usize = 1 << PMD_ORDER;

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

    /// Returns whether this folio has more than one page.
    #[inline(always)]
    fn is_large(&self) -> bool {
        // SAFETY: By the type invariants this is a folio.
        unsafe { bindings::folio_test_large(self.as_ptr()) }
    }

    /// Returns whether its pages are anonymous memory. Does not change while they are mapped.
    #[inline(always)]
    pub fn is_anon(&self) -> bool {
        // SAFETY: By the type invariants this is a folio.
        unsafe { bindings::folio_test_anon(self.as_ptr()) }
    }

    /// Returns whether a page table maps any of its pages, by now or a moment ago.
    #[inline(always)]
    pub fn is_mapped(&self) -> bool {
        // SAFETY: By the type invariants this is a folio.
        unsafe { bindings::folio_mapped(self.as_ptr()) }
    }

    /// Returns whether somebody has it locked, by now or a moment ago.
    #[inline(always)]
    pub fn is_locked(&self) -> bool {
        // SAFETY: By the type invariants this is a folio.
        unsafe { bindings::folio_test_locked(self.as_ptr()) }
    }

    /// Returns whether it is in the swap cache. Stable while it is locked.
    #[inline(always)]
    pub fn is_swapcache(&self) -> bool {
        // SAFETY: By the type invariants this is a folio.
        unsafe { bindings::folio_test_swapcache(self.as_ptr()) }
    }

    /// Returns whether it is the memory of a device.
    #[inline(always)]
    pub fn is_zone_device(&self) -> bool {
        // SAFETY: By the type invariants this is a folio.
        unsafe { bindings::folio_is_zone_device(self.as_ptr()) }
    }

    /// Returns whether more than one process may map it, by now or a moment ago. For a large folio
    /// this is a guess that may be too high.
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

    /// Returns whether pins are counted apart from other references.
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

    /// Returns whether somebody sleeps until the folio is unlocked. It may be somebody who waits
    /// for another page whose queue is the same.
    #[inline(always)]
    pub fn has_waiters(&self) -> bool {
        // SAFETY: By the type invariants this is a folio.
        unsafe { bindings::folio_test_waiters(self.as_ptr()) }
    }

    /// Returns whether several PTEs that follow each other may map the folio: because it is large,
    /// or because KSM has merged equal pages into it.
    ///
    /// The answer can change from no to yes, unless the folio is locked.
    #[inline(always)]
    pub fn maybe_mapped_by_many_ptes(&self) -> bool {
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
/// Its holder may sleep. The lock belongs to no task: one task may leave it locked, and another may
/// adopt it.
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
    /// Takes over a lock that was left behind by [`FolioLock::keep_locked`].
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
    pub fn keep_locked(self) {
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

    /// Returns whether one process alone maps the page, and may write it in place. Stable while the
    /// page table that maps it is locked. Means nothing for a page that is not anonymous.
    #[inline(always)]
    pub fn is_anon_exclusive(self) -> bool {
        // SAFETY: The page is valid.
        unsafe { bindings::page_anon_exclusive(self.as_ptr()) }
    }

    /// Returns whether the page is known to be bad.
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

static_assert!(size_of::<FolioLock<'_>>() == size_of::<usize>());
static_assert!(size_of::<PageRef<'_>>() == size_of::<usize>());
