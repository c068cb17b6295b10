// SPDX-License-Identifier: GPL-2.0

//! CPUs of the process: TLBs, page table walks, stores, and write faults.

use crate::state::{Faulting, Kind, Pmd, Pte, State, Tlb, Violation, CPUS, SLOTS};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Hardware walks the page table for a read or a write.
    Fill { cpu: usize, slot: usize },
    /// Hardware walks it again to set the dirty bit.
    SetDirty { cpu: usize, slot: usize },
    /// A store through a TLB entry that is writable and dirty.
    Store { cpu: usize, slot: usize },
    /// A write fault has found the table and read the PTE.
    FaultReadsPte { cpu: usize, slot: usize },
    /// It has the lock of that table.
    FaultLocks { cpu: usize },
}

pub fn actions(state: &State, add: &mut impl FnMut(Action)) {
    for cpu in (0..CPUS).filter(|cpu| state.cpu[*cpu].runs) {
        let stores = state.cpu[cpu].stores > 0;

        for slot in 0..SLOTS {
            match state.cpu[cpu].tlb[slot] {
                None => add(Action::Fill { cpu, slot }),
                Some(tlb) if tlb.write && tlb.dirty && stores => add(Action::Store { cpu, slot }),
                Some(tlb) if tlb.write && stores => add(Action::SetDirty { cpu, slot }),
                // To write, it does not rely on what it has.
                Some(_) if stores && state.walk(slot).is_some_and(|tlb| tlb.write) => {
                    add(Action::Fill { cpu, slot });
                }
                Some(_) => {}
            }
            if stores && state.cpu[cpu].fault.is_none() {
                add(Action::FaultReadsPte { cpu, slot });
            }
        }
        if state.cpu[cpu].fault.is_some() {
            add(Action::FaultLocks { cpu });
        }
    }
}

pub fn step(state: &mut State, action: Action) -> bool {
    match action {
        Action::Fill { cpu, slot } => {
            let Some(tlb) = walk(state, cpu, slot) else {
                return false;
            };

            state.cpu[cpu].tlb[slot] = Some(tlb);
            state.cpu[cpu].walks = state.pmd == Pmd::Table || state.cpu[cpu].walks;
            true
        }
        Action::SetDirty { cpu, slot } => {
            let found = walk(state, cpu, slot);
            let entry = &mut state.cpu[cpu].tlb[slot];

            match (found, entry.as_mut()) {
                (Some(now), Some(tlb)) if now.write && now.page == tlb.page => {
                    tlb.dirty = true;
                    // A huge PMD entry is dirty.
                    state.pte[slot].dirty |= state.pte[slot].maps(now.page);
                }
                _ => *entry = None,
            }
            true
        }
        Action::Store { cpu, slot } => {
            let Some(tlb) = state.cpu[cpu].tlb[slot] else {
                return false;
            };

            if !state.vm_write || state.uffd_wp[slot] {
                state.fail(Violation::ForbiddenWrite);
            }
            state.cpu[cpu].stores -= 1;
            state.store(slot, tlb.page);
            true
        }
        Action::FaultReadsPte { cpu, slot } => {
            let orig = state.pte[slot];
            let waits = orig.uffd || orig.kind == Kind::Migration || orig.is_writable();

            if state.pmd != Pmd::Table || !state.vm_write || waits {
                return false;
            }
            state.cpu[cpu].fault = Some(Faulting {
                slot: slot as u8,
                orig,
            });
            true
        }
        Action::FaultLocks { cpu } => {
            let Some(fault) = state.cpu[cpu].fault else {
                return false;
            };
            let slot = usize::from(fault.slot);

            if state.ptl.is_some() {
                return false;
            }
            // Where nothing is present the PMD entry is looked at again, else it is not.
            let finds =
                !matches!(fault.orig.kind, Kind::None | Kind::Swap) || state.pmd == Pmd::Table;

            if finds && state.pte[slot] == fault.orig && !write_fault(state, slot) {
                return false;
            }
            state.cpu[cpu].fault = None;
            state.cpu[cpu].tlb[slot] = None;
            true
        }
    }
}

