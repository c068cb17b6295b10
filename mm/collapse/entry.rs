// SPDX-License-Identifier: GPL-2.0

//! Where C code comes in, and where it is called. No other file of this module knows of bindings.

use crate::{
    policy::{
        Limits,
        Policy, //
    },
    request,
};
use core::{
    ffi::c_int,
    ops::Range, //
};
use kernel::{
    bindings,
    error::to_result,
    mm::{
        stable::Stability,
        MmWithUser, //
    },
    prelude::*,
};

/// Serves MADV_COLLAPSE. `start..end` is page-aligned and does not wrap.
///
/// # Safety
///
/// `mm` is valid, and its users cannot all go away while this runs. Neither its mmap_lock nor any
/// VMA lock of it is held by the caller, who may sleep.
#[export]
pub(crate) unsafe extern "C" fn collapse_madvise(
    mm: *mut bindings::mm_struct,
    start: usize,
    end: usize,
) -> c_int {
    // SAFETY: By this function's contract.
    let mm = unsafe { MmWithUser::from_raw(mm) };
    let own = current!()
        .mm()
        .is_some_and(|own| core::ptr::eq(own.as_raw(), mm.as_raw()));
    let stability = if own { Stability::Vma } else { Stability::Mmap };

    let policy = Policy {
        limits: Limits::NONE,
        // Who acts on the memory of others, or for nobody, as DAMON does, heeds its owner.
        heed_nohugepage: !own,
        stability,
    };

    match request::collapse(mm, start..end, policy) {
        Ok(()) => 0,
        Err(err) => err.to_errno(),
    }
}

/// Lets the C code collapse windows of a file or of shmem.
pub(crate) fn collapse_file(mm: &MmWithUser, range: Range<usize>) -> Result {
    // SAFETY: The mm is valid and no lock of it is held.
    to_result(unsafe { bindings::collapse_file_range(mm.as_raw(), range.start, range.end) })
}

/// The passes of a collapse.
#[derive(Clone, Copy)]
pub(crate) enum Pass {
    Scan,
    Provide,
    FaultIn,
    Isolate,
    Copy,
    Install,
}

/// Stops here, if a test wants so, after a pass. Sleeps.
#[inline(always)]
pub(crate) fn hold_after(pass: Pass) {
    #[cfg(CONFIG_THP_COLLAPSE_RUST_DEBUG)]
    {
        let pass = match pass {
            Pass::Scan => bindings::collapse_pass_COLLAPSE_PASS_SCAN,
            Pass::Provide => bindings::collapse_pass_COLLAPSE_PASS_PROVIDE,
            Pass::FaultIn => bindings::collapse_pass_COLLAPSE_PASS_FAULT_IN,
            Pass::Isolate => bindings::collapse_pass_COLLAPSE_PASS_ISOLATE,
            Pass::Copy => bindings::collapse_pass_COLLAPSE_PASS_COPY,
            Pass::Install => bindings::collapse_pass_COLLAPSE_PASS_INSTALL,
        };

        // SAFETY: No spinlock is held between passes.
        unsafe { bindings::collapse_debug_hold(pass) };
    }
    #[cfg(not(CONFIG_THP_COLLAPSE_RUST_DEBUG))]
    let _ = pass;
}
