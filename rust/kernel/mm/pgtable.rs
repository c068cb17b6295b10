// SPDX-License-Identifier: GPL-2.0

//! Page tables of user address spaces, at the PMD and the PTE level.
//!
//! Entries are values: hardware and other CPUs change them at any time, so [`Pte`] and [`Pmd`] are
//! copies of what was read once, never references. Who may read and write an entry follows
//! Documentation/mm/process_addrs.rst:
//!
//! - A [`PmdSlot`] says where the PMD entry of an address lies. It borrows a stable VMA, which
//!   keeps the upper levels of the page table in place.
//! - A [`PmdGuard`] is the PMD lock. Under it no PMD entry of that PMD table changes.
//! - A [`PteTableGuard`] is a mapped PTE table together with its lock. Only through it can a PTE be
//!   written. It ends with the RCU section in which the table cannot be freed.
//! - A [`NestedTable`] is the same, taken inside the PMD lock; only it can unhook the table.
//!
//! Both locks are spinlocks. Types tell as much as this: the guards cannot leave their task, the
//! VMA that they borrow can neither be given up nor be faulted in while one of them lives, and
//! nothing that was found under a lock outlives it. They do not tell that no memory is allocated
//! meanwhile: whoever can name GFP_KERNEL can do that, and CONFIG_DEBUG_ATOMIC_SLEEP finds it.
//!
//! C headers: [`include/linux/pgtable.h`](srctree/include/linux/pgtable.h),
//! [`include/linux/leafops.h`](srctree/include/linux/leafops.h)

use super::{
    folio::{
        HugeFolio,
        PageRef,
        HPAGE_PMD_NR, //
    },
    tlb::{
        Flushed,
        OwedFlush, //
    },
    virt::VmaRef,
    MmWithUser,
};
use crate::{
    bindings,
    prelude::*,
    types::NotThreadSafe, //
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr, //
};

/// Number of PTEs in a PTE table.
pub const PTRS_PER_PTE: usize = bindings::PTRS_PER_PTE as usize;
/// Bytes that one PMD entry maps.
pub const PMD_SIZE: usize = bindings::PMD_SIZE;
/// Bytes that one PMD table maps.
pub const PUD_SIZE: usize = bindings::PUD_SIZE;

static_assert!(PTRS_PER_PTE == HPAGE_PMD_NR && PMD_SIZE == PTRS_PER_PTE * bindings::PAGE_SIZE);

/// What kind of software-defined leaf entry a non-present PTE is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaf {
    /// A page that was swapped out.
    Swap,
    /// A page that somebody is moving.
    Migration,
    /// Memory of a device, or lent to one.
    Device,
    /// A page that was lost to a memory error.
    HwPoison,
    /// A guard region, or what userfaultfd left.
    Marker,
}

/// The value of a page table entry: what it was when it was read.
///
/// # Examples
///
/// ```
/// use kernel::mm::pgtable::Pte;
///
/// let pte = Pte::NONE;
///
/// assert!(pte.is_none());
/// assert!(!pte.is_dirty());
/// assert!(!pte.is_zero_page());
/// assert!(pte.leaf().is_none());
/// assert!(pte.migration_pfn().is_none());
/// assert!(pte == Pte::NONE);
/// ```
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Pte(pub(super) bindings::pte_t);

impl PartialEq for Pte {
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        self.0.pte == other.0.pte
    }
}

impl Eq for Pte {}

// SAFETY: All zeroes is `Pte::NONE`, a valid value.
unsafe impl pin_init::Zeroable for Pte {}

macro_rules! pte_predicates {
    ($($(#[$doc:meta])* $vis:vis $name:ident => $c:ident;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        $vis fn $name(self) -> bool {
            // SAFETY: The function looks at the value that it is passed and at nothing else.
            unsafe { bindings::$c(self.0) }
        }
    )*};
}

impl Pte {
    /// The entry that maps nothing.
    pub const NONE: Pte = Pte(bindings::pte_t { pte: 0 });

    pte_predicates! {
        /// Nothing is mapped.
        pub is_none => pte_none;
        /// A page is mapped, be it accessible or not.
        is_present => pte_present;
        /// The mapping is writable.
        is_write => pte_write;
        /// The mapping was used lately.
        is_young => pte_young;
        /// The mapping was written through.
        pub is_dirty => pte_dirty;
        /// Written since the last clear_refs.
        is_soft_dirty => pte_soft_dirty;
        /// Maps something that is not refcounted: a shared zero page, or what a driver inserted.
        is_special => pte_special;
        /// userfaultfd tracks accesses through this mapping.
        pub is_uffd => pte_uffd;
        /// For a non-present entry: userfaultfd tracks the page.
        pub is_swp_uffd_any => pte_swp_uffd_any;
    }

