// SPDX-License-Identifier: GPL-2.0

//! Tracepoints of memory management.
//!
//! C header: [`include/trace/events/huge_memory.h`](srctree/include/trace/events/huge_memory.h)

#![expect(
    clippy::macro_metavars_in_unsafe,
    reason = "who calls the functions that declare_trace! makes says why that is safe"
)]

use super::folio::PMD_ORDER;
use crate::{
    bindings,
    mm::MmWithUser, //
};
use core::ffi::{
    c_int,
    c_uint, //
};

/// How the scan or the collapse of a window ended, in the words of the C code that shares these
/// tracepoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScanResult(c_int);

impl ScanResult {
    /// Returns the result that C code has returned as `result`.
    #[inline]
    pub fn from_raw(result: c_int) -> Self {
        Self(result)
    }
}

macro_rules! scan_results {
    ($($(#[$doc:meta])* $name:ident => $c:ident;)*) => {
        impl ScanResult {$(
            $(#[$doc])*
            // CAST: The enum is small.
            pub const $name: Self = Self(bindings::$c as c_int);
        )*}
    };
}

scan_results! {
    /// Nothing of the below.
    FAIL => scan_result_SCAN_FAIL;
    /// The window can be collapsed, or was.
    SUCCEED => scan_result_SCAN_SUCCEED;
    /// There is no page table.
    NO_PTE_TABLE => scan_result_SCAN_NO_PTE_TABLE;
    /// A huge page is mapped.
    PMD_MAPPED => scan_result_SCAN_PMD_MAPPED;
    /// Too many holes.
    EXCEED_NONE_PTE => scan_result_SCAN_EXCEED_NONE_PTE;
    /// Too many swapped pages.
    EXCEED_SWAP_PTE => scan_result_SCAN_EXCEED_SWAP_PTE;
    /// Too many shared pages.
    EXCEED_SHARED_PTE => scan_result_SCAN_EXCEED_SHARED_PTE;
    /// A page is not there.
    PTE_NON_PRESENT => scan_result_SCAN_PTE_NON_PRESENT;
    /// userfaultfd tracks a page.
    PTE_UFFD => scan_result_SCAN_PTE_UFFD;
    /// No page of the kind that could be collapsed.
    PAGE_NULL => scan_result_SCAN_PAGE_NULL;
    /// Nodes are too far apart.
    SCAN_ABORT => scan_result_SCAN_SCAN_ABORT;
    /// References that are not explained.
    PAGE_COUNT => scan_result_SCAN_PAGE_COUNT;
    /// A folio that is not on an LRU list.
    PAGE_LRU => scan_result_SCAN_PAGE_LRU;
    /// A folio that could not be taken off its LRU list.
    DEL_PAGE_LRU => scan_result_SCAN_DEL_PAGE_LRU;
    /// A locked folio.
    PAGE_LOCK => scan_result_SCAN_PAGE_LOCK;
    /// An anonymous page in the place of one of the file.
    PAGE_ANON => scan_result_SCAN_PAGE_ANON;
    /// A hole of the file that was filled meanwhile.
    PAGE_FILLED => scan_result_SCAN_PAGE_FILLED;
    /// The file system has data of its own for a page.
    PAGE_HAS_PRIVATE => scan_result_SCAN_PAGE_HAS_PRIVATE;
    /// A page that is dirty, or being written back.
    PAGE_DIRTY_OR_WRITEBACK => scan_result_SCAN_PAGE_DIRTY_OR_WRITEBACK;
    /// Nobody uses the address space any more.
    ANY_PROCESS => scan_result_SCAN_ANY_PROCESS;
    /// The VMA may not have huge pages.
    VMA_CHECK => scan_result_SCAN_VMA_CHECK;
    /// The VMA does not span the window.
    ADDRESS_RANGE => scan_result_SCAN_ADDRESS_RANGE;
    /// The VMA is gone.
    VMA_NULL => scan_result_SCAN_VMA_NULL;
    /// No huge page to be had.
    ALLOC_HUGE_PAGE_FAIL => scan_result_SCAN_ALLOC_HUGE_PAGE_FAIL;
    /// The memory cgroup is at its limit.
    CGROUP_CHARGE_FAIL => scan_result_SCAN_CGROUP_CHARGE_FAIL;
    /// Bad memory.
    COPY_MC => scan_result_SCAN_COPY_MC;
}

#[expect(
    clippy::too_many_arguments,
    reason = "a tracepoint has as many as it has fields"
)]
mod points {
    use super::*;

    crate::declare_trace! {
        /// # Safety
        ///
        /// `mm` is valid.
        pub(super) unsafe fn mm_khugepaged_scan_pmd(
            mm: *mut bindings::mm_struct,
            pfn: usize,
            referenced: c_int,
            none_or_zero: c_int,
            status: c_int,
            unmapped: c_int,
        );

        /// # Safety
        ///
        /// `mm` is valid.
        pub(super) unsafe fn mm_collapse_huge_page(
            mm: *mut bindings::mm_struct,
            isolated: c_int,
            status: c_int,
            order: c_uint,
        );

        /// # Safety
        ///
        /// `folio` is valid or null.
        pub(super) unsafe fn mm_collapse_huge_page_isolate(
            folio: *mut bindings::folio,
            none_or_zero: c_int,
            referenced: c_int,
            status: c_int,
            order: c_uint,
        );

        /// # Safety
        ///
        /// `mm` is valid.
        pub(super) unsafe fn mm_collapse_huge_page_swapin(
            mm: *mut bindings::mm_struct,
            swapped_in: c_int,
            referenced: c_int,
            ret: c_int,
            order: c_uint,
        );

        /// # Safety
        ///
        /// `mm` is valid.
        pub(super) unsafe fn mm_collapse_batch(
            mm: *mut bindings::mm_struct,
            start: usize,
            windows: c_uint,
            huge: c_uint,
            refused: c_uint,
            stable_us: i64,
            source_us: i64,
            untouchable_ns: i64,
            recopied: c_uint,
            rounds: c_uint,
            old_way: c_uint,
            remapped: c_uint,
        );
    }
}

/// A window was scanned: `none_or_zero` and `swapped` count its PTEs.
///
/// # Context
///
/// Any, here and below. Costs one test of a flag while nobody traces.
#[inline(always)]
pub fn scanned(mm: &MmWithUser, none_or_zero: usize, swapped: usize, result: ScanResult) {
    // SAFETY: The mm is valid. CAST: A window has 512 pages.
    unsafe {
        points::mm_khugepaged_scan_pmd(
            mm.as_raw(),
            usize::MAX,
            0,
            none_or_zero as c_int,
            result.0,
            swapped as c_int,
        )
    };
}

/// The swapped pages of a window were faulted in, or not all of them.
#[inline(always)]
pub fn swapped_in(mm: &MmWithUser, nr: usize, result: ScanResult) {
    // SAFETY: The mm is valid. CAST: A window has 512 pages.
    unsafe {
        points::mm_collapse_huge_page_swapin(mm.as_raw(), nr as c_int, 0, result.0, PMD_ORDER)
    };
}

/// The pages of a window were isolated, or none of them was.
#[inline(always)]
pub fn isolated(none_or_zero: usize, result: ScanResult) {
    // SAFETY: No folio is named. CAST: A window has 512 pages.
    unsafe {
        points::mm_collapse_huge_page_isolate(
            core::ptr::null_mut(),
            none_or_zero as c_int,
            0,
            result.0,
            PMD_ORDER,
        )
    };
}

/// A window was collapsed, or was not.
#[inline(always)]
pub fn collapsed(mm: &MmWithUser, result: ScanResult) {
    let isolated = c_int::from(result.0 == ScanResult::SUCCEED.0);

    // SAFETY: The mm is valid.
    unsafe { points::mm_collapse_huge_page(mm.as_raw(), isolated, result.0, PMD_ORDER) };
}

/// The result of a batch of windows.
pub struct Batch {
    /// The first address of its windows.
    pub start: usize,
    /// How many windows it had.
    pub windows: u32,
    /// How many of them are huge now.
    pub huge: u32,
    /// How many were refused. The rest was put off.
    pub refused: u32,
    /// How many microseconds the VMA was kept stable.
    pub stable_us: i64,
    /// How many microseconds a source was kept locked, at most.
    pub source_us: i64,
    /// How many nanoseconds a window could not be accessed, at most.
    pub untouchable_ns: i64,
    /// How many pages were copied again because they were written.
    pub recopied: u32,
    /// How often sources were made read-only again.
    pub rounds: u32,
    /// How many windows had migration entries in the place of their sources.
    pub old_way: u32,
    /// How many huge pages were mapped by a PMD entry again.
    pub remapped: u32,
}

/// A batch of windows was done.
#[inline(always)]
pub fn batch(mm: &MmWithUser, batch: &Batch) {
    // SAFETY: The mm is valid.
    unsafe {
        points::mm_collapse_batch(
            mm.as_raw(),
            batch.start,
            batch.windows,
            batch.huge,
            batch.refused,
            batch.stable_us,
            batch.source_us,
            batch.untouchable_ns,
            batch.recopied,
            batch.rounds,
            batch.old_way,
            batch.remapped,
        )
    };
}
