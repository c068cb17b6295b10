// SPDX-License-Identifier: GPL-2.0

//! Walking the range of a request.

use crate::{
    batch::{
        self,
        Done, //
    },
    control::{
        Control,
        Effort,
        BATCH_MAX, //
    },
    entry::{
        self,
        hold_after,
        Pass, //
    },
    fault_in::{
        fault_in,
        revalidate, //
    },
    outcome::{
        Outcome,
        Refusal, //
    },
    policy::{
        Limits,
        Policy, //
    },
    prealloc::{
        Prepared,
        Provided, //
    },
    ranges::{
        Ranges,
        Segment, //
    },
    remap::Whole,
    scan::{
        scan,
        Candidate,
        Found, //
    },
    trace,
    window::{
        Verdict,
        Way,
        Window, //
    },
};
use core::ops::Range;
use kernel::{
    alloc::{
        AllocError,
        KVec, //
    },
    mm::{
        internal::{
            folio,
            pgtable::{
                PmdKind,
                PteTable,
                PMD_SIZE,
                PUD_SIZE, //
            },
            stable::{
                StableVma, //
                VmaLockMode,
            },
        },
        virt::VmaRef,
        MmWithUser, //
    },
    prelude::*,
    task::cond_resched, //
};

/// How often a window is tried again, when what stood in the way may be gone in a moment.
const TRIES: u8 = 3;

/// How many page tables are looked at under one hold of a lock.
const SCAN_MAX: usize = 2 * BATCH_MAX;

/// A request that is being served.
struct Request<'mm> {
    control: Control<'mm>,
    outcome: Outcome,
    /// Windows that are to be tried again, before anything else.
    again: KVec<Window>,
    /// Windows that seem to be kept by references that a drain of all CPUs may drop.
    undrained: KVec<Window>,
    ended: bool,
}

/// Collapses what can be collapsed of some ranges, and returns how many bytes it got through.
///
/// As process_madvise() does, this ends with the first range that was not wholly served, and tells
/// why only when that is also the first of all.
pub(crate) fn collapse(mm: &MmWithUser, policy: Policy, segments: &[Segment]) -> Result<usize> {
    let ranges = Ranges::new(mm, policy.lock_mode, segments);
    let mut request = Request {
        control: Control::new(mm, policy, ranges),
        outcome: Outcome::default(),
        again: KVec::new(),
        undrained: KVec::new(),
        ended: false,
    };
    let mut bytes: usize = 0;

    for segment in ranges.segments() {
        let result = ranges.pages(segment).and_then(|range| {
            request.walk(range);
            core::mem::take(&mut request.outcome).into_result()
        });

        match result {
            // The kernel lets no vector be longer than a size can tell.
            Ok(()) => bytes = bytes.saturating_add(segment.len),
            Err(err) if bytes == 0 => return Err(err),
            Err(_) => break,
        }
    }
    Ok(bytes)
}

impl<'mm> Request<'mm> {
    fn note(&mut self, refusal: Refusal) {
        self.outcome.note(refusal);
        self.ended |= refusal.ends_request();
    }

    /// Makes room for windows that are to be tried again.
    fn make_room(&mut self) -> Result<(), AllocError> {
        for windows in [&mut self.again, &mut self.undrained] {
            if windows.capacity() < BATCH_MAX {
                windows.reserve(BATCH_MAX, GFP_KERNEL)?;
            }
        }
        Ok(())
    }

    /// Goes through the VMAs of the range.
    fn walk(&mut self, range: Range<usize>) {
        let Range {
            start: mut addr,
            end,
        } = range;

        while addr < end && !self.ended {
            if current!().fatal_signal_pending() {
                return self.note(Refusal::Killed);
            }
            if self.control.policy.lock_mode == VmaLockMode::Mmap && self.control.mm.is_abandoned()
            {
                return self.note(Refusal::Gone);
            }
            cond_resched();
            let vma = match self
                .control
                .mm
                .find_stable_vma(addr, self.control.policy.lock_mode)
            {
                Ok(Some(vma)) => vma,
                Ok(None) => return self.outcome.note_gap(),
                Err(_) => return self.note(Refusal::Killed),
            };
            if vma.start() > addr {
                self.outcome.note_gap();
                addr = vma.start();
                if addr >= end {
                    return;
                }
            }
            let vma_end = vma.end().min(end);

            if !vma.may_collapse(self.control.policy.heed_nohugepage) {
                self.note(Refusal::Unfit);
                addr = vma_end;
            } else {
                let windows = align_up(addr)..align_down(vma_end);

                if windows.is_empty() {
                    addr = vma_end;
                    continue;
                }
                addr = if vma.is_anonymous() {
                    self.collapse_some(vma, windows.clone())
                } else {
                    self.collapse_file(vma, windows.clone())
                };
                if addr >= windows.end {
                    addr = vma_end;
                }
            }
        }
    }

