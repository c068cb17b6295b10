// SPDX-License-Identifier: GPL-2.0
//
// A pass that holds folio locks, and perhaps a page table lock, has a huge folio allocated.
//
// rule: mm/collapse/control.rs: what windows need is allocated while nothing is held. Reclaim could
// wait for the very folios that are locked. What a pass gets can take back, but not provide.
// crate: collapse
// error: E0599 no method named `provide` found for mutable reference `&mut Spare

use crate::control::{Control, Effort, Kit, Spare};
use kernel::mm::folio::NodeMask;

fn misuse<'mm>(spare: &mut Spare<'mm>, control: &mut Control<'mm>) -> Option<Kit<'mm>> {
    drop(spare.provide(0, &NodeMask::online(), Effort::Full)); // misuse
    control.provide(0, &NodeMask::online(), Effort::Full).ok()
}
