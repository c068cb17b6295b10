// SPDX-License-Identifier: GPL-2.0

//! Collapse of private anonymous memory into huge pages, on request and in the caller's context.
//!
//! A *window* is an aligned range of 2 MiB, what a PMD entry maps. To collapse it is to replace
//! the base pages behind it by one huge page. mmap_lock is never taken for write. It is the
//! *sources* that are made to wait, not the process:
//!
//! > A source page is quiesced by its folio lock, by a migration entry in its PTE, and by a
//! > reference count which, read after the PTE was cleared, is just what its mappings and the swap
//! > cache explain. Then nobody can write it, and copying it takes no lock.
//!
//! A thread that touches such a page waits for its folio lock, as it does in page migration. Every
//! other fault goes on. mmap() and munmap() wait for a read lock, which is given up for them.
//!
//! Windows pass in *batches* through these, each in its file:
//!
//! | pass       | holds                  | what it does                                           |
//! |------------|------------------------|--------------------------------------------------------|
//! | [`scan`]   | VMA stable, PTL        | judges each window                                     |
//! | [`control`]| nothing                | provides a huge folio, a page table and a buffer       |
//! | [`fault_in`]| VMA stable, or nothing | brings in what was swapped out                        |
//! | [`isolate`]| VMA stable, PTL        | quiesces the sources; one TLB flush for the batch      |
//! | [`copy`]   | VMA stable, folio locks| copies                                                 |
//! | [`install`]| and PMD lock, PTL      | verifies, unhooks the table, flushes, maps the folio   |
//! | [`release`]| VMA stable, folio locks| drops rmaps, locks and references of the sources       |
//!
//! [`batch`] strings them together, [`request`] walks the range, and [`entry`] is where C code
//! comes in. Nothing fallible comes after the verify; what fails before it rolls that one window
//! back and leaves the others alone.
//!
//! "VMA stable" is the VMA read lock for the caller's own memory and mmap_lock for read for that of
//! others. Either keeps out fork, mremap, munmap, mprotect, mlock, registration with userfaultfd,
//! and khugepaged. These run beside us: whatever zaps (MADV_DONTNEED, MADV_FREE, guard regions, the
//! OOM reaper), userfaultfd's ioctls, faults, KSM, reclaim, compaction, memory failure, swapoff,
//! and whoever walks page tables to report on them.

use kernel::prelude::*;

mod batch;
mod control;
mod copy;
mod entry;
mod fault_in;
mod install;
mod isolate;
mod node;
mod outcome;
mod policy;
mod ranges;
mod release;
mod request;
mod scan;
mod trace;

module! {
    type: Collapse,
    name: "collapse",
    authors: ["The MADV_COLLAPSE in Rust authors"],
    description: "MADV_COLLAPSE of private anonymous memory",
    license: "GPL",
}

struct Collapse;

impl kernel::Module for Collapse {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("MADV_COLLAPSE of private anonymous memory is served in Rust\n");
        Ok(Self)
    }
}
