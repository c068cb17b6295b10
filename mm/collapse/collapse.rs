// SPDX-License-Identifier: GPL-2.0

//! `MADV_COLLAPSE` of private anonymous memory.
//!
//! A *window* is a range of virtual memory of `HPAGE_PMD_SIZE` bytes, aligned to that size: what
//! one PMD entry maps, through a PTE table or as one huge page.

use kernel::prelude::*;

mod window;

module! {
    type: Collapse,
    name: "collapse",
    authors: ["The MADV_COLLAPSE in Rust authors"],
    description: "MADV_COLLAPSE of private anonymous memory",
    license: "GPL",
}

struct Collapse;

impl kernel::Module for Collapse {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("MADV_COLLAPSE engine in Rust is built in, not yet serving requests\n");
        Ok(Self)
    }
}
