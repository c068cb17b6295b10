// SPDX-License-Identifier: GPL-2.0

//! VMAs that stay as they are while one looks at them.
//!
//! Two locks do that: the VMA's own read lock, which excludes changes of this VMA, and the mmap
//! read lock, which excludes changes of any VMA. A [`StableVma`] is one of them with the VMA that
//! it keeps. Objects that are found in the VMA borrow it, so that none of them is used after the
//! lock was given up. To give it up and to take it again is a move.

use super::pgtable::{
    Pte,
    Softleaf,
    PTRS_PER_PTE, //
};
use crate::{
    bindings,
    mm::{
        virt::VmaRef,
        MmWithUser,
        MmapReadGuard,
        VmaReadGuard, //
    },
    prelude::*,
};
use core::{
    mem::{
        ManuallyDrop,
        MaybeUninit, //
    },
    ops::Deref,
    ptr,
};

/// A VMA that is stable: neither changed nor freed, and the page tables above the PTE level that
/// serve it are not freed either.
///
/// # Examples
///
/// ```
/// use kernel::mm::MmWithUser;
///
/// /// How many bytes from `addr` on are mapped by one VMA.
/// fn mapped_from(mm: &MmWithUser, addr: usize) -> Result<usize> {
///     let vma = mm.find_stable_vma(addr)?.ok_or(ENOMEM)?;
///
///     if vma.start() > addr {
///         return Err(ENOMEM);
///     }
///     Ok(vma.end() - addr)
/// }
/// ```
#[must_use = "the VMA is unlocked when the guard is dropped"]
pub struct StableVma<'mm> {
    hold: Hold<'mm>,
}

enum Hold<'mm> {
    Vma(VmaReadGuard<'mm>),
    // INVARIANT: `.1` belongs to the mm that `.0` locks.
    Mmap(MmapReadGuard<'mm>, ptr::NonNull<VmaRef>),
}

impl Deref for StableVma<'_> {
    type Target = VmaRef;

    #[inline]
    fn deref(&self) -> &VmaRef {
        match &self.hold {
            Hold::Vma(vma) => vma,
            // SAFETY: The mmap read lock is held, so the VMA is valid and stable.
            Hold::Mmap(_, vma) => unsafe { vma.as_ref() },
        }
    }
}

/// Removes the tag from an address of the current task.
#[inline]
pub fn untagged_addr(addr: usize) -> usize {
    // SAFETY: Looks at the current task only.
    unsafe { bindings::untagged_addr(addr) }
}

impl MmapReadGuard<'_> {
    /// Removes the tag from an address of a task of this mm.
    #[inline]
    pub fn untagged_addr(&self, addr: usize) -> usize {
        // SAFETY: The mm is valid and mmap_lock is held.
        unsafe { bindings::untagged_addr_remote(self.mm.as_raw(), addr) }
    }
}

impl MmWithUser {
    /// Finds the first VMA that ends above `addr`, and keeps it stable. It may begin above `addr`.
    ///
    /// Returns [`None`] when there is none. The VMA is returned under its own lock, or under the
    /// mmap read lock where the VMA lock cannot be had.
    ///
    /// # Errors
    ///
    /// `EINTR` when a fatal signal came while waiting for mmap_lock.
    ///
    /// # Context
    ///
    /// May sleep. Neither mmap_lock nor a VMA lock of this mm may be held.
    pub fn find_stable_vma(&self, addr: usize) -> Result<Option<StableVma<'_>>> {
        if let Some(vma) = self.lock_vma_under_rcu(addr) {
            return Ok(Some(StableVma {
                hold: Hold::Vma(vma),
            }));
        }

        let guard = self.mmap_read_lock_killable()?;
        // SAFETY: The mm is valid and mmap_lock is held.
        let vma = unsafe { bindings::find_vma(self.as_raw(), addr) };
        let Some(vma) = ptr::NonNull::new(vma) else {
            return Ok(None);
        };

        #[cfg(CONFIG_PER_VMA_LOCK)]
        // SAFETY: The VMA is valid and mmap_lock is held.
        if unsafe { bindings::vma_start_read_locked(vma.as_ptr()) } {
            return Ok(Some(StableVma {
                hold: Hold::Vma(VmaReadGuard {
                    // SAFETY: The VMA read lock was taken just now, and the guard keeps it.
                    vma: unsafe { VmaRef::from_raw(vma.as_ptr()) },
                    _nts: crate::types::NotThreadSafe,
                }),
            }));
        }

        Ok(Some(StableVma {
            hold: Hold::Mmap(guard, vma.cast()),
        }))
    }
}

