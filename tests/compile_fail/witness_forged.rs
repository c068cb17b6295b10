// SPDX-License-Identifier: GPL-2.0
//
// Code claims that a VMA is one in which writes show in PTEs.
//
// rule: as for protect_where_it_does_not_tell: only the VMA itself tells.
// crate: collapse
// error: E0423 cannot initialize a tuple struct which contains private fields

use crate::protect::Pinnable;
use core::marker::PhantomData;
use kernel::mm::virt::VmaRef;

fn misuse(vma: &VmaRef) -> Option<Pinnable<'_>> {
    // mended: let _: PhantomData<&VmaRef> = PhantomData;
    // mended: Pinnable::of(vma)
    Some(Pinnable(PhantomData)) // misuse
}
