// SPDX-License-Identifier: GPL-2.0

//! System calls of the process: MADV_DONTNEED, userfaultfd, fork, mprotect; and the OOM reaper,
//! which zaps as MADV_DONTNEED does.

use super::device::can_lock;
use crate::{
    fault::Fault,
    state::{Doing, Kind, Owner, Pmd, Pte, State, Violation, SLOTS},
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// It reads the PMD entry without a lock.
    ZapLooks,
    Zaps,
    /// PT_RECLAIM
    ZapFreesTable,
    WriteProtects {
        slot: usize,
    },
    UndoesWriteProtection {
        slot: usize,
    },
    MoveGets {
        slot: usize,
    },
    MoveLocks,
    Moves,
    Fork,
    ChildExits,
    MprotectRead,
}

pub fn actions(state: &State, add: &mut impl FnMut(Action)) {
    let (others, budget) = (&state.others, &state.budget);

    match others.zap {
        Doing::Idle if budget.zap > 0 => add(Action::ZapLooks),
        Doing::Read { .. } => add(Action::Zaps),
        Doing::Halfway { .. } => add(Action::ZapFreesTable),
        _ => {}
    }
    match others.move_page {
        Doing::Idle if budget.move_page > 0 => {
            (0..SLOTS).for_each(|slot| add(Action::MoveGets { slot }));
        }
        Doing::Grabbed { .. } => add(Action::MoveLocks),
        Doing::Locked { .. } => add(Action::Moves),
        _ => {}
    }
    for slot in 0..SLOTS {
        if budget.uffd > 0 && !state.uffd_wp[slot] {
            add(Action::WriteProtects { slot });
        }
        if state.uffd_wp[slot] {
            add(Action::UndoesWriteProtection { slot });
        }
    }
    if budget.fork > 0 {
        add(Action::Fork);
    }
    if state.child.iter().any(Option::is_some) {
        add(Action::ChildExits);
    }
    if budget.mprotect > 0 {
        add(Action::MprotectRead);
    }
}

pub fn step(state: &mut State, action: Action, reaps: bool, fault: Option<Fault>) -> bool {
    match action {
        Action::ZapLooks => {
            state.budget.zap -= 1;
            state.unstable |= reaps;
            if state.pmd == Pmd::None {
                // There is nothing to zap.
                given_up(state, reaps);
            } else {
                state.others.zap = Doing::Read {
                    slot: 0,
                    orig: Pte::NONE,
                };
            }
            true
        }
        Action::Zaps => zaps(state, reaps),
        Action::ZapFreesTable => {
            if state.pmd_lock.is_some() || state.ptl.is_some() {
                return false;
            }
            if state.pmd == Pmd::Table && state.pte.iter().all(|pte| pte.kind == Kind::None) {
                state.pmd = Pmd::None;
                state.flush_all();
            }
            state.others.zap = Doing::Idle;
            true
        }
        Action::WriteProtects { slot } => {
            let kind = state.pte[slot].kind;

            if !can_lock(state) || !matches!(kind, Kind::Page | Kind::Migration) {
                return false;
            }
            state.budget.uffd -= 1;
            state.uffd_wp[slot] = true;
            state.pte[slot].uffd = true;
            state.pte[slot].write = false;
            state.flush_slot(slot);
            true
        }
        Action::UndoesWriteProtection { slot } => {
            if state.ptl.is_some() || state.pmd_lock.is_some() {
                return false;
            }
            state.uffd_wp[slot] = false;
            state.pte[slot].uffd = false;
            true
        }
        Action::MoveGets { slot } => {
            let orig = state.pte[slot];
            let exclusive = state.page[usize::from(orig.page)].exclusive;

            if !can_lock(state) || !orig.is_readable() || !exclusive {
                return false;
            }
            state.budget.move_page -= 1;
            state.get(orig.page);
            state.others.move_page = Doing::Grabbed {
                slot: slot as u8,
                orig,
            };
            true
        }
        Action::MoveLocks => {
            let Doing::Grabbed { slot, orig } = state.others.move_page else {
                return false;
            };
            let folio = state.folio_of(orig.page);

            if folio.lock.is_some() {
                return false;
            }
            folio.lock = Some(Owner::Move);
            state.others.move_page = Doing::Locked { slot, orig };
            true
        }
        Action::Moves => moves(state),
        Action::Fork => forks(state, fault),
        Action::ChildExits => {
            for slot in 0..SLOTS {
                if let Some((page, _)) = state.child[slot].take() {
                    state.unmap(page);
                }
            }
            true
        }
        Action::MprotectRead => {
            if !state.vma_is_free(fault) {
                return false;
            }
            state.budget.mprotect -= 1;
            state.vm_write = false;
            if matches!(state.pmd, Pmd::Huge(_)) {
                state.pmd_write = false;
                state.flush_all();
            }
            for slot in 0..SLOTS {
                // pte_needs_flush(): an entry that is read-only already needs none.
                if state.pte[slot].write && state.pte[slot].kind == Kind::Page {
                    state.pte[slot].write = false;
                    state.flush_slot(slot);
                }
            }
            true
        }
    }
}

