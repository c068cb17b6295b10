// SPDX-License-Identifier: GPL-2.0
//
// A huge page is mapped over a table that is hidden, but not locked.
//
// rule: mm/collapse/switch.rs: code that found the table before it was hidden may still change its
// entries, until the lock of the table is taken.
// crate: kernel
// error: E0599 no method named `replace` found for struct `Hidden

use kernel::mm::internal::{
    folio::FilledFolio,
    pgtable::{
        DetachedTable,
        Hidden,
        PteTable, //
    },
};

pub fn misuse<'v>(
    hidden: Hidden<'_, 'v>,
    folio: FilledFolio,
    deposit: PteTable<'v>,
) -> DetachedTable<'v> {
    // SAFETY: None: this is not to run.
    // mended: unsafe { hidden.lock().replace(folio, deposit) }
    unsafe { hidden.replace(folio, deposit) } // misuse
}
