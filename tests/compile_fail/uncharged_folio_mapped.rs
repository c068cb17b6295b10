// SPDX-License-Identifier: GPL-2.0
//
// A huge folio is filled, to be mapped, that no memory cgroup pays for.
//
// rule: Documentation/admin-guide/cgroup-v2.rst: memory is charged when it is allocated. To charge
// may sleep, and so cannot be done later, under the PMD lock.
// crate: kernel
// error: E0599 no method named `fill` found for struct `UnchargedFolio

use kernel::mm::internal::folio::{FilledFolio, HugeFolio, UnchargedFolio};

pub fn misuse(uncharged: UnchargedFolio, folio: HugeFolio) -> Option<FilledFolio> {
    // mended: drop(uncharged);
    drop(uncharged.fill(|_, page| Ok::<_, ()>(page.clear(0)))); // misuse
    folio.fill(|_, page| Ok::<_, ()>(page.clear(0))).ok()
}
