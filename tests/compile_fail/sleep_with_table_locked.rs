// SPDX-License-Identifier: GPL-2.0
//
// A page is faulted in, which sleeps and may give up the VMA lock, with a PTE table locked.
//
// rule: Documentation/mm/process_addrs.rst, page table locks: they are spinlocks. Nothing may sleep
// while one is held.
// crate: kernel
// error: E0505 cannot move out of `vma` because it is borrowed

use kernel::mm::internal::stable::{StableVma, SwapIn};

pub fn misuse<'m>(vma: StableVma<'m>, addr: usize) -> Option<SwapIn<'m>> {
    let table = vma.pmd(addr)?.lock_table()?;

    // mended: drop(table);
    // mended: let result = vma.swap_in(addr, 0);
    let result = vma.swap_in(addr, 0); // misuse
    drop(table); // misuse
    Some(result)
}
