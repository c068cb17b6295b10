// SPDX-License-Identifier: GPL-2.0
//
// A huge folio passes for filled that nothing was written to.
//
// rule: What is mapped must not hold what other users of the memory have left there.
// crate: kernel
// error: E0423 cannot initialize a tuple struct which contains private fields

use kernel::mm::internal::folio::{FilledFolio, HugeFolio};

pub fn misuse(folio: HugeFolio) -> Option<FilledFolio> {
    // mended: folio.fill(|_, page| Ok::<_, ()>(page.clear(0))).ok()
    Some(FilledFolio(folio)) // misuse
}
