// SPDX-License-Identifier: GPL-2.0

//! PMD entries, their lock, and what is done to them under it.

use super::{
    DetachedTable,
    ExclusiveFolio,
    Pmd,
    PmdKind,
    PteSlot,
    PteTable,
    PteTableGuard,
    PMD_SIZE, //
};
use crate::{
    bindings,
    mm::{
        internal::{
            folio::{
                FilledFolio,
                PageRef,
                StandIn,
                HPAGE_PMD_NR, //
            },
            mmu_notifier::InvalidateRange,
            tlb, //
        },
        virt::{
            flags,
            VmaRef, //
        },
        MmWithUser, //
    },
    prelude::*,
    sync::barrier::{
        smp_mb,
        Full, //
    },
    types::NotThreadSafe, //
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr, //
};

/// Where the PMD entry of a window lies: an aligned address of a stable VMA that holds all of the
/// [`PMD_SIZE`] bytes from there.
///
/// # Invariants
///
/// - `pmdp` points at the PMD entry of `addr` in the address space of `vma`, and stays valid
///   while `vma` is stable: page tables above the PTE level are only freed once their VMAs are
///   detached.
/// - `addr` is aligned to [`PMD_SIZE`], and `vma` spans `addr..addr + PMD_SIZE`.
///
/// # Examples
///
/// ```
/// use kernel::mm::{
///     internal::pgtable::PmdKind,
///     virt::VmaRef, //
/// };
///
/// /// Whether a huge page is mapped at `addr`, by now or a moment ago.
/// fn is_huge(vma: &VmaRef, addr: usize) -> bool {
///     vma.pmd(addr).is_some_and(|slot| slot.read().kind() == PmdKind::Huge)
/// }
/// ```
#[derive(Clone, Copy)]
pub struct PmdSlot<'v> {
    pub(in crate::mm::internal) pmdp: *mut bindings::pmd_t,
    addr: usize,
    vma: &'v VmaRef,
}

impl VmaRef {
    /// Returns whether the VMA maps private anonymous memory.
    #[inline]
    pub fn is_anonymous(&self) -> bool {
        // SAFETY: The VMA is stable.
        unsafe { bindings::vma_is_anonymous(self.as_ptr()) }
    }

    /// Returns whether `addr` is the first address of a window that lies in this VMA as a whole.
    #[inline]
    pub fn has_window(&self, addr: usize) -> bool {
        addr % PMD_SIZE == 0
            && addr >= self.start()
            && addr
                .checked_add(PMD_SIZE)
                .is_some_and(|end| end <= self.end())
    }

    /// Looks up the PMD entry of the window at `addr`.
    ///
    /// Returns [`None`] when there is no such window in this VMA, see [`VmaRef::has_window`], when
    /// there is no PMD table, and in a VMA of hugetlb, whose tables follow other rules.
    ///
    /// # Context
    ///
    /// Takes no lock and does not sleep.
    #[inline]
    pub fn pmd(&self, addr: usize) -> Option<PmdSlot<'_>> {
        if !self.has_window(addr) || self.flags() & flags::HUGETLB != 0 {
            return None;
        }

        // SAFETY: The VMA is stable and not one of hugetlb, so the page tables above the PTE level
        // that serve it are not freed while they are walked.
        let pmdp = unsafe { bindings::find_pmd(self.mm().as_raw(), addr) };
        if pmdp.is_null() {
            return None;
        }

        // INVARIANT: Alignment and span were checked above.
        Some(PmdSlot {
            pmdp,
            addr,
            vma: self,
        })
    }
}

impl<'v> PmdSlot<'v> {
    /// The first address of the window.
    #[inline]
    pub fn addr(&self) -> usize {
        self.addr
    }

