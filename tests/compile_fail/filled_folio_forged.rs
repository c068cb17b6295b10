// SPDX-License-Identifier: GPL-2.0
//
// A huge folio passes for filled, although nothing was written to it.
//
// rule: A folio that is mapped must not hold data that other users of the memory have left there.
// crate: kernel
// error: E0423 cannot initialize a tuple struct which contains private fields

use kernel::mm::internal::folio::{FilledFolio, HugeFolio};

pub fn misuse(folio: HugeFolio) -> Option<FilledFolio> {
    // mended: folio.fill(|_, page| Ok::<_, ()>(page.clear(0))).ok()
    Some(FilledFolio(folio)) // misuse
}
