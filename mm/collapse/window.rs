// SPDX-License-Identifier: GPL-2.0

//! A window as a request knows it, and room for what its batch makes of it.

use crate::outcome::Refusal;
use kernel::{
    alloc::{
        AllocError,
        KVec, //
    },
    prelude::*,
};

/// How a window is collapsed. Where that is not possible, it goes the next way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// If its PTEs map a whole huge page, that is mapped by a PMD entry: see [`crate::remap`]. Else
    /// as below.
    Remap,
    /// The sources stay mapped, read-only, while they are copied: see [`crate::protect`].
    Protect,
    /// The sources are replaced by migration entries: see [`crate::unmap`].
    Unmap,
}

/// A window to be collapsed.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    pub(crate) addr: usize,
    /// How often it was refused for what may be gone in a moment.
    pub(crate) retries: u8,
    /// How it is to be collapsed, as far as its VMA permits.
    pub(crate) way: Way,
}

impl Window {
    pub(crate) fn new(addr: usize) -> Self {
        Self {
            addr,
            retries: 0,
            way: Way::Remap,
        }
    }
}

/// A window that could not be taken further, and why.
pub(crate) struct Failed<W, C = Refusal> {
    pub(crate) window: W,
    pub(crate) cause: C,
}

impl<W, C> Failed<W, C> {
    pub(crate) fn new(window: W, cause: impl Into<C>) -> Self {
        Self {
            window,
            cause: cause.into(),
        }
    }
}

/// Room for one thing a window of a batch, allocated before any lock is taken.
pub(crate) struct Room<T>(KVec<T>);

impl<T> Room<T> {
    /// Makes room for `nr` things.
    pub(crate) fn new(nr: usize) -> Result<Self, AllocError> {
        Ok(Self(KVec::with_capacity(nr, GFP_KERNEL)?))
    }

    /// Puts one more thing in. Each batch has room for all its windows.
    #[inline]
    pub(crate) fn put(&mut self, thing: T) {
        let full = self.0.push_within_capacity(thing).is_err();

        kernel::warn_on!(full);
    }

    /// How many were put in.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes the first one out.
    pub(crate) fn take_first(&mut self) -> Option<T> {
        self.0.remove(0).ok()
    }

    /// Returns whether nothing was put in.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values that were put in so far.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }

    /// The values that were put in.
    pub(crate) fn into_inner(self) -> KVec<T> {
        self.0
    }
}