    /// The VMA that the window lies in.
    #[inline]
    pub fn vma(&self) -> &'v VmaRef {
        self.vma
    }

    #[inline]
    fn mm(&self) -> *mut bindings::mm_struct {
        let mm: &MmWithUser = self.vma.mm();
        mm.as_raw()
    }

    /// Reads the entry without a lock: it may have changed by the time this returns.
    #[inline]
    pub fn read(&self) -> Pmd {
        // SAFETY: By the type invariants the pointer is valid.
        Pmd(unsafe { bindings::pmdp_get_lockless(self.pmdp) })
    }

    /// Maps and locks the PTE table.
    ///
    /// Returns [`None`] if there is none: the entry is empty, or it maps a huge page. The latter
    /// may be for a moment only, see [`PmdSlot::lock_table_or_pmd`].
    ///
    /// # Context
    ///
    /// Takes the PTE table lock, a spinlock, and enters an RCU section: nothing may sleep until the
    /// guard is gone. Folio locks may be held; another PTE table's lock may not.
    #[inline]
    pub fn lock_table(&self) -> Option<PteTableGuard<'v>> {
        let mut ptl = ptr::null_mut();
        // SAFETY: By the type invariants the PMD entry is valid, and it is the one of `addr`. The
        // VMA is stable, so `free_pgtables()`, which heeds no lock, cannot run.
        let ptep =
            unsafe { bindings::pte_offset_map_lock(self.mm(), self.pmdp, self.addr, &mut ptl) };
        if ptep.is_null() {
            return None;
        }

        // INVARIANT: The table was mapped and locked just now, and `addr` is aligned so that
        // `ptep` is its first entry.
        Some(PteTableGuard {
            ptep,
            ptl,
            addr: self.addr,
            vma: self.vma,
            _nts: NotThreadSafe,
        })
    }

    /// Maps and locks the PTE table, or takes the PMD lock if there is none.
    ///
    /// A table that is [`Hidden`] is not taken for one that is gone: that holds the PMD lock.
    ///
    /// # Context
    ///
    /// As for [`PmdSlot::lock_table`] and [`PmdSlot::lock`].
    pub fn lock_table_or_pmd(&self) -> Result<PteTableGuard<'v>, PmdGuard<'v>> {
        loop {
            if let Some(table) = self.lock_table() {
                return Ok(table);
            }
            let pmd = self.lock();

            if self.read().kind() != PmdKind::Table {
                return Err(pmd);
            }
        }
    }

    /// Takes the PMD lock.
    ///
    /// # Context
    ///
    /// Takes a spinlock: nothing may sleep until the guard is gone. No PTE table may be locked:
    /// that is done inside, with [`Hidden::lock`].
    #[inline]
    pub fn lock(&self) -> PmdGuard<'v> {
        // SAFETY: By the type invariants the PMD entry is valid and lies in `mm`'s page table.
        let ptl = unsafe { bindings::pmd_lockptr(self.mm(), self.pmdp) };
        // SAFETY: The lock lives as long as the PMD table does, see the type invariants.
        unsafe { bindings::spin_lock(ptl) };

        // INVARIANT: The lock was taken just now.
        PmdGuard {
            ptl,
            _vma: PhantomData,
            _nts: NotThreadSafe,
        }
    }
}

/// The PMD lock.
///
/// # Invariants
///
/// `ptl` is the lock of a PMD table of the address space that `'v` keeps, and this guard holds it.
#[must_use = "the PMD table is unlocked when the guard is dropped"]
pub struct PmdGuard<'v> {
    ptl: *mut bindings::spinlock_t,
    _vma: PhantomData<&'v VmaRef>,
    _nts: NotThreadSafe,
}

impl<'v> PmdGuard<'v> {
    /// Returns whether this lock is the one of `slot`: whether both lie in one PMD table.
    #[inline]
    pub fn covers(&self, slot: &PmdSlot<'v>) -> bool {
        // SAFETY: By the type invariants of `PmdSlot` the PMD entry is valid.
        let ptl = unsafe { bindings::pmd_lockptr(slot.mm(), slot.pmdp) };

        ptr::eq(ptl, self.ptl)
    }