/// The translation that hardware finds, maybe from a table that it has cached.
fn walk(state: &State, cpu: usize, slot: usize) -> Option<Tlb> {
    let pte = state.pte[slot];

    if state.pmd != Pmd::Table && state.cpu[cpu].walks && pte.is_readable() {
        return Some(pte.into());
    }
    state.walk(slot)
}

/// A write fault, under the lock of the table. Returns false if it has to wait. Where this model
/// has no page left, it does nothing.
pub fn write_fault(state: &mut State, slot: usize) -> bool {
    let pte = state.pte[slot];

    match pte.kind {
        // check_stable_address_space(): it dies.
        Kind::None if state.unstable => true,
        Kind::None | Kind::Zero => match state.alloc(0) {
            Some(page) => {
                state.pte[slot] = Pte::page(page, true, true);
                state.flush_slot(slot);
                true
            }
            None => true,
        },
        Kind::Migration => false,
        Kind::Swap => swap_in(state, slot, true),
        Kind::Page if pte.uffd => true,
        Kind::Page => {
            if !state.is_alive(pte.page) {
                state.fail(Violation::UseAfterFree);
                return true;
            }
            if pte.protnone {
                rebuild_numa(state, slot);
                return true;
            }
            write_protected(state, slot, pte)
        }
    }
}

/// do_wp_page()
fn write_protected(state: &mut State, slot: usize, pte: Pte) -> bool {
    let page = usize::from(pte.page);

    if state.page[page].exclusive || can_reuse(state, pte.page) {
        state.page[page].exclusive = true;
        state.pte[slot].write = true;
        state.pte[slot].dirty = true;
        return true;
    }
    let content = state.page[page].content;
    let Some(copy) = state.alloc(content) else {
        return true;
    };

    state.flush_slot(slot);
    state.pte[slot] = Pte::page(copy, true, true);
    state.unmap(pte.page);
    true
}

/// wp_can_reuse_anon_folio()
fn can_reuse(state: &mut State, page: u8) -> bool {
    let folio = *state.folio_of(page);

    // The lock is not asked for a large folio, but all mappings have to be ours.
    let others = state.child.iter().flatten().any(|child| child.0 == page);
    let unlocked = folio.lock.is_none() || state.large;

    unlocked && !others && folio.pins == 0 && folio.refs == folio.maps && folio.refs > 0
}

/// The end of do_numa_page() where nothing was migrated.
pub fn rebuild_numa(state: &mut State, slot: usize) {
    let exclusive = state.page[usize::from(state.pte[slot].page)].exclusive;

    state.pte[slot].protnone = false;
    state.pte[slot].write = state.vm_write && exclusive;
}

/// do_swap_page(), or unuse_pte(), which maps what it reads read-only.
pub fn swap_in(state: &mut State, slot: usize, write: bool) -> bool {
    let entry = state.pte[slot];
    let exclusive = entry.write;

    if state.is_alive(entry.page) && state.folio_of(entry.page).swapcache {
        let pages = state.folio_pages(state.folio_nr(entry.page));
        let folio = state.folio_of(entry.page);

        if folio.lock.is_some() {
            return false;
        }
        folio.refs += 1;
        folio.maps += 1;
        // A large folio leaves the swap cache when no entry is left.
        let others = (0..SLOTS)
            .any(|other| other != slot && state.pte[other].kind == Kind::Swap && state.large);
        if !others {
            let folio = state.folio_of(entry.page);

            folio.swapcache = false;
            folio.dirty = true;
            folio.refs -= pages;
        }
        state.page[usize::from(entry.page)].exclusive = exclusive;
        state.pte[slot] = Pte::page(entry.page, write && exclusive, write && exclusive);
        return true;
    }
    let content = state.swap[slot];
    let Some(page) = state.alloc(content) else {
        return true;
    };

    state.folio_of(page).dirty = true;
    state.pte[slot] = Pte::page(page, write, write);
    true
}
