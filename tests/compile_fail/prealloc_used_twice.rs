// SPDX-License-Identifier: GPL-2.0
//
// One huge folio is given to two windows.
//
// rule: mm/collapse/prealloc.rs: an allocation serves one window, or goes back to the pool.
// crate: collapse
// error: E0382 use of moved value: `prepared.prealloc`

use crate::{
    policy::Limits,
    pool::{Pool, Prepared},
    protect::{Judged, Pinnable},
};
use kernel::mm::internal::pgtable::PmdSlot;

fn misuse<'v, 'mm>(
    pool: &mut Pool<'mm>,
    slot: PmdSlot<'v>,
    prepared: Prepared<'mm>,
    pinnable: &Pinnable<'v>,
) -> Option<Judged<'v, 'mm>> {
    let judged = Judged::new(slot, prepared, &Limits::NONE, pinnable).ok();

    pool.keep(prepared.prealloc); // misuse
    judged
}
