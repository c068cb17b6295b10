// SPDX-License-Identifier: GPL-2.0
//
// A hidden table is locked, and the result is not used.
//
// rule: mm/collapse/switch.rs: a hidden table is replaced, or put back for a reason.
// crate: kernel
// error: unused_must_use unused `LockedHidden` that must be used

use kernel::mm::internal::pgtable::{Hidden, LockedHidden};

pub fn misuse<'g, 'v>([first, second]: [Hidden<'g, 'v>; 2]) -> LockedHidden<'g, 'v> {
    first.lock(); // misuse
    second.lock()
}
