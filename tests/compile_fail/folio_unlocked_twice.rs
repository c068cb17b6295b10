// SPDX-License-Identifier: GPL-2.0
//
// A folio is unlocked twice.
//
// rule: The second unlock would end the lock of another task that has taken it in between.
// crate: kernel
// error: E0382 use of moved value: `lock`

use kernel::mm::internal::folio::FolioLock;

pub fn misuse(lock: FolioLock<'_>) {
    drop(lock);
    drop(lock); // misuse
}