    /// The kind of a non-present entry, or [`None`] for one that is empty or present.
    #[inline]
    pub fn leaf(self) -> Option<Leaf> {
        // SAFETY: Both functions look at the value that they are passed and at nothing else.
        let kind = unsafe { bindings::softleaf_type(bindings::softleaf_from_pte(self.0)) };

        match kind {
            bindings::softleaf_type_SOFTLEAF_NONE => None,
            bindings::softleaf_type_SOFTLEAF_SWAP => Some(Leaf::Swap),
            bindings::softleaf_type_SOFTLEAF_MIGRATION_READ
            | bindings::softleaf_type_SOFTLEAF_MIGRATION_READ_EXCLUSIVE
            | bindings::softleaf_type_SOFTLEAF_MIGRATION_WRITE => Some(Leaf::Migration),
            bindings::softleaf_type_SOFTLEAF_DEVICE_PRIVATE_READ
            | bindings::softleaf_type_SOFTLEAF_DEVICE_PRIVATE_WRITE
            | bindings::softleaf_type_SOFTLEAF_DEVICE_EXCLUSIVE => Some(Leaf::Device),
            bindings::softleaf_type_SOFTLEAF_HWPOISON => Some(Leaf::HwPoison),
            // Markers, and whatever is added after them: nothing that could be moved.
            _ => Some(Leaf::Marker),
        }
    }

    /// The page frame number of a migration entry, or [`None`] for any other.
    #[inline]
    pub fn migration_pfn(self) -> Option<usize> {
        if self.leaf() != Some(Leaf::Migration) {
            return None;
        }
        // SAFETY: A migration entry has a page frame number.
        Some(unsafe { bindings::softleaf_to_pfn(bindings::softleaf_from_pte(self.0)) })
    }

    /// The page frame number of a present entry. It means nothing for any other.
    #[inline(always)]
    pub fn pfn(self) -> usize {
        // SAFETY: The function looks at the value that it is passed and at nothing else.
        unsafe { bindings::pte_pfn(self.0) }
    }

    /// Whether this entry maps a shared zero page.
    #[inline(always)]
    pub fn is_zero_page(self) -> bool {
        // SAFETY: The function compares its argument with the frames that were set aside at boot.
        self.is_present() && unsafe { bindings::is_zero_pfn(self.pfn()) }
    }

    /// The migration entry that says of this present entry's page what this entry says: whether it
    /// is writable, exclusive, young, dirty, soft-dirty.
    ///
    /// `exclusive` is the page's anon-exclusive flag.
    #[inline(always)]
    pub fn to_migration(self, exclusive: bool) -> Pte {
        // SAFETY: These functions compute with values. That the entry is put into a page table
        // only while the page is locked is the duty of who writes it there.
        unsafe {
            let mut entry = if self.is_write() {
                bindings::make_writable_migration_entry(self.pfn())
            } else if exclusive {
                bindings::make_readable_exclusive_migration_entry(self.pfn())
            } else {
                bindings::make_readable_migration_entry(self.pfn())
            };
            if self.is_young() {
                entry = bindings::make_migration_entry_young(entry);
            }
            if self.is_dirty() {
                entry = bindings::make_migration_entry_dirty(entry);
            }
            let mut pte = bindings::softleaf_to_pte(entry);
            if self.is_soft_dirty() {
                pte = bindings::pte_swp_mksoft_dirty(pte);
            }
            Pte(pte)
        }
    }

    /// The present entry that a migration entry stands for, built from nothing but the migration
    /// entry, as the end of a page migration builds it.
    ///
    /// `page` is the page whose number the entry holds, `vma` the one that the entry serves.
    pub fn from_migration(self, page: PageRef<'_>, vma: &VmaRef) -> Pte {
        // SAFETY: `vma` is stable, hence its page protection is, and the other functions compute
        // with values.
        unsafe {
            let entry = bindings::softleaf_from_pte(self.0);
            let uffd = bindings::pte_swp_uffd(self.0);
            let mut pte = bindings::mk_pte(page.as_ptr(), (*vma.as_ptr()).vm_page_prot);

            if !bindings::softleaf_is_migration_young(entry) {
                pte = bindings::pte_mkold(pte);
            }
            if bindings::softleaf_is_migration_dirty(entry) {
                pte = bindings::pte_mkdirty(pte);
            }
            if bindings::pte_swp_soft_dirty(self.0) {
                pte = bindings::pte_mksoft_dirty(pte);
            } else {
                pte = bindings::pte_clear_soft_dirty(pte);
            }
            if bindings::softleaf_type(entry) == bindings::softleaf_type_SOFTLEAF_MIGRATION_WRITE {
                pte = bindings::pte_mkwrite(pte, vma.as_ptr());
            } else if uffd {
                pte = bindings::pte_mkuffd(pte);
            }
            if uffd && bindings::userfaultfd_rwp(vma.as_ptr()) {
                pte = bindings::pte_mkprotnone(pte);
            }
            Pte(pte)
        }
    }
}

