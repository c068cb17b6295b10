// SPDX-License-Identifier: GPL-2.0

//! Folios of PMD order, and what a PMD entry says of them.

use super::{
    FilledFolio,
    Folio,
    PMD_ORDER, //
};
use crate::{
    bindings,
    sync::aref::AlwaysRefCounted, //
};
use core::{
    marker::PhantomData,
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    },
};

impl Folio {
    /// Returns the folio as one of PMD order, if it is one.
    #[inline]
    pub fn as_pmd_folio(&self) -> Option<&PmdFolio> {
        // SAFETY: By the type invariants this is a folio.
        if unsafe { bindings::folio_order(self.as_ptr()) } != PMD_ORDER {
            return None;
        }
        // INVARIANT: Checked above.
        // SAFETY: Layouts agree due to repr(transparent).
        Some(unsafe { &*ptr::from_ref(self).cast() })
    }
}

/// A folio of PMD order: one that a PMD entry can map.
///
/// # Invariants
///
/// The folio is of PMD order.
#[repr(transparent)]
pub struct PmdFolio(Folio);

impl PmdFolio {
    #[inline(always)]
    pub(in crate::mm::internal) fn as_ptr(&self) -> *mut bindings::folio {
        self.0.as_ptr()
    }

    /// Returns what the PMD entry of a hidden table says.
    #[inline]
    pub fn stand_in(&self) -> StandIn<'_> {
        // INVARIANT: By the type invariants it is of PMD order.
        StandIn {
            folio: self.as_ptr(),
            _folio: PhantomData,
        }
    }

    /// The number of its first page frame.
    #[inline]
    pub(in crate::mm::internal) fn pfn(&self) -> usize {
        // SAFETY: By the type invariants this is a folio.
        unsafe { bindings::folio_pfn(self.as_ptr()) }
    }

    /// Returns whether a PMD entry may map it in the place of PTEs that map all of its pages.
    ///
    /// A folio that was once found to be partially mapped keeps that mark, even if all of its pages
    /// are mapped again.
    #[inline]
    pub(in crate::mm::internal) fn is_remappable(&self) -> bool {
        // SAFETY: By the type invariants this is a folio, and it is large.
        let partially_mapped = unsafe { bindings::folio_test_partially_mapped(self.as_ptr()) };

        self.is_anon() && !self.is_zone_device() && !partially_mapped
    }
}

// SAFETY: As for any folio.
unsafe impl AlwaysRefCounted for PmdFolio {
    #[inline]
    fn inc_ref(&self) {
        self.0.inc_ref();
    }

    #[inline]
    unsafe fn dec_ref(folio: NonNull<Self>) {
        // SAFETY: The caller owns a reference. Layouts agree due to repr(transparent).
        unsafe { Folio::dec_ref(folio.cast()) };
    }
}

impl Deref for PmdFolio {
    type Target = Folio;

    #[inline(always)]
    fn deref(&self) -> &Folio {
        &self.0
    }
}

/// A folio of PMD order in the place of a hidden table: the PMD entry is that of the folio, but
/// invalid. See [`PmdGuard::hide`].
///
/// # Invariants
///
/// `folio` is of PMD order, and referenced for `'a`.
///
/// [`PmdGuard::hide`]: crate::mm::internal::pgtable::PmdGuard::hide
#[derive(Clone, Copy)]
pub struct StandIn<'a> {
    pub(in crate::mm::internal) folio: *mut bindings::folio,
    _folio: PhantomData<&'a Folio>,
}

impl FilledFolio {
    #[inline]
    pub(in crate::mm::internal) fn as_ptr(&self) -> *mut bindings::folio {
        self.0.as_ptr()
    }

    /// Returns what the PMD entry of a hidden table says.
    #[inline]
    pub fn stand_in(&self) -> StandIn<'_> {
        // INVARIANT: By the type invariants it is of PMD order.
        StandIn {
            folio: self.as_ptr(),
            _folio: PhantomData,
        }
    }
}
