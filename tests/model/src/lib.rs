// SPDX-License-Identifier: GPL-2.0

//! The protocol of mm/collapse as a state machine, next to its adversaries.
//!
//! [`protocol`] is the collapse, step by step as Documentation/mm/collapse.rst tells it and the
//! code does it. [`actor`] has the adversaries that may run beside it. [`properties`] checks each
//! state, and [`model`] has stateright visit all states, the nearest ones first: a violation is
//! found on the shortest way to it. [`fault`] lists safeguards that can be taken out of the protocol,
//! to show that the model notices: tests/faults.rs says where, and in how many steps.
//! tests/barriers.rs has loom look at the memory barriers.
//!
//! Each actor may do a bounded number of things, so that there are no cycles: the protocol ends if
//! no state is reached in which everybody waits.
//!
//! # Scopes
//!
//! [`scope::short`] has each adversary next to the collapse and a CPU that stores; two CPUs; two
//! collapses; a large folio; and the old way next to GUP, zaps, NUMA balancing, and userfaultfd.
//! [`scope::long`] has all pairs of adversaries, and again all of the above with two CPUs and two
//! tries. Never are there three adversaries at once.
//!
//! # Limits
//!
//! The model leaves out:
//!
//! - A window has two slots, and a batch one window: that windows of a batch share flush, notifier
//!   range and the hold of the PMD lock is not seen, nor that two windows need the same folio.
//! - One copy of a page is one step. So is a zap, fork, mprotect or a change of a PTE by anybody
//!   else, with its flush: only NUMA balancing is given a flush that comes later. Why
//!   tlb_flush_pending has to be announced is not seen.
//! - Memory is sequentially consistent here. tests/barriers.rs has the pairs that need barriers,
//!   apart from all else.
//! - Remapping a whole huge page, in `remap.rs`.
//! - Flags that the huge page inherits, rss, memory cgroups, deposited tables, the RCU grace period
//!   of a table, bad memory, signals, and that the VMA lock is given up for waiters.
//! - The accessed and soft-dirty bits. A new dirty bit comes with a writable PTE always.
//! - KSM is seen to write-protect, not to merge. Nobody splits a folio. Access protection by
//!   userfaultfd (RWP) is taken to be as write protection is.
//! - A process that writes again and again: it may store once or twice.
//! - Faults on a huge page: once it is mapped it is read and written, zapped, or made read-only.

pub mod actor;
pub mod fault;
pub mod model;
pub mod print;
pub mod properties;
pub mod protocol;
pub mod scope;
pub mod state;
