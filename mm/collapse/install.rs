// SPDX-License-Identifier: GPL-2.0

//! Putting huge pages in the place of page tables.
//!
//! For each window of a batch, under the PMD lock: lock its PTE table, verify that every slot still
//! is just what we left there, and unhook the table. Then flush once for all of them, and map the
//! huge folios. All windows of a batch lie in one PMD table, so that one lock covers them.
//!
//! # What the verify sees
//!
//! - A hole that a fault has filled, or a zero page that was written: the slot is not what it was.
//! - A source that was zapped: its entry is gone, and can only be ours, see isolate.rs.
//! - A table that was freed, perhaps replaced by a new one: then our entries are gone. A window of
//!   holes and zero pages has none; but if all slots of the new table are as those of the old one
//!   were, then zeroes are what is there.
//! - An entry that was changed in place, because userfaultfd write-protected it. The huge page
//!   would not have this, so the window is put back.
//!
//! A hole that was filled and zapped again in between is a hole again. Rightly so.
//!
//! After the verify nothing can fail.
//!
//! # What stands in for the table until the flush
//!
//! Between small and huge translations of one address there has to be a flush with neither in
//! place: some CPUs do not stand both in their TLBs. It also rids CPUs of upper level entries that
//! lead to the old table, before that is freed. Small translations can only be of zero pages, or of
//! a hole that was filled and zapped and whose zap has not flushed yet: the others went when the
//! batch was isolated.
//!
//! For that time the PMD entry is not none, but a huge one that is invalid, as in the splitting of
//! huge pages: see [`NestedTable::unhook`]. It permits GUP-fast no access, which takes the slow
//! path then; that and everybody else goes on to take the PMD lock.
//!
//! GUP-fast may be in the old table at the time. It finds migration entries there, or zero pages,
//! neither of which it can use.
//!
//! [`NestedTable::unhook`]: kernel::mm::pgtable::NestedTable::unhook

use crate::{
    copy::Copied,
    isolate::{
        Isolated,
        Sources, //
    },
    release::Installed,
};
use kernel::mm::{
    folio::HugeFolio,
    pgtable::{
        NestedTable,
        PmdGuard,
        PteTable,
        Unhooked, //
    },
    tlb::{
        Flushed,
        OwedFlush, //
    },
};

/// A window whose PTE table was unhooked.
pub(crate) struct Hooked<'v, 'mm> {
    unhooked: Unhooked<'v>,
    sources: Sources<'v>,
    folio: HugeFolio,
    table: PteTable<'mm>,
}

impl<'v, 'mm> Copied<'v, 'mm> {
    /// Verifies that every slot is what we left, and returns whether zero pages are among them.
    #[inline(always)]
    fn verify(&self, table: &mut NestedTable<'_, 'v>) -> Option<bool> {
        let (ptes, left) = (
            self.isolated().sources.ptes(),
            self.isolated().sources.left(),
        );
        let mut zeroes = false;

        for (slot, (pte, left)) in table.slots().zip(ptes.iter().zip(left)) {
            let now = slot.read();

            // Hardware may have set the accessed bit of a zero page's PTE.
            if now != *left && !(pte.is_none() && now.is_zero_page() && left.is_zero_page()) {
                return None;
            }
            zeroes |= pte.is_none() && !left.is_none();
        }
        Some(zeroes)
    }

    /// Verifies the window and unhooks its table. If it is not what we left, it is handed back.
    pub(crate) fn unhook(
        self,
        pmd: &mut PmdGuard<'v>,
        owed: &OwedFlush<'v>,
    ) -> Result<Hooked<'v, 'mm>, Self> {
        let slot = self.isolated().sources.slot();
        let Some(mut table) = pmd.lock_table(slot) else {
            return Err(self);
        };
        let Some(zeroes) = self.verify(&mut table) else {
            return Err(self);
        };
        // A hole may be what the OOM reaper left: whoever still reads this memory from outside is
        // to meet an error there, not zeroes. It says so before it zaps.
        if slot.vma().mm().is_unstable() {
            return Err(self);
        }

        // From here on nothing fails.
        if zeroes {
            for mut slot in table.slots() {
                slot.drop_zero_page(owed);
            }
        }
        let Isolated {
            sources,
            folio,
            table: deposit,
        } = self.into_isolated();
        // SAFETY: The sources' entries are migration entries, zero pages were dropped just now, and
        // the rest is empty. The caller holds the PMD lock until it calls `map()`.
        let unhooked = unsafe { table.unhook(&folio, owed) };

        Ok(Hooked {
            unhooked,
            sources,
            folio,
            table: deposit,
        })
    }
}

impl<'v, 'mm: 'v> Hooked<'v, 'mm> {
    /// Maps the huge folio.
    ///
    /// It is dirty, and so soft-dirty: whatever the sources were, nothing is missed.
    pub(crate) fn map(self, pmd: &mut PmdGuard<'v>, flushed: &Flushed<'v>) -> Installed<'v> {
        let Hooked {
            unhooked,
            sources,
            folio,
            table,
        } = self;
        let slot = unhooked.slot();

        // A huge page counts in full. The sources count already, holes and zero pages did not.
        slot.vma().add_anon_rss(sources.holes());
        let old = pmd.map_huge(unhooked, folio, table, flushed);
        Installed::new(old, sources)
    }
}
