// SPDX-License-Identifier: GPL-2.0
//
// One huge folio is given to two windows.
//
// rule: mm/collapse/control.rs: a kit serves one window, or goes back to who keeps it.
// crate: collapse
// error: E0382 use of moved value: `kit`

use crate::{control::Control, control::Kit, isolate::Isolated, policy::Limits};
use kernel::mm::{pgtable::PmdSlot, tlb::OwedFlush};

fn misuse<'v, 'mm>(
    control: &mut Control<'mm>,
    slot: PmdSlot<'v>,
    kit: Kit<'mm>,
    owed: &OwedFlush<'v>,
) -> Option<Isolated<'v, 'mm>> {
    let isolated = Isolated::new(slot, kit, &Limits::NONE, owed).ok();

    control.keep(kit); // misuse
    isolated
}
