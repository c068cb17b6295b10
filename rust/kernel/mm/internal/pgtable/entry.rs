// SPDX-License-Identifier: GPL-2.0

//! Entries of page tables, as values.

use crate::{
    bindings,
    mm::{
        internal::folio::PageRef,
        virt::VmaRef, //
    },
    prelude::*, //
};

/// The kind of software-defined leaf entry that a non-present PTE is.
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

/// How an entry has changed that was left read-only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// It maps the same page, and nothing was written through it.
    Same,
    /// It maps the same page, which may have been written through it.
    Written,
    /// It says something else.
    Other,
}

/// The value that a page table entry had when it was read.
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
pub struct Pte(pub(in crate::mm::internal) bindings::pte_t);

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
        pub(super) is_write => pte_write;
        /// The mapping was used lately.
        pub(super) is_young => pte_young;
        /// The mapping was written through.
        pub is_dirty => pte_dirty;
        /// Written since the last clear_refs.
        pub(super) is_soft_dirty => pte_soft_dirty;
        /// Mapped without access, by NUMA balancing or by userfaultfd.
        pub(super) is_protnone => pte_protnone;
        /// Maps something that is not refcounted: a shared zero page, or what a driver inserted.
        pub(super) is_special => pte_special;
        /// userfaultfd tracks accesses through this mapping.
        pub is_uffd => pte_uffd;
        /// For a non-present entry: userfaultfd tracks the page.
        pub is_swp_uffd_any => pte_swp_uffd_any;
    }

    /// The same entry, but for the page after it.
    #[inline(always)]
    pub(super) fn next_page(self) -> Self {
        // SAFETY: The function looks at the value that it is passed and at nothing else.
        Self(unsafe { bindings::pte_next_pfn(self.0) })
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

    /// Returns whether this entry maps a shared zero page.
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

/// The value that a PMD entry had when it was read.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Pmd(pub(super) bindings::pmd_t);

/// The kinds of a PMD entry.
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
    /// The kind of this entry.
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

static_assert!(size_of::<Pte>() == size_of::<bindings::pte_t>());
static_assert!(size_of::<Pmd>() == size_of::<bindings::pmd_t>());

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
        // MADV_FREE clears the dirty bit. Earlier writes were copied.
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
        // A page in the place of a zero page, and a zero page in the place of a page.
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
        // The entry that stands in for a hidden table must not look like a hole.
        assert_eq!(pmd((table | HUGE) & !PRESENT).kind(), PmdKind::Changing);
        // An entry without a bit that each table's entry has must not be walked.
        assert_eq!(pmd(table & !YOUNG).kind(), PmdKind::Table);
        assert_eq!(pmd(table & !DIRTY).kind(), PmdKind::None);
    }
}
