// SPDX-License-Identifier: GPL-2.0

//! Where C code comes in, and where it is called. No other file of this module knows of bindings.

use crate::{
    outcome::Refusal,
    policy::{
        Asked,
        Caller,
        Limits,
        Policy, //
    },
    ranges::Segment,
    request, //
};
use core::{
    ffi::{
        c_int,
        c_uint, //
    },
    mem::{
        offset_of,
        size_of, //
    },
    ptr,
    slice, //
};
#[cfg(CONFIG_THP_COLLAPSE_RUST_DEBUG)]
use kernel::jump_label::static_branch_unlikely;
use kernel::{
    alloc::Flags,
    bindings,
    mm::{
        internal::thp,
        MmWithUser, //
    },
    prelude::*,
};

// A segment is an iovec by another name.
const _: () = assert!(
    size_of::<Segment>() == size_of::<bindings::iovec>()
        && offset_of!(Segment, addr) == offset_of!(bindings::iovec, iov_base)
        && offset_of!(Segment, len) == offset_of!(bindings::iovec, iov_len)
);

/// Serves MADV_COLLAPSE. Returns how many bytes of the ranges it got through, or an error when
/// these are none.
///
/// # Safety
///
/// `mm` is valid, and its users cannot all go away while this runs. Neither its mmap_lock nor any
/// VMA lock of it is held by the caller, who may sleep. `ranges` points to `nr_ranges` iovecs that
/// nobody changes meanwhile.
#[export]
pub(crate) unsafe extern "C" fn collapse_madvise(
    mm: *mut bindings::mm_struct,
    ranges: *const bindings::iovec,
    nr_ranges: usize,
    flags: c_uint,
) -> isize {
    // SAFETY: By this function's contract.
    let mm = unsafe { MmWithUser::from_raw(mm) };
    // SAFETY: By this function's contract. A segment has the layout of an iovec.
    let segments = unsafe { slice::from_raw_parts(ranges.cast::<Segment>(), nr_ranges) };
    let asked = Asked {
        limits: flags & bindings::MADV_F_COLLAPSE_LIMITS != 0,
        defrag: flags & bindings::MADV_F_COLLAPSE_DEFRAG != 0,
    };

    match Policy::new(asked, caller(mm, asked), sysfs_limits)
        .and_then(|policy| request::collapse(mm, policy, segments))
    {
        // No address space has more than that.
        Ok(bytes) => bytes.try_into().unwrap_or(isize::MAX),
        Err(err) => err.to_errno() as isize,
    }
}

/// Who asks for a collapse in `mm`.
fn caller(mm: &MmWithUser, asked: Asked) -> Caller {
    let current = current!();
    let Some(own) = current.mm() else {
        return Caller::Kernel;
    };
    if ptr::eq(own.as_raw(), mm.as_raw()) {
        return Caller::Owner;
    }

    let cap = bindings::CAP_SYS_ADMIN as c_int;
    let admin = if asked.limits {
        // It can do without, so that lacking it is nothing to report.
        // SAFETY: Looks at the credentials of the current task only.
        unsafe { bindings::capable_noaudit(cap) }
    } else {
        // SAFETY: As above.
        unsafe { bindings::capable(cap) }
    };

    Caller::Other { admin }
}

/// The limits of sysfs as they stand now.
fn sysfs_limits() -> Limits {
    let mut limits = bindings::collapse_limits::default();

    // SAFETY: Writes to what it is given.
    unsafe { bindings::collapse_sysfs_limits(&mut limits) };
    Limits {
        none: limits.none as usize,
        swap: limits.swap as usize,
        shared: limits.shared as usize,
    }
}

/// Has the C code collapse a window of a file or of shmem. May sleep.
pub(crate) fn collapse_file_window(
    mm: &MmWithUser,
    addr: usize,
    limits: Limits,
    gfp: Flags,
    heed_nohugepage: bool,
) -> Result<(), Refusal> {
    let policy = bindings::collapse_policy {
        // Limits are no larger than a window has PTEs.
        limits: bindings::collapse_limits {
            none: limits.none as c_uint,
            swap: limits.swap as c_uint,
            shared: limits.shared as c_uint,
        },
        gfp: thp::raw_gfp(gfp),
        heed_nohugepage,
    };
    // SAFETY: The mm is valid and no lock of it is held. The policy outlives the call.
    let result = unsafe { bindings::collapse_file_window(mm.as_raw(), addr, &policy) };

    if result < 0 {
        return Err(match Error::from_errno(result) {
            EINTR => Refusal::Killed,
            _ => Refusal::NoMemory,
        });
    }
    match result as bindings::scan_result {
        bindings::scan_result_SCAN_SUCCEED | bindings::scan_result_SCAN_PMD_MAPPED => Ok(()),
        bindings::scan_result_SCAN_EXCEED_NONE_PTE => Err(Refusal::TooManyHoles),
        bindings::scan_result_SCAN_EXCEED_SWAP_PTE => Err(Refusal::TooManySwapped),
        bindings::scan_result_SCAN_PAGE_LOCK => Err(Refusal::Locked),
        bindings::scan_result_SCAN_PAGE_COUNT
        | bindings::scan_result_SCAN_PAGE_LRU
        | bindings::scan_result_SCAN_DEL_PAGE_LRU => Err(Refusal::Referenced),
        bindings::scan_result_SCAN_PAGE_FILLED | bindings::scan_result_SCAN_PAGE_ANON => {
            Err(Refusal::Raced)
        }
        bindings::scan_result_SCAN_PAGE_HAS_PRIVATE
        | bindings::scan_result_SCAN_PAGE_DIRTY_OR_WRITEBACK => Err(Refusal::Writeback),
        bindings::scan_result_SCAN_ALLOC_HUGE_PAGE_FAIL => Err(Refusal::NoHugePage),
        bindings::scan_result_SCAN_CGROUP_CHARGE_FAIL => Err(Refusal::Charge),
        bindings::scan_result_SCAN_COPY_MC => Err(Refusal::MachineCheck),
        bindings::scan_result_SCAN_PTE_UFFD => Err(Refusal::Uffd),
        bindings::scan_result_SCAN_SCAN_ABORT => Err(Refusal::TooFar),
        bindings::scan_result_SCAN_VMA_CHECK | bindings::scan_result_SCAN_ADDRESS_RANGE => {
            Err(Refusal::Unfit)
        }
        bindings::scan_result_SCAN_ANY_PROCESS | bindings::scan_result_SCAN_VMA_NULL => {
            Err(Refusal::Gone)
        }
        // The pages of the file are not to be had, or not ours to move.
        _ => Err(Refusal::Foreign),
    }
}

