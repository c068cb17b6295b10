// SPDX-License-Identifier: GPL-2.0

//! What windows need on their way, allocated while nothing is held and kept for the next window
//! when one did not use it.

use crate::{
    node::NodeLoad,
    outcome::Refusal,
    policy::{
        self,
        Policy, //
    },
    ranges::Ranges, //
};
use kernel::{
    alloc::{
        Flags,
        KVBox,
        KVec, //
    },
    mm::{
        folio::{
            ChargeError,
            HugeFolio,
            MappedFolios,
            NodeMask,
            UnchargedFolio, //
        },
        pgtable::{
            Pte,
            PteTable,
            PTRS_PER_PTE, //
        },
        stat::{
            self,
            CollapseEvent, //
        },
        thp,
        virt::VmaRef,
        MmWithUser,
    },
    prelude::*,
};

/// Windows in a batch, when nobody waits.
pub(crate) const BATCH_MAX: usize = 16;

/// Windows in the first batch of a request. Who waits for a page waits for its batch: batches grow
/// as long as nobody does.
const BATCH_FIRST: usize = 2;

/// What it may cost others to allocate the huge page of a window and to charge it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// What the policy lets it.
    Full,
    /// Neither reclaim nor compaction: another window can go first, and leaves its base pages
    /// behind.
    Least,
}

/// What was found in the slots of a window, and what was left there.
#[derive(Zeroable)]
pub(crate) struct Saved {
    /// The PTEs of the sources; none where there is no source.
    pub(crate) ptes: [Pte; PTRS_PER_PTE],
    /// What was left in each slot: a migration entry for a source, and what there was for holes
    /// and zero pages.
    pub(crate) left: [Pte; PTRS_PER_PTE],
    /// The folios of the sources.
    pub(crate) folios: MappedFolios,
}

/// All that a window needs to be collapsed.
pub(crate) struct Kit<'mm> {
    pub(crate) folio: HugeFolio,
    pub(crate) table: PteTable<'mm>,
    pub(crate) saved: KVBox<Saved>,
}

/// What was provided and is not in use.
///
/// This is all that the passes from isolation to release get to see of [`Control`]: they cannot
/// allocate through it.
///
/// No more than [`BATCH_MAX`] kits exist at a time: there is one for each window of a batch, and a
/// new one is only made when none is left over, or in exchange for one that lies on another node.
pub(crate) struct Spare<'mm> {
    kits: KVec<Kit<'mm>>,
    saved: KVec<KVBox<Saved>>,
}

impl<'mm> Spare<'mm> {
    /// Makes room for all that can be taken back. Only `Control::provide()` does that.
    fn make_room(&mut self) -> Result<(), Refusal> {
        if self.kits.capacity() < BATCH_MAX {
            self.kits
                .reserve(BATCH_MAX, GFP_KERNEL)
                .map_err(|_| Refusal::NoMemory)?;
        }
        if self.saved.capacity() < BATCH_MAX {
            self.saved
                .reserve(BATCH_MAX, GFP_KERNEL)
                .map_err(|_| Refusal::NoMemory)?;
        }
        Ok(())
    }

    /// Takes back a kit that was not used.
    pub(crate) fn keep(&mut self, kit: Kit<'mm>) {
        // More than there is room for is freed.
        let _ = self.kits.push_within_capacity(kit);
    }

    /// Takes back the buffer of a window that was collapsed.
    pub(crate) fn keep_saved(&mut self, saved: KVBox<Saved>) {
        let _ = self.saved.push_within_capacity(saved);
    }
}

/// What a request has at hand.
pub(crate) struct Control<'mm> {
    pub(crate) mm: &'mm MmWithUser,
    pub(crate) policy: Policy,
    /// All of the request.
    ranges: Ranges<'mm>,
    /// How a page fault would allocate in the VMA at hand.
    fault_gfp: Flags,
    /// What [`policy::boldest_gfp`] told. It is asked when it first matters, so that who has huge
    /// pages already need not pay for it.
    boldest_gfp: Option<Option<Flags>>,
    pub(crate) spare: Spare<'mm>,
    /// Whether this CPU has drained its LRU caches.
    pub(crate) drained_here: bool,
    /// Whether all CPUs were asked to drain theirs, since this request last read from swap.
    pub(crate) drained: bool,
    /// Windows that the next batch may have.
    pub(crate) batch: usize,
    /// Whether anybody has waited for a batch.
    waited_for: bool,
    /// Where a scan counts. What is huge already is not scanned.
    pub(crate) load: Option<KBox<NodeLoad>>,
}

