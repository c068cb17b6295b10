// SPDX-License-Identifier: GPL-2.0
//
// Code claims to hold a folio lock, and gives no reason.
//
// rule: No type can tell that a lock was left behind to be adopted. A caller that claims it has to
// argue it, in an unsafe block.
// crate: kernel
// error: E0133 call to unsafe function

use kernel::mm::internal::folio::{Folio, FolioLock};

pub fn misuse(folio: &Folio) -> Option<FolioLock<'_>> {
    // mended: folio.try_lock()
    Some(FolioLock::adopt(folio)) // misuse
}
