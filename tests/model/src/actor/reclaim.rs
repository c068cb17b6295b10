// SPDX-License-Identifier: GPL-2.0

//! The kernel's own memory management: reclaim and swapoff, NUMA balancing, KSM.

use super::{
    cpu::{rebuild_numa, swap_in},
    device::can_lock,
};
use crate::state::{Doing, Kind, Owner, Pmd, Pte, State, SLOTS};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    ReclaimIsolatesAndLocks {
        slot: usize,
    },
    ReclaimAddsToSwapCache,
    ReclaimUnmaps,
    ReclaimWritesOut,
    Swapoff {
        slot: usize,
    },
    NumaHint {
        slot: usize,
    },
    NumaFlushes,
    /// A fault on a hint that does not try to migrate.
    NumaFault {
        slot: usize,
    },
    NumaFaultIsolates {
        slot: usize,
    },
    NumaFaultMigrates,
    /// There is no page on the other node.
    NumaFaultFails,
    KsmWriteProtects {
        slot: usize,
    },
}

pub fn actions(state: &State, add: &mut impl FnMut(Action)) {
    let (others, budget) = (&state.others, &state.budget);

    match others.reclaim {
        Doing::Idle if budget.reclaim > 0 => {
            (0..SLOTS).for_each(|slot| add(Action::ReclaimIsolatesAndLocks { slot }));
        }
        Doing::Locked { .. } => add(Action::ReclaimAddsToSwapCache),
        Doing::Halfway { .. } => add(Action::ReclaimUnmaps),
        Doing::Unflushed { .. } => add(Action::ReclaimWritesOut),
        _ => {}
    }
    if others.numa != Doing::Idle {
        add(Action::NumaFlushes);
    }
    if others.numa_fault != Doing::Idle {
        add(Action::NumaFaultMigrates);
        add(Action::NumaFaultFails);
    }
    for slot in 0..SLOTS {
        if budget.swapoff > 0 && state.pte[slot].kind == Kind::Swap {
            add(Action::Swapoff { slot });
        }
        if budget.numa > 0 && others.numa == Doing::Idle {
            add(Action::NumaHint { slot });
        }
        if others.numa_fault == Doing::Idle && state.pte[slot].protnone {
            add(Action::NumaFault { slot });
            add(Action::NumaFaultIsolates { slot });
        }
        if budget.ksm > 0 {
            add(Action::KsmWriteProtects { slot });
        }
    }
}

pub fn step(state: &mut State, action: Action) -> bool {
    match action {
        Action::ReclaimIsolatesAndLocks { slot } => {
            let orig = state.pte[slot];

            if orig.kind != Kind::Page || !state.is_alive(orig.page) {
                return false;
            }
            let folio = state.folio_of(orig.page);

            // It passes over what is locked, or pinned.
            if folio.lock.is_some() || folio.pins > 0 || folio.maps == 0 {
                return false;
            }
            folio.lock = Some(Owner::Reclaim);
            folio.refs += 1;
            state.budget.reclaim -= 1;
            state.others.reclaim = Doing::Locked {
                slot: slot as u8,
                orig,
            };
        }
        Action::ReclaimAddsToSwapCache => {
            let Doing::Locked { slot, orig } = state.others.reclaim else {
                return false;
            };
            let pages = state.folio_pages(state.folio_nr(orig.page));
            let folio = state.folio_of(orig.page);

            folio.swapcache = true;
            folio.dirty = true;
            folio.refs += pages;
            state.others.reclaim = Doing::Halfway { slot, orig };
        }
        Action::ReclaimUnmaps => return reclaim_unmaps(state),
        Action::ReclaimWritesOut => {
            let Doing::Unflushed { slot: page } = state.others.reclaim else {
                return false;
            };

            reclaim_ends(state, page);
        }
        Action::Swapoff { slot } => {
            let locked = can_lock(state);

            if !locked || !swap_in(state, slot, false) {
                return false;
            }
            state.budget.swapoff -= 1;
        }
        Action::NumaHint { slot } => {
            let pte = state.pte[slot];

            if !can_lock(state) {
                return false;
            }
            match pte.kind {
                Kind::Page if !pte.protnone && !pte.uffd => {
                    let folio = *state.folio_of(pte.page);
                    let shared = !state.large && folio.maps > 1;

                    // folio_can_map_prot_numa()
                    if shared || folio.pins > 0 {
                        return false;
                    }
                    state.pte[slot].protnone = true;
                    state.pte[slot].write = false;
                    state.notify(slot);
                    // Its flush comes when it has gone through a range.
                    state.others.numa = Doing::Unflushed { slot: slot as u8 };
                }
                // change_softleaf_pte()
                Kind::Migration if pte.write => state.pte[slot].write = false,
                _ => return false,
            }
            state.budget.numa -= 1;
        }
        Action::NumaFlushes => {
            let Doing::Unflushed { slot } = state.others.numa else {
                return false;
            };

            state.flush_slot(usize::from(slot));
            state.others.numa = Doing::Idle;
        }
        Action::NumaFault { slot } => {
            if !can_lock(state) || !state.pte[slot].protnone {
                return false;
            }
            rebuild_numa(state, slot);
        }
        Action::NumaFaultIsolates { slot } => {
            let orig = state.pte[slot];

            if !can_lock(state) || !orig.protnone {
                return false;
            }
            state.get(orig.page);
            state.others.numa_fault = Doing::Grabbed {
                slot: slot as u8,
                orig,
            };
        }
        Action::NumaFaultMigrates => return numa_fault_ends(state, true),
        Action::NumaFaultFails => return numa_fault_ends(state, false),
        Action::KsmWriteProtects { slot } => {
            let pte = state.pte[slot];

            if !can_lock(state) || pte.kind != Kind::Page || pte.uffd {
                return false;
            }
            if state.folio_of(pte.page).lock.is_some() || !state.only_expected(pte.page, 0, 0) {
                return false;
            }
            state.flush_slot(slot);
            state.folio_of(pte.page).dirty |= pte.dirty;
            state.page[usize::from(pte.page)].exclusive = false;
            state.pte[slot].write = false;
            state.pte[slot].dirty = false;
            state.budget.ksm -= 1;
        }
    }
    true
}

