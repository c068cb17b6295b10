// SPDX-License-Identifier: GPL-2.0

//! The LRU caches of CPUs, which hold references to folios.
//!
//! C header: [`include/linux/swap.h`](srctree/include/linux/swap.h)

use crate::bindings;

/// Moves what this CPU holds back onto the LRU lists, and drops the references that this takes.
///
/// # Context
///
/// Takes LRU locks, which are spinlocks. Does not sleep.
#[inline]
pub fn lru_add_drain() {
    // SAFETY: May be called from any context that may be preempted.
    unsafe { bindings::lru_add_drain() };
}

/// The same for all CPUs.
///
/// # Context
///
/// Sleeps until each CPU has come by, which takes long. No lock that a worker could wait for may be
/// held.
#[inline]
pub fn lru_add_drain_all() {
    // SAFETY: May be called by whoever may sleep.
    unsafe { bindings::lru_add_drain_all() };
}

/// Finishes what munlock has put off on this CPU.
///
/// # Context
///
/// Takes LRU locks, which are spinlocks. Does not sleep.
#[inline]
pub fn mlock_drain() {
    // SAFETY: May be called from any context that may be preempted.
    unsafe { bindings::mlock_drain_local() };
}
