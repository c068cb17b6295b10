// SPDX-License-Identifier: GPL-2.0

//! A PTE table that is mapped and locked, and its slots.

use super::{
    Pte,
    Softleaf,
    PTRS_PER_PTE, //
};
use crate::{
    bindings,
    mm::{
        internal::{
            folio::{
                FolioLock,
                PageRef,
                PmdFolio, //
            },
            tlb::{
                OwedFlush,
                Touched, //
            },
        },
        virt::VmaRef, //
    },
    prelude::*,
    types::NotThreadSafe, //
};

/// A mapped PTE table with its lock held.
///
/// # Invariants
///
/// - `ptep` points at the first of [`PTRS_PER_PTE`] entries, mapped in an RCU section that this
///   guard owns, of the table that serves `addr` in the address space of `vma`.
/// - The table's lock is held: by this guard, or, where `ptl` is null, by a [`PmdGuard`] that
///   outlives it and is the same lock.
///
/// [`PmdGuard`]: super::PmdGuard
///
/// # Examples
///
/// ```
/// use kernel::mm::internal::pgtable::{
///     PteKind,
///     PmdSlot, //
/// };
///
/// /// How many pages of a window are mapped and were written to.
/// fn dirty(window: PmdSlot<'_>) -> usize {
///     let Some(mut table) = window.lock_table() else {
///         return 0;
///     };
///
///     table
///         .slots()
///         .filter(|slot| matches!(slot.classify(), PteKind::Page(pte, _) if pte.is_dirty()))
///         .count()
/// }
/// ```
#[must_use = "the PTE table is unlocked when the guard is dropped"]
pub struct PteTableGuard<'v> {
    pub(super) ptep: *mut bindings::pte_t,
    pub(super) ptl: *mut bindings::spinlock_t,
    pub(super) addr: usize,
    pub(super) vma: &'v VmaRef,
    // Spinlock and RCU section belong to this CPU.
    pub(super) _nts: NotThreadSafe,
}

impl PteTableGuard<'_> {
    /// The slots of the table, in the order of their addresses.
    #[inline(always)]
    pub fn slots(&mut self) -> impl Iterator<Item = PteSlot<'_>> {
        let (ptep, vma, addr) = (self.ptep, self.vma, self.addr);

        (0..PTRS_PER_PTE).map(move |i| PteSlot {
            // SAFETY: By the type invariants the table has this many entries.
            ptep: unsafe { ptep.add(i) },
            addr: addr.wrapping_add(i * bindings::PAGE_SIZE),
            vma,
        })
    }

    /// Returns the folio that the first slot maps the first page of, if it is of PMD order.
    #[inline]
    pub fn first_pmd_folio(&mut self) -> Option<&PmdFolio> {
        match self.slots().next()?.classify() {
            PteKind::Page(pte, page) => page
                .folio()
                .as_pmd_folio()
                .filter(|folio| folio.pfn() == pte.pfn()),
            _ => None,
        }
    }

    /// Returns whether the entries map all pages of `folio` in their order, and a PMD entry seems
    /// to be able to do the same. [`PteTableGuard::exclusive_folio`] tells for sure.
    #[inline]
    pub fn seems_whole(&mut self, folio: &PmdFolio) -> bool {
        self.whole_mapping(folio).is_some()
    }

    /// Returns what is true of any of the entries, if they map all pages of `folio` in their order,
    /// and userfaultfd tracks none of them.
    #[inline]
    pub(super) fn whole_mapping(&mut self, folio: &PmdFolio) -> Option<WholeMapping> {
        if !folio.is_remappable() {
            return None;
        }
        let mut mapping = WholeMapping::default();

        let mut expected = None;

        for (slot, pfn) in self.slots().zip(folio.pfn()..) {
            let pte = slot.read();

            // Mostly an entry is as the one before, and tells nothing new.
            if expected != Some(pte) {
                if !pte.is_present() || pte.pfn() != pfn || pte.is_uffd() || pte.is_protnone() {
                    return None;
                }
                mapping.young |= pte.is_young();
                mapping.dirty |= pte.is_dirty();
                mapping.soft_dirty |= pte.is_soft_dirty();
            }
            expected = Some(pte.next_page());
        }
        Some(mapping)
    }
}