/// The value of a PMD entry: what it was when it was read.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Pmd(bindings::pmd_t);

/// What a PMD entry maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PmdKind {
    /// Nothing, or nothing that a PTE table could be found behind.
    None,
    /// A PTE table.
    Table,
    /// A huge page, mapped or being moved.
    Huge,
}

impl Pmd {
    /// What this entry maps.
    #[inline]
    pub fn kind(self) -> PmdKind {
        // SAFETY: These functions look at the value that they are passed and at nothing else.
        unsafe {
            if bindings::pmd_none(self.0) {
                PmdKind::None
            } else if bindings::pmd_is_migration_entry(self.0) {
                PmdKind::Huge
            } else if !bindings::pmd_present(self.0) {
                PmdKind::None
            } else if bindings::pmd_trans_huge(self.0) {
                PmdKind::Huge
            } else if bindings::pmd_bad(self.0) {
                PmdKind::None
            } else {
                PmdKind::Table
            }
        }
    }
}

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
///     pgtable::PmdKind,
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
    pub(super) pmdp: *mut bindings::pmd_t,
    addr: usize,
    vma: &'v VmaRef,
}

impl VmaRef {
    /// Whether `addr` is the first address of a window that lies in this VMA as a whole.
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
    /// Returns [`None`] when there is no such window in this VMA, see [`VmaRef::has_window`], or
    /// when there is no PMD table.
    ///
    /// # Context
    ///
    /// Takes no lock and does not sleep.
    #[inline]
    pub fn pmd(&self, addr: usize) -> Option<PmdSlot<'_>> {
        if !self.has_window(addr) {
            return None;
        }

        // SAFETY: The VMA is stable, so the page tables above the PTE level that serve it are not
        // freed while they are walked.
        let pmdp = unsafe { bindings::mm_find_pmd(self.mm().as_raw(), addr) };
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
    /// Returns [`None`] if there is none: the entry is empty, or it maps a huge page.
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

    /// Takes the PMD lock.
    ///
    /// # Context
    ///
    /// Takes a spinlock: nothing may sleep until the guard is gone. No PTE table may be locked:
    /// that is done inside, with [`PmdGuard::lock_table`].
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

/// A mapped PTE table with its lock held.
///
/// # Invariants
///
/// - `ptep` points at the first of [`PTRS_PER_PTE`] entries, mapped in an RCU section that this
///   guard owns, of the table that serves `addr` in the address space of `vma`.
/// - The table's lock is held: by this guard, or, where `ptl` is null, by a [`PmdGuard`] that
///   outlives it and is the same lock.
///
/// # Examples
///
/// ```
/// use kernel::mm::pgtable::{
///     Entry,
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
///         .filter(|slot| matches!(slot.look(), Entry::Page(pte, _) if pte.is_dirty()))
///         .count()
/// }
/// ```
#[must_use = "the PTE table is unlocked when the guard is dropped"]
pub struct PteTableGuard<'v> {
    ptep: *mut bindings::pte_t,
    ptl: *mut bindings::spinlock_t,
    addr: usize,
    vma: &'v VmaRef,
    // Spinlock and RCU section belong to this CPU.
    _nts: NotThreadSafe,
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

/// What a slot of a locked PTE table holds. It is true until somebody writes the slot, and that
/// takes the lock.
pub enum Entry<'t> {
    /// Nothing.
    None,
    /// A shared zero page.
    Zero,
    /// A page, which its mapping keeps in being.
    Page(Pte, PageRef<'t>),
    /// Something that is not refcounted.
    Special,
    /// A non-present entry.
    Leaf(Pte, Leaf),
}

/// One slot of a locked PTE table.
///
/// # Invariants
///
/// `ptep` is the entry of `addr`, valid and its table locked for `'t`.
pub struct PteSlot<'t> {
    ptep: *mut bindings::pte_t,
    addr: usize,
    vma: &'t VmaRef,
}

