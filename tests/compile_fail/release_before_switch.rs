// SPDX-License-Identifier: GPL-2.0
//
// The sources of a window are released that is not mapped yet.
//
// rule: mm/collapse/release.rs: until the huge page is mapped, the sources are all that holds the
// data of the process.
// crate: collapse
// error: E0599 no method named `release` found for struct `copy::Copied

use crate::{copy::Copied, protect::Pinned, release::Switched, snapshot::Snapshot};
use kernel::alloc::KVBox;

fn misuse(window: Copied<'_, Pinned<'_>>, switched: Switched<'_>) -> KVBox<Snapshot> {
    drop(window.release()); // misuse
    switched.release().1
}
