// SPDX-License-Identifier: GPL-2.0

//! A record of the slots of a window while it is collapsed.

use kernel::mm::internal::{
    folio::{
        MappedFolios,
        PageRef, //
    },
    pgtable::{
        Pte,
        PTRS_PER_PTE, //
    },
};
use pin_init::Zeroable;

/// The entries that were found in the slots of a window, and those that were left there.
#[derive(Zeroable)]
pub(crate) struct Snapshot {
    /// The PTEs of the sources; none where there is no source.
    pub(crate) ptes: [Pte; PTRS_PER_PTE],
    /// The entry that was left in each slot: a read-only PTE or a migration entry for a source, and
    /// the old entry for holes and zero pages.
    pub(crate) installed: [Pte; PTRS_PER_PTE],
    /// The folios of the sources.
    pub(crate) folios: MappedFolios,
}

/// The page that a PTE of a snapshot maps.
///
/// # Safety
///
/// A reference to the page is held for `'a`: that of the mapping, or a pin.
#[inline(always)]
pub(crate) unsafe fn source_page<'a>(pte: Pte) -> PageRef<'a> {
    // SAFETY: Only PTEs of refcounted pages are saved, and the caller vouches for the reference.
    unsafe { PageRef::from_pfn(pte.pfn()) }
}

const WORDS: usize = PTRS_PER_PTE / 64;

/// Slots of a window.
#[derive(Default)]
pub(crate) struct SlotSet {
    words: [u64; WORDS],
    len: usize,
}

impl SlotSet {
    /// Adds a slot that is not in the set.
    #[inline]
    pub(crate) fn insert(&mut self, nr: usize) {
        if let Some(word) = self.words.get_mut(nr / 64) {
            *word |= 1 << (nr % 64);
            self.len += 1;
        }
    }

    pub(crate) fn contains(&self, nr: usize) -> bool {
        self.words
            .get(nr / 64)
            .is_some_and(|word| word & (1 << (nr % 64)) != 0)
    }

    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Their numbers, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(i, word)| {
            (0..64)
                .filter(move |bit| word & (1 << bit) != 0)
                .map(move |bit| 64 * i + bit)
        })
    }
}
