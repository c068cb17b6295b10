// SPDX-License-Identifier: GPL-2.0

//! Counters of memory management.

use super::folio::{
    HugeFolio,
    PMD_ORDER, //
};
use crate::{
    bindings,
    mm::virt::VmaRef, //
};

/// Events in the life of a huge page that /proc/vmstat, memory.stat and the per-size counters
/// count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CollapseEvent {
    /// A huge page was allocated.
    Alloc,
    /// A huge page could not be allocated.
    AllocFailed,
    /// A window has too many empty PTEs.
    ExceedNone,
    /// A window has too many swapped pages.
    ExceedSwap,
    /// A window has too many shared pages.
    ExceedShared,
}

/// Counts an event, in /proc/vmstat and for folios of PMD order.
///
/// # Context
///
/// Any.
pub fn count(event: CollapseEvent) {
    let (vm, mthp) = match event {
        CollapseEvent::Alloc => (
            bindings::vm_event_item_THP_COLLAPSE_ALLOC,
            bindings::mthp_stat_item_MTHP_STAT_COLLAPSE_ALLOC,
        ),
        CollapseEvent::AllocFailed => (
            bindings::vm_event_item_THP_COLLAPSE_ALLOC_FAILED,
            bindings::mthp_stat_item_MTHP_STAT_COLLAPSE_ALLOC_FAILED,
        ),
        CollapseEvent::ExceedNone => (
            bindings::vm_event_item_THP_SCAN_EXCEED_NONE_PTE,
            bindings::mthp_stat_item_MTHP_STAT_COLLAPSE_EXCEED_NONE,
        ),
        CollapseEvent::ExceedSwap => (
            bindings::vm_event_item_THP_SCAN_EXCEED_SWAP_PTE,
            bindings::mthp_stat_item_MTHP_STAT_COLLAPSE_EXCEED_SWAP,
        ),
        CollapseEvent::ExceedShared => (
            bindings::vm_event_item_THP_SCAN_EXCEED_SHARED_PTE,
            bindings::mthp_stat_item_MTHP_STAT_COLLAPSE_EXCEED_SHARED,
        ),
    };

    // SAFETY: Both items are valid. CAST: PMD_ORDER is small.
    unsafe {
        bindings::count_vm_event(vm);
        bindings::count_mthp_stat(PMD_ORDER as core::ffi::c_int, mthp);
    }
}

impl HugeFolio {
    /// Counts the folio as a collapse's, for the memory cgroup that it is charged to: if any.
    pub fn count_memcg_alloc(&self) {
        // SAFETY: The folio is valid.
        unsafe {
            bindings::count_memcg_folio_events(
                self.as_ptr(),
                bindings::vm_event_item_THP_COLLAPSE_ALLOC,
                1,
            )
        };
    }
}

impl VmaRef {
    /// Adds `pages` base pages to the rss of this VMA's address space, as anonymous memory.
    ///
    /// # Context
    ///
    /// Any; a page table may be locked.
    #[inline]
    pub fn add_anon_rss(&self, pages: usize) {
        // SAFETY: The mm is valid. CAST: No address space has that many pages.
        unsafe { bindings::add_anon_rss(self.mm().as_raw(), pages as isize) };
    }
}
