// SPDX-License-Identifier: GPL-2.0

//! Copying the sources of a window into its huge folio.

use crate::{
    control::Kit,
    entry::fail_copy,
    isolate::{
        source_page,
        Isolated, //
    },
    outcome::Refusal,
};
use kernel::{
    mm::{
        folio::MachineCheck,
        tlb::Flushed, //
    },
    page::PAGE_SIZE, //
};

/// A window whose huge folio holds what the sources hold.
///
/// # Invariants
///
/// The contents of the folio were copied after the flush that isolating the sources owed.
pub(crate) struct Copied<'v, 'mm>(Isolated<'v, 'mm>);

impl<'v, 'mm> Copied<'v, 'mm> {
    pub(crate) fn isolated(&self) -> &Isolated<'v, 'mm> {
        &self.0
    }

    pub(crate) fn into_isolated(self) -> Isolated<'v, 'mm> {
        self.0
    }
}

impl<'v, 'mm> Isolated<'v, 'mm> {
    /// Copies the sources. Holes and zero pages are cleared instead.
    ///
    /// `_flushed` says that no CPU can write the sources through its TLB any more.
    ///
    /// A source whose memory turns out to be bad fails the window, which is put back: nothing is
    /// lost but what the hardware lost.
    pub(crate) fn copy(
        mut self,
        _flushed: &Flushed<'v>,
    ) -> Result<Copied<'v, 'mm>, (Option<Kit<'mm>>, Refusal)> {
        let slot = self.sources.slot();
        let mut addr = slot.addr();
        let mut result = Ok(());

        for (page, pte) in self.folio.pages_mut().zip(self.sources.ptes()) {
            if pte.is_none() {
                page.clear(addr);
            } else {
                // SAFETY: `sources` holds the mapping's reference, and its page is quiesced: see
                // the head of isolate.rs.
                result = unsafe { page.copy_from(source_page(*pte), addr, slot.vma()) };
                if result.is_err() || fail_copy() {
                    result = Err(MachineCheck);
                    break;
                }
            }
            addr = addr.wrapping_add(PAGE_SIZE);
        }

        if result.is_err() {
            return Err((self.roll_back(), Refusal::MachineCheck));
        }
        self.folio.mark_uptodate();
        // INVARIANT: The loop above ended without a break.
        Ok(Copied(self))
    }
}
