// SPDX-License-Identifier: GPL-2.0

//! Bringing in what was swapped out.

use crate::{
    outcome::Refusal,
    policy::Policy,
    revalidate::revalidate,
    trace, //
};
use kernel::{
    mm::{
        internal::{
            pgtable::{
                PmdKind,
                PTRS_PER_PTE, //
            },
            stable::{
                StableVma,
                SwapIn, //
            },
        },
        MmWithUser, //
    },
    prelude::*,
};

/// How often the lock may be given up for one slot. Twice is what it takes when the page has to be
/// read, and the lock is given up while it is.
const SLOT_TRIES: usize = 3;

/// Brings in all that was swapped out of the window at `addr`, by the code that page faults use,
/// and waits for what is being moved.
///
/// That may give up the lock for a while: to wait for a page, or because something waits for the
/// lock. The VMA that is returned was looked at again after that.
pub(crate) fn fault_in<'mm>(
    mm: &'mm MmWithUser,
    policy: &Policy,
    vma: StableVma<'mm>,
    addr: usize,
    held: trace::Held,
) -> Result<(StableVma<'mm>, trace::Held), Refusal> {
    let mut swapped_in = 0;
    let result = fault_in_slots(mm, policy, vma, addr, held, &mut swapped_in);

    trace::swapped_in(mm, swapped_in, result.as_ref().err().copied());
    result
}

fn fault_in_slots<'mm>(
    mm: &'mm MmWithUser,
    policy: &Policy,
    mut vma: StableVma<'mm>,
    addr: usize,
    mut held: trace::Held,
    swapped_in: &mut usize,
) -> Result<(StableVma<'mm>, trace::Held), Refusal> {
    for nr in 0..PTRS_PER_PTE {
        let mut tries = 0;

        loop {
            match vma.swap_in(addr, nr) {
                SwapIn::Present(stable) => {
                    vma = stable;
                    break;
                }
                SwapIn::Done(stable) => {
                    *swapped_in += 1;
                    // A window of pages that are swapped in without I/O takes as long as any.
                    vma = if stable.is_contended() || current!().fatal_signal_pending() {
                        drop(stable);
                        let stable = find_table(mm, policy, addr)?;

                        held = trace::Held::begin();
                        stable
                    } else {
                        stable
                    };
                    break;
                }
                SwapIn::NoMemory(_) => return Err(Refusal::NoMemory),
                SwapIn::Failed(_) => return Err(Refusal::SwapIn),
                SwapIn::Unlocked => {
                    vma = find_table(mm, policy, addr)?;
                    held = trace::Held::begin();
                    tries += 1;
                    if tries == SLOT_TRIES {
                        return Err(Refusal::Locked);
                    }
                }
            }
        }
    }
    Ok((vma, held))
}

/// Finds the VMA of the window at `addr` again, if the window has a PTE table.
fn find_table<'mm>(
    mm: &'mm MmWithUser,
    policy: &Policy,
    addr: usize,
) -> Result<StableVma<'mm>, Refusal> {
    let vma = revalidate(mm, policy, addr)?;

    if vma.pmd(addr).map(|slot| slot.read().kind()) != Some(PmdKind::Table) {
        return Err(Refusal::Raced);
    }
    Ok(vma)
}
