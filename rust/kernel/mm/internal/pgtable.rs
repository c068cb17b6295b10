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
//! - A [`Hidden`] table was taken out of the page table, under the PMD lock, and goes back when it
//!   is dropped. Locked, see [`LockedHidden`], it can be replaced by a huge page.
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
        FilledFolio,
        FolioLock,
        PageRef,
        PmdFolio,
        StandIn,
        HPAGE_PMD_NR, //
    },
    tlb::{
        self,
        OwedFlush,
        Touched, //
    },
};
use crate::{
    bindings,
    mm::{
        virt::{
            flags,
            VmaRef, //
        },
        MmWithUser,
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

/// Number of PTEs in a PTE table.
pub const PTRS_PER_PTE: usize = bindings::PTRS_PER_PTE as usize;
/// Bytes that one PMD entry maps.
pub const PMD_SIZE: usize = bindings::PMD_SIZE;
/// Bytes that one PMD table maps.
pub const PUD_SIZE: usize = bindings::PUD_SIZE;

static_assert!(PTRS_PER_PTE == HPAGE_PMD_NR && PMD_SIZE == PTRS_PER_PTE * bindings::PAGE_SIZE);

/// What kind of software-defined leaf entry a non-present PTE is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Softleaf {
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

/// What has become of an entry that was left read-only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// It maps the same page, and nothing was written through it.
    Same,
    /// It maps the same page, which may have been written through it.
    Written,
    /// It says something else.
    Other,
}

/// The value of a page table entry: what it was when it was read.
///
/// # Examples
///
/// ```
/// use kernel::mm::internal::pgtable::Pte;
///
/// let pte = Pte::NONE;
///
/// assert!(pte.is_none());
/// assert!(!pte.is_dirty());
/// assert!(!pte.is_zero_page());
/// assert!(pte.softleaf().is_none());
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
        pub is_present => pte_present;
        /// The mapping is writable.
        is_write => pte_write;
        /// The mapping was used lately.
        is_young => pte_young;
        /// The mapping was written through.
        pub is_dirty => pte_dirty;
        /// Written since the last clear_refs.
        is_soft_dirty => pte_soft_dirty;
        /// Mapped without access, by NUMA balancing or by userfaultfd.
        is_protnone => pte_protnone;
        /// Maps something that is not refcounted: a shared zero page, or what a driver inserted.
        is_special => pte_special;
        /// userfaultfd tracks accesses through this mapping.
        pub is_uffd => pte_uffd;
        /// For a non-present entry: userfaultfd tracks the page.
        pub is_swp_uffd_any => pte_swp_uffd_any;
    }

    /// The kind of a non-present entry, or [`None`] for one that is empty or present.
    #[inline]
    pub fn softleaf(self) -> Option<Softleaf> {
        // SAFETY: Both functions look at the value that they are passed and at nothing else.
        let kind = unsafe { bindings::softleaf_type(bindings::softleaf_from_pte(self.0)) };

        match kind {
            bindings::softleaf_type_SOFTLEAF_NONE => None,
            bindings::softleaf_type_SOFTLEAF_SWAP => Some(Softleaf::Swap),
            bindings::softleaf_type_SOFTLEAF_MIGRATION_READ
            | bindings::softleaf_type_SOFTLEAF_MIGRATION_READ_EXCLUSIVE
            | bindings::softleaf_type_SOFTLEAF_MIGRATION_WRITE => Some(Softleaf::Migration),
            bindings::softleaf_type_SOFTLEAF_DEVICE_PRIVATE_READ
            | bindings::softleaf_type_SOFTLEAF_DEVICE_PRIVATE_WRITE
            | bindings::softleaf_type_SOFTLEAF_DEVICE_EXCLUSIVE => Some(Softleaf::Device),
            bindings::softleaf_type_SOFTLEAF_HWPOISON => Some(Softleaf::HwPoison),
            // Markers, and whatever is added after them: nothing that could be moved.
            _ => Some(Softleaf::Marker),
        }
    }

    /// The page frame number of a migration entry, or [`None`] for any other.
    #[inline]
    pub fn migration_pfn(self) -> Option<usize> {
        if self.softleaf() != Some(Softleaf::Migration) {
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

    /// Returns what has become of an entry that was left as `old`, which is read-only, and reads
    /// as this now.
    ///
    /// That is only to be relied on for a page that is pinned, or not exclusive to the process.
    /// Else the entry may have been writable in between and be read-only again: NUMA balancing and
    /// swapoff map pages that way.
    ///
    /// The accessed bit is no change. The dirty bit is none if `old` had it; a writable entry is
    /// one even if it is not dirty, since GUP-fast and secondary MMUs write through it without
    /// marking it.
    #[inline(always)]
    pub fn change_since(self, old: Pte) -> Change {
        if self == old {
            return Change::Same;
        }
        if !old.is_present()
            || !self.is_present()
            || self.pfn() != old.pfn()
            || self.is_special() != old.is_special()
            || self.is_uffd()
            || (self.is_protnone() && !old.is_protnone())
        {
            return Change::Other;
        }
        if self.is_write() || (self.is_dirty() && !old.is_dirty()) {
            // Shared zero pages are never written.
            if self.is_special() {
                return Change::Other;
            }
            return Change::Written;
        }
        Change::Same
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
            let write =
                bindings::softleaf_type(entry) == bindings::softleaf_type_SOFTLEAF_MIGRATION_WRITE;
            if uffd {
                // Write-protected since the entry was made: that must not be undone, whatever the
                // entry says of its page otherwise.
                pte = bindings::pte_mkuffd(pte);
            } else if write {
                pte = bindings::pte_mkwrite(pte, vma.as_ptr());
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
    /// A huge page that is being split, or put in the place of a table. By the time that the PMD
    /// lock is to be had it may be either.
    Changing,
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
                if bindings::pmd_is_invalid(self.0) {
                    PmdKind::Changing
                } else {
                    PmdKind::Huge
                }
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
/// use kernel::mm::internal::pgtable::{
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
///         .filter(|slot| matches!(slot.classify(), PteKind::Page(pte, _) if pte.is_dirty()))
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

    /// Returns whether the entries map all pages of `folio` in their order, and a PMD entry could
    /// do the same: each page is exclusive, accessible, and not bad, and userfaultfd tracks none.
    ///
    /// An exclusive page has no other mapping, so that these are all mappings of the folio.
    #[inline]
    pub fn maps_whole(&mut self, folio: &PmdFolio) -> bool {
        folio.is_remappable()
            && self
                .slots()
                .zip(folio.pfn()..)
                .all(|(slot, pfn)| slot.exclusive_mapping(pfn).is_some())
    }

    /// Returns what is true of any of the entries, if [`PteTableGuard::maps_whole`].
    fn whole_mapping(&mut self, folio: &PmdFolio) -> Option<WholeMapping> {
        if !folio.is_remappable() {
            return None;
        }
        let mut mapping = WholeMapping::default();

        for (slot, pfn) in self.slots().zip(folio.pfn()..) {
            let pte = slot.exclusive_mapping(pfn)?;

            mapping.young |= pte.is_young();
            mapping.dirty |= pte.is_dirty();
            mapping.soft_dirty |= pte.is_soft_dirty();
        }
        Some(mapping)
    }
}

/// What is true of any of the PTEs that map a whole folio of PMD order.
#[derive(Clone, Copy, Default)]
struct WholeMapping {
    young: bool,
    dirty: bool,
    soft_dirty: bool,
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
    ptep: *mut bindings::pte_t,
    addr: usize,
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

    /// Returns the entry, if it maps page `pfn` of an anonymous folio exclusively, and a PMD entry
    /// could map it as well.
    #[inline(always)]
    fn exclusive_mapping(&self, pfn: usize) -> Option<Pte> {
        let pte = self.read();

        if !pte.is_present()
            || pte.pfn() != pfn
            || pte.is_special()
            || pte.is_uffd()
            || pte.is_protnone()
        {
            return None;
        }
        // SAFETY: An entry that is present and not special maps a refcounted page, and while the
        // table is locked nobody can remove that mapping.
        let page = unsafe { PageRef::from_pfn(pfn) };

        if page.is_anon_exclusive() && !page.is_hwpoison() {
            Some(pte)
        } else {
            None
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

    /// Takes the tables of windows out of the page table, and flushes once for all of them.
    ///
    /// From then on until the window is mapped or its table is back, no CPU has a translation for
    /// it, and no page table walk gets at the table. In its place stands a PMD entry that hardware
    /// takes for not present, and software for a huge page: the one of the folio. Code that comes
    /// upon it without a lock goes on to take the PMD lock, and waits for us. An empty entry would
    /// not do: a zap that runs under the VMA lock, and reads the entry without the PMD lock, would
    /// take it for a hole and leave out what it was to clear.
    ///
    /// Returns [`None`] for a window that lies in another PMD table or has no PTE table.
    ///
    /// The locks of the tables are not taken here. A walker that holds one meanwhile may go on to
    /// change entries until it gives the lock up; [`Hidden::lock`] waits for it. None of them can
    /// free the table: that takes the PMD lock, too.
    ///
    /// # Context
    ///
    /// Interrupts are enabled. An MMU notifier range is open over the windows: secondary MMUs read
    /// PMD entries without the PMD lock.
    #[inline]
    pub fn hide<'g, const N: usize>(
        &'g self,
        windows: [Option<(PmdSlot<'v>, StandIn<'_>)>; N],
    ) -> [Option<Hidden<'g, 'v>>; N] {
        let (mut start, mut end, mut vma) = (usize::MAX, 0, None);
        let hidden = windows.map(|window| {
            let (slot, stand_in) = window?;

            if !self.covers(&slot) || slot.read().kind() != PmdKind::Table {
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
    /// its own rmap and LRU: what it adds to the rss is for the caller to know.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::mm::internal::{
    ///     folio::FilledFolio,
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
    ///     folio: FilledFolio,
    ///     deposit: PteTable<'v>,
    /// ) -> Option<DetachedTable<'v>> {
    ///     let pmd = window.lock();
    ///     let [hidden] = pmd.hide([Some((window, folio.stand_in()))]);
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
    /// Returns `deposit`, and the table is back, when the entries map anything else, see
    /// [`PteTableGuard::maps_whole`], or when the folio is in the swap cache.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::{
    ///     mm::internal::pgtable::{
    ///         PmdSlot,
    ///         PteTable, //
    ///     },
    ///     sync::aref::ARef, //
    /// };
    ///
    /// /// Maps the huge page that is mapped at `window` by a PMD entry again.
    /// fn remap<'v>(window: PmdSlot<'v>, deposit: PteTable<'v>) -> Result<(), PteTable<'v>> {
    ///     let folio = window
    ///         .lock_table()
    ///         .and_then(|mut table| table.first_pmd_folio().map(ARef::from));
    ///     let Some(folio) = folio else {
    ///         return Err(deposit);
    ///     };
    ///     let Some(lock) = folio.try_lock() else {
    ///         return Err(deposit);
    ///     };
    ///     let pmd = window.lock();
    ///     let [Some(hidden)] = pmd.hide([Some((window, folio.stand_in()))]) else {
    ///         return Err(deposit);
    ///     };
    ///
    ///     hidden.lock().remap(&folio, &lock, deposit, || ()).map(drop)
    /// }
    /// ```
    pub fn remap(
        mut self,
        folio: &PmdFolio,
        lock: &FolioLock<'_>,
        deposit: PteTable<'v>,
        mapped: impl FnOnce(),
    ) -> Result<DetachedTable<'v>, PteTable<'v>> {
        let slot = self.hidden.slot;

        if !ptr::eq(deposit.mm, slot.vma.mm())
            || lock.as_non_null() != folio.as_non_null()
            || folio.is_swapcache()
        {
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
        // pages at its place in the VMA, exclusively. The invalid entry in `slot` maps nothing, and
        // no CPU caches a translation of the window. Of the references of the PTEs the PMD entry
        // keeps one.
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

/// An empty PTE table that was taken out of the page table for good.
///
/// Walkers that do not take its lock may still read it: dropping this frees it after an RCU grace
/// period. That also is why it cannot be deposited with the huge page that replaces it: a deposited
/// table is freed at once when it is withdrawn.
///
/// # Invariants
///
/// `table` is owned, all its entries are none, and no page table refers to it. Only
/// [`LockedHidden`] makes such a table.
#[must_use = "the table is freed when this is dropped: say when"]
pub struct DetachedTable<'v> {
    table: bindings::pgtable_t,
    vma: &'v VmaRef,
}

impl DetachedTable<'_> {
    /// Takes the lock of the table. A walker that found the table before it was hidden may contend
    /// for it: it finds that the entry has changed, and lets go.
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
///     internal::pgtable::PteTable,
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
    /// Allocates a table, charged to the memory cgroup of `mm`.
    ///
    /// Returns [`None`] when there is no memory, or the memory cgroup is at its limit.
    ///
    /// # Context
    ///
    /// May sleep: it allocates with GFP_KERNEL.
    #[inline]
    pub fn alloc(mm: &'m MmWithUser) -> Option<Self> {
        // SAFETY: `mm` is valid.
        let table = unsafe { bindings::pte_alloc_one_for(mm.as_raw()) };

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
static_assert!(size_of::<Hidden<'_, '_>>() == size_of::<PmdSlot<'_>>() + WORD);
static_assert!(
    size_of::<LockedHidden<'_, '_>>()
        == size_of::<PteTableGuard<'_>>() + size_of::<Hidden<'_, '_>>()
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

    fn with(pte: Pte, bits: usize) -> Pte {
        Pte(bindings::pte_t {
            pte: pte.0.pte | bits,
        })
    }

    fn protnone(pte: Pte) -> Pte {
        // SAFETY: The function computes with a value.
        Pte(unsafe { bindings::pte_mkprotnone(pte.0) })
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
        assert_eq!(pte.softleaf(), None);
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
    fn a_read_only_entry_that_is_used_is_the_same() {
        for old in [0, YOUNG, DIRTY, SOFT_DIRTY, DIRTY | SOFT_DIRTY].map(mapped) {
            assert_eq!(old.change_since(old), Change::Same);
            assert_eq!(with(old, YOUNG).change_since(old), Change::Same);
            // Only the registration with userfaultfd, mprotect() and fork() could take it back, and
            // these are kept out.
            assert_eq!(with(old, SOFT_DIRTY).change_since(old), Change::Same);
        }
        // The accessed bit may be cleared as well.
        assert_eq!(mapped(0).change_since(mapped(YOUNG)), Change::Same);
        // MADV_FREE clears the dirty bit. What was written before was copied.
        assert_eq!(mapped(0).change_since(mapped(DIRTY)), Change::Same);
    }

    #[test]
    fn an_entry_that_became_writable_is_written() {
        for old in [0, YOUNG, DIRTY, SOFT_DIRTY].map(mapped) {
            assert_eq!(with(old, WRITE).change_since(old), Change::Written);
            assert_eq!(with(old, WRITE | DIRTY).change_since(old), Change::Written);
            assert_eq!(
                with(old, WRITE | YOUNG | DIRTY).change_since(old),
                Change::Written
            );
        }
    }

    #[test]
    fn a_new_dirty_bit_is_a_write_and_an_old_one_is_not() {
        assert_eq!(mapped(DIRTY).change_since(mapped(0)), Change::Written);
        assert_eq!(
            mapped(DIRTY | YOUNG).change_since(mapped(YOUNG)),
            Change::Written
        );
        assert_eq!(
            mapped(DIRTY | YOUNG).change_since(mapped(DIRTY)),
            Change::Same
        );
    }

    #[test]
    fn an_entry_of_another_page_or_kind_is_other() {
        let old = mapped(YOUNG);
        let next = Pte(bindings::pte_t {
            pte: old.0.pte + (1 << bindings::PAGE_SHIFT),
        });

        assert_eq!(next.change_since(old), Change::Other);
        assert_eq!(with(next, WRITE | DIRTY).change_since(old), Change::Other);
        assert_eq!(Pte::NONE.change_since(old), Change::Other);
        assert_eq!(old.change_since(Pte::NONE), Change::Other);
        assert_eq!(Pte::NONE.change_since(Pte::NONE), Change::Same);
        for exclusive in [false, true] {
            let entry = old.to_migration(exclusive);

            assert_eq!(entry.change_since(old), Change::Other);
            assert_eq!(entry.change_since(entry), Change::Same);
            assert_eq!(old.change_since(entry), Change::Other);
        }
        // What replaces a zero page, and what a zero page replaces.
        assert_eq!(with(old, SPECIAL).change_since(old), Change::Other);
        assert_eq!(old.change_since(with(old, SPECIAL)), Change::Other);
    }

    #[test]
    fn a_zero_page_can_be_read_but_not_written() {
        let zero = mapped(SPECIAL);

        assert_eq!(with(zero, YOUNG).change_since(zero), Change::Same);
        assert_eq!(with(zero, DIRTY).change_since(zero), Change::Other);
        assert_eq!(with(zero, WRITE | DIRTY).change_since(zero), Change::Other);
    }

    #[test]
    fn access_that_was_taken_away_is_other() {
        let old = mapped(YOUNG);
        let protnone = protnone(old);

        assert!(protnone.is_present() && protnone.is_protnone() && !old.is_protnone());
        assert_eq!(protnone.change_since(old), Change::Other);
        // A NUMA hint that was there may stay, be answered by read access, or by write access.
        assert_eq!(protnone.change_since(protnone), Change::Same);
        assert_eq!(old.change_since(protnone), Change::Same);
        assert_eq!(with(old, WRITE).change_since(protnone), Change::Written);
    }

    #[cfg(CONFIG_HAVE_ARCH_USERFAULTFD_WP)]
    #[test]
    fn an_entry_that_userfaultfd_tracks_is_other() {
        let old = mapped(YOUNG);
        // SAFETY: The function computes with a value.
        let tracked = Pte(unsafe { bindings::pte_mkuffd(old.0) });

        assert_eq!(tracked.change_since(old), Change::Other);
        assert_eq!(with(tracked, DIRTY).change_since(old), Change::Other);
    }

    #[test]
    fn a_migration_entry_names_the_page_and_is_not_present() {
        for exclusive in [false, true] {
            for bits in [0, WRITE, YOUNG, DIRTY, SOFT_DIRTY, WRITE | YOUNG | DIRTY] {
                let entry = mapped(bits).to_migration(exclusive);

                assert!(!entry.is_present() && !entry.is_none());
                assert_eq!(entry.softleaf(), Some(Softleaf::Migration));
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
        assert_eq!(pte.softleaf(), Some(Softleaf::Swap));
        assert_eq!(pte.migration_pfn(), None);
    }

    #[test]
    fn a_pmd_is_nothing_a_table_or_huge() {
        let table = PRESENT | WRITE | USER | YOUNG | DIRTY;

        assert_eq!(Pmd(bindings::pmd_t { pmd: 0 }).kind(), PmdKind::None);
        assert_eq!(pmd(table).kind(), PmdKind::Table);
        assert_eq!(pmd(table | HUGE).kind(), PmdKind::Huge);
        // What stands in for a table that is hidden must not look like a hole.
        assert_eq!(pmd((table | HUGE) & !PRESENT).kind(), PmdKind::Changing);
        // What has lost a bit that every table's entry has is nothing to walk.
        assert_eq!(pmd(table & !YOUNG).kind(), PmdKind::Table);
        assert_eq!(pmd(table & !DIRTY).kind(), PmdKind::None);
    }
}
