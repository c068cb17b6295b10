// SPDX-License-Identifier: GPL-2.0
//
// A window is switched before it was copied.
//
// rule: mm/collapse/collapse.rs, passes: the huge page that is mapped in the place of the sources
// has to hold their data.
// crate: collapse
// error: E0308 mismatched types

use crate::{
    copy::Copied,
    protect::Pinned,
    release::Switched,
    sources::Held,
    switch::{switch, NotSwitched},
    trace,
    window::{Failed, Room},
};
use kernel::{alloc::KVec, mm::internal::mmu_notifier::InvalidateRange};

fn misuse<'v, 'mm: 'v>(
    held: &mut KVec<Held<'mm, Pinned<'v>>>,
    copied: &mut KVec<Copied<'mm, Pinned<'v>>>,
    range: &InvalidateRange<'v>,
    switched: &mut Room<Switched<'v>>,
    failed: &mut Room<Failed<Copied<'mm, Pinned<'v>>, NotSwitched>>,
    times: &mut trace::Held,
) {
    switch(held, 1, range, switched, failed, times); // misuse
    switch(copied, 1, range, switched, failed, times);
}
