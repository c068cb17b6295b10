// SPDX-License-Identifier: GPL-2.0
//
// The snapshot of a window is taken away, so that its sources cannot be given back.
//
// rule: mm/collapse/protect.rs: to drop sources is to unpin and unlock them. Without the snapshot, they
// would be locked for ever.
// crate: collapse
// error: E0616 field `guard` of struct `Pinned` is private

use crate::{
    protect::Pinned,
    snapshot::Snapshot,
    sources::{Held, Sources},
};
use kernel::alloc::KVBox;

fn misuse(window: Held<'_, Pinned<'_>>) -> KVBox<Snapshot> {
    // mended: window.sources.into_snapshot()
    window.sources.guard.dismiss().1 // misuse
}
