// SPDX-License-Identifier: GPL-2.0

//! Collapse of private anonymous memory into huge pages, on request and in the caller's context.
//!
//! A *window* is an aligned range of 2 MiB, what a PMD entry maps. To collapse it is to replace
//! the base pages behind it by one huge page. mmap_lock is never taken for write, and the memory
//! that is collapsed stays accessible while it is copied:
//!
//! > The source pages are made read-only and copied while they are mapped. Then, in one short
//! > moment in which the page table is out of reach, what was written meanwhile is copied again,
//! > and the huge page is put in the place of the table.
//!
//! Reads go on all the time, but for that moment. A write costs one page fault for each page that
//! is written before the window is huge. mmap() and munmap() wait for a read lock, which is given
//! up for them.
//!
//! Windows pass in *batches* through these, each in its file:
//!
//! | pass        | holds                   | what it does                                         |
//! |-------------|-------------------------|------------------------------------------------------|
//! | [`scan`]    | VMA stable, PTL         | judges each window                                   |
//! | [`prealloc`]| nothing                 | allocates a huge folio, a page table and a buffer    |
//! | [`fault_in`]| VMA stable, or nothing  | brings in what was swapped out                       |
//! | [`protect`] | VMA stable, PTL         | locks, pins and write-protects the sources; flushes  |
//! | [`copy`]    | VMA stable, folio locks | copies                                               |
//! | [`switch`]  | and PMD lock, PTL       | hides tables, copies what was written, maps folios   |
//! | [`release`] | VMA stable, folio locks | drops rmaps, locks and references of the sources     |
//!
//! Some windows go the old way, in which [`unmap`] replaces the sources by migration entries in
//! the place of [`protect`]. A window that maps a whole huge page takes [`remap`] and no other.
//! A window that fails is given back as it was and leaves the others alone.
//!
//! "VMA stable" is the VMA read lock, or mmap_lock for read where that cannot be taken. Either
//! keeps out fork, mremap, munmap, mprotect, mlock, registration with userfaultfd, and khugepaged.
//! These run beside us: zaps (MADV_DONTNEED, MADV_FREE, guard regions, the OOM reaper),
//! userfaultfd's ioctls, page faults, GUP, KSM, NUMA balancing, reclaim, compaction, memory
//! failure, swapoff, and walkers that report on page tables.
//!
//! # Map
//!
//! A file imports from its own row, and from rows below it.
//!
//! | files                                           | their job                              |
//! |-------------------------------------------------|----------------------------------------|
//! | [`entry`]                                       | lets C code in                         |
//! | [`request`]                                     | walks the ranges of a request; errno   |
//! | [`engine`], [`file`](mod@file)                  | anonymous memory; files, by C code     |
//! | [`batch`]                                       | takes windows through the passes       |
//! | the passes above                                | one step each                          |
//! | [`sources`]                                     | what the passes hold                   |
//! | [`pool`], [`snapshot`], [`window`]              | what a window is, has, and remembers   |
//! | [`judge`], [`node`], [`revalidate`]             | what is asked of PTEs, nodes and VMAs  |
//! | [`batch_size`], [`gfp`], [`policy`], [`ranges`] | how much, how, by which rules, where   |
//! | [`hooks`], [`outcome`], [`trace`]               | for tests; for the caller; tracepoints |

mod batch;
mod batch_size;
mod copy;
mod engine;
mod entry;
mod fault_in;
mod file;
mod gfp;
mod hooks;
mod judge;
mod node;
mod outcome;
mod policy;
mod pool;
mod prealloc;
mod protect;
mod ranges;
mod release;
mod remap;
mod request;
mod revalidate;
mod scan;
mod snapshot;
mod sources;
mod switch;
mod trace;
mod unmap;
mod window;