impl<'v> PteTableGuard<'v> {
    /// Returns `folio` with its lock, if the entries map all of its pages in their order and
    /// exclusively, and none of the pages is bad.
    #[inline]
    pub fn exclusive_folio<'l>(
        &mut self,
        folio: &'l PmdFolio,
        lock: &'l FolioLock<'_>,
    ) -> Option<ExclusiveFolio<'v, 'l>> {
        if lock.as_non_null() != folio.as_non_null()
            || folio.is_swapcache()
            || !self.vma.is_anonymous()
            || !self
                .slots()
                .zip(folio.pfn()..)
                .all(|(slot, pfn)| slot.maps_exclusively(pfn))
        {
            return None;
        }
        // INVARIANT: The pages were looked at with the table locked, and `lock` is that of the
        // folio.
        Some(ExclusiveFolio {
            folio,
            vma: self.vma,
        })
    }
}

/// A locked folio of PMD order that one VMA maps exclusively.
///
/// # Invariants
///
/// `folio` is locked for `'l`, and not in the swap cache. Each of its pages has been mapped
/// exclusively in `vma`, which is anonymous, while it was locked. A page that is still mapped there
/// by a PTE is exclusive still: fork() needs the VMA lock for write, which `'v` excludes, and all
/// others that take exclusivity away, as KSM, reclaim and page migration, have the folio lock.
pub struct ExclusiveFolio<'v, 'l> {
    pub(super) folio: &'l PmdFolio,
    pub(super) vma: &'v VmaRef,
}

/// Bits that are set in any of the PTEs that map a whole folio of PMD order.
#[derive(Clone, Copy, Default)]
pub(super) struct WholeMapping {
    pub(super) young: bool,
    pub(super) dirty: bool,
    pub(super) soft_dirty: bool,
}

impl Drop for PteTableGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.ptl.is_null() {
            // SAFETY: By the type invariants this guard holds the lock.
            unsafe { bindings::spin_unlock(self.ptl) };
        }
        // SAFETY: By the type invariants this guard mapped the table.
        unsafe { bindings::pte_unmap(self.ptep) };
    }
}

/// The contents of a slot of a locked PTE table. It is true until somebody writes the slot, and
/// that takes the lock.
pub enum PteKind<'t> {
    /// Nothing.
    None,
    /// A shared zero page.
    Zero,
    /// A page, which its mapping keeps in being.
    Page(Pte, PageRef<'t>),
    /// Something that is not refcounted.
    Special,
    /// A non-present entry.
    Softleaf(Pte, Softleaf),
}

/// One slot of a locked PTE table.
///
/// # Invariants
///
/// `ptep` is the entry of `addr`, valid and its table locked for `'t`.
pub struct PteSlot<'t> {
    pub(super) ptep: *mut bindings::pte_t,
    pub(super) addr: usize,
    vma: &'t VmaRef,
}

impl<'t> PteSlot<'t> {
    /// Reads the entry. Hardware may still set its accessed and dirty bits.
    #[inline(always)]
    pub fn read(&self) -> Pte {
        // SAFETY: By the type invariants the entry is valid.
        Pte(unsafe { bindings::ptep_get(self.ptep) })
    }

    /// Reads the entry and tells what it is.
    #[inline(always)]
    pub fn classify(&self) -> PteKind<'t> {
        let pte = self.read();

