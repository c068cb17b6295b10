// SPDX-License-Identifier: GPL-2.0

//! PTE tables that no page table refers to: not yet, or not any more.

use crate::{
    alloc::AllocError,
    bindings,
    mm::{
        virt::VmaRef,
        MmWithUser, //
    },
    prelude::*,
    types::NotThreadSafe, //
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop, //
};

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
///
/// [`LockedHidden`]: super::LockedHidden
#[must_use = "the table is freed when this is dropped: say when"]
pub struct DetachedTable<'v> {
    pub(super) table: bindings::pgtable_t,
    pub(super) vma: &'v VmaRef,
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
///         PteTable::alloc(mm)?,
///         PteTable::alloc(mm)?,
///     ])
/// }
/// ```
pub struct PteTable<'m> {
    table: bindings::pgtable_t,
    pub(super) mm: &'m MmWithUser,
}

impl<'m> PteTable<'m> {
    /// Allocates a table, charged to the memory cgroup of `mm`.
    ///
    /// # Errors
    ///
    /// When there is no memory, or the memory cgroup is at its limit.
    ///
    /// # Context
    ///
    /// May sleep: it allocates with GFP_KERNEL.
    #[inline]
    pub fn alloc(mm: &'m MmWithUser) -> Result<Self, AllocError> {
        // SAFETY: `mm` is valid.
        let table = unsafe { bindings::pte_alloc_one_for(mm.as_raw()) };

        if table.is_null() {
            return Err(AllocError);
        }
        // INVARIANT: The table is new.
        Ok(Self { table, mm })
    }

    #[inline]
    pub(super) fn into_raw(self) -> bindings::pgtable_t {
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

static_assert!(size_of::<DetachedTable<'_>>() == 2 * size_of::<usize>());
static_assert!(size_of::<DetachedGuard<'_>>() == size_of::<usize>());
static_assert!(size_of::<PteTable<'_>>() == 2 * size_of::<usize>());