impl<'t> PteSlot<'t> {
    /// The address that this slot maps.
    #[inline(always)]
    pub fn addr(&self) -> usize {
        self.addr
    }

    /// Reads the entry. Hardware may still set its accessed and dirty bits.
    #[inline(always)]
    pub fn read(&self) -> Pte {
        // SAFETY: By the type invariants the entry is valid.
        Pte(unsafe { bindings::ptep_get(self.ptep) })
    }

    /// Reads the entry and tells what it is.
    #[inline(always)]
    pub fn look(&self) -> Entry<'t> {
        let pte = self.read();

        if pte.is_none() {
            return Entry::None;
        }
        if !pte.is_present() {
            return Entry::Leaf(pte, pte.leaf().unwrap_or(Leaf::Marker));
        }
        if pte.is_special() {
            return if pte.is_zero_page() {
                Entry::Zero
            } else {
                Entry::Special
            };
        }
        // SAFETY: An entry that is present and not special maps a refcounted page, and while the
        // table is locked nobody can remove that mapping and its reference: at least for `'t`.
        Entry::Page(pte, unsafe { PageRef::from_pfn(pte.pfn()) })
    }

    /// Clears the entry and returns what it held last, accessed and dirty bits included.
    ///
    /// This is a full memory barrier. The reference and the rmap that the entry stood for pass to
    /// the caller. The translation may stay in TLBs until `owed`, which is to hold this address, is
    /// flushed.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::mm::{
    ///     pgtable::{
    ///         Pte,
    ///         PteTableGuard, //
    ///     },
    ///     tlb::{
    ///         Flushed,
    ///         OwedFlush, //
    ///     }, //
    /// };
    ///
    /// /// Clears the first entry of a locked table, and flushes. Owns what the entry mapped.
    /// fn clear_first<'v>(
    ///     table: &mut PteTableGuard<'v>,
    ///     owed: OwedFlush<'v>,
    /// ) -> Option<(Pte, Flushed<'v>)> {
    ///     let pte = table.slots().next()?.take(&owed);
    ///
    ///     Some((pte, owed.flush()))
    /// }
    /// ```
    #[inline(always)]
    #[must_use = "the caller owns the mapping now"]
    pub fn take(&mut self, _owed: &OwedFlush<'_>) -> Pte {
        // SAFETY: By the type invariants the entry is valid, is that of `addr`, and its table is
        // locked.
        Pte(unsafe { bindings::ptep_get_and_clear(self.vma.mm().as_raw(), self.addr, self.ptep) })
    }

    /// Removes the mapping of a shared zero page, if the slot holds one. `owed` is to hold its
    /// address.
    #[inline]
    pub fn drop_zero_page(&mut self, owed: &OwedFlush<'_>) {
        if self.read().is_zero_page() {
            let pte = self.take(owed);
            // SAFETY: The mm is valid; KSM may have made the entry, and counts those it made.
            unsafe { bindings::ksm_might_unmap_zero_page(self.vma.mm().as_raw(), pte.0) };
        }
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
    /// Whether this lock is the one of `slot`: whether both lie in one PMD table.
    #[inline]
    pub fn covers(&self, slot: &PmdSlot<'v>) -> bool {
        // SAFETY: By the type invariants of `PmdSlot` the PMD entry is valid.
        let ptl = unsafe { bindings::pmd_lockptr(slot.mm(), slot.pmdp) };

        ptr::eq(ptl, self.ptl)
    }

    /// Maps and locks the PTE table of `slot` inside the PMD lock.
    ///
    /// Returns [`None`] when this is not the lock of `slot`, or `slot` has no PTE table.
    ///
    /// # Context
    ///
    /// Takes one more spinlock, and enters an RCU section.
    #[inline]
    pub fn lock_table(&mut self, slot: PmdSlot<'v>) -> Option<NestedTable<'_, 'v>> {
        if !self.covers(&slot) || slot.read().kind() != PmdKind::Table {
            return None;
        }
        // SAFETY: The PMD entry is valid, and holds a table.
        let ptep = unsafe { bindings::pte_offset_map(slot.pmdp, slot.addr) };
        if ptep.is_null() {
            return None;
        }
        // SAFETY: The PMD entry maps a table, which nobody can unhook: that takes the PMD lock.
        let mut ptl = unsafe { bindings::pte_lockptr(slot.mm(), slot.pmdp) };
        if ptr::eq(ptl, self.ptl) {
            // Without split page table locks both are the mm's one lock.
            ptl = ptr::null_mut();
        } else {
            // SAFETY: The lock lives as long as the table. PTE table locks nest in PMD locks.
            unsafe {
                bindings::spin_lock_nested(ptl, bindings::SINGLE_DEPTH_NESTING as core::ffi::c_int)
            };
        }

        Some(NestedTable {
            // INVARIANT: Both: the table was mapped and locked just now. The PMD entry did not
            // change in between, since we hold its lock.
            table: PteTableGuard {
                ptep,
                ptl,
                addr: slot.addr,
                vma: slot.vma,
                _nts: NotThreadSafe,
            },
            slot,
            _pmd: PhantomData,
        })
    }

    /// Maps `folio`, which is uptodate, at `unhooked`, with `table` deposited for the day it is
    /// split. Returns the table that was there before.
    ///
    /// `flushed` says that the translations are gone that the table gave.
    ///
    /// Accounts nothing but the folio's own rmap and LRU: what the folio adds to the mm's rss is
    /// for the caller to know.
    ///
    /// # Examples
    ///
    /// What must come before is asked for by the arguments:
    ///
    /// ```
    /// use kernel::mm::{
    ///     folio::HugeFolio,
    ///     pgtable::{
    ///         DetachedTable,
    ///         PmdSlot,
    ///         PteTable,
    ///         PMD_SIZE, //
    ///     },
    ///     tlb::OwedFlush, //
    /// };
    ///
    /// /// Maps `folio` in the place of a table.
    /// ///
    /// /// # Safety
    /// ///
    /// /// No entry of the table is present, and nobody makes one present.
    /// unsafe fn replace<'v>(
    ///     window: PmdSlot<'v>,
    ///     folio: HugeFolio,
    ///     deposit: PteTable<'v>,
    /// ) -> Option<DetachedTable<'v>> {
    ///     let addr = window.addr();
    ///     let owed = OwedFlush::begin(window.vma(), addr, addr.wrapping_add(PMD_SIZE));
    ///     let mut pmd = window.lock();
    ///     let table = pmd.lock_table(window)?;
    ///
    ///     // SAFETY: The caller vouches for the entries, and the PMD lock is held until the end.
    ///     let unhooked = unsafe { table.unhook(&folio, &owed) };
    ///     let flushed = owed.flush();
    ///
    ///     Some(pmd.map_huge(unhooked, folio, deposit, &flushed))
    /// }
    /// ```
    #[inline]
    pub fn map_huge(
        &mut self,
        unhooked: Unhooked<'v>,
        folio: HugeFolio,
        table: PteTable<'v>,
        _flushed: &Flushed<'v>,
    ) -> DetachedTable<'v> {
        let Unhooked { slot, table: old } = unhooked;

        // SAFETY: This lock covers `slot`: an `Unhooked` is only made under it, and does not
        // outlive the pass that made it. `table` is empty and nobody else's; it takes the place
        // that the unhooked table had in the mm's count of tables. Depositing and mapping happen
        // under the PMD lock. `folio` is a fresh folio of PMD order, uptodate and charged, whose
        // only reference becomes that of the mapping. The invalid entry in `slot` maps nothing,
        // and no CPU caches a translation that the table gave: that is what `_flushed` says.
        unsafe {
            bindings::pgtable_trans_huge_deposit(slot.mm(), slot.pmdp, table.into_raw());
            bindings::map_anon_folio_pmd_nopf(
                ManuallyDrop::new(folio).as_ptr(),
                slot.pmdp,
                slot.vma.as_ptr(),
                slot.addr,
            );
        }
        old
    }
}