    /// Takes the tables of windows out of the page table, and flushes once for all of them.
    ///
    /// From then on until the window is mapped or its table is back, no CPU has a translation for
    /// it, and no page table walk gets at the table. In its place stands a PMD entry that hardware
    /// takes for not present, and software for a huge page: the one of the folio. Code that comes
    /// upon it without a lock goes on to take the PMD lock, and waits for us. An empty entry would
    /// not do: a zap that runs under the VMA lock, and reads the entry without the PMD lock, would
    /// take it for a hole and leave out what it was to clear.
    ///
    /// Returns [`None`] for a window that lies outside of `range` or in another PMD table, or has
    /// no PTE table. `range` keeps out secondary MMUs, which read PMD entries without the PMD lock.
    ///
    /// The locks of the tables are not taken here. A walker that holds one meanwhile may go on to
    /// change entries until it gives the lock up; [`Hidden::lock`] waits for it. None of them can
    /// free the table: that takes the PMD lock, too.
    ///
    /// # Safety
    ///
    /// - Each [`Hidden`] is dropped or consumed, and not leaked, before the lock is given up.
    /// - The folio that stands in for a table stays allocated until then.
    ///
    /// # Context
    ///
    /// Interrupts are enabled.
    #[inline]
    pub unsafe fn hide<'g, const N: usize>(
        &'g self,
        range: &InvalidateRange<'_>,
        windows: [Option<(PmdSlot<'v>, StandIn<'_>)>; N],
    ) -> [Option<Hidden<'g, 'v>>; N] {
        let (mut start, mut end, mut vma) = (usize::MAX, 0, None);
        let hidden = windows.map(|window| {
            let (slot, stand_in) = window?;

            if !self.covers(&slot)
                || !range.covers(slot.vma, slot.addr, slot.addr.wrapping_add(PMD_SIZE))
                || slot.read().kind() != PmdKind::Table
            {
                return None;
            }
            // SAFETY: The PMD lock is held and the entry maps a table. The table stays allocated
            // until its `DetachedTable` is dropped, and then for an RCU grace period more, so that
            // walkers without a lock are safe.
            let old = unsafe {
                bindings::pmdp_establish_invalid(
                    slot.vma.as_ptr(),
                    slot.addr,
                    slot.pmdp,
                    stand_in.folio,
                )
            };

            start = start.min(slot.addr);
            end = end.max(slot.addr.wrapping_add(PMD_SIZE));
            vma = Some(slot.vma);
            // INVARIANT: The entry mapped the table until just now. It is flushed below.
            Some(Hidden {
                slot,
                old,
                _pmd: PhantomData,
            })
        });

        if let Some(vma) = vma {
            // Pairs with GUP-fast, which takes its reference and then reads the PMD entry again:
            // either it sees that the entry has changed, or references that are counted after this
            // include its own.
            smp_mb(Full);
            tlb::flush_range(vma, start, end);
        }
        hidden
    }
}

impl Drop for PmdGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants this guard holds the lock.
        unsafe { bindings::spin_unlock(self.ptl) };
    }
}

/// A window whose PTE table was taken out of the page table, and that no CPU can access.
///
/// To drop it is to put the table back. That needs no flush: the entry that stood in was not
/// present.
///
/// # Invariants
///
/// - The PMD lock is held for `'g`, and `old` is what the PMD entry of `slot` was: it maps a table.
/// - In the place of that entry stands an invalid huge one, and TLBs were flushed since.
#[must_use = "the table is put back when this is dropped"]
pub struct Hidden<'g, 'v> {
    slot: PmdSlot<'v>,
    old: bindings::pmd_t,
    _pmd: PhantomData<&'g PmdGuard<'v>>,
}

