// SPDX-License-Identifier: GPL-2.0
//
// The sources of a window are pinned still when its VMA is given up.
//
// rule: mm/collapse/collapse.rs, passes: until the sources are released the VMA is stable, else fork
// would meet our pins, and mprotect() would take back what a PTE tells of writes.
// crate: collapse
// error: E0505 cannot move out of `vma` because it is borrowed

use crate::{
    policy::Limits,
    pool::Prepared,
    protect::{Judged, Pinnable},
};
use kernel::mm::internal::stable::StableVma;

fn misuse<'mm>(vma: StableVma<'mm>, addr: usize, prepared: Prepared<'mm>) -> Option<()> {
    let slot = vma.pmd(addr)?;
    let judged = Judged::new(slot, prepared, &Limits::NONE, &Pinnable::of(&vma)?).ok()?;

    drop(vma); // misuse
    drop(judged);
    Some(())
}