    /// Has the C code collapse the first window of `range`, in a file or in shmem, that is not
    /// huge. Returns where to go on.
    fn collapse_file(&mut self, vma: StableVma<'mm>, range: Range<usize>) -> usize {
        // Mappings whose huge pages are of another kind, of hugetlb and DAX, may not be collapsed.
        let addr = first_not_huge(&vma, range.clone());
        if addr >= range.end || addr != range.start {
            return addr;
        }
        let limits = self.control.policy.limits_in(&vma);

        self.control.enter(&vma);
        drop(vma);
        let result = self.control.gfp().and_then(|gfp| {
            let Control { mm, policy, .. } = &self.control;

            entry::collapse_file_window(mm, addr, limits, gfp, policy.heed_nohugepage)
        });

        match result {
            Ok(()) => {}
            Err(Refusal::Referenced) if !self.control.drained => {
                folio::lru_add_drain_all();
                self.control.drained = true;
                return addr;
            }
            Err(refusal) => self.note(refusal),
        }
        addr + PMD_SIZE
    }

    /// Scans windows from the first of `range` on, until there is a batch of them; collapses these,
    /// and returns where to go on.
    fn collapse_some(&mut self, vma: StableVma<'mm>, range: Range<usize>) -> usize {
        // What is huge already costs no more than a look: nothing is allocated for it.
        let start = first_not_huge(&vma, range.clone());
        if start >= range.end || (start != range.start && start % PUD_SIZE == 0) {
            return start;
        }

        let (Ok(mut candidates), Ok(())) =
            (KVec::with_capacity(BATCH_MAX, GFP_KERNEL), self.make_room())
        else {
            self.note(Refusal::NoMemory);
            return range.end;
        };
        let next = self.scan_range(&vma, start..range.end, &mut candidates);
        drop(vma);
        hold_after(Pass::Scan);
        if !self.ended {
            self.collapse_batch(candidates);
        }

        loop {
            if self.again.is_empty() && !self.undrained.is_empty() {
                if !self.control.drained && !self.ended {
                    folio::lru_add_drain_all();
                    self.control.drained = true;
                    core::mem::swap(&mut self.again, &mut self.undrained);
                }
            }
            if self.ended || self.again.is_empty() {
                break;
            }
            cond_resched();
            self.collapse_again();
        }
        // What is left was noted when it was put there, or the request has ended.
        self.again.clear();
        self.undrained.clear();
        next
    }

    /// Tries a batch of windows once more: windows that go the same way, without a gap between
    /// them.
    fn collapse_again(&mut self) {
        let Ok(mut candidates) = KVec::with_capacity(BATCH_MAX, GFP_KERNEL) else {
            return self.note(Refusal::NoMemory);
        };
        let Ok(room) = KVec::with_capacity(BATCH_MAX, GFP_KERNEL) else {
            return self.note(Refusal::NoMemory);
        };
        // What comes back finds the room that is made for it here.
        let again = core::mem::replace(&mut self.again, room);
        let first = again.first().copied();
        let mut stable = None;

        for (nr, window) in again.into_iter().enumerate() {
            let follows = first.is_some_and(|first| {
                (first.way == Way::Unmap) == (window.way == Way::Unmap)
                    && window.addr == first.addr.saturating_add(nr * PMD_SIZE)
                    && nr < self.control.batch
            });

            if !follows || self.ended {
                self.defer(window);
                continue;
            }
            let vma = match self.revalidate(stable.take(), window) {
                Ok(vma) => vma,
                Err(_) => continue,
            };
            let limits = self.control.policy.limits_in(&vma);

            match self.scan(&vma, window, &limits) {
                Ok(Found::Huge) => {}
                Ok(Found::Candidate(candidate)) => {
                    self.control.enter(&vma);
                    self.add_candidate(&mut candidates, candidate, window);
                }
                Err(refusal) => self.refuse(window, refusal),
            }
            stable = Some(vma);
        }
        drop(stable);
        if !self.ended {
            self.collapse_batch(candidates);
        }
    }

    /// Adds a candidate to those of the next batch, which has room for as many as it may have.
    fn add_candidate(
        &mut self,
        candidates: &mut KVec<(Candidate, Window)>,
        candidate: Candidate,
        window: Window,
    ) {
        if candidates
            .push_within_capacity((candidate, window))
            .is_err()
        {
            self.defer(window);
        }
    }

