// SPDX-License-Identifier: GPL-2.0
//
// Whether a table was unhooked is not looked at.
//
// rule: mm/collapse/install.rs: a window that was not unhooked has to be put back, one that was has
// to be mapped.
// crate: collapse
// error: unused_must_use Result` that must be used

use crate::copy::Copied;
use kernel::mm::{pgtable::PmdGuard, tlb::OwedFlush};

fn misuse<'v>(window: Copied<'v, '_>, pmd: &mut PmdGuard<'v>, owed: &OwedFlush<'v>) -> bool {
    // mended: window.unhook(pmd, owed).is_ok()
    window.unhook(pmd, owed); // misuse
    false // misuse
}