/// How a page was swapped in, and what became of the lock.
pub enum SwapIn<'mm> {
    /// The slot needs nothing (any more).
    Present(StableVma<'mm>),
    /// The page is there now.
    Done(StableVma<'mm>),
    /// The lock had to be given up to wait for the page.
    Unlocked,
    /// There is no memory for the page.
    NoMemory(StableVma<'mm>),
    /// The page cannot be had.
    Failed(StableVma<'mm>),
}

impl<'mm> StableVma<'mm> {
    /// Returns whether somebody waits for the lock that this holds. The answer may be late.
    #[inline]
    pub fn is_contended(&self) -> bool {
        match &self.hold {
            #[cfg(CONFIG_PER_VMA_LOCK)]
            // SAFETY: The VMA is valid.
            Hold::Vma(vma) => unsafe { bindings::vma_lock_is_contended(vma.as_ptr()) },
            #[cfg(not(CONFIG_PER_VMA_LOCK))]
            Hold::Vma(_) => false,
            // SAFETY: The mm is valid.
            Hold::Mmap(guard, _) => unsafe {
                bindings::mmap_lock_is_contended(guard.mm.as_raw()) != 0
            },
        }
    }

    /// Brings in the page that was swapped out of the `nr`th slot of the window at the address
    /// `window`, or waits for one that is being moved, as a read fault would.
    ///
    /// # Context
    ///
    /// May sleep and may give up the lock, for which reason it takes the VMA by value: neither
    /// page tables of it nor folios may be locked. Nothing that was found in the VMA lives on.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::mm::internal::stable::{
    ///     StableVma,
    ///     SwapIn, //
    /// };
    ///
    /// /// The VMA, if it is stable still when its page is there.
    /// fn first_page(vma: StableVma<'_>, window: usize) -> Option<StableVma<'_>> {
    ///     match vma.swap_in(window, 0) {
    ///         SwapIn::Present(vma) | SwapIn::Done(vma) => Some(vma),
    ///         SwapIn::NoMemory(_) | SwapIn::Failed(_) | SwapIn::Unlocked => None,
    ///     }
    /// }
    /// ```
    pub fn swap_in(self, window: usize, nr: usize) -> SwapIn<'mm> {
        if nr >= PTRS_PER_PTE {
            return SwapIn::Failed(self);
        }
        let (pmdp, addr) = match self.pmd(window) {
            Some(slot) => (
                slot.pmdp,
                slot.addr()
                    .wrapping_add(nr.wrapping_mul(bindings::PAGE_SIZE)),
            ),
            None => return SwapIn::Failed(self),
        };
        let vma = self.as_ptr();
        // SAFETY: All zeroes is how C initializes what it does not name.
        let mut vmf: bindings::vm_fault = unsafe { MaybeUninit::zeroed().assume_init() };
        let mut ptl = ptr::null_mut();

        // SAFETY: The PMD entry is the one of `addr`, see `PmdSlot`.
        let ptep =
            unsafe { bindings::pte_offset_map_ro_nolock(self.mm().as_raw(), pmdp, addr, &mut ptl) };
        if ptep.is_null() {
            return SwapIn::Present(self);
        }
        // SAFETY: The table is mapped, and `addr` lies in it.
        let pte = unsafe { bindings::ptep_get(ptep) };
        if !matches!(
            Pte(pte).softleaf(),
            Some(Softleaf::Swap | Softleaf::Migration)
        ) {
            // SAFETY: Mapped above.
            unsafe { bindings::pte_unmap(ptep) };
            return SwapIn::Present(self);
        }

        vmf.__bindgen_anon_1.vma = vma;
        vmf.__bindgen_anon_1.address = addr;
        vmf.__bindgen_anon_1.real_address = addr;
        // SAFETY: The VMA is stable.
        vmf.__bindgen_anon_1.pgoff = unsafe { bindings::linear_page_index(vma, addr) };
        vmf.flags =
            bindings::fault_flag_FAULT_FLAG_ALLOW_RETRY | bindings::fault_flag_FAULT_FLAG_KILLABLE;
        if matches!(self.hold, Hold::Vma(_)) {
            vmf.flags |= bindings::fault_flag_FAULT_FLAG_VMA_LOCK;
        }
        vmf.pmd = pmdp;
        vmf.pte = ptep;
        vmf.ptl = ptl;
        vmf.__bindgen_anon_2.orig_pte = pte;

        // SAFETY: The fault describes a slot of a stable VMA with a non-present entry, mapped and
        // not locked, as this function wants it; it unmaps it. It checks under the PTE table lock
        // that the entry is still the one we saw.
        let ret = unsafe { bindings::do_swap_page(&mut vmf) };

        if ret & bindings::vm_fault_reason_VM_FAULT_RETRY != 0 {
            // The fault path gave up the lock that FAULT_FLAG_VMA_LOCK names.
            let _ = ManuallyDrop::new(self);
            return SwapIn::Unlocked;
        }
        if ret & bindings::vm_fault_reason_VM_FAULT_OOM != 0 {
            return SwapIn::NoMemory(self);
        }
        if ret & bindings::VM_FAULT_ERROR != 0 {
            return SwapIn::Failed(self);
        }
        SwapIn::Done(self)
    }
}

// The mmap lock's guard and the VMA. Which lock it is takes no room.
static_assert!(size_of::<StableVma<'_>>() == 2 * size_of::<usize>());
