// SPDX-License-Identifier: GPL-2.0

//! What a request has at hand: its policy, what it has allocated, and how large its batches are.

use crate::{
    node::NodeLoad,
    outcome::Refusal,
    policy::{
        self,
        Policy, //
    },
    prealloc::{
        Pool,
        Prealloc, //
    },
    ranges::Ranges, //
};
use kernel::{
    alloc::Flags,
    mm::{
        internal::{
            folio::{
                ChargeError,
                NodeMask,
                UnchargedFolio, //
            },
            pgtable::PteTable,
            stat::{
                self,
                CollapseEvent, //
            },
            thp,
        },
        virt::VmaRef,
        MmWithUser, //
    },
    prelude::*,
};

/// Windows in a batch, when nothing waits for it.
pub(crate) const BATCH_MAX: usize = 16;

/// Windows in the first batch of a request. A thread that waits for a lock of a batch waits for all
/// of it: batches grow as long as nothing waits.
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

/// What a request has at hand.
pub(crate) struct Control<'mm> {
    pub(crate) mm: &'mm MmWithUser,
    pub(crate) policy: Policy,
    /// All of the request.
    ranges: Ranges<'mm>,
    /// How a page fault would allocate in the VMA at hand.
    fault_gfp: Flags,
    /// What [`policy::most_permissive_gfp`] told. It is asked when it first matters: a request
    /// whose memory is huge already does not pay for it.
    most_permissive_gfp: Option<Option<Flags>>,
    pub(crate) pool: Pool<'mm>,
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
            most_permissive_gfp: None,
            pool: Pool::new(),
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
    ) -> Result<Prealloc<'mm>, Refusal> {
        self.pool.make_room().map_err(|_| Refusal::NoMemory)?;
        if let Some(near) = self.pool.take_near(nid, nodes) {
            return Ok(near);
        }

        // One on the wrong node is better than none, but not better than to go later.
        let far = self.pool.take_any();
        match (self.provide_new(nid, nodes, effort), far) {
            (Err(refusal), Some(far)) if effort == Effort::Full && refusal != Refusal::Killed => {
                Ok(far)
            }
            (Err(refusal), Some(far)) => {
                self.pool.keep(far);
                Err(refusal)
            }
            (Ok(near), Some(far)) => {
                drop(far);
                Ok(near)
            }
            (result, None) => result,
        }
    }

    fn provide_new(
        &mut self,
        nid: usize,
        nodes: &NodeMask,
        effort: Effort,
    ) -> Result<Prealloc<'mm>, Refusal> {
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
        let snapshot = self.pool.take_snapshot().map_err(|_| Refusal::NoMemory)?;

        Ok(Prealloc {
            folio,
            table,
            snapshot,
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
            most_permissive_gfp,
            ..
        } = self;

        policy
            .gfp(self.fault_gfp, || {
                if let Some(gfp) = *most_permissive_gfp {
                    return Ok(gfp);
                }
                let gfp = policy::most_permissive_gfp(mm, policy.lock_mode, *ranges)?;

                *most_permissive_gfp = Some(gfp);
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
