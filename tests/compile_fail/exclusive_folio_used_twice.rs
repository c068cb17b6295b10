// SPDX-License-Identifier: GPL-2.0
//
// A folio that was found to be exclusive is mapped by a PMD entry twice.
//
// rule: Documentation/mm/collapse.rst, in place: once a PMD entry maps the folio, only its first
// page has the exclusive flag.
// crate: kernel
// error: E0382 use of moved value: `exclusive`

use kernel::mm::internal::pgtable::{
    ExclusiveFolio,
    LockedHidden,
    PteTable, //
};

pub fn misuse<'v>(
    hidden: [LockedHidden<'_, 'v>; 2],
    deposits: [PteTable<'v>; 2],
    exclusive: ExclusiveFolio<'v, '_>,
) {
    let ([first, second], [deposit, another]) = (hidden, deposits);

    drop(first.remap(exclusive, deposit, || ()));
    // mended: drop((second, another));
    drop(second.remap(exclusive, another, || ())); // misuse
}
