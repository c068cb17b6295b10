// SPDX-License-Identifier: GPL-2.0

//! Judging windows: which are huge already, which cannot be collapsed, and what the others need.

use crate::{
    node::NodeLoad,
    outcome::Refusal,
    policy::Limits,
    trace, //
};
use kernel::mm::{
    folio::{
        Folio,
        NodeMask,
        PageRef, //
    },
    pgtable::{
        Entry,
        Leaf,
        PmdKind,
        Pte,
        PTRS_PER_PTE, //
    },
    stat::{
        self,
        CollapseEvent, //
    },
    virt::VmaRef,
};

/// What a scan finds in a window.
pub(crate) enum Found {
    /// A huge page, mapped or being moved: nothing to do.
    Huge,
    /// Pages that can be collapsed.
    Candidate(Candidate),
}

/// A window that may be collapsed.
pub(crate) struct Candidate {
    pub(crate) addr: usize,
    /// The node that most of its pages lie on.
    pub(crate) nid: usize,
    /// The nodes that as many lie on.
    pub(crate) nodes: NodeMask,
    /// How many slots are not present, and have to be faulted in.
    pub(crate) swapped: usize,
}

/// Whether a page of a folio, which a PTE maps, can be a source.
///
/// # Context
///
/// The PTE table is locked.
#[inline(always)]
pub(crate) fn judge_page(pte: Pte, page: PageRef<'_>, folio: &Folio) -> Result<(), Refusal> {
    if pte.is_uffd() {
        return Err(Refusal::Uffd);
    }
    if !folio.is_anon() || folio.is_zone_device() {
        return Err(Refusal::Foreign);
    }
    if page.is_hwpoison() {
        return Err(Refusal::Poisoned);
    }
    Ok(())
}

/// What a non-present entry means for its window: whether it can be faulted in.
pub(crate) fn judge_leaf(pte: Pte, leaf: Leaf) -> Result<(), Refusal> {
    match leaf {
        Leaf::Swap | Leaf::Migration if pte.is_swp_uffd_any() => Err(Refusal::Uffd),
        Leaf::Swap | Leaf::Migration => Ok(()),
        Leaf::Device => Err(Refusal::Foreign),
        Leaf::HwPoison => Err(Refusal::Poisoned),
        Leaf::Marker if pte.is_swp_uffd_any() => Err(Refusal::Uffd),
        Leaf::Marker => Err(Refusal::Marker),
    }
}

/// Whether a window may be collapsed, given its number of holes and zero pages.
pub(crate) fn judge_holes(holes: usize, zeroes: usize, limits: &Limits) -> Result<(), Refusal> {
    if holes == PTRS_PER_PTE {
        return Err(Refusal::Empty);
    }
    if holes + zeroes > limits.none {
        stat::count(CollapseEvent::ExceedNone);
        return Err(Refusal::TooManyHoles);
    }
    Ok(())
}

/// Scans the window at `addr`.
pub(crate) fn scan(
    vma: &VmaRef,
    addr: usize,
    limits: &Limits,
    load: &mut NodeLoad,
) -> Result<Found, Refusal> {
    let (mut empty, mut swapped) = (0, 0);
    let found = scan_window(vma, addr, limits, load, &mut empty, &mut swapped);

    trace::scanned(vma.mm(), empty, swapped, &found);
    found
}

/// Judges a window.
///
/// Locks and references are looked at too, although only isolation can be sure of them: a window
/// that will be refused need not have a huge page allocated.
fn scan_window(
    vma: &VmaRef,
    addr: usize,
    limits: &Limits,
    load: &mut NodeLoad,
    empty: &mut usize,
    swapped_slots: &mut usize,
) -> Result<Found, Refusal> {
    let slot = vma.pmd(addr).ok_or(Refusal::Empty)?;

    match slot.read().kind() {
        PmdKind::None => return Err(Refusal::Empty),
        PmdKind::Huge => return Ok(Found::Huge),
        PmdKind::Table => {}
    }

    load.clear();
    let (mut holes, mut zeroes, mut swapped, mut shared) = (0, 0, 0, 0);
    let mut table = slot.lock_table().ok_or(Refusal::Raced)?;

    for slot in table.slots() {
        match slot.look() {
            Entry::None => holes += 1,
            Entry::Zero => zeroes += 1,
            Entry::Special => return Err(Refusal::Foreign),
            Entry::Leaf(pte, leaf) => {
                judge_leaf(pte, leaf)?;
                swapped += 1;
                if swapped > limits.swap {
                    stat::count(CollapseEvent::ExceedSwap);
                    return Err(Refusal::TooManySwapped);
                }
            }
            Entry::Page(pte, page) => {
                let folio = page.folio();

                judge_page(pte, page, folio)?;
                if limits.shared < PTRS_PER_PTE && folio.maybe_mapped_shared() {
                    shared += 1;
                    if shared > limits.shared {
                        stat::count(CollapseEvent::ExceedShared);
                        return Err(Refusal::TooManyShared);
                    }
                }
                load.add(folio.nid());
                if folio.is_locked() {
                    return Err(Refusal::Locked);
                }
                if !folio.has_expected_refs() {
                    return Err(Refusal::Referenced);
                }
            }
        }
    }
    drop(table);

    *empty = holes + zeroes;
    *swapped_slots = swapped;
    judge_holes(holes, zeroes, limits)?;
    if load.too_far() {
        return Err(Refusal::TooFar);
    }
    let (nid, nodes) = load.target();

    Ok(Found::Candidate(Candidate {
        addr,
        nid,
        nodes,
        swapped,
    }))
}
