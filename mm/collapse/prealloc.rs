// SPDX-License-Identifier: GPL-2.0

//! Allocating what a window needs, while nothing is held.

use crate::{
    gfp::Gfp,
    outcome::Refusal,
    pool::{
        Pool,
        Prealloc, //
    }, //
};
use kernel::mm::{
    internal::{
        folio::{
            ChargeError,
            UnchargedFolio, //
        },
        nodemask::NodeMask,
        pgtable::PteTable,
        stat::{
            self,
            CollapseEvent, //
        },
        thp,
    },
    MmWithUser, //
};

/// How hard to try to allocate the huge page of a window, and to charge it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// As hard as the policy allows.
    Full,
    /// Neither reclaim nor compaction: another window can go first, and leaves its base pages
    /// behind.
    Least,
}

/// Allocates what a window needs, or takes it from the pool. May sleep, and reclaim and compact as
/// far as the policy and `effort` let it.
///
/// `nid` is the node that the folio shall lie on, `nodes` those that are as good.
pub(crate) fn prealloc<'mm>(
    pool: &mut Pool<'mm>,
    mm: &'mm MmWithUser,
    gfp: &mut Gfp<'_>,
    nid: usize,
    nodes: &NodeMask,
    effort: Effort,
) -> Result<Prealloc<'mm>, Refusal> {
    pool.make_room().map_err(|_| Refusal::NoMemory)?;
    if let Some(near) = pool.take_near(nid, nodes) {
        return Ok(near);
    }

    // One on the wrong node is better than none, but not better than to go later.
    let far = pool.take_any();
    match (prealloc_new(pool, mm, gfp, nid, nodes, effort), far) {
        (Err(refusal), Some(far)) if effort == Effort::Full && refusal != Refusal::Killed => {
            Ok(far)
        }
        (Err(refusal), Some(far)) => {
            pool.keep(far);
            Err(refusal)
        }
        (Ok(near), Some(far)) => {
            drop(far);
            Ok(near)
        }
        (result, None) => result,
    }
}

fn prealloc_new<'mm>(
    pool: &mut Pool<'mm>,
    mm: &'mm MmWithUser,
    gfp: &mut Gfp<'_>,
    nid: usize,
    nodes: &NodeMask,
    effort: Effort,
) -> Result<Prealloc<'mm>, Refusal> {
    let gfp = match effort {
        Effort::Full => gfp.get()?,
        Effort::Least => thp::without_reclaim(gfp.get()?),
    };
    let Ok(folio) = UnchargedFolio::alloc(gfp, nid, nodes) else {
        if effort == Effort::Full {
            stat::count(CollapseEvent::AllocFailed);
        }
        return Err(Refusal::NoHugePage);
    };

    if effort == Effort::Full {
        stat::count(CollapseEvent::Alloc);
    }
    let folio = folio.charge(mm, gfp).map_err(|err| match err {
        ChargeError::Limit => Refusal::Charge,
        ChargeError::NoMemory => Refusal::NoHugePage,
    })?;
    // Its window will ask again for one that could not be charged: not to be counted twice.
    if effort == Effort::Least {
        stat::count(CollapseEvent::Alloc);
    }
    folio.count_memcg_alloc();

    // Allocations that may reclaim, whatever the effort, are made when the huge page is at hand.
    let table = PteTable::alloc(mm).map_err(|_| Refusal::NoMemory)?;
    let snapshot = pool.take_snapshot().map_err(|_| Refusal::NoMemory)?;

    Ok(Prealloc {
        folio,
        table,
        snapshot,
    })
}