impl Drop for PmdGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants this guard holds the lock.
        unsafe { bindings::spin_unlock(self.ptl) };
    }
}

/// A locked PTE table inside the PMD lock.
///
/// # Invariants
///
/// The PMD lock is held and `table` is the table that the PMD entry of `slot` maps.
#[must_use = "the PTE table is unlocked when the guard is dropped"]
pub struct NestedTable<'g, 'v> {
    table: PteTableGuard<'v>,
    slot: PmdSlot<'v>,
    _pmd: PhantomData<&'g mut PmdGuard<'v>>,
}

impl<'v> NestedTable<'_, 'v> {
    /// The slots of the table, in the order of their addresses.
    #[inline(always)]
    pub fn slots(&mut self) -> impl Iterator<Item = PteSlot<'_>> {
        self.table.slots()
    }

    /// Takes the table out of the page table.
    ///
    /// In its place stands a PMD entry that hardware takes for not present, and software for a huge
    /// page: the one of `folio`. Whoever comes upon it without a lock goes on to take the PMD lock,
    /// and waits for us. An empty entry would not do: a zap that runs under the VMA lock, and reads
    /// the entry without the PMD lock, would take it for a hole and leave out what it was to clear.
    ///
    /// `owed`, which is to hold the window, is flushed before [`PmdGuard::map_huge`] maps it again.
    ///
    /// # Safety
    ///
    /// - No entry of the table is present any more: the caller owns what its entries stood for.
    /// - The PMD lock is held until the window is mapped by [`PmdGuard::map_huge`], with `folio`.
    #[inline]
    pub unsafe fn unhook(self, folio: &HugeFolio, _owed: &OwedFlush<'v>) -> Unhooked<'v> {
        let slot = self.slot;
        // SAFETY: The PMD lock is held and the entry maps a table. The table is not freed before
        // its `DetachedTable` is dropped, and then only after an RCU grace period, so that those
        // who walk it without a lock are safe.
        let old = unsafe {
            bindings::pmdp_establish_invalid(
                slot.vma.as_ptr(),
                slot.addr,
                slot.pmdp,
                folio.as_ptr(),
            )
        };

        Unhooked {
            slot,
            // INVARIANT: The entry that mapped the table is gone, so we own it.
            table: DetachedTable {
                // SAFETY: The entry mapped a table.
                table: unsafe { bindings::pmd_pgtable(old) },
                vma: slot.vma,
            },
        }
    }
}

