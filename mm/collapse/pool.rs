// SPDX-License-Identifier: GPL-2.0

//! Allocations that windows need. They are made while no lock is held, and kept for the next window
//! if one did not use them.

use crate::{
    batch_size::BATCH_MAX,
    snapshot::Snapshot,
    window::{
        Room,
        Window, //
    },
};
use kernel::{
    alloc::{
        AllocError,
        KVBox,
        KVec, //
    },
    mm::internal::{folio::HugeFolio, nodemask::NodeMask, pgtable::PteTable},
    prelude::*,
};

/// All that a window needs to be collapsed.
pub(crate) struct Prealloc<'mm> {
    pub(crate) folio: HugeFolio,
    /// The PTE table that is deposited with the folio.
    pub(crate) table: PteTable<'mm>,
    pub(crate) snapshot: KVBox<Snapshot>,
}

/// A window with all that it needs.
pub(crate) struct Prepared<'mm> {
    pub(crate) window: Window,
    pub(crate) prealloc: Prealloc<'mm>,
}

/// A window whose PTEs seem to map a whole huge page.
pub(crate) struct Whole<'mm> {
    pub(crate) window: Window,
    /// The PTE table that is deposited with the huge page.
    pub(crate) deposit: PteTable<'mm>,
}

/// The windows of a batch, with all that they need.
pub(crate) struct PreparedWindows<'mm> {
    /// Those that are to be copied.
    pub(crate) pages: Room<Prepared<'mm>>,
    /// Those that map a whole huge page.
    pub(crate) wholes: Room<Whole<'mm>>,
}

impl<'mm> PreparedWindows<'mm> {
    /// Makes room for `nr` windows of each kind.
    pub(crate) fn new(nr: usize) -> Result<Self, AllocError> {
        Ok(Self {
            pages: Room::new(nr)?,
            wholes: Room::new(nr)?,
        })
    }

    /// How many windows they are.
    pub(crate) fn len(&self) -> usize {
        self.pages.len().saturating_add(self.wholes.len())
    }

    /// The window with the lowest address.
    pub(crate) fn first(&self) -> Option<Window> {
        let pages = self.pages.iter().next().map(|prepared| prepared.window);
        let wholes = self.wholes.iter().next().map(|whole| whole.window);

        Iterator::chain(pages.into_iter(), wholes).min_by_key(|window| window.addr)
    }

    /// Takes the window with the lowest address away.
    pub(crate) fn drop_first(&mut self, pool: &mut Pool<'mm>) {
        let Some(first) = self.first() else { return };

        if self
            .wholes
            .iter()
            .next()
            .is_some_and(|whole| whole.window.addr == first.addr)
        {
            drop(self.wholes.take_first());
        } else if let Some(prepared) = self.pages.take_first() {
            pool.keep(prepared.prealloc);
        }
    }
}

/// Allocations that are not in use.
///
/// This is all that the passes of a batch get to see: they cannot allocate through it.
///
/// There is one [`Prealloc`] for each window of a batch, and a new one is only made when none is
/// left over. One more exists for a moment where one on another node is exchanged for it.
pub(crate) struct Pool<'mm> {
    preallocs: KVec<Prealloc<'mm>>,
    snapshots: KVec<KVBox<Snapshot>>,
}

impl<'mm> Pool<'mm> {
    /// An empty pool, that costs nothing where all is huge already.
    pub(crate) fn new() -> Self {
        Self {
            preallocs: KVec::new(),
            snapshots: KVec::new(),
        }
    }

    /// Makes room for all that a batch can give back.
    pub(crate) fn make_room(&mut self) -> Result<(), AllocError> {
        if self.preallocs.capacity() < BATCH_MAX {
            self.preallocs.reserve(BATCH_MAX, GFP_KERNEL)?;
        }
        if self.snapshots.capacity() < BATCH_MAX {
            self.snapshots.reserve(BATCH_MAX, GFP_KERNEL)?;
        }
        Ok(())
    }

    /// Takes back what was not used. It is freed if there is no room for it.
    pub(crate) fn keep(&mut self, prealloc: Prealloc<'mm>) {
        drop(self.preallocs.push_within_capacity(prealloc));
    }

    /// Takes back the buffer of a window that was collapsed.
    pub(crate) fn keep_snapshot(&mut self, snapshot: KVBox<Snapshot>) {
        drop(self.snapshots.push_within_capacity(snapshot));
    }

    /// Finds one whose folio lies on a good node.
    pub(crate) fn take_near(&mut self, nid: usize, nodes: &NodeMask) -> Option<Prealloc<'mm>> {
        let near = self.preallocs.iter().position(|prealloc| {
            prealloc.folio.nid() == nid || nodes.contains(prealloc.folio.nid())
        })?;

        self.preallocs.remove(near).ok()
    }

    /// Takes any.
    pub(crate) fn take_any(&mut self) -> Option<Prealloc<'mm>> {
        self.preallocs.pop()
    }

    /// A buffer, which may be new. May sleep.
    pub(crate) fn take_snapshot(&mut self) -> Result<KVBox<Snapshot>, AllocError> {
        match self.snapshots.pop() {
            Some(snapshot) => Ok(snapshot),
            None => KVBox::zeroed(GFP_KERNEL),
        }
    }
}
