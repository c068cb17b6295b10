// SPDX-License-Identifier: GPL-2.0

//! Windows of files and of shmem, which the C code collapses.

use crate::{
    outcome::Refusal,
    policy::Limits, //
};
use core::ffi::c_uint;
use kernel::{
    alloc::Flags,
    bindings,
    mm::{
        internal::{
            thp,
            trace::ScanResult, //
        },
        MmWithUser, //
    },
    prelude::*,
};

/// Has the C code collapse a window of a file or of shmem. May sleep.
pub(crate) fn collapse_window(
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
    Refusal::check(ScanResult::from_raw(result))
}
