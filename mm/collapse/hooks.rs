// SPDX-License-Identifier: GPL-2.0

//! Hooks for tests. Without CONFIG_THP_COLLAPSE_RUST_DEBUG they do nothing.

#[cfg(CONFIG_THP_COLLAPSE_RUST_DEBUG)]
use core::ffi::c_uint;
#[cfg(CONFIG_THP_COLLAPSE_RUST_DEBUG)]
use kernel::{
    bindings,
    jump_label::static_branch_unlikely, //
};

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

/// Returns whether a test wants all windows to be unmapped.
pub(crate) fn unmaps_all() -> bool {
    #[cfg(CONFIG_THP_COLLAPSE_RUST_DEBUG)]
    {
        // SAFETY: It looks at a variable of its own.
        unsafe { bindings::collapse_debug_unmaps_all() }
    }
    #[cfg(not(CONFIG_THP_COLLAPSE_RUST_DEBUG))]
    false
}

/// Returns how many windows a test wants to be switched at a time, if it does.
pub(crate) fn windows_per_switch() -> Option<usize> {
    #[cfg(CONFIG_THP_COLLAPSE_RUST_DEBUG)]
    {
        // SAFETY: It looks at a variable of its own. CAST: At most 16.
        let nr = unsafe { bindings::collapse_debug_per_switch() } as usize;

        if nr != 0 {
            return Some(nr);
        }
    }
    None
}

/// Adds to the counters in debugfs what a batch had to do twice, or the old way.
pub(crate) fn count_work(recopied: usize, rounds: usize, old_way: usize, remapped: usize) {
    #[cfg(CONFIG_THP_COLLAPSE_RUST_DEBUG)]
    // SAFETY: It adds to counters of its own. CAST: A batch has no more than 16 windows.
    unsafe {
        bindings::collapse_debug_count_work(
            recopied as c_uint,
            rounds as c_uint,
            old_way as c_uint,
            remapped as c_uint,
        )
    };
    #[cfg(not(CONFIG_THP_COLLAPSE_RUST_DEBUG))]
    let _ = (recopied, rounds, old_way, remapped);
}
