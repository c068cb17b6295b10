// SPDX-License-Identifier: GPL-2.0

//! Actors that reach pages by references of their own: pins and DMA, ptrace, FOLL_LONGTERM, and
//! secondary MMUs.

use super::cpu::write_fault;
use crate::state::{huge_page, Doing, Kind, Owner, Pmd, Pte, State, Violation, SLOTS};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    GupFastReads {
        slot: usize,
    },
    GupFastPins,
    GupFastReadsAgain,
    GupSlow {
        slot: usize,
    },
    Dma,
    Unpin,
    /// access_remote_vm(), with FOLL_FORCE where the VMA is not writable.
    PokeGets {
        slot: usize,
    },
    PokeWrites,
    PokePuts,
    /// FOLL_LONGTERM on a page that has to be migrated first.
    LongtermIsolates {
        slot: usize,
    },
    LongtermLocks,
    LongtermMigrates,
    SecondaryLooks,
    SecondaryWalks {
        slot: usize,
    },
    SecondaryMaps,
    SecondaryWrites {
        slot: usize,
    },
}

pub fn actions(state: &State, add: &mut impl FnMut(Action)) {
    let (others, budget) = (&state.others, &state.budget);

    match others.gup {
        Doing::Idle if budget.gup > 0 => {
            for slot in 0..SLOTS {
                add(Action::GupFastReads { slot });
                add(Action::GupSlow { slot });
            }
        }
        Doing::Read { .. } => add(Action::GupFastPins),
        Doing::Grabbed { .. } => add(Action::GupFastReadsAgain),
        Doing::Has { .. } => {
            add(Action::Unpin);
            if budget.dma > 0 {
                add(Action::Dma);
            }
        }
        _ => {}
    }
    match others.poke {
        Doing::Idle if budget.poke > 0 => {
            (0..SLOTS).for_each(|slot| add(Action::PokeGets { slot }));
        }
        Doing::Has { .. } => add(Action::PokeWrites),
        Doing::Unflushed { .. } => add(Action::PokePuts),
        _ => {}
    }
    match others.longterm {
        Doing::Idle if budget.longterm > 0 => {
            (0..SLOTS).for_each(|slot| add(Action::LongtermIsolates { slot }));
        }
        Doing::Grabbed { .. } => add(Action::LongtermLocks),
        Doing::Locked { .. } => add(Action::LongtermMigrates),
        _ => {}
    }
    match others.secondary {
        Doing::Idle if budget.secondary > 0 => add(Action::SecondaryLooks),
        Doing::Unflushed { .. } => {
            (0..SLOTS).for_each(|slot| add(Action::SecondaryWalks { slot }));
        }
        Doing::Has { .. } => add(Action::SecondaryMaps),
        _ => {}
    }
    if budget.secondary_writes > 0 {
        for slot in 0..SLOTS {
            if state.secondary[slot].is_some() {
                add(Action::SecondaryWrites { slot });
            }
        }
    }
}