/// try_to_unmap(): all mappings of the folio, and the flush.
fn reclaim_unmaps(state: &mut State) -> bool {
    let Doing::Halfway { orig, .. } = state.others.reclaim else {
        return false;
    };

    // page_vma_mapped_walk() waits for the locks.
    if state.ptl.is_some() || state.pmd_lock.is_some() {
        return false;
    }
    state.others.reclaim = Doing::Unflushed { slot: orig.page };
    if state.pmd != Pmd::Table {
        return true;
    }
    for slot in 0..SLOTS {
        let pte = state.pte[slot];
        let same = state.folio_nr(pte.page) == state.folio_nr(orig.page);
        let exclusive = state.page[usize::from(pte.page)].exclusive;

        // folio_try_share_anon_rmap_pte() refuses what is pinned.
        if pte.kind != Kind::Page || !same || (exclusive && state.folio_of(pte.page).pins > 0) {
            continue;
        }
        state.flush_slot(slot);
        state.folio_of(pte.page).dirty |= pte.dirty;
        state.page[usize::from(pte.page)].exclusive = false;
        state.pte[slot] = Pte {
            write: exclusive,
            ..Pte::of_kind(Kind::Swap, pte.page)
        };
        state.unmap(pte.page);
    }
    true
}

/// pageout() and __remove_mapping(): a page that nobody else holds is freed.
fn reclaim_ends(state: &mut State, page: u8) {
    let nr = state.folio_nr(page);
    let pages = state.folio_pages(nr);

    if state.folio[nr].swapcache && state.folio[nr].maps == 0 {
        if state.folio[nr].dirty {
            for slot in 0..SLOTS {
                let entry = state.pte[slot];

                if entry.kind == Kind::Swap && state.folio_nr(entry.page) == nr {
                    state.swap[slot] = state.page[usize::from(entry.page)].content;
                }
            }
            state.folio[nr].dirty = false;
        }
        if state.only_expected(page, 1, 0) {
            state.folio[nr].swapcache = false;
            state.folio[nr].refs -= pages;
        }
    }
    state.folio[nr].lock = None;
    state.put(page, 1);
    state.others.reclaim = Doing::Idle;
}

/// The rest of do_numa_page(), once the page is isolated.
fn numa_fault_ends(state: &mut State, has_page: bool) -> bool {
    let Doing::Grabbed { slot, orig } = state.others.numa_fault else {
        return false;
    };
    let slot = usize::from(slot);

    if state.ptl.is_some() || state.pmd_lock.is_some() {
        return false;
    }
    let ours = state.pmd == Pmd::Table && state.pte[slot] == orig;
    let folio = *state.folio_of(orig.page);
    let movable =
        has_page && folio.lock.is_none() && state.only_expected(orig.page, 1, 0) && !state.large;

    state.others.numa_fault = Doing::Idle;
    if ours {
        let content = state.page[usize::from(orig.page)].content;
        let exclusive = state.page[usize::from(orig.page)].exclusive;

        // An entry that gave no access was not writable, and stays so.
        match if movable { state.alloc(content) } else { None } {
            Some(copy) => {
                state.flush_slot(slot);
                state.page[usize::from(copy)].exclusive = exclusive;
                state.pte[slot] = Pte::page(copy, false, orig.dirty);
                state.unmap(orig.page);
            }
            // No flush: that of the scan is to come.
            None => state.pte[slot].protnone = false,
        }
    }
    state.put(orig.page, 1);
    true
}
