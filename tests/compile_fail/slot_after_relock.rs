// SPDX-License-Identifier: GPL-2.0
//
// A PMD entry is used that was found before the lock was given up and taken again.
//
// rule: Documentation/mm/process_addrs.rst, page tables: upper levels may be freed once the VMA
// that they serve is not kept.
// crate: kernel
// error: E0506 cannot assign to `vma` because it is borrowed

use kernel::{
    mm::{
        internal::{
            pgtable::PmdKind,
            stable::StableVma, //
        },
        MmWithUser, //
    },
    prelude::*,
};

pub fn misuse<'m>(
    mm: &'m MmWithUser,
    mut vma: StableVma<'m>,
    addr: usize,
) -> Result<Option<PmdKind>> {
    let slot = vma.pmd(addr);

    vma = mm.find_stable_vma(addr)?.ok_or(EINVAL)?; // misuse
    let kind = slot.map(|slot| slot.read().kind());
    drop(vma);
    Ok(kind)
}
