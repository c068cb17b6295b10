// SPDX-License-Identifier: GPL-2.0
//
// One huge folio is given to two windows.
//
// rule: mm/collapse/control.rs: a kit serves one window, or goes back to who keeps it.
// crate: collapse
// error: E0382 use of moved value: `kit`

use crate::{
    control::{Kit, Spare},
    isolate::Isolated,
    policy::Limits,
};
use kernel::mm::{pgtable::PmdSlot, tlb::OwedFlush};

fn misuse<'v, 'mm>(
    spare: &mut Spare<'mm>,
    slot: PmdSlot<'v>,
    kit: Kit<'mm>,
    owed: &OwedFlush<'v>,
) -> Option<Isolated<'v, 'mm>> {
    let isolated = Isolated::new(slot, kit, &Limits::NONE, owed).ok();

    spare.keep(kit); // misuse
    isolated
}
