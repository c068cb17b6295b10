// SPDX-License-Identifier: GPL-2.0

//! Copying the sources of a window into its huge folio.

use crate::{
    entry::fail_copy,
    isolate::{
        source_page,
        Isolated, //
    },
    outcome::Refusal,
};
use kernel::{
    mm::tlb::Flushed,
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
    /// A source whose memory turns out to be bad fails the window, which is put back by being
    /// dropped: nothing is lost but what the hardware lost.
    pub(crate) fn copy(mut self, _flushed: &Flushed<'v>) -> Result<Copied<'v, 'mm>, Refusal> {
        let slot = self.sources.slot();
        let mut addr = slot.addr();

        for (page, pte) in self.folio.pages_mut().zip(self.sources.ptes()) {
            if pte.is_none() {
                page.clear(addr);
            } else {
                // SAFETY: `sources` holds the mapping's reference, and its page is quiesced: see
                // the head of isolate.rs.
                let copied = unsafe { page.copy_from(source_page(*pte), addr, slot.vma()) };

                if copied.is_err() || fail_copy() {
                    return Err(Refusal::MachineCheck);
                }
            }
            addr = addr.wrapping_add(PAGE_SIZE);
        }

        self.folio.mark_uptodate();
        // INVARIANT: The loop above went through all pages.
        Ok(Copied(self))
    }
}
