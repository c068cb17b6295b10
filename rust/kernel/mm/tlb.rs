// SPDX-License-Identifier: GPL-2.0

//! TLB flushes that are owed.
//!
//! Who changes page table entries and flushes later owes that flush, to those who wait for it, and
//! to those who find the changed entries and would conclude that there is nothing to flush. The
//! debt is a value here: it can be paid or shown to be void, but not forgotten.

use super::virt::VmaRef;
use crate::bindings;
use core::{
    marker::PhantomData,
    mem::ManuallyDrop, //
};

/// A TLB flush that is owed to a range of a VMA.
///
/// While this exists, the mm is marked as having a flush pending, so that a concurrent zap that
/// finds an entry gone flushes for itself before it returns.
///
/// Dropping it flushes.
#[must_use = "the flush happens when this is dropped: say when"]
pub struct OwedFlush<'v> {
    vma: &'v VmaRef,
    start: usize,
    end: usize,
}

/// Proof that a range was flushed.
pub struct Flushed<'v>(PhantomData<&'v VmaRef>);

impl<'v> OwedFlush<'v> {
    /// Announces that entries of `start..end` will be changed. To be called before the first page
    /// table lock is taken.
    #[inline]
    pub fn begin(vma: &'v VmaRef, start: usize, end: usize) -> Self {
        // SAFETY: The mm is valid as long as its VMA is stable.
        unsafe { bindings::inc_tlb_flush_pending(vma.mm().as_raw()) };
        Self { vma, start, end }
    }

    /// Flushes the range, from the TLBs of all CPUs and from their caches of the upper levels.
    ///
    /// May be called with spinlocks held, but with interrupts enabled.
    #[inline]
    pub fn flush(self) -> Flushed<'v> {
        drop(self);
        Flushed(PhantomData)
    }

    /// Goes without the flush, because every entry that was changed is as it was before.
    #[inline]
    pub fn void(self) {
        let this = ManuallyDrop::new(self);

        // SAFETY: Undoes `begin()`.
        unsafe { bindings::dec_tlb_flush_pending(this.vma.mm().as_raw()) };
    }
}

impl Drop for OwedFlush<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: The VMA is stable and its mm valid; the decrement undoes `begin()`.
        unsafe {
            bindings::flush_tlb_range(self.vma.as_ptr(), self.start, self.end);
            bindings::dec_tlb_flush_pending(self.vma.mm().as_raw());
        }
    }
}
