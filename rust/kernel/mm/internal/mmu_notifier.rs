// SPDX-License-Identifier: GPL-2.0

//! MMU notifier ranges.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h)

use crate::{
    bindings,
    mm::virt::VmaRef,
    prelude::*,
    types::Opaque, //
};
use core::ptr;

/// A range whose translations in secondary MMUs are invalid.
///
/// From its start until it is dropped, KVM, IOMMUs and others neither use nor make translations
/// of the range.
///
/// # Invariants
///
/// `range` is of the address space of `vma`, was initialized, and its start was announced.
///
/// # Examples
///
/// ```
/// use kernel::mm::{
///     internal::mmu_notifier::InvalidateRange,
///     virt::VmaRef, //
/// };
///
/// fn change_all(vma: &VmaRef) {
///     pin_init::stack_pin_init!(let range = InvalidateRange::clear(vma, vma.start(), vma.end()));
///
///     // Here page tables are locked, changed and unlocked again.
///     let _ = range;
/// }
/// ```
#[pin_data(PinnedDrop)]
pub struct InvalidateRange<'v> {
    #[pin]
    range: Opaque<bindings::mmu_notifier_range>,
    vma: &'v VmaRef,
}

impl<'v> InvalidateRange<'v> {
    /// Returns whether `start..end`, in bytes, of the address space of `vma` lies in this range.
    #[inline]
    pub fn covers(&self, vma: &VmaRef, start: usize, end: usize) -> bool {
        // SAFETY: By the type invariants the range was initialized. Nothing changes these fields
        // until it is dropped.
        let (first, last) = unsafe { ((*self.range.get()).start, (*self.range.get()).end) };

        ptr::eq(self.vma.mm(), vma.mm()) && first <= start && end <= last
    }

    /// Announces that entries of `start..end`, in bytes, will be cleared.
    ///
    /// # Context
    ///
    /// May sleep, here and when it is dropped: neither then nor now may a spinlock be held.
    pub fn clear(vma: &'v VmaRef, start: usize, end: usize) -> impl PinInit<Self> {
        // INVARIANT: Both are done by the initializer.
        pin_init!(Self {
            range <- Opaque::ffi_init(|range| {
                // SAFETY: `range` is valid for writes, and the mm as long as its VMA is stable.
                unsafe {
                    bindings::mmu_notifier_range_init(
                        range,
                        bindings::mmu_notifier_event_MMU_NOTIFY_CLEAR,
                        0,
                        vma.mm().as_raw(),
                        start,
                        end,
                    );
                    bindings::mmu_notifier_invalidate_range_start(range);
                }
            }),
            vma,
        })
    }
}

#[pinned_drop]
impl PinnedDrop for InvalidateRange<'_> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants the start was announced.
        unsafe { bindings::mmu_notifier_invalidate_range_end(self.range.get()) };
    }
}
