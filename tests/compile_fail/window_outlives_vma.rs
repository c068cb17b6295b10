// SPDX-License-Identifier: GPL-2.0
//
// A window is isolated still when its VMA is given up.
//
// rule: mm/collapse/collapse.rs, passes: from isolation to release the VMA is stable, else munmap()
// and mremap() would meet migration entries that nobody removes.
// crate: collapse
// error: E0505 cannot move out of `vma` because it is borrowed

use crate::{control::Kit, isolate::Isolated, policy::Limits};
use kernel::mm::{stable::StableVma, tlb::OwedFlush};

fn misuse<'mm>(vma: StableVma<'mm>, addr: usize, kit: Kit<'mm>) -> Option<Kit<'mm>> {
    let slot = vma.pmd(addr)?;
    let owed = OwedFlush::begin(&vma, addr, addr);
    let window = Isolated::new(slot, kit, &Limits::NONE, &owed).ok()?;

    drop(owed);
    drop(vma); // misuse
    window.roll_back()
}
