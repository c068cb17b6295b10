// SPDX-License-Identifier: GPL-2.0
//
// A flush is declared to be void after entries were changed.
//
// rule: as for change_untouched.
// crate: kernel
// error: E0599 no method named `void` found for struct `OwedFlush

use kernel::mm::internal::tlb::{OwedFlush, Touched, Untouched};

pub fn misuse(touched: OwedFlush<'_, Touched>, untouched: OwedFlush<'_, Untouched>) {
    touched.void(); // misuse
    untouched.void();
}