/// The passes of a collapse.
#[derive(Clone, Copy)]
pub(crate) enum Pass {
    Scan,
    Prealloc,
    FaultIn,
    Remap,
    Protect,
    Unmap,
    Copy,
    Switch,
}

/// Stops here, if a test wants so, after a pass. Sleeps.
#[inline(always)]
pub(crate) fn hold_after(pass: Pass) {
    #[cfg(CONFIG_THP_COLLAPSE_RUST_DEBUG)]
    {
        let pass = match pass {
            Pass::Scan => bindings::collapse_pass_COLLAPSE_PASS_SCAN,
            Pass::Prealloc => bindings::collapse_pass_COLLAPSE_PASS_PREALLOC,
            Pass::FaultIn => bindings::collapse_pass_COLLAPSE_PASS_FAULT_IN,
            Pass::Remap => bindings::collapse_pass_COLLAPSE_PASS_REMAP,
            Pass::Protect => bindings::collapse_pass_COLLAPSE_PASS_PROTECT,
            Pass::Unmap => bindings::collapse_pass_COLLAPSE_PASS_UNMAP,
            Pass::Copy => bindings::collapse_pass_COLLAPSE_PASS_COPY,
            Pass::Switch => bindings::collapse_pass_COLLAPSE_PASS_SWITCH,
        };

        // SAFETY: No spinlock is held between passes.
        unsafe { bindings::collapse_debug_hold(pass) };
    }
    #[cfg(not(CONFIG_THP_COLLAPSE_RUST_DEBUG))]
    let _ = pass;
}

/// Returns whether a test has ever asked for a fault.
#[cfg(CONFIG_THP_COLLAPSE_RUST_DEBUG)]
#[inline(always)]
fn faults_armed() -> bool {
    // SAFETY: C code defines the key.
    unsafe { static_branch_unlikely!(bindings::collapse_faults, bindings::collapse_faults, armed) }
}

/// Returns whether a test wants the copy that was just made to have met bad memory.
#[inline(always)]
pub(crate) fn fail_copy() -> bool {
    #[cfg(CONFIG_THP_COLLAPSE_RUST_DEBUG)]
    {
        // SAFETY: It looks at a counter of its own.
        faults_armed() && unsafe { bindings::collapse_debug_fail_copy() }
    }
    #[cfg(not(CONFIG_THP_COLLAPSE_RUST_DEBUG))]
    false
}

/// Returns whether a test wants the references that were just counted to be too many.
#[inline(always)]
pub(crate) fn fail_count() -> bool {
    #[cfg(CONFIG_THP_COLLAPSE_RUST_DEBUG)]
    {
        // SAFETY: It looks at a counter of its own.
        faults_armed() && unsafe { bindings::collapse_debug_fail_count() }
    }
    #[cfg(not(CONFIG_THP_COLLAPSE_RUST_DEBUG))]
    false
}

/// Whether a test wants all windows to be unmapped.
pub(crate) fn unmaps_all() -> bool {
    #[cfg(CONFIG_THP_COLLAPSE_RUST_DEBUG)]
    {
        // SAFETY: It looks at a variable of its own.
        unsafe { bindings::collapse_debug_unmaps_all() }
    }
    #[cfg(not(CONFIG_THP_COLLAPSE_RUST_DEBUG))]
    false
}

/// Windows that share one hold of the PMD lock and one flush when they are switched. With more of
/// them, each is inaccessible for longer, and there are fewer interrupts: see docs/bench.md.
const WINDOWS_PER_SWITCH: usize = 3;

/// How many windows are switched at a time.
pub(crate) fn windows_per_switch() -> usize {
    #[cfg(CONFIG_THP_COLLAPSE_RUST_DEBUG)]
    {
        // SAFETY: It looks at a variable of its own. CAST: At most 16.
        let nr = unsafe { bindings::collapse_debug_per_switch() } as usize;

        if nr != 0 {
            return nr;
        }
    }
    WINDOWS_PER_SWITCH
}

/// Adds to the counters in debugfs what a batch had to do twice, or the old way.
pub(crate) fn count_work(held: &crate::trace::Held) {
    #[cfg(CONFIG_THP_COLLAPSE_RUST_DEBUG)]
    // SAFETY: It adds to counters of its own. CAST: A batch has no more than 16 windows.
    unsafe {
        bindings::collapse_debug_count_work(
            held.recopied as c_uint,
            held.rounds as c_uint,
            held.old_way as c_uint,
            held.remapped as c_uint,
        )
    };
    #[cfg(not(CONFIG_THP_COLLAPSE_RUST_DEBUG))]
    let _ = held;
}
