// SPDX-License-Identifier: GPL-2.0
//
// A folio is marked dirty after it was unlocked.
//
// rule: A folio that is mapped no more is marked dirty under its lock, lest it be freed or
// truncated.
// crate: kernel
// error: E0382 borrow of moved value: `lock`

use kernel::mm::internal::folio::FolioLock;

pub fn misuse(lock: FolioLock<'_>) {
    lock.mark_dirty();
    drop(lock);
    lock.mark_dirty(); // misuse
}