impl<'mm> Control<'mm> {
    pub(crate) fn new(mm: &'mm MmWithUser, policy: Policy, ranges: Ranges<'mm>) -> Self {
        Self {
            mm,
            policy,
            ranges,
            fault_gfp: thp::GFP_TRANSHUGE_LIGHT,
            boldest_gfp: None,
            // Who has huge pages already needs no room here: see `provide()`.
            spare: Spare {
                kits: KVec::new(),
                saved: KVec::new(),
            },
            drained_here: false,
            drained: false,
            batch: BATCH_FIRST,
            waited_for: false,
            load: None,
        }
    }

    /// Provides what a window needs. May sleep, and reclaim and compact as far as the policy and
    /// `effort` let it.
    ///
    /// `nid` is the node that the folio shall lie on, `nodes` those that are as good.
    pub(crate) fn provide(
        &mut self,
        nid: usize,
        nodes: &NodeMask,
        effort: Effort,
    ) -> Result<Kit<'mm>, Refusal> {
        self.spare.make_room()?;
        let kits = &mut self.spare.kits;
        let near = kits
            .iter()
            .position(|kit| kit.folio.nid() == nid || nodes.contains(kit.folio.nid()));
        if let Some(kit) = near.and_then(|i| kits.remove(i).ok()) {
            return Ok(kit);
        }

        // One on the wrong node is better than none, but not than to go later.
        let far = kits.pop();
        match (self.provide_new(nid, nodes, effort), far) {
            (Err(refusal), Some(kit)) if effort == Effort::Full && refusal != Refusal::Killed => {
                Ok(kit)
            }
            (Err(refusal), Some(kit)) => {
                self.spare.keep(kit);
                Err(refusal)
            }
            (result, _) => result,
        }
    }

    fn provide_new(
        &mut self,
        nid: usize,
        nodes: &NodeMask,
        effort: Effort,
    ) -> Result<Kit<'mm>, Refusal> {
        let gfp = match effort {
            Effort::Full => self.gfp()?,
            Effort::Least => thp::without_reclaim(self.gfp()?),
        };
        let Some(folio) = UnchargedFolio::alloc(gfp, nid, nodes) else {
            if effort == Effort::Full {
                stat::count(CollapseEvent::AllocFailed);
            }
            return Err(Refusal::NoHugePage);
        };

        if effort == Effort::Full {
            stat::count(CollapseEvent::Alloc);
        }
        let folio = folio.charge(self.mm, gfp).map_err(|err| match err {
            ChargeError::Limit => Refusal::Charge,
            ChargeError::NoMemory => Refusal::NoHugePage,
        })?;
        // Its window will ask again for one that could not be charged: not to be counted twice.
        if effort == Effort::Least {
            stat::count(CollapseEvent::Alloc);
        }
        folio.count_memcg_alloc();

        // What may reclaim whatever the effort comes when the huge page is at hand.
        let table = PteTable::alloc(self.mm).ok_or(Refusal::NoMemory)?;
        let saved = match self.spare.saved.pop() {
            Some(saved) => saved,
            None => KVBox::zeroed(GFP_KERNEL).map_err(|_| Refusal::NoMemory)?,
        };

        Ok(Kit {
            folio,
            table,
            saved,
        })
    }

    /// Huge pages are allocated for this VMA next.
    pub(crate) fn enter(&mut self, vma: &VmaRef) {
        self.fault_gfp = vma.thp_gfp();
    }

    /// How to allocate a huge page for the VMA at hand. May sleep.
    pub(crate) fn gfp(&mut self) -> Result<Flags, Refusal> {
        let Self {
            mm,
            policy,
            ranges,
            boldest_gfp,
            ..
        } = self;

        policy
            .gfp(self.fault_gfp, || {
                if let Some(gfp) = *boldest_gfp {
                    return Ok(gfp);
                }
                let gfp = policy::boldest_gfp(mm, policy.stability, *ranges)?;

                *boldest_gfp = Some(gfp);
                Ok(gfp)
            })
            .map_err(|_| Refusal::Killed)
    }

    /// Adapts the size of batches to one that had `nr` windows, as TCP does its window (RFC 5681):
    /// half when somebody waited for our lock or for a page; else double, or one more once somebody
    /// has waited. A batch that was not full does not tell what a larger one would do.
    pub(crate) fn adapt(&mut self, nr: usize, contended: bool) {
        self.waited_for |= contended;
        if contended {
            self.batch = (self.batch / 2).max(1);
        } else if nr >= self.batch {
            let more = if self.waited_for { 1 } else { self.batch };

            self.batch = (self.batch + more).min(BATCH_MAX);
        }
    }
}
