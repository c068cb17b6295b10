// SPDX-License-Identifier: GPL-2.0
//
// A window is given back that was handed to the next pass.
//
// rule: mm/collapse/collapse.rs, passes: a window is in one state at a time. To give sources back that
// are released would unlock pages of somebody else.
// crate: collapse
// error: E0382 use of moved value: `window`

use crate::{copy::Copied, protect::Pinned, sources::Held};

fn misuse<'v, 'mm>(window: Held<'mm, Pinned<'v>>) -> Option<Copied<'mm, Pinned<'v>>> {
    let copied = window.copy().ok();

    drop(window.give_back()); // misuse
    copied
}
