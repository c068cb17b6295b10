// SPDX-License-Identifier: GPL-2.0
//
// A huge folio is written to after it was mapped.
//
// rule: A folio that was mapped belongs to the process, which reads and writes it from then on.
// crate: kernel
// error: E0382 borrow of moved value: `folio`

use kernel::mm::internal::{
    folio::FilledFolio,
    pgtable::{
        DetachedTable,
        LockedHidden,
        PteTable, //
    },
};

pub fn misuse<'v>(
    table: LockedHidden<'_, 'v>,
    mut folio: FilledFolio,
    deposit: PteTable<'v>,
) -> DetachedTable<'v> {
    drop(folio.page_mut(0));
    // SAFETY: None: this is not to run.
    let old = unsafe { table.replace(folio, deposit) };

    drop(folio.page_mut(0)); // misuse
    old
}
