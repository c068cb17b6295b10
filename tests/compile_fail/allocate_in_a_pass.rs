// SPDX-License-Identifier: GPL-2.0
//
// A pass that holds folio locks, and perhaps a page table lock, has a huge folio allocated.
//
// rule: mm/collapse/prealloc.rs: memory for windows is allocated while nothing is held. Reclaim
// could wait for the very folios that are locked. A pass can give memory back to the pool, but not
// allocate it: it has no flags for that.
// crate: collapse
// error: E0599 no method named `prealloc` found for mutable reference `&mut Pool

use crate::{
    gfp::Gfp,
    pool::{Pool, Prealloc},
    prealloc::{prealloc, Effort},
};
use kernel::mm::{internal::nodemask::NodeMask, MmWithUser};

fn misuse<'mm>(
    pool: &mut Pool<'mm>,
    mm: &'mm MmWithUser,
    gfp: &mut Gfp<'_>,
) -> Option<Prealloc<'mm>> {
    drop(pool.prealloc(0, &NodeMask::online(), Effort::Full)); // misuse
    prealloc(pool, mm, gfp, 0, &NodeMask::online(), Effort::Full).ok()
}