/// How many slots a zap has come to. The OOM reaper gives up the lock in between.
fn zapped(reaps: bool) -> usize {
    if reaps {
        1
    } else {
        SLOTS
    }
}

fn given_up(state: &mut State, reaps: bool) {
    state.reaped |= reaps;
    for slot in 0..zapped(reaps && state.pmd == Pmd::Table) {
        state.truth[slot] = 0;
        state.zaps[slot] += 1;
        state.uffd_wp[slot] = false;
    }
}

/// The whole window, be it huge or not.
fn zaps(state: &mut State, reaps: bool) -> bool {
    if state.pmd_lock.is_some() {
        return false;
    }
    match state.pmd {
        Pmd::Table => {
            if state.ptl.is_some() {
                return false;
            }
            for slot in 0..zapped(reaps) {
                let pte = state.pte[slot];

                state.pte[slot] = Pte::NONE;
                state.flush_slot(slot);
                match pte.kind {
                    Kind::Page => state.unmap(pte.page),
                    Kind::Swap if state.is_alive(pte.page) => free_swap(state, pte.page),
                    // A migration entry has neither rmap nor reference of its own.
                    _ => {}
                }
            }
            state.others.zap = Doing::Halfway {
                slot: 0,
                orig: Pte::NONE,
            };
        }
        Pmd::Huge(_) => {
            state.pmd = Pmd::None;
            state.flush_all();
            (0..SLOTS).for_each(|slot| state.notify(slot));
            state.others.zap = Doing::Idle;
        }
        Pmd::Invalid(_) => return false,
        Pmd::None => state.others.zap = Doing::Idle,
    }
    given_up(state, reaps);
    true
}

/// free_swap_and_cache(), which leaves a locked folio to its owner.
fn free_swap(state: &mut State, page: u8) {
    let pages = state.folio_pages(state.folio_nr(page));
    let folio = state.folio_of(page);

    if folio.swapcache && folio.lock.is_none() && folio.maps == 0 {
        folio.swapcache = false;
        state.put(page, pages);
    }
}

/// UFFDIO_MOVE, once it has the lock of its source.
fn moves(state: &mut State) -> bool {
    let Doing::Locked { slot, orig } = state.others.move_page else {
        return false;
    };
    let at = usize::from(slot);

    // It has found the table already: only the lock of that table holds it up.
    if state.ptl.is_some() {
        return false;
    }
    state.others.move_page = Doing::Idle;
    if state.pmd == Pmd::Table && state.pte[at] == orig {
        if !state.only_expected(orig.page, 1, 0) {
            // -EBUSY. It should have waited for the collapse.
            if state.is_held_by_us(orig.page) {
                state.fail(Violation::HardFailure);
            }
        } else {
            let content = state.content(orig.page);

            state.flush_slot(at);
            state.pte[at] = Pte::NONE;
            state.truth[at] = 0;
            state.zaps[at] += 1;
            state.moved = Some((orig.page, content));
        }
    }
    state.folio_of(orig.page).lock = None;
    state.put(orig.page, 1);
    true
}

/// The whole of fork(), under the VMA lock for write.
fn forks(state: &mut State, fault: Option<Fault>) -> bool {
    if !state.vma_is_free(fault) {
        return false;
    }
    state.budget.fork -= 1;
    for slot in 0..SLOTS {
        let pte = state.pte[slot];

        if state.pmd != Pmd::Table || pte.kind != Kind::Page {
            continue;
        }
        let exclusive = state.page[usize::from(pte.page)].exclusive;

        // folio_needs_cow_for_dma(): then the child has a copy.
        if exclusive && state.has_pinned && state.folio_of(pte.page).pins > 0 {
            continue;
        }
        state.page[usize::from(pte.page)].exclusive = false;
        state.pte[slot].write = false;
        state.get(pte.page);
        state.folio_of(pte.page).maps += 1;
        state.child[slot] = Some((pte.page, state.page[usize::from(pte.page)].content));
        state.flush_slot(slot);
    }
    true
}