    /// The VMA of a window: the one at hand, if that is it, or else found anew.
    ///
    /// If there is none, the window is refused.
    fn revalidate(
        &mut self,
        at_hand: Option<StableVma<'mm>>,
        window: Window,
    ) -> Result<StableVma<'mm>, Refusal> {
        if let Some(vma) = at_hand {
            if vma.has_window(window.addr) {
                return Ok(vma);
            }
            // Its lock is given up before mmap_lock may be taken: they nest the other way round.
        }
        revalidate(self.control.mm, &self.control.policy, window.addr)
            .inspect_err(|refusal| self.refuse(window, *refusal))
    }

    /// Scans a window. What this CPU has mapped lately is referenced by its LRU caches: they are
    /// drained before a window is refused for that.
    fn scan(&mut self, vma: &VmaRef, window: Window, limits: &Limits) -> Result<Found, Refusal> {
        let load = match &mut self.control.load {
            Some(load) => load,
            load => load.insert(KBox::zeroed(GFP_KERNEL).map_err(|_| Refusal::NoMemory)?),
        };

        match scan(vma, window, limits, load) {
            Err(Refusal::Referenced) => {
                folio::lru_add_drain();
                scan(vma, window, limits, load)
            }
            result => result,
        }
    }

    /// Scans windows until there is a batch of candidates.
    ///
    /// A batch ends at a gap: what lies between two candidates and is huge, or refused, is not to
    /// be taken from secondary MMUs with them.
    fn scan_range(
        &mut self,
        vma: &VmaRef,
        range: Range<usize>,
        candidates: &mut KVec<(Candidate, Window)>,
    ) -> usize {
        let limits = self.control.policy.limits_in(vma);
        let mut addr = range.start;
        let mut scanned = 0;

        while addr < range.end {
            let window = Window::new(addr);

            match self.scan(vma, window, &limits) {
                Ok(Found::Candidate(candidate)) => {
                    scanned += 1;
                    self.control.enter(vma);
                    self.add_candidate(candidates, candidate, window);
                }
                Ok(Found::Huge) if candidates.is_empty() => {}
                Ok(Found::Huge) => return addr,
                Err(refusal) => {
                    scanned += 1;
                    self.refuse(window, refusal);
                    if !candidates.is_empty() {
                        return addr + PMD_SIZE;
                    }
                }
            }
            addr += PMD_SIZE;
            // A batch lies in one PMD table, and its memory for windows to be tried again is
            // bounded.
            if self.ended
                || addr % PUD_SIZE == 0
                || scanned == SCAN_MAX
                || candidates.len() + self.again.len() + self.undrained.len() >= self.control.batch
            {
                break;
            }
        }
        addr
    }

    /// Collapses candidates.
    fn collapse_batch(&mut self, candidates: KVec<(Candidate, Window)>) {
        if candidates.is_empty() {
            return;
        }
        let Some((mut windows, absent)) = self.provide(candidates) else {
            return;
        };

        hold_after(Pass::Prealloc);
        let Some((vma, held)) = self.settle(&mut windows, absent) else {
            return;
        };

        hold_after(Pass::FaultIn);
        self.run(vma, windows, held);
    }

    /// Provides as many candidates as can be with what they need, and leaves the others to the next
    /// batch.
    ///
    /// Also returns what of the first window has to be faulted in. Such a window goes alone: what
    /// is read from swap is charged as well, and no huge page of another window may be held then.
    fn provide(
        &mut self,
        candidates: KVec<(Candidate, Window)>,
    ) -> Option<(Provided<'mm>, Absent)> {
        let Ok(mut windows) = Provided::new(candidates.len()) else {
            self.note(Refusal::NoMemory);
            return None;
        };
        let (mut enough, mut absent) = (true, Absent::Nothing);

        for (candidate, window) in candidates {
            let first = windows.len() == 0;
            let needs = match &candidate {
                Candidate::Pages(pages) if pages.swapped > 0 => Absent::Swapped,
                Candidate::Pages(pages) if pages.moving > 0 => Absent::Moving,
                Candidate::Pages(_) | Candidate::Whole => Absent::Nothing,
            };

            enough &= first || (absent, needs) == (Absent::Nothing, Absent::Nothing);
            if !enough {
                self.defer(window);
                continue;
            }
            let effort = if first { Effort::Full } else { Effort::Least };
            let provided = match candidate {
                Candidate::Pages(needs) => self
                    .control
                    .provide(needs.nid, &needs.nodes, effort)
                    .map(|prealloc| windows.pages.put(Prepared { window, prealloc })),
                Candidate::Whole => PteTable::alloc(self.control.mm)
                    .ok_or(Refusal::NoMemory)
                    .map(|deposit| windows.wholes.put(Whole { window, deposit })),
            };

            match provided {
                Ok(()) => absent = needs,
                Err(refusal) if effort == Effort::Full || refusal == Refusal::Killed => {
                    self.note(refusal);
                    return None;
                }
                // Those that have what they need go first, and leave theirs to the others.
                Err(_) => {
                    enough = false;
                    self.defer(window);
                }
            }
        }
        if !enough {
            // So that no more windows are scanned for the next batch than it can have.
            self.control.batch = windows.len();
        }
        Some((windows, absent))
    }

    /// Finds the VMA of a batch, now that all it needs is at hand, and faults in what is absent,
    /// which may lose the VMA again.
    ///
    /// Refuses windows from the front until one lies in a VMA that may be collapsed. Later windows
    /// that lie in another VMA are deferred by their batch.
    fn settle(
        &mut self,
        windows: &mut Provided<'mm>,
        absent: Absent,
    ) -> Option<(StableVma<'mm>, trace::Held)> {
        while let Some(window) = windows.first() {
            let Control { mm, policy, .. } = &self.control;
            let result = revalidate(mm, policy, window.addr).and_then(|vma| {
                let held = trace::Held::begin();

                match absent {
                    Absent::Nothing => Ok((vma, held)),
                    Absent::Moving | Absent::Swapped => {
                        fault_in(mm, policy, vma, window.addr, held)
                    }
                }
            });

            // The CPU that read pages in has them in its LRU caches, and need not be ours any more.
            self.control.drained &= absent != Absent::Swapped;
            match result {
                Ok(settled) => return Some(settled),
                Err(refusal) => {
                    self.refuse(window, refusal);
                    if refusal.ends_request() {
                        return None;
                    }
                    windows.drop_first(&mut self.control.pool);
                }
            }
        }
        None
    }

    /// Takes a batch through all passes.
    fn run(&mut self, vma: StableVma<'mm>, windows: Provided<'mm>, held: trace::Held) {
        let limits = self.control.policy.limits_in(&vma);
        let nr = windows.len();
        let done = batch::run(&mut self.control.pool, &vma, limits, windows, held);

        drop(vma);
        let Ok(Done { windows, contended }) = done else {
            return self.note(Refusal::NoMemory);
        };

        self.control.adapt(nr, contended);
        for (window, verdict) in windows {
            match verdict {
                Verdict::Huge => {}
                Verdict::Refused(refusal) => self.refuse(window, refusal),
                Verdict::Deferred => self.defer(window),
            }
        }
    }

    /// Leaves a window to the next batch.
    fn defer(&mut self, window: Window) {
        // There is room for a batch; if ever not, the caller is told to try again.
        if self.again.push_within_capacity(window).is_err() {
            self.note(Refusal::Locked);
        }
    }

    /// Notes a refusal, unless the window is to be tried again.
    fn refuse(&mut self, mut window: Window, refusal: Refusal) {
        let later = match refusal {
            Refusal::Referenced if !self.control.drained => Some(&mut self.undrained),
            refusal if refusal.is_fleeting() => Some(&mut self.again),
            _ => None,
        };

        if let Some(later) = later.filter(|_| window.retries < TRIES) {
            window.retries += 1;
            if later.push_within_capacity(window).is_ok() {
                return;
            }
        }
        self.note(refusal);
    }
}

/// What of a window has to be faulted in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Absent {
    Nothing,
    /// Pages that are being moved.
    Moving,
    /// Pages that were swapped out.
    Swapped,
}

/// The first window of `range` that is not huge, or where to go on: the end of `range`, or of a PMD
/// table, so that a lock is not held without bound.
fn first_not_huge(vma: &VmaRef, range: Range<usize>) -> usize {
    let mut addr = range.start;

    while vma.pmd(addr).map(|slot| slot.read().kind()) == Some(PmdKind::Huge) {
        addr += PMD_SIZE;
        if addr >= range.end || addr % PUD_SIZE == 0 {
            break;
        }
    }
    addr
}

fn align_down(addr: usize) -> usize {
    addr & !(PMD_SIZE - 1)
}

fn align_up(addr: usize) -> usize {
    align_down(addr.saturating_add(PMD_SIZE - 1))
}
