// SPDX-License-Identifier: GPL-2.0

//! What a request may do: made once, from its flags, its caller and sysfs, and never looked up
//! again.

use core::ops::Range;
use kernel::{
    alloc::Flags,
    error::Result,
    mm::{
        pgtable::PTRS_PER_PTE,
        stable::Stability,
        thp,
        virt::VmaRef,
        MmWithUser, //
    },
};

/// How many PTEs of each kind a window may have and still be collapsed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    /// Holes and zero pages.
    pub(crate) none: usize,
    /// Swapped pages.
    pub(crate) swap: usize,
    /// Pages that other processes map.
    pub(crate) shared: usize,
}

impl Limits {
    /// No limits.
    pub(crate) const NONE: Limits = Limits {
        none: PTRS_PER_PTE,
        swap: PTRS_PER_PTE,
        shared: PTRS_PER_PTE,
    };
}

/// What a request may do.
#[derive(Clone, Copy)]
pub(crate) struct Policy {
    pub(crate) limits: Limits,
    /// Whether MADV_NOHUGEPAGE is heeded.
    pub(crate) heed_nohugepage: bool,
    /// What keeps VMAs stable.
    pub(crate) stability: Stability,
}

impl Policy {
    /// The limits in a VMA.
    pub(crate) fn limits_in(&self, vma: &VmaRef) -> Limits {
        if vma.is_userfaultfd_armed() {
            // Who watches for missing pages wants to be asked before a hole is filled.
            return Limits {
                none: 0,
                ..self.limits
            };
        }
        self.limits
    }
}

/// How the huge pages of a request are allocated: as a page fault would, in the one of its VMAs
/// that lets it try hardest.
///
/// [`None`] when nothing is mapped in the range.
pub(crate) fn gfp(
    mm: &MmWithUser,
    stability: Stability,
    range: Range<usize>,
) -> Result<Option<Flags>> {
    let Range {
        start: mut addr,
        end,
    } = range;
    let mut best = None;

    while addr < end {
        let Some(vma) = mm.find_stable_vma(addr, stability)? else {
            break;
        };
        if vma.start() >= end {
            break;
        }
        let gfp = vma.thp_gfp();

        if thp::may_reclaim(gfp) {
            return Ok(Some(gfp));
        }
        best = best.or(Some(gfp));
        addr = vma.end();
    }
    Ok(best)
}
