// SPDX-License-Identifier: GPL-2.0

//! Judging windows: which are huge already, which cannot be collapsed, and what the others need.

use crate::{
    judge::{
        judge_page,
        judge_softleaf,
        PteCounts, //
    },
    node::NodeLoad,
    outcome::Refusal,
    policy::Limits,
    window::{
        Way,
        Window, //
    },
};
use core::ops::Range;
use kernel::{
    mm::{
        internal::{
            nodemask::NodeMask,
            pgtable::{
                PmdKind,
                PteKind,
                PteTableGuard,
                Softleaf,
                PMD_SIZE,
                PUD_SIZE, //
            },
            stat::{
                self,
                CollapseEvent, //
            },
            trace::{
                self,
                ScanResult, //
            },
        },
        virt::VmaRef, //
    },
    sync::aref::ARef,
};

/// The result of scanning a window.
pub(crate) enum Found {
    /// A huge page, mapped or being moved: nothing to do.
    Huge,
    /// Pages that can be collapsed.
    Candidate(Candidate),
}

/// A window that may be collapsed.
pub(crate) enum Candidate {
    /// Its PTEs map a whole huge page, which a PMD entry can map again.
    Whole,
    /// It is to be copied.
    Pages(Needs),
}

/// The needs of a window that is to be copied.
pub(crate) struct Needs {
    /// The node that most of its pages lie on.
    pub(crate) nid: usize,
    /// The nodes that as many lie on.
    pub(crate) nodes: NodeMask,
    /// How many slots have to be read from swap.
    pub(crate) swapped: usize,
    /// How many slots hold a page that is being moved, which is to be waited for.
    pub(crate) moving: usize,
}

/// Scans a window.
pub(crate) fn scan(
    vma: &VmaRef,
    window: Window,
    limits: &Limits,
    load: &mut NodeLoad,
) -> Result<Found, Refusal> {
    let mut counts = PteCounts::default();
    let mut absent = Absent::default();
    let found = scan_window(vma, window, limits, load, &mut counts, &mut absent);

    let result = match &found {
        Ok(Found::Huge) => ScanResult::PMD_MAPPED,
        Ok(Found::Candidate(_)) => ScanResult::SUCCEED,
        Err(refusal) => (*refusal).into(),
    };

    trace::scanned(vma.mm(), counts.empty(), absent.swapped, result);
    found
}

/// Slots that hold a page, but do not map it.
#[derive(Default)]
struct Absent {
    swapped: usize,
    moving: usize,
}

/// Judges a window.
///
/// Locks and references are looked at too, although they can change until the sources are locked: a
/// window that will be refused need not have a huge page allocated.
fn scan_window(
    vma: &VmaRef,
    window: Window,
    limits: &Limits,
    load: &mut NodeLoad,
    counts: &mut PteCounts,
    absent: &mut Absent,
) -> Result<Found, Refusal> {
    let slot = vma.pmd(window.addr).ok_or(Refusal::Empty)?;

    match slot.read().kind() {
        PmdKind::None => return Err(Refusal::Empty),
        PmdKind::Huge => return Ok(Found::Huge),
        PmdKind::Changing => return Err(Refusal::Locked),
        PmdKind::Table => {}
    }

    load.clear();
    let mut table = slot.lock_table().ok_or(Refusal::Raced)?;

    if window.way == Way::Remap && maps_whole(&mut table)? {
        return Ok(Found::Candidate(Candidate::Whole));
    }
    for slot in table.slots() {
        match slot.classify() {
            PteKind::None => counts.holes += 1,
            PteKind::Zero => counts.zeroes += 1,
            PteKind::Special => return Err(Refusal::Foreign),
            PteKind::Softleaf(pte, softleaf) => {
                judge_softleaf(pte, softleaf)?;
                // A page that is being moved is not swapped out, and will be back in a moment.
                if softleaf == Softleaf::Migration {
                    absent.moving += 1;
                    continue;
                }
                absent.swapped += 1;
                if absent.swapped > limits.swap {
                    stat::count(CollapseEvent::ExceedSwap);
                    return Err(Refusal::TooManySwapped);
                }
            }
            PteKind::Page(pte, page) => {
                let folio = page.folio();

                judge_page(pte, page, folio)?;
                counts.note_shared(folio, limits)?;
                load.add(folio.nid());
                if folio.is_locked() {
                    return Err(Refusal::Locked);
                }
                folio.check_refs(0)?;
            }
        }
    }
    drop(table);

    counts.judge_holes(limits)?;
    if load.too_far() {
        return Err(Refusal::TooFar);
    }
    let (nid, nodes) = load.target();

    Ok(Found::Candidate(Candidate::Pages(Needs {
        nid,
        nodes,
        swapped: absent.swapped,
        moving: absent.moving,
    })))
}

/// Returns whether a table seems to map a whole huge page. References to it do not matter: it
/// stays.
#[inline(always)]
fn maps_whole(table: &mut PteTableGuard<'_>) -> Result<bool, Refusal> {
    let Some(folio) = table.first_pmd_folio().map(ARef::from) else {
        return Ok(false);
    };

    if !table.seems_whole(&folio) {
        return Ok(false);
    }
    if folio.is_locked() {
        return Err(Refusal::Locked);
    }
    Ok(true)
}

/// Returns the first window of `range` that is not huge, or where to go on: the end of `range`, or
/// of a PMD table, so that a lock is not held without bound.
pub(crate) fn first_not_huge(vma: &VmaRef, range: Range<usize>) -> usize {
    let mut addr = range.start;

    while vma.pmd(addr).map(|slot| slot.read().kind()) == Some(PmdKind::Huge) {
        addr += PMD_SIZE;
        if addr >= range.end || addr % PUD_SIZE == 0 {
            break;
        }
    }
    addr
}
