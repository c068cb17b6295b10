// SPDX-License-Identifier: GPL-2.0
//
// A VMA lock is given to another thread.
//
// rule: mmap_lock and the VMA lock are released by the task that took them, as lockdep demands.
// crate: kernel
// error: E0277 `*mut ()` cannot be sent between threads safely

use kernel::mm::internal::stable::StableVma;

fn spawn<T: Send>(_: T) {}

pub fn misuse(vma: StableVma<'_>) {
    spawn(vma.start());
    spawn(vma); // misuse
}
