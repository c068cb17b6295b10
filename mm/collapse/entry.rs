// SPDX-License-Identifier: GPL-2.0

//! Where C code comes in.

use crate::{
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
use kernel::{
    bindings,
    mm::MmWithUser,
    prelude::*, //
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

/// The caller that asks for a collapse in `mm`.
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
