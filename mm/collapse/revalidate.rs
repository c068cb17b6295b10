// SPDX-License-Identifier: GPL-2.0

//! Looking up the VMA of a window again, after its lock was given up.

use crate::{
    outcome::Refusal,
    policy::Policy, //
};
use kernel::{
    mm::{
        internal::stable::StableVma,
        MmWithUser, //
    },
    prelude::*, //
};

/// Finds the VMA of the window at `addr` again, after its lock was given up. It may be another one.
pub(crate) fn revalidate<'mm>(
    mm: &'mm MmWithUser,
    policy: &Policy,
    addr: usize,
) -> Result<StableVma<'mm>, Refusal> {
    if current!().fatal_signal_pending() {
        return Err(Refusal::Killed);
    }
    let vma = mm
        .find_stable_vma(addr)
        .map_err(|_| Refusal::Killed)?
        .ok_or(Refusal::Gone)?;

    if mm.is_unstable() || vma.start() > addr || !vma.is_anonymous() {
        return Err(Refusal::Gone);
    }
    if !vma.has_anon_vma() {
        // A new mapping, which nothing was written to yet.
        return Err(Refusal::Empty);
    }
    if !vma.has_window(addr) || !vma.may_collapse(policy.heed_nohugepage) {
        return Err(Refusal::Unfit);
    }
    Ok(vma)
}
