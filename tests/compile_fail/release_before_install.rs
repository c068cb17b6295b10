// SPDX-License-Identifier: GPL-2.0
//
// The sources of a window are released that is not mapped yet.
//
// rule: mm/collapse/release.rs: until the huge page is mapped, the sources are all that holds the
// data of the process.
// crate: collapse
// error: E0599 no method named `release` found for struct `Hooked

use crate::{control::Saved, install::Hooked, release::Installed};
use kernel::alloc::KVBox;

fn misuse(window: Hooked<'_, '_>, installed: Installed<'_>) -> Option<KVBox<Saved>> {
    drop(window.release()); // misuse
    installed.release()
}
