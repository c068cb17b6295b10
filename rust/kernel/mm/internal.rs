// SPDX-License-Identifier: GPL-2.0

//! Functions that are internal to memory management.
//!
//! The Rust side of `mm/internal.h`, and of functions in other headers that C code cannot call
//! from modules either. No symbol of these modules is exported, and neither are the helpers in
//! `rust/helpers/mm/`: see `rust/Makefile`.

pub mod folio;

pub mod lru;

pub mod mmu_notifier;

pub mod nodemask;

pub mod pgtable;

pub mod stable;

pub mod stat;

pub mod thp;

pub mod tlb;

pub mod trace;