impl<'g, 'v> Hidden<'g, 'v> {
    /// Takes the lock of the hidden table.
    ///
    /// # Context
    ///
    /// Takes a spinlock that nests in the PMD lock, and enters an RCU section. No other PTE table
    /// may be locked.
    #[inline]
    pub fn lock(self) -> LockedHidden<'g, 'v> {
        let slot = self.slot;
        // SAFETY: The entry maps a table, by the type invariants. This enters an RCU section.
        let ptep = unsafe { bindings::pte_map_of(self.old, slot.addr) };
        // SAFETY: The table is alive, and its lock with it.
        let mut ptl =
            unsafe { bindings::pgtable_lockptr(slot.mm(), bindings::pmd_pgtable(self.old)) };
        // SAFETY: The PMD entry is valid, see `PmdSlot`.
        if ptr::eq(ptl, unsafe { bindings::pmd_lockptr(slot.mm(), slot.pmdp) }) {
            // Without split page table locks both are the mm's one lock.
            ptl = ptr::null_mut();
        } else {
            // SAFETY: The lock lives as long as the table. PTE table locks nest in PMD locks.
            unsafe {
                bindings::spin_lock_nested(ptl, bindings::SINGLE_DEPTH_NESTING as core::ffi::c_int)
            };
        }

        LockedHidden {
            // INVARIANT: Mapped and locked just now; or the PMD lock, which is held for `'g`, is
            // its lock.
            table: PteTableGuard {
                ptep,
                ptl,
                addr: slot.addr,
                vma: slot.vma,
                _nts: NotThreadSafe,
            },
            hidden: self,
        }
    }
}

impl Drop for Hidden<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        let slot = self.slot;

        // set_pmd_at() is for huge entries only.
        // SAFETY: By the type invariants the PMD lock is held, the entry maps nothing, and the
        // table is what it mapped before.
        unsafe { bindings::pmd_populate(slot.mm(), slot.pmdp, bindings::pmd_pgtable(self.old)) };
    }
}

/// The lock of a table that is hidden. Nobody changes its entries any more.
///
/// To drop it is to unlock the table, and to put it back.
#[must_use = "the table is put back when this is dropped"]
pub struct LockedHidden<'g, 'v> {
    // The order of these fields is that in which they are dropped.
    table: PteTableGuard<'v>,
    hidden: Hidden<'g, 'v>,
}

