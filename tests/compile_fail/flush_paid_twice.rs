// SPDX-License-Identifier: GPL-2.0
//
// A flush is made, and the debt is used again.
//
// rule: inc_tlb_flush_pending() and dec_tlb_flush_pending() come in pairs.
// crate: kernel
// error: E0382 use of moved value: `owed`

use kernel::mm::internal::tlb::{Flushed, OwedFlush};

pub fn misuse(owed: OwedFlush<'_>) -> Flushed<'_> {
    let flushed = owed.flush();

    owed.flush(); // misuse
    flushed
}
