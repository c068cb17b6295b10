// SPDX-License-Identifier: GPL-2.0

//! MMU notifier ranges.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h)

use super::virt::VmaRef;
use crate::{
    bindings,
    types::Opaque, //
};
use core::marker::PhantomData;
use pin_init::{
    pin_data,
    pin_init,
    pinned_drop,
    PinInit, //
};

/// A range whose translations in secondary MMUs are invalid.
///
/// From its start until it is dropped, KVM, IOMMUs and others neither use nor make translations
/// of the range.
///
/// # Invariants
///
/// `range` was initialized, and its start was announced.
#[pin_data(PinnedDrop)]
pub struct InvalidateRange<'v> {
    #[pin]
    range: Opaque<bindings::mmu_notifier_range>,
    _vma: PhantomData<&'v VmaRef>,
}

impl<'v> InvalidateRange<'v> {
    /// Announces that entries of `start..end` will be cleared.
    ///
    /// # Context
    ///
    /// May sleep, here and when it is dropped.
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
            _vma: PhantomData,
        })
    }
}

#[pinned_drop]
impl PinnedDrop for InvalidateRange<'_> {
    fn drop(self: core::pin::Pin<&mut Self>) {
        // SAFETY: By the type invariants the start was announced.
        unsafe { bindings::mmu_notifier_invalidate_range_end(self.range.get()) };
    }
}
