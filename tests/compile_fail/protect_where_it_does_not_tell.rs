// SPDX-License-Identifier: GPL-2.0
//
// Sources are pinned and protected in any VMA.
//
// rule: mm/collapse/protect.rs: in some VMAs pages are written through read-only PTEs, or writable PTEs
// become read-only again. Only a witness that this is no such VMA lets sources stay mapped.
// crate: collapse
// error: E0061 this function takes 4 arguments but 3 arguments were supplied

use crate::{
    policy::Limits,
    pool::Prepared,
    protect::{Judged, Pinnable},
};
use kernel::mm::internal::pgtable::PmdSlot;

fn misuse<'v, 'mm>(
    slot: PmdSlot<'v>,
    prepared: Prepared<'mm>,
    pinnable: &Pinnable<'v>,
) -> Option<Judged<'v, 'mm>> {
    // mended: Judged::new(slot, prepared, &Limits::NONE, pinnable).ok()
    Judged::new(slot, prepared, &Limits::NONE).ok() // misuse
}
