// SPDX-License-Identifier: GPL-2.0
//
// A window is installed before it was copied.
//
// rule: mm/collapse/collapse.rs, passes: what is mapped in the place of the sources has to hold
// what they hold.
// crate: collapse
// error: E0599 no method named `unhook` found for struct `Isolated

use crate::{copy::Copied, install::Hooked, isolate::Isolated};
use kernel::mm::{pgtable::PmdGuard, tlb::OwedFlush};

fn misuse<'v, 'mm>(
    window: Isolated<'v, 'mm>,
    copied: Copied<'v, 'mm>,
    pmd: &mut PmdGuard<'v>,
    owed: &OwedFlush<'v>,
) -> Option<Hooked<'v, 'mm>> {
    drop(window.unhook(pmd, owed)); // misuse
    copied.unhook(pmd, owed).ok()
}
