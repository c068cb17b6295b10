// SPDX-License-Identifier: GPL-2.0

//! Copying the sources of a window into its huge folio.

use crate::{
    hooks::fail_copy,
    outcome::Refusal,
    pool::{
        Prealloc,
        Prepared, //
    },
    snapshot::source_page,
    sources::{
        Held,
        Sources, //
    },
    window::{
        Failed,
        Window, //
    },
};
use kernel::{
    mm::{
        internal::{
            folio::{
                BlankPage,
                FilledFolio,
                Written, //
            },
            pgtable::{
                Pte,
                PteTable, //
            },
        },
        virt::VmaRef, //
    },
    page::PAGE_SIZE, //
};

/// A window whose huge folio holds what the sources held when they were copied.
pub(crate) struct Copied<'mm, S> {
    pub(crate) window: Window,
    pub(crate) folio: FilledFolio,
    pub(crate) deposit: PteTable<'mm>,
    pub(crate) sources: S,
}

impl<'v, 'mm, S: Sources<'v>> Held<'mm, S> {
    /// Copies the sources. Holes and zero pages are cleared instead.
    ///
    /// A source whose memory turns out to be bad fails the window: nothing is lost but what the
    /// hardware lost.
    pub(crate) fn copy(self) -> Result<Copied<'mm, S>, Failed<Prepared<'mm>>> {
        let Self {
            window,
            folio,
            deposit,
            sources,
        } = self;
        let slot = sources.slot();
        let mut addr = slot.addr();
        let mut ptes = sources.snapshot().ptes.iter();

        let filled = folio.fill(|_, page| {
            let pte = ptes.next().copied().unwrap_or(Pte::NONE);
            let written = copy_page(page, pte, addr, slot.vma());

            addr = addr.wrapping_add(PAGE_SIZE);
            written
        });
        match filled {
            Ok(folio) => Ok(Copied {
                window,
                folio,
                deposit,
                sources,
            }),
            Err((folio, refusal)) => {
                let held = Held {
                    window,
                    folio,
                    deposit,
                    sources,
                };

                Err(Failed::new(held.give_back(), refusal))
            }
        }
    }
}

/// Copies the page that `pte` maps at `addr`, or clears `page` where there is none.
#[inline(always)]
fn copy_page(page: BlankPage<'_>, pte: Pte, addr: usize, vma: &VmaRef) -> Result<Written, Refusal> {
    if pte.is_none() {
        return Ok(page.clear(addr));
    }
    // SAFETY: The sources hold references.
    let copied = page.copy(unsafe { source_page(pte) }, addr, vma);

    if fail_copy() {
        return Err(Refusal::MachineCheck);
    }
    copied.map_err(|_| Refusal::MachineCheck)
}

impl<'v, 'mm, S: Sources<'v>> Copied<'mm, S> {
    /// Copies some slots again.
    pub(crate) fn copy_slots(&mut self, nrs: impl Iterator<Item = usize>) -> Result<(), Refusal> {
        let slot = self.sources.slot();
        let ptes = &self.sources.snapshot().ptes;

        for nr in nrs {
            let addr = slot.addr().wrapping_add(nr.wrapping_mul(PAGE_SIZE));

            if let (Some(page), Some(pte)) = (self.folio.page_mut(nr), ptes.get(nr)) {
                copy_page(page, *pte, addr, slot.vma())?;
            }
        }
        Ok(())
    }

    /// Gives the sources back.
    pub(crate) fn give_back(self) -> Prepared<'mm> {
        Prepared {
            window: self.window,
            prealloc: Prealloc {
                folio: self.folio.into_blank(),
                table: self.deposit,
                snapshot: self.sources.give_back(),
            },
        }
    }
}
