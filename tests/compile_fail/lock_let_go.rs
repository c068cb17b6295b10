// SPDX-License-Identifier: GPL-2.0
//
// The PMD lock is taken and given up in one statement.
//
// rule: A guard protects nothing once it is dropped.
// crate: kernel
// error: unused_must_use unused `PmdGuard` that must be used

use kernel::mm::internal::pgtable::PmdSlot;

pub fn misuse(slot: PmdSlot<'_>) -> bool {
    slot.lock(); // misuse
    let lock = slot.lock();

    lock.covers(&slot)
}
