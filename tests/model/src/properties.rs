// SPDX-License-Identifier: GPL-2.0

//! The properties of every state.

use crate::{
    protocol::Verdict,
    scope::Scope,
    state::{Doing, Kind, Pmd, State, Violation, SLOTS},
};

/// Looks for what is wrong in a state. Some of it was noted already, where it happened.
pub fn find_violation(scope: &Scope, state: &State) -> Option<Violation> {
    if state.violation.is_some() {
        return state.violation;
    }
    for slot in 0..SLOTS {
        // Every CPU could read through its TLB, or walk the page table.
        let in_tlbs = state.cpu.iter().filter_map(|cpu| cpu.tlb[slot]);

        for tlb in in_tlbs.chain(state.walk(slot)) {
            if let Some(violation) = misread(state, tlb.page, state.truth[slot]) {
                return Some(violation);
            }
        }
        if let Some(page) = state.secondary[slot] {
            if let Some(violation) = misread(state, page, state.truth[slot]) {
                return Some(violation);
            }
        }
        if state.pmd == Pmd::Table && would_read(state, slot) != state.truth[slot] {
            return Some(Violation::StaleRead);
        }
        if let Some((page, content)) = state.child[slot] {
            if misread(state, page, content).is_some() {
                return Some(Violation::ForkShares);
            }
        }
    }
    if let Doing::Has { slot, page, zaps } = state.others.gup {
        let slot = usize::from(slot);

        if zaps == state.zaps[slot] {
            if let Some(violation) = misread(state, page, state.truth[slot]) {
                return Some(violation);
            }
        }
    }
    if let Some((page, content)) = state.moved {
        if let Some(violation) = misread(state, page, content) {
            return Some(violation);
        }
    }
    if state.reaped && matches!(state.pmd, Pmd::Huge(_)) {
        return Some(Violation::ReapedReadable);
    }
    if is_over(state) {
        return find_at_end(scope, state);
    }
    None
}

/// The contents that a page fault on a slot would find, once it is done.
fn would_read(state: &State, slot: usize) -> u8 {
    let pte = state.pte[slot];

    match pte.kind {
        Kind::None | Kind::Zero => 0,
        Kind::Page | Kind::Migration => state.page[usize::from(pte.page)].content,
        Kind::Swap if state.folio[state.folio_nr(pte.page)].swapcache => {
            state.page[usize::from(pte.page)].content
        }
        Kind::Swap => state.swap[slot],
    }
}

fn misread(state: &State, page: u8, expected: u8) -> Option<Violation> {
    if !state.is_alive(page) {
        Some(Violation::UseAfterFree)
    } else if state.page[usize::from(page)].content != expected {
        Some(Violation::StaleRead)
    } else {
        None
    }
}

/// Nothing is under way.
pub fn is_over(state: &State) -> bool {
    let others = &state.others;

    state.engine.iter().all(|engine| engine.is_done())
        && state.cpu.iter().all(|cpu| cpu.fault.is_none())
        && [
            others.gup,
            others.poke,
            others.longterm,
            others.reclaim,
            others.numa,
            others.numa_fault,
            others.move_page,
            others.zap,
            others.secondary,
        ]
        .iter()
        .all(|doing| *doing == Doing::Idle)
}

fn find_at_end(scope: &Scope, state: &State) -> Option<Violation> {
    if is_unbalanced(state) {
        return Some(Violation::Unbalanced);
    }
    let collapsed = state
        .engine
        .iter()
        .any(|engine| engine.verdict == Some(Verdict::Huge));

    if scope.must_collapse && !collapsed {
        return Some(Violation::NotCollapsed);
    }
    None
}

/// References, mappings, pins and locks are those of page tables, and nothing else.
fn is_unbalanced(state: &State) -> bool {
    if state.ptl.is_some() || state.pmd_lock.is_some() || state.ranges > 0 {
        return true;
    }
    (0..state.folio.len()).any(|nr| {
        let in_table = state.pte.iter().filter(|pte| {
            let mapped = state.pmd == Pmd::Table && pte.kind == Kind::Page;

            mapped && state.folio_nr(pte.page) == nr
        });
        let elsewhere = state
            .child
            .iter()
            .flatten()
            .chain(&state.moved)
            .filter(|(page, _)| state.folio_nr(*page) == nr);
        let maps = (in_table.count() + elsewhere.count()) as u8;
        let folio = state.folio[nr];

        folio.maps != maps
            || folio.refs != state.expected_refs(nr)
            || folio.pins > 0
            || folio.lock.is_some()
    })
}
