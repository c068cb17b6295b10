// SPDX-License-Identifier: GPL-2.0

//! Sets of NUMA nodes.
//!
//! C header: [`include/linux/nodemask.h`](srctree/include/linux/nodemask.h)

use crate::bindings;

/// Number of NUMA nodes that there can be.
pub const MAX_NUMNODES: usize = bindings::MAX_NUMNODES as usize;

/// A set of NUMA nodes.
///
/// # Examples
///
/// ```
/// use kernel::mm::internal::nodemask::{
///     NodeMask,
///     MAX_NUMNODES, //
/// };
///
/// let mut nodes = NodeMask::empty();
/// assert!((0..MAX_NUMNODES).all(|nid| !nodes.contains(nid)));
///
/// nodes.insert(0);
/// nodes.insert(MAX_NUMNODES - 1);
/// assert!(nodes.contains(0) && nodes.contains(MAX_NUMNODES - 1));
/// assert!(!nodes.contains(1));
///
/// // There is no such node.
/// nodes.insert(usize::MAX);
/// assert!(!nodes.contains(usize::MAX));
///
/// assert!((0..MAX_NUMNODES).any(|nid| NodeMask::online().contains(nid)));
/// ```
#[derive(Clone, Copy)]
pub struct NodeMask(pub(super) bindings::nodemask_t);

impl NodeMask {
    /// No nodes.
    #[inline]
    pub fn empty() -> Self {
        // SAFETY: A bitmap of zeroes is a valid one.
        Self(unsafe { core::mem::zeroed() })
    }

    /// All nodes that are online.
    #[inline]
    pub fn online() -> Self {
        // SAFETY: Bits of this mask change when a node comes or goes, and users of such a mask have
        // to expect that. It is read as C code does.
        Self(unsafe { bindings::node_online_mask() })
    }

    /// Adds a node, if there can be such a one.
    #[inline]
    pub fn insert(&mut self, nid: usize) {
        let bits = usize::BITS as usize;

        if let Some(word) = self.0.bits.get_mut(nid / bits) {
            *word |= 1 << (nid % bits);
        }
    }

    /// Returns whether a node is in the set.
    #[inline]
    pub fn contains(&self, nid: usize) -> bool {
        let bits = usize::BITS as usize;

        self.0
            .bits
            .get(nid / bits)
            .is_some_and(|word| word & (1 << (nid % bits)) != 0)
    }
}
