// SPDX-License-Identifier: GPL-2.0

//! Pages that both the scan and the passes that lock sources refuse.

use crate::{
    outcome::Refusal,
    policy::Limits, //
};
use kernel::mm::internal::{
    folio::{
        Folio,
        PageRef, //
    },
    pgtable::{
        Pte,
        Softleaf,
        PTRS_PER_PTE, //
    },
    stat::{
        self,
        CollapseEvent, //
    },
};

/// Returns whether a page of a folio, which a PTE maps, can be a source.
///
/// # Context
///
/// The PTE table is locked.
#[inline(always)]
pub(crate) fn judge_page(pte: Pte, page: PageRef<'_>, folio: &Folio) -> Result<(), Refusal> {
    if pte.is_uffd() {
        return Err(Refusal::Uffd);
    }
    if !folio.is_anon() || folio.is_zone_device() {
        return Err(Refusal::Foreign);
    }
    if page.is_hwpoison() {
        return Err(Refusal::Poisoned);
    }
    Ok(())
}

/// Checks whether the page of a non-present entry can be faulted in.
pub(crate) fn judge_softleaf(pte: Pte, softleaf: Softleaf) -> Result<(), Refusal> {
    match softleaf {
        Softleaf::Swap | Softleaf::Migration if pte.is_swp_uffd_any() => Err(Refusal::Uffd),
        Softleaf::Swap | Softleaf::Migration => Ok(()),
        Softleaf::Device => Err(Refusal::Foreign),
        Softleaf::HwPoison => Err(Refusal::Poisoned),
        Softleaf::Marker if pte.is_swp_uffd_any() => Err(Refusal::Uffd),
        Softleaf::Marker => Err(Refusal::Marker),
    }
}

/// The PTEs of a window, by kind.
#[derive(Default)]
pub(crate) struct PteCounts {
    pub(crate) sources: usize,
    shared: usize,
    pub(crate) holes: usize,
    pub(crate) zeroes: usize,
}

impl PteCounts {
    /// Counts the page of a folio, if other processes may map it.
    #[inline(always)]
    pub(crate) fn note_shared(&mut self, folio: &Folio, limits: &Limits) -> Result<(), Refusal> {
        if limits.shared < PTRS_PER_PTE && folio.maybe_mapped_shared() {
            self.shared += 1;
            if self.shared > limits.shared {
                stat::count(CollapseEvent::ExceedShared);
                return Err(Refusal::TooManyShared);
            }
        }
        Ok(())
    }

    /// Returns whether a window may be collapsed that has so many holes and zero pages.
    pub(crate) fn judge_holes(&self, limits: &Limits) -> Result<(), Refusal> {
        if self.holes == PTRS_PER_PTE {
            return Err(Refusal::Empty);
        }
        if self.empty() > limits.none {
            stat::count(CollapseEvent::ExceedNone);
            return Err(Refusal::TooManyHoles);
        }
        Ok(())
    }

    /// Holes and zero pages.
    pub(crate) fn empty(&self) -> usize {
        self.holes + self.zeroes
    }
}
