// SPDX-License-Identifier: GPL-2.0
//
// A table passes for detached, although others may still use its entries.
//
// rule: rust/kernel/mm/internal/pgtable/pmd.rs: page faults look no further than at the entry once they have the lock
// of a table. Only replacing a hidden table, which clears it, makes a detached one.
// crate: kernel
// error: E0451 of struct `DetachedTable` is private

use kernel::mm::internal::pgtable::DetachedTable;

pub fn misuse(table: DetachedTable<'_>) {
    let DetachedTable { vma: _, .. } = &table; // misuse

    drop(table);
}