/// A window whose PTE table was unhooked and that is not mapped again yet. To all others it looks
/// like a huge page that is being split.
#[must_use = "the window is inaccessible until it is mapped"]
pub struct Unhooked<'v> {
    slot: PmdSlot<'v>,
    table: DetachedTable<'v>,
}

impl<'v> Unhooked<'v> {
    /// The window.
    #[inline]
    pub fn slot(&self) -> PmdSlot<'v> {
        self.slot
    }
}

/// A PTE table that was taken out of the page table.
///
/// Walkers that do not take its lock may still read it: dropping this frees it after an RCU grace
/// period. That also is why it cannot be deposited with the huge page that replaces it: whoever
/// withdraws a deposited table frees it at once.
///
/// # Invariants
///
/// `table` is owned, and no page table refers to it.
#[must_use = "the table is freed when this is dropped: say when"]
pub struct DetachedTable<'v> {
    table: bindings::pgtable_t,
    vma: &'v VmaRef,
}

impl DetachedTable<'_> {
    /// Takes the lock of the table. Nobody contends for it for long: who finds the table without a
    /// lock, locks it, sees that it is gone and lets go.
    ///
    /// # Context
    ///
    /// Takes a spinlock: nothing may sleep until the guard is gone.
    #[inline]
    pub fn lock(&self) -> DetachedGuard<'_> {
        // SAFETY: By the type invariants the table is alive; the lock lives in its descriptor.
        unsafe {
            let ptl = bindings::pgtable_lockptr(self.vma.mm().as_raw(), self.table);

            bindings::spin_lock(ptl);
            DetachedGuard {
                ptl,
                _table: PhantomData,
                _nts: NotThreadSafe,
            }
        }
    }
}

impl Drop for DetachedTable<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants the table is ours.
        unsafe { bindings::pte_free_defer(self.vma.mm().as_raw(), self.table) };
    }
}

/// The lock of a PTE table that was taken out of the page table.
///
/// # Invariants
///
/// `ptl` is held by this guard.
#[must_use = "the table is unlocked when the guard is dropped"]
pub struct DetachedGuard<'t> {
    ptl: *mut bindings::spinlock_t,
    _table: PhantomData<&'t ()>,
    _nts: NotThreadSafe,
}

impl Drop for DetachedGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants this guard holds the lock.
        unsafe { bindings::spin_unlock(self.ptl) };
    }
}

/// A fresh, empty PTE table.
///
/// # Invariants
///
/// `table` is owned and was never hooked into a page table.
///
/// # Examples
///
/// ```
/// use kernel::mm::{
///     pgtable::PteTable,
///     MmWithUser, //
/// };
///
/// /// Allocates before any lock is taken what cannot be allocated under one.
/// fn prepare(mm: &MmWithUser) -> Result<[PteTable<'_>; 2]> {
///     Ok([
///         PteTable::alloc(mm).ok_or(ENOMEM)?,
///         PteTable::alloc(mm).ok_or(ENOMEM)?,
///     ])
/// }
/// ```
pub struct PteTable<'m> {
    table: bindings::pgtable_t,
    mm: &'m MmWithUser,
}