pub fn step(state: &mut State, action: Action) -> bool {
    match action {
        Action::GupFastReads { slot } => {
            let orig = state.pte[slot];

            if state.pmd != Pmd::Table || !orig.is_writable() {
                return false;
            }
            state.budget.gup -= 1;
            state.others.gup = Doing::Read {
                slot: slot as u8,
                orig,
            };
        }
        Action::GupFastPins => {
            let Doing::Read { slot, orig } = state.others.gup else {
                return false;
            };

            // The page may be free by now, or another one: that is found out next.
            state.others.gup = if state.is_alive(orig.page) {
                state.folio_of(orig.page).pins += 1;
                Doing::Grabbed { slot, orig }
            } else {
                Doing::Idle
            };
        }
        Action::GupFastReadsAgain => {
            let Doing::Grabbed { slot, orig } = state.others.gup else {
                return false;
            };

            if state.pmd == Pmd::Table && state.pte[usize::from(slot)] == orig {
                has_pinned(state, usize::from(slot), orig.page);
            } else {
                state.unpin(orig.page);
                state.others.gup = Doing::Idle;
            }
        }
        Action::GupSlow { slot } => {
            if !lock_writable(state, slot) {
                return false;
            }
            let page = state.pte[slot].page;

            state.budget.gup -= 1;
            state.folio_of(page).pins += 1;
            has_pinned(state, slot, page);
        }
        Action::Dma => {
            let Doing::Has { slot, page, zaps } = state.others.gup else {
                return false;
            };
            let slot = usize::from(slot);

            // It does not care for pages that the process has given up.
            if zaps != state.zaps[slot] {
                return false;
            }
            state.budget.dma -= 1;
            state.store(slot, page);
        }
        Action::Unpin => {
            let Doing::Has { page, .. } = state.others.gup else {
                return false;
            };

            state.folio_of(page).dirty = true;
            state.unpin(page);
            state.others.gup = Doing::Idle;
        }
        Action::PokeGets { slot } => {
            let pte = state.pte[slot];

            if state.vm_write {
                if !lock_writable(state, slot) {
                    return false;
                }
            } else {
                let exclusive = state.page[usize::from(pte.page)].exclusive;

                if !can_lock(state) || !pte.is_readable() || pte.uffd || !exclusive {
                    return false;
                }
                // A write fault of it leaves the PTE read-only, and dirty.
                state.pte[slot].dirty = true;
            }
            let page = state.pte[slot].page;

            state.budget.poke -= 1;
            state.get(page);
            state.others.poke = Doing::Has {
                slot: slot as u8,
                page,
                zaps: state.zaps[slot],
            };
        }
        Action::PokeWrites => {
            let Doing::Has { slot, page, zaps } = state.others.poke else {
                return false;
            };

            if zaps == state.zaps[usize::from(slot)] {
                state.store(usize::from(slot), page);
            }
            state.folio_of(page).dirty = true;
            state.others.poke = Doing::Unflushed { slot: page };
        }
        Action::PokePuts => {
            let Doing::Unflushed { slot: page } = state.others.poke else {
                return false;
            };

            state.put(page, 1);
            state.others.poke = Doing::Idle;
        }
        Action::LongtermIsolates { slot } => {
            let orig = state.pte[slot];
            let exclusive = state.page[usize::from(orig.page)].exclusive;

            if !can_lock(state) || !orig.is_readable() || !exclusive {
                return false;
            }
            state.budget.longterm -= 1;
            state.get(orig.page);
            state.others.longterm = Doing::Grabbed {
                slot: slot as u8,
                orig,
            };
        }
        Action::LongtermLocks => {
            let Doing::Grabbed { slot, orig } = state.others.longterm else {
                return false;
            };
            let folio = state.folio_of(orig.page);

            if folio.lock.is_some() {
                return false;
            }
            folio.lock = Some(Owner::Migration);
            state.others.longterm = Doing::Locked { slot, orig };
        }
        Action::LongtermMigrates => {
            let Doing::Locked { slot, orig } = state.others.longterm else {
                return false;
            };

            if !migrate(state, usize::from(slot), orig.page) {
                return false;
            }
            state.folio_of(orig.page).lock = None;
            state.put(orig.page, 1);
            state.others.longterm = Doing::Idle;
        }
        Action::SecondaryLooks => {
            if state.ranges > 0 {
                return false;
            }
            state.budget.secondary -= 1;
            state.others.told = false;
            state.others.secondary = Doing::Unflushed { slot: 0 };
        }
        Action::SecondaryWalks { slot } => {
            let page = match state.pmd {
                // HMM reads the entry of a huge page without a lock.
                Pmd::Invalid(engine) | Pmd::Huge(engine) => huge_page(engine, slot),
                _ => {
                    if !lock_writable(state, slot) {
                        return false;
                    }
                    state.pte[slot].page
                }
            };

            state.others.secondary = Doing::Has {
                slot: slot as u8,
                page,
                zaps: 0,
            };
        }
        Action::SecondaryMaps => {
            let Doing::Has { slot, page, .. } = state.others.secondary else {
                return false;
            };

            if state.ranges == 0 && !state.others.told {
                state.secondary[usize::from(slot)] = Some(page);
            }
            state.others.secondary = Doing::Idle;
            state.others.told = false;
        }
        Action::SecondaryWrites { slot } => {
            let Some(page) = state.secondary[slot] else {
                return false;
            };

            state.budget.secondary_writes -= 1;
            state.store(slot, page);
        }
    }
    true
}

/// Returns whether the lock of the table can be had, and the table is hooked in.
pub fn can_lock(state: &State) -> bool {
    state.ptl.is_none() && state.pmd == Pmd::Table
}

/// Has the page of a slot mapped writable, by a page fault if need be, with the table locked.
fn lock_writable(state: &mut State, slot: usize) -> bool {
    if !can_lock(state) || !state.vm_write || state.pte[slot].uffd {
        return false;
    }
    if state.pte[slot].is_writable() {
        return true;
    }
    write_fault(state, slot) && state.pte[slot].is_writable()
}

fn has_pinned(state: &mut State, slot: usize, page: u8) {
    state.has_pinned = true;
    state.others.gup = Doing::Has {
        slot: slot as u8,
        page,
        zaps: state.zaps[slot],
    };
}

/// migrate_pages() of an isolated page whose lock is held. Returns false if it has to wait.
fn migrate(state: &mut State, slot: usize, page: u8) -> bool {
    let pmd_locked = state.pmd_lock.is_some();

    if pmd_locked || state.ptl.is_some() {
        return false;
    }
    let pte = state.pte[slot];

    if state.pmd != Pmd::Table || !pte.maps(page) {
        // It is unmapped, or replaced: GUP looks again.
        return true;
    }
    if !state.only_expected(page, 1, 0) {
        // It should have waited for the collapse.
        if state.is_held_by_us(page) {
            state.fail(Violation::HardFailure);
        }
        return true;
    }
    let content = state.page[usize::from(page)].content;
    let Some(copy) = state.alloc(content) else {
        return true;
    };

    state.flush_slot(slot);
    state.pte[slot] = Pte {
        kind: Kind::Page,
        page: copy,
        ..pte
    };
    state.unmap(page);
    true
}