        if pte.is_none() {
            return PteKind::None;
        }
        if !pte.is_present() {
            return PteKind::Softleaf(pte, pte.softleaf().unwrap_or(Softleaf::Marker));
        }
        if pte.is_special() {
            return if pte.is_zero_page() {
                PteKind::Zero
            } else {
                PteKind::Special
            };
        }
        // SAFETY: An entry that is present and not special maps a refcounted page, and while the
        // table is locked nobody can remove that mapping and its reference: at least for `'t`.
        PteKind::Page(pte, unsafe { PageRef::from_pfn(pte.pfn()) })
    }

    /// Returns whether the entry maps page `pfn` of an anonymous folio exclusively, and the page is
    /// not known to be bad.
    #[inline(always)]
    fn maps_exclusively(&self, pfn: usize) -> bool {
        match self.classify() {
            PteKind::Page(pte, page) => {
                pte.pfn() == pfn && page.is_anon_exclusive() && !page.is_hwpoison()
            }
            _ => false,
        }
    }

    /// Makes the entry read-only, and readable: a NUMA hint is dropped. That would have page faults
    /// try to isolate the page, which takes references to it.
    ///
    /// The entry is none, non-present, or one that userfaultfd does not track. A CPU may still
    /// write through its TLB until `owed` is flushed.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::mm::internal::{
    ///     pgtable::PmdSlot,
    ///     tlb::{
    ///         Flushed,
    ///         OwedFlush, //
    ///     },
    /// };
    ///
    /// /// Makes all entries of a window read-only, and flushes.
    /// fn protect(window: PmdSlot<'_>) -> Option<Flushed<'_>> {
    ///     let addr = window.addr();
    ///     let end = addr.checked_add(kernel::mm::internal::pgtable::PMD_SIZE)?;
    ///     let owed = OwedFlush::begin(window.vma(), addr, end);
    ///     let mut table = window.lock_table()?;
    ///
    ///     let owed = owed.touch();
    ///     for mut slot in table.slots() {
    ///         slot.write_protect(&owed);
    ///     }
    ///     drop(table);
    ///     Some(owed.flush())
    /// }
    /// ```
    #[inline(always)]
    pub fn write_protect(&mut self, owed: &OwedFlush<'_, Touched>) {
        debug_assert!(owed.covers(self.vma, self.addr));

        let pte = self.read();
        // SAFETY: By the type invariants the entry is valid, is that of `addr`, and its table is
        // locked. It is present in both cases.
        unsafe {
            if pte.is_write() {
                bindings::ptep_set_wrprotect(self.vma.mm().as_raw(), self.addr, self.ptep);
            } else if pte.is_protnone() {
                bindings::ptep_make_readable(self.vma.as_ptr(), self.addr, self.ptep);
            }
        }
    }

    /// Clears the entry and returns what it held last, accessed and dirty bits included.
    ///
    /// The reference and the rmap that the entry stood for pass to the caller. The translation may
    /// stay in TLBs until `owed` is flushed. This is no memory barrier.
    ///
    /// # Safety
    ///
    /// The caller takes care of what the entry stood for: it gives reference and rmap to another
    /// entry, or drops both while the VMA is stable. A swap entry must not be lost either.
    #[inline(always)]
    #[must_use = "the caller owns the mapping now"]
    pub unsafe fn get_and_clear(&mut self, owed: &OwedFlush<'_, Touched>) -> Pte {
        debug_assert!(owed.covers(self.vma, self.addr));

        // SAFETY: By the type invariants the entry is valid, is that of `addr`, and its table is
        // locked.
        Pte(unsafe { bindings::ptep_get_and_clear(self.vma.mm().as_raw(), self.addr, self.ptep) })
    }

    /// Writes a non-present entry, or an entry where there was none.
    ///
    /// # Safety
    ///
    /// - The slot holds no mapping: it is empty or non-present.
    /// - If `pte` is present, the caller owns a reference and an rmap of its page for this slot,
    ///   and passes them to it.
    /// - If `pte` is a migration entry, its folio is locked, and the caller keeps it so until the
    ///   entry is gone.
    #[inline(always)]
    pub unsafe fn set(&mut self, pte: Pte) {
        // SAFETY: By the type invariants the entry is valid, is that of `addr`, and its table is
        // locked. The caller vouches for what the entry says.
        unsafe { bindings::set_pte_at(self.vma.mm().as_raw(), self.addr, self.ptep, pte.0) };
    }
}

static_assert!(size_of::<PteTableGuard<'_>>() == 4 * size_of::<usize>());
static_assert!(size_of::<PteSlot<'_>>() == 3 * size_of::<usize>());
