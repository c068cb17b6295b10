// SPDX-License-Identifier: GPL-2.0
//
// A locked PTE table is given to another thread.
//
// rule: Documentation/mm/process_addrs.rst, page table locks: spinlock and RCU section belong to
// the CPU that entered them.
// crate: kernel
// error: E0277 cannot be sent between threads safely

use kernel::mm::internal::pgtable::PteTableGuard;

fn spawn<T: Send>(_: T) {}

pub fn misuse(table: PteTableGuard<'_>) {
    spawn(0);
    spawn(table); // misuse
}