impl<'m> PteTable<'m> {
    /// Allocates a table, accounted to the caller's memory cgroup.
    ///
    /// Returns [`None`] when there is no memory, or the memory cgroup is at its limit.
    ///
    /// # Context
    ///
    /// May sleep: it allocates with GFP_KERNEL.
    #[inline]
    pub fn alloc(mm: &'m MmWithUser) -> Option<Self> {
        // SAFETY: `mm` is valid.
        let table = unsafe { bindings::pte_alloc_one(mm.as_raw()) };

        if table.is_null() {
            return None;
        }
        // INVARIANT: The table is new.
        Some(Self { table, mm })
    }

    #[inline]
    fn into_raw(self) -> bindings::pgtable_t {
        ManuallyDrop::new(self).table
    }
}

impl Drop for PteTable<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants the table is ours and nobody walks it.
        unsafe { bindings::pte_free(self.mm.as_raw(), self.table) };
    }
}

// Guards and slots hold what C would keep in local variables, and nothing else.
const WORD: usize = size_of::<usize>();
static_assert!(size_of::<Pte>() == size_of::<bindings::pte_t>());
static_assert!(size_of::<Pmd>() == size_of::<bindings::pmd_t>());
static_assert!(size_of::<PmdSlot<'_>>() == 3 * WORD);
static_assert!(size_of::<PteTableGuard<'_>>() == 4 * WORD);
static_assert!(size_of::<PteSlot<'_>>() == 3 * WORD);
static_assert!(size_of::<PmdGuard<'_>>() == WORD);
static_assert!(
    size_of::<NestedTable<'_, '_>>() == size_of::<PteTableGuard<'_>>() + size_of::<PmdSlot<'_>>()
);
static_assert!(
    size_of::<Unhooked<'_>>() == size_of::<PmdSlot<'_>>() + size_of::<DetachedTable<'_>>()
);
static_assert!(size_of::<DetachedTable<'_>>() == 2 * WORD);
static_assert!(size_of::<DetachedGuard<'_>>() == WORD);
static_assert!(size_of::<PteTable<'_>>() == 2 * WORD);

#[cfg(CONFIG_X86_64)]
#[kunit_tests(rust_mm_pgtable)]
mod tests {
    use super::*;

    // Below the kernel's image, and so no zero page.
    const PFN: usize = 0x9b;
    const PRESENT: usize = 1 << bindings::_PAGE_BIT_PRESENT;
    const WRITE: usize = 1 << bindings::_PAGE_BIT_RW;
    const USER: usize = 1 << bindings::_PAGE_BIT_USER;
    const YOUNG: usize = 1 << bindings::_PAGE_BIT_ACCESSED;
    const DIRTY: usize = 1 << bindings::_PAGE_BIT_DIRTY;
    const HUGE: usize = 1 << bindings::_PAGE_BIT_PSE;
    const SPECIAL: usize = 1 << bindings::_PAGE_BIT_SPECIAL;
    const SOFT_DIRTY: usize = 1 << bindings::_PAGE_BIT_SOFT_DIRTY;

    /// An entry that maps page [`PFN`].
    fn mapped(bits: usize) -> Pte {
        Pte(bindings::pte_t {
            pte: PFN << bindings::PAGE_SHIFT | PRESENT | USER | bits,
        })
    }

    fn pmd(bits: usize) -> Pmd {
        Pmd(bindings::pmd_t {
            pmd: PFN << bindings::PAGE_SHIFT | bits,
        })
    }

    fn softleaf(pte: Pte) -> bindings::softleaf_t {
        // SAFETY: The function computes with a value.
        unsafe { bindings::softleaf_from_pte(pte.0) }
    }

    fn migration_type(pte: Pte) -> bindings::softleaf_type {
        // SAFETY: The function computes with a value.
        unsafe { bindings::softleaf_type(softleaf(pte)) }
    }

    #[test]
    fn a_mapping_is_present_and_no_leaf() {
        let pte = mapped(0);

        assert!(pte.is_present() && !pte.is_none());
        assert!(!pte.is_write() && !pte.is_young() && !pte.is_dirty());
        assert!(!pte.is_soft_dirty() && !pte.is_special());
        assert!(!pte.is_zero_page());
        assert_eq!(pte.pfn(), PFN);
        assert_eq!(pte.leaf(), None);
        assert_eq!(pte.migration_pfn(), None);
    }

    #[test]
    fn each_bit_has_its_predicate() {
        assert!(mapped(WRITE).is_write() && !mapped(YOUNG | DIRTY).is_write());
        assert!(mapped(YOUNG).is_young() && !mapped(WRITE | DIRTY).is_young());
        assert!(mapped(DIRTY).is_dirty() && !mapped(WRITE | YOUNG).is_dirty());
        assert!(mapped(SPECIAL).is_special() && !mapped(WRITE | YOUNG | DIRTY).is_special());
        assert!(mapped(WRITE) != mapped(0) && mapped(WRITE) == mapped(WRITE));
        // Special, but no zero page.
        assert!(!mapped(SPECIAL).is_zero_page());
    }

    #[test]
    fn a_migration_entry_names_the_page_and_is_not_present() {
        for exclusive in [false, true] {
            for bits in [0, WRITE, YOUNG, DIRTY, SOFT_DIRTY, WRITE | YOUNG | DIRTY] {
                let entry = mapped(bits).to_migration(exclusive);

                assert!(!entry.is_present() && !entry.is_none());
                assert_eq!(entry.leaf(), Some(Leaf::Migration));
                assert_eq!(entry.migration_pfn(), Some(PFN));
                assert!(!entry.is_swp_uffd_any());
            }
        }
    }

    #[test]
    fn a_migration_entry_says_who_may_write() {
        let write = bindings::softleaf_type_SOFTLEAF_MIGRATION_WRITE;
        let exclusive = bindings::softleaf_type_SOFTLEAF_MIGRATION_READ_EXCLUSIVE;
        let read = bindings::softleaf_type_SOFTLEAF_MIGRATION_READ;

        assert_eq!(migration_type(mapped(WRITE).to_migration(true)), write);
        assert_eq!(migration_type(mapped(0).to_migration(true)), exclusive);
        assert_eq!(migration_type(mapped(0).to_migration(false)), read);
    }

    #[test]
    fn a_migration_entry_keeps_young_dirty_and_soft_dirty() {
        for bits in [0, YOUNG, DIRTY, SOFT_DIRTY, YOUNG | DIRTY | SOFT_DIRTY] {
            let pte = mapped(bits);
            let entry = pte.to_migration(false);
            // SAFETY: These functions look at the value that they are passed and at nothing else.
            let (young, dirty, soft_dirty) = unsafe {
                (
                    bindings::softleaf_is_migration_young(softleaf(entry)),
                    bindings::softleaf_is_migration_dirty(softleaf(entry)),
                    bindings::pte_swp_soft_dirty(entry.0),
                )
            };

            // Where addresses leave no room for the first two, the entry is neither.
            let room = mapped(YOUNG).to_migration(false) != mapped(0).to_migration(false);
            assert_eq!(young, room && pte.is_young());
            assert_eq!(dirty, room && pte.is_dirty());
            assert_eq!(soft_dirty, pte.is_soft_dirty());
        }
    }

    #[test]
    fn a_swap_entry_is_no_migration_entry() {
        // Of the first swap device, and so of type 0.
        let swapped = bindings::softleaf_t { val: PFN };
        // SAFETY: The function computes with a value.
        let pte = Pte(unsafe { bindings::softleaf_to_pte(swapped) });

        assert!(!pte.is_present() && !pte.is_none());
        assert_eq!(pte.leaf(), Some(Leaf::Swap));
        assert_eq!(pte.migration_pfn(), None);
    }

    #[test]
    fn a_pmd_is_nothing_a_table_or_huge() {
        let table = PRESENT | WRITE | USER | YOUNG | DIRTY;

        assert_eq!(Pmd(bindings::pmd_t { pmd: 0 }).kind(), PmdKind::None);
        assert_eq!(pmd(table).kind(), PmdKind::Table);
        assert_eq!(pmd(table | HUGE).kind(), PmdKind::Huge);
        // What stands in for a table that was unhooked must not look like a hole.
        assert_eq!(pmd((table | HUGE) & !PRESENT).kind(), PmdKind::Huge);
        // What has lost a bit that every table's entry has is nothing to walk.
        assert_eq!(pmd(table & !YOUNG).kind(), PmdKind::Table);
        assert_eq!(pmd(table & !DIRTY).kind(), PmdKind::None);
    }
}