impl<'v> LockedHidden<'_, 'v> {
    /// The slots of the table, in the order of their addresses.
    #[inline(always)]
    pub fn slots(&mut self) -> impl Iterator<Item = PteSlot<'_>> {
        self.table.slots()
    }

    /// Clears all entries of the table, and maps `folio` in its place, with `deposit` deposited for
    /// the day it is split. Returns the table.
    ///
    /// The entries are cleared before the table is unlocked, since page faults and UFFDIO_MOVE,
    /// which may have found the table before it was hidden, look no further than at the entry once
    /// they have the lock.
    ///
    /// The folio becomes uptodate, with all that was written to it before. Nothing is accounted but
    /// its own rmap and LRU: the caller has to account for the rss that it adds.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::mm::internal::{
    ///     folio::FilledFolio,
    ///     mmu_notifier::InvalidateRange,
    ///     pgtable::{
    ///         DetachedTable,
    ///         PmdSlot,
    ///         PteTable, //
    ///     },
    /// };
    ///
    /// /// Maps `folio` in the place of a table.
    /// ///
    /// /// # Safety
    /// ///
    /// /// The caller drops the rmaps and references of what the table maps.
    /// unsafe fn replace<'v>(
    ///     window: PmdSlot<'v>,
    ///     range: &InvalidateRange<'v>,
    ///     folio: FilledFolio,
    ///     deposit: PteTable<'v>,
    /// ) -> Option<DetachedTable<'v>> {
    ///     let pmd = window.lock();
    ///     // SAFETY: `hidden` is dropped or consumed below, and `folio` lives as long.
    ///     let [hidden] = unsafe { pmd.hide(range, [Some((window, folio.stand_in()))]) };
    ///     let locked = hidden?.lock();
    ///
    ///     // SAFETY: The caller vouches for it.
    ///     let table = unsafe { locked.replace(folio, deposit) };
    ///     Some(table)
    /// }
    /// ```
    ///
    /// # Safety
    ///
    /// - For each entry that maps a page, or is a migration entry of the caller's, the caller owns
    ///   reference and rmap from now on, and drops both while the VMA is stable.
    /// - There are no other non-present entries.
    /// - `deposit` is a table of this mm.
    #[inline]
    pub unsafe fn replace(self, folio: FilledFolio, deposit: PteTable<'v>) -> DetachedTable<'v> {
        let Self { mut table, hidden } = self;
        let hidden = ManuallyDrop::new(hidden);
        let slot = hidden.slot;

        debug_assert!(ptr::eq(deposit.mm, slot.vma.mm()));
        // KSM counts the zero pages that it has put in the place of others. It maps them under the
        // lock that is held here.
        // SAFETY: The mm is valid.
        if unsafe { bindings::mm_has_ksm_zero_pages(slot.mm()) } {
            for entry in table.slots() {
                let pte = entry.read();

                if pte.is_special() && pte.is_zero_page() {
                    // SAFETY: As above. The entry is cleared below.
                    unsafe { bindings::ksm_might_unmap_zero_page(slot.mm(), pte.0) };
                }
            }
        }
        for entry in table.slots() {
            // SAFETY: The entry is valid and its table locked. No CPU uses it for translation, so
            // that it need not be cleared atomically.
            unsafe { bindings::ptep_clear(slot.mm(), entry.addr, entry.ptep) };
        }
        drop(table);

        // SAFETY: The PMD lock is held. `deposit` is empty and nobody else's; it takes the place
        // that the hidden table had in the mm's count of tables. `folio` is a fresh folio of PMD
        // order, filled and charged, whose only reference becomes that of the mapping. The invalid
        // entry in `slot` maps nothing, and no CPU caches a translation of the window.
        unsafe {
            let folio = ManuallyDrop::new(folio).as_ptr();

            bindings::__folio_mark_uptodate(folio);
            bindings::pgtable_trans_huge_deposit(slot.mm(), slot.pmdp, deposit.into_raw());
            bindings::map_anon_folio_pmd_nopf(folio, slot.pmdp, slot.vma.as_ptr(), slot.addr);
        }
        // INVARIANT: Nothing refers to the table any more, and it is empty.
        DetachedTable {
            // SAFETY: The entry mapped a table.
            table: unsafe { bindings::pmd_pgtable(hidden.old) },
            vma: slot.vma,
        }
    }
}

