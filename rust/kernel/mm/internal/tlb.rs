// SPDX-License-Identifier: GPL-2.0

//! TLB flushes that are owed.
//!
//! Code that changes page table entries now and flushes later owes a flush: to those who rely on
//! the old translation being gone, and to concurrent zaps, which would otherwise find nothing to
//! flush. Here the debt is a value. Its type says whether an entry was changed on it: if not, it
//! can be given up; else only a flush ends it.

use crate::{
    bindings,
    mm::virt::VmaRef,
    prelude::*, //
};
use core::{
    marker::PhantomData,
    mem::ManuallyDrop, //
};

/// No entry was changed yet.
pub struct Untouched;

/// Entries may have been changed.
pub struct Touched;

/// A TLB flush that is owed to a range of a VMA.
///
/// While this value exists, the mm is marked as having a flush pending, so that a concurrent zap
/// that finds an entry changed flushes for itself before it returns.
///
/// An entry can only be changed on a debt that is [`Touched`], and such a debt cannot be given up:
/// dropping it flushes. A refused window owes its flush as well. Otherwise mprotect(PROT_READ)
/// would find the entry read-only already and not flush, and a CPU could go on to write through a
/// stale translation.
///
/// # Invariants
///
/// The mm of `vma` is marked as having a flush pending, once for this value.
#[must_use = "the flush happens when this is dropped: say when"]
pub struct OwedFlush<'v, S = Touched> {
    vma: &'v VmaRef,
    start: usize,
    end: usize,
    _state: PhantomData<S>,
}

/// Proof that a flush that was owed in a VMA was made.
pub struct Flushed<'v>(PhantomData<&'v VmaRef>);

impl<'v> OwedFlush<'v, Untouched> {
    /// Announces that entries of `start..end`, in bytes, will be changed.
    ///
    /// # Context
    ///
    /// To be called before the first page table lock is taken: code that takes that lock after us
    /// must see what was announced. Does not sleep.
    #[inline]
    pub fn begin(vma: &'v VmaRef, start: usize, end: usize) -> Self {
        // SAFETY: The mm is valid as long as its VMA is stable.
        unsafe { bindings::inc_tlb_flush_pending(vma.mm().as_raw()) };
        // INVARIANT: Marked just now.
        Self {
            vma,
            start,
            end,
            _state: PhantomData,
        }
    }

    /// Returns the debt as one on which entries may be changed.
    #[inline]
    pub fn touch(self) -> OwedFlush<'v, Touched> {
        let this = ManuallyDrop::new(self);

        // INVARIANT: The mark passes from one value to the other.
        OwedFlush {
            vma: this.vma,
            start: this.start,
            end: this.end,
            _state: PhantomData,
        }
    }

    /// Gives up the debt without a flush.
    #[inline]
    pub fn void(self) {
        let this = ManuallyDrop::new(self);

        // SAFETY: The mm is valid as long as its VMA is stable. By the type invariants it is marked
        // for us.
        unsafe { bindings::dec_tlb_flush_pending(this.vma.mm().as_raw()) };
    }
}

impl<'v> OwedFlush<'v, Touched> {
    /// Returns whether the range holds an address of `vma`'s address space.
    #[inline(always)]
    pub(super) fn covers(&self, vma: &VmaRef, addr: usize) -> bool {
        core::ptr::eq(self.vma.mm(), vma.mm()) && (self.start..self.end).contains(&addr)
    }

    /// Flushes the range, from the TLBs of all CPUs and from their caches of the upper levels.
    ///
    /// # Context
    ///
    /// May be called with spinlocks held, but with interrupts enabled. Does not sleep.
    #[inline]
    pub fn flush(self) -> Flushed<'v> {
        drop(self);
        Flushed(PhantomData)
    }
}

impl<S> Drop for OwedFlush<'_, S> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: The VMA is stable and its mm valid. By the type invariants that is marked for us.
        unsafe {
            bindings::flush_tlb_range(self.vma.as_ptr(), self.start, self.end);
            bindings::dec_tlb_flush_pending(self.vma.mm().as_raw());
        }
    }
}

/// Flushes `start..end`, in bytes, at once. For entries that nobody can have changed meanwhile, so
/// that there is no debt to announce.
#[inline]
pub(super) fn flush_range(vma: &VmaRef, start: usize, end: usize) {
    // SAFETY: The VMA is stable and its mm valid.
    unsafe { bindings::flush_tlb_range(vma.as_ptr(), start, end) };
}

// A range and its VMA; and a proof that takes no room.
static_assert!(size_of::<OwedFlush<'_>>() == 3 * size_of::<usize>());
static_assert!(size_of::<Flushed<'_>>() == 0);
