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

    /// Returns whether the pages lie too far apart to be gathered on one node, in a system that
    /// would rather reclaim than go far.
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

#[cfg(CONFIG_THP_COLLAPSE_RUST_KUNIT_TEST)]
#[kernel::prelude::kunit_tests(thp_collapse_node)]
mod tests {
    use super::*;

    /// The load of a window with so many pages on each of some nodes.
    fn load(nodes: &[(usize, usize)]) -> Result<KBox<NodeLoad>> {
        let mut load = KBox::<NodeLoad>::zeroed(GFP_KERNEL)?;

        for (nid, pages) in nodes {
            for _ in 0..*pages {
                load.add(*nid);
            }
        }
        Ok(load)
    }

    #[test]
    fn any_node_will_do_for_no_pages() -> Result {
        let (nid, nodes) = load(&[])?.target();

        assert_eq!(nid, 0);
        assert!(
            (0..MAX_NUMNODES).all(|nid| nodes.contains(nid) == NodeMask::online().contains(nid))
        );
        Ok(())
    }

    #[test]
    fn the_node_with_the_most_pages_is_chosen() -> Result {
        let last = MAX_NUMNODES - 1;

        if last == 0 {
            return Ok(());
        }
        for (first_pages, last_pages, target) in [(1, 511, last), (511, 1, 0)] {
            let (nid, nodes) = load(&[(0, first_pages), (last, last_pages)])?.target();

            assert_eq!(nid, target);
            assert!((0..MAX_NUMNODES).all(|nid| nodes.contains(nid) == (nid == target)));
        }
        Ok(())
    }

    #[test]
    fn nodes_with_as_many_pages_are_as_good() -> Result {
        let last = MAX_NUMNODES - 1;
        let (nid, nodes) = load(&[(0, 256), (last, 256)])?.target();

        assert_eq!(nid, 0);
        assert!((0..MAX_NUMNODES).all(|nid| nodes.contains(nid) == (nid == 0 || nid == last)));
        Ok(())
    }

    #[test]
    fn pages_of_no_node_do_not_count() -> Result {
        let mut load = load(&[(MAX_NUMNODES, 512), (0, 1)])?;

        assert_eq!(load.nodes().count(), 1);
        assert_eq!(load.target().0, 0);
        load.clear();
        assert_eq!(load.nodes().count(), 0);
        Ok(())
    }

    #[test]
    fn one_node_is_never_too_far() -> Result {
        assert!(!load(&[])?.spans_too_far());
        assert!(!load(&[(0, 512)])?.spans_too_far());
        Ok(())
    }
}
