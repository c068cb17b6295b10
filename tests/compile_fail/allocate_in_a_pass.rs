// SPDX-License-Identifier: GPL-2.0
//
// A pass that holds folio locks, and perhaps a page table lock, has a huge folio allocated.
//
// rule: mm/collapse/prealloc.rs: memory for windows is allocated while nothing is held. Reclaim
// could wait for the very folios that are locked. A pass can give memory back to the pool, but not
// allocate it.
// crate: collapse
// error: E0599 no method named `provide` found for mutable reference `&mut Pool

use crate::{
    control::{Control, Effort},
    prealloc::{Pool, Prealloc},
};
use kernel::mm::internal::folio::NodeMask;

fn misuse<'mm>(pool: &mut Pool<'mm>, control: &mut Control<'mm>) -> Option<Prealloc<'mm>> {
    drop(pool.provide(0, &NodeMask::online(), Effort::Full)); // misuse
    control.provide(0, &NodeMask::online(), Effort::Full).ok()
}
