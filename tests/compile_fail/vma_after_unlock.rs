// SPDX-License-Identifier: GPL-2.0
//
// A VMA is used after its lock was given up.
//
// rule: Documentation/mm/process_addrs.rst, VMA fields: a VMA may be freed or changed as soon as
// neither its own lock nor mmap_lock is held.
// crate: kernel
// error: E0505 cannot move out of `vma` because it is borrowed

use kernel::mm::{internal::stable::StableVma, virt::VmaRef};

pub fn misuse(vma: StableVma<'_>) -> usize {
    let found: &VmaRef = &vma;

    drop(vma); // misuse
    found.start()
}