impl<'g, 'v> LockedHidden<'g, 'v> {
    /// Maps by a PMD entry a folio whose pages the entries map: as they do, all pages in their
    /// order. Clears the entries, and returns the table. Nothing is copied, and pins do not matter.
    ///
    /// The rmaps and references of the entries are dropped, but for those that the PMD entry needs.
    /// The rmap of the PMD comes before those of the PTEs go, so that at no time the folio looks
    /// partially mapped. `deposit` is deposited for the day that the PMD is split.
    ///
    /// `mapped` is called as soon as the memory can be accessed again.
    ///
    /// # Errors
    ///
    /// Returns `deposit`, and the table is back, when the entries map anything else.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::{
    ///     mm::internal::{
    ///         mmu_notifier::InvalidateRange,
    ///         pgtable::{
    ///             PmdSlot,
    ///             PteTable, //
    ///         },
    ///     },
    ///     sync::aref::ARef, //
    /// };
    ///
    /// /// Maps the huge page that is mapped at `window` by a PMD entry again.
    /// fn remap<'v>(
    ///     window: PmdSlot<'v>,
    ///     range: &InvalidateRange<'v>,
    ///     deposit: PteTable<'v>,
    /// ) -> Result<(), PteTable<'v>> {
    ///     let Some(mut table) = window.lock_table() else {
    ///         return Err(deposit);
    ///     };
    ///     let Some(folio) = table.first_pmd_folio().map(ARef::from) else {
    ///         return Err(deposit);
    ///     };
    ///     let Some(lock) = folio.try_lock() else {
    ///         return Err(deposit);
    ///     };
    ///     let Some(exclusive) = table.exclusive_folio(&folio, &lock) else {
    ///         return Err(deposit);
    ///     };
    ///     drop(table);
    ///     let pmd = window.lock();
    ///     // SAFETY: `hidden` is consumed below, and `folio` lives as long.
    ///     let [hidden] = unsafe { pmd.hide(range, [Some((window, folio.stand_in()))]) };
    ///     let Some(hidden) = hidden else {
    ///         return Err(deposit);
    ///     };
    ///
    ///     hidden.lock().remap(exclusive, deposit, || ()).map(drop)
    /// }
    /// ```
    pub fn remap(
        mut self,
        exclusive: ExclusiveFolio<'v, '_>,
        deposit: PteTable<'v>,
        mapped: impl FnOnce(),
    ) -> Result<DetachedTable<'v>, PteTable<'v>> {
        let slot = self.hidden.slot;
        let ExclusiveFolio { folio, vma } = exclusive;

        if !ptr::eq(deposit.mm, slot.vma.mm()) || !ptr::eq(vma, slot.vma) {
            return Err(deposit);
        }
        let Some(mapping) = self.table.whole_mapping(folio) else {
            return Err(deposit);
        };
        let Self { mut table, hidden } = self;
        let hidden = ManuallyDrop::new(hidden);

        for entry in table.slots() {
            // SAFETY: The entry is valid and its table locked. No CPU uses it for translation, so
            // that it need not be cleared atomically.
            unsafe { bindings::ptep_clear(slot.mm(), entry.addr, entry.ptep) };
        }
        // SAFETY: The PMD lock is held, and the lock of the table that the PTEs were in. `deposit`
        // is empty and nobody else's; it takes the place that the hidden table had in the mm's
        // count of tables. The folio is locked, and the PTEs, which are gone, mapped each of its
        // pages, in their order. They are exclusive, see `ExclusiveFolio`: so these were all
        // mappings of the folio, and no PMD entry maps it. The invalid entry in `slot` maps
        // nothing, and no CPU caches a translation of the window. Of the references of the PTEs the
        // PMD entry keeps one.
        unsafe {
            bindings::pgtable_trans_huge_deposit(slot.mm(), slot.pmdp, deposit.into_raw());
            bindings::map_anon_folio_pmd_again(
                folio.as_ptr(),
                slot.pmdp,
                slot.vma.as_ptr(),
                slot.addr,
                mapping.young,
                mapping.dirty,
                mapping.soft_dirty,
            );
        }
        mapped();
        // SAFETY: As above. The PMD lock is held still, and has those wait that would map or unmap
        // pages of the folio. The rmaps and references are those of the PTEs.
        //
        // A PMD entry has the exclusive flag of the first page alone: fork() clears that one only.
        // If the other pages kept theirs, they would be taken for exclusive once the PMD is split,
        // when another process maps them too.
        unsafe {
            for nr in 1..HPAGE_PMD_NR {
                bindings::ClearPageAnonExclusive(bindings::folio_page(folio.as_ptr(), nr));
            }
            PageRef::from_pfn(folio.pfn()).remove_rmap(HPAGE_PMD_NR, slot.vma);
            // CAST: A small number.
            bindings::folio_ref_sub(folio.as_ptr(), (HPAGE_PMD_NR - 1) as core::ffi::c_int);
        }
        drop(table);
        // INVARIANT: Nothing refers to the table any more, and it is empty.
        Ok(DetachedTable {
            // SAFETY: The entry mapped a table.
            table: unsafe { bindings::pmd_pgtable(hidden.old) },
            vma: slot.vma,
        })
    }
}

static_assert!(size_of::<PmdSlot<'_>>() == 3 * size_of::<usize>());
static_assert!(size_of::<PmdGuard<'_>>() == size_of::<usize>());
static_assert!(size_of::<Hidden<'_, '_>>() == size_of::<PmdSlot<'_>>() + size_of::<usize>());
static_assert!(
    size_of::<LockedHidden<'_, '_>>()
        == size_of::<PteTableGuard<'_>>() + size_of::<Hidden<'_, '_>>()
);
