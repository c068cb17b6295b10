// SPDX-License-Identifier: GPL-2.0
//
// Code claims that a flush was made.
//
// rule: Only the flush itself proves it.
// crate: kernel
// error: E0423 cannot initialize a tuple struct which contains private fields

use core::marker::PhantomData;
use kernel::mm::internal::tlb::{Flushed, OwedFlush};

pub fn misuse(owed: OwedFlush<'_>) -> Flushed<'_> {
    // mended: owed.flush()
    Flushed(PhantomData) // misuse
}
