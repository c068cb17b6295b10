// SPDX-License-Identifier: GPL-2.0

//! Page tables of user address spaces, at the PMD and the PTE level.
//!
//! Entries are values: hardware and other CPUs change them at any time, so [`Pte`] and [`Pmd`] are
//! copies of what was read once, never references. The rules for reading and writing an entry are
//! those of Documentation/mm/process_addrs.rst:
//!
//! - A [`PmdSlot`] says where the PMD entry of an address lies. It borrows a stable VMA, which
//!   keeps the upper levels of the page table in place.
//! - A [`PmdGuard`] is the PMD lock. Under it no PMD entry of that PMD table changes.
//! - A [`PteTableGuard`] is a mapped PTE table together with its lock. Only through it can a PTE be
//!   written. It ends with the RCU section in which the table cannot be freed.
//! - A [`Hidden`] table was taken out of the page table, under the PMD lock, and goes back when it
//!   is dropped. Locked, see [`LockedHidden`], it can be replaced by a huge page.
//!
//! Both locks are spinlocks. Types tell as much as this: the guards cannot leave their task, the
//! VMA that they borrow can neither be given up nor be faulted in while one of them lives, and
//! nothing that was found under a lock outlives it. They do not prevent allocations meanwhile: any
//! code can name GFP_KERNEL, and CONFIG_DEBUG_ATOMIC_SLEEP finds that.
//!
//! C headers: [`include/linux/pgtable.h`](srctree/include/linux/pgtable.h),
//! [`include/linux/leafops.h`](srctree/include/linux/leafops.h)

use super::folio::HPAGE_PMD_NR;
use crate::{
    bindings,
    prelude::*, //
};

mod entry;
mod pmd;
mod pte;
mod table;

pub use self::{
    entry::{
        Change,
        Pmd,
        PmdKind,
        Pte,
        Softleaf, //
    },
    pmd::{
        Hidden,
        LockedHidden,
        PmdGuard,
        PmdSlot, //
    },
    pte::{
        ExclusiveFolio,
        PteKind,
        PteSlot,
        PteTableGuard, //
    },
    table::{
        DetachedGuard,
        DetachedTable,
        PteTable, //
    },
};

/// Number of PTEs in a PTE table.
pub const PTRS_PER_PTE: usize = bindings::PTRS_PER_PTE as usize;
/// Bytes that one PMD entry maps.
pub const PMD_SIZE: usize = bindings::PMD_SIZE;
/// Bytes that one PMD table maps.
pub const PUD_SIZE: usize = bindings::PUD_SIZE;

static_assert!(PTRS_PER_PTE == HPAGE_PMD_NR && PMD_SIZE == PTRS_PER_PTE * bindings::PAGE_SIZE);
