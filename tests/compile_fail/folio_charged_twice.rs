// SPDX-License-Identifier: GPL-2.0
//
// A huge folio is charged twice.
//
// rule: mem_cgroup_charge() wants a folio that is not charged: the first charge would never end.
// crate: kernel
// error: E0382 use of moved value: `folio`

use kernel::{
    alloc::flags::GFP_KERNEL,
    mm::{
        internal::folio::{
            ChargeError,
            HugeFolio,
            UnchargedFolio, //
        },
        MmWithUser, //
    },
};

pub fn misuse(mm: &MmWithUser, folio: UnchargedFolio) -> Result<HugeFolio, ChargeError> {
    let charged = folio.charge(mm, GFP_KERNEL);

    drop(folio.charge(mm, GFP_KERNEL)); // misuse
    charged
}
