// SPDX-License-Identifier: GPL-2.0

//! Choosing the NUMA node of a huge page, as khugepaged does: the one that most of the pages lie
//! on.

use kernel::{
    mm::internal::{
        nodemask::{
            NodeMask,
            MAX_NUMNODES, //
        },
        thp,
    },
    prelude::*,
};

/// The pages of a window by node.
#[derive(Zeroable)]
pub(crate) struct NodeLoad {
    pages: [u16; MAX_NUMNODES],
}

impl NodeLoad {
    pub(crate) fn clear(&mut self) {
        self.pages.fill(0);
    }

    #[inline(always)]
    pub(crate) fn add(&mut self, nid: usize) {
        if let Some(pages) = self.pages.get_mut(nid) {
            // A window has 512 pages.
            *pages = pages.wrapping_add(1);
        }
    }

    fn nodes(&self) -> impl Iterator<Item = usize> + '_ {
        self.pages
            .iter()
            .enumerate()
            .filter(|(_, pages)| **pages != 0)
            .map(|(nid, _)| nid)
    }

    /// Whether the pages lie too far apart to be gathered on one node, in a system that would
    /// rather reclaim than go far.
    #[inline(always)]
    pub(crate) fn too_far(&self) -> bool {
        thp::node_reclaim_enabled() && self.spans_too_far()
    }

    #[cold]
    fn spans_too_far(&self) -> bool {
        self.nodes()
            .any(|a| self.nodes().any(|b| thp::nodes_too_far(a, b)))
    }

    /// The first of the nodes with the most pages, and all of these.
    pub(crate) fn target(&self) -> (usize, NodeMask) {
        let most = self.pages.iter().copied().max().unwrap_or(0);
        let mut nodes = NodeMask::empty();
        let mut first = None;

        if most == 0 {
            // Swapped pages and zero pages lie nowhere: any node will do.
            return (0, NodeMask::online());
        }
        for (nid, pages) in self.pages.iter().enumerate() {
            if *pages == most {
                nodes.insert(nid);
                first = first.or(Some(nid));
            }
        }
        (first.unwrap_or(0), nodes)
    }
}
