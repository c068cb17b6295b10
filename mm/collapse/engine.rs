// SPDX-License-Identifier: GPL-2.0

//! Collapsing ranges of anonymous memory: the state that outlives a range, and how windows are put
//! into batches, once or again.
//!
//! An [`Engine`] serves one address space. It knows neither flags nor errno: its caller chooses the
//! [`Policy`], and is told what became of the windows.

use crate::{
    batch::{
        self,
        Done, //
    },
    batch_size::{
        BatchSize,
        BATCH_MAX, //
    },
    fault_in::fault_in,
    gfp::Gfp,
    hooks::{
        hold_after,
        Pass, //
    },
    node::NodeLoad,
    outcome::{
        Outcome,
        Refusal,
        Verdict, //
    },
    policy::{
        Limits,
        Policy, //
    },
    pool::{
        Pool,
        Prepared,
        PreparedWindows,
        Whole, //
    },
    prealloc::{
        prealloc,
        Effort, //
    },
    revalidate::revalidate,
    scan::{
        first_not_huge,
        scan,
        Candidate,
        Found, //
    },
    trace,
    window::{
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
            lru,
            pgtable::{
                PteTable,
                PMD_SIZE,
                PUD_SIZE, //
            },
            stable::StableVma,
        },
        virt::VmaRef,
        MmWithUser, //
    },
    prelude::*,
    task::cond_resched, //
};

/// How often a window is tried again, when what stood in the way may be gone in a moment.
const WINDOW_TRIES: u8 = 3;

/// How many page tables are looked at under one hold of a lock.
const SCAN_MAX: usize = 2 * BATCH_MAX;

/// Collapses memory of one address space, range after range.
pub(crate) struct Engine<'mm> {
    mm: &'mm MmWithUser,
    pool: Pool<'mm>,
    batch: BatchSize,
    /// Whether the LRU caches of all CPUs were drained, since pages were last read from
    /// swap.
    drained: bool,
    /// Where a scan counts. Memory that is huge already is not scanned.
    load: Option<KBox<NodeLoad>>,
    /// Windows that are to be tried again, before anything else.
    again: KVec<Window>,
    /// Windows that seem to be kept by references that a drain of all CPUs may drop.
    undrained: KVec<Window>,
}

/// How far an engine came.
pub(crate) struct Progress {
    /// The address to go on at.
    pub(crate) next: usize,
    /// The outcome of the windows before it.
    pub(crate) outcome: Outcome,
}

impl<'mm> Engine<'mm> {
    pub(crate) fn new(mm: &'mm MmWithUser) -> Self {
        Self {
            mm,
            pool: Pool::new(),
            batch: BatchSize::first(),
            drained: false,
            load: None,
            again: KVec::new(),
            undrained: KVec::new(),
        }
    }

    /// Drains the LRU caches of all CPUs, unless that was done before and no pages were read from
    /// swap since. Returns whether it was done now. Sleeps.
    pub(crate) fn drain_lru(&mut self) -> bool {
        if self.drained {
            return false;
        }
        lru::lru_add_drain_all();
        self.drained = true;
        true
    }

    /// Drains the LRU caches of all CPUs for windows that wait for that, if there are any, and has
    /// them tried again.
    fn drain_for_undrained(&mut self) {
        if !self.undrained.is_empty() && self.drain_lru() {
            core::mem::swap(&mut self.again, &mut self.undrained);
        }
    }

    /// Collapses windows of `range`, which lies in `vma`, from its first one on: those of one
    /// batch, and all that are to be tried again.
    ///
    /// # Context
    ///
    /// May sleep. No lock of the address space is held but that of `vma`.
    pub(crate) fn collapse(
        &mut self,
        vma: StableVma<'mm>,
        range: Range<usize>,
        policy: &Policy,
        gfp: &mut Gfp<'_>,
    ) -> Progress {
        let mut part = Part {
            engine: self,
            policy,
            gfp,
            outcome: Outcome::default(),
        };
        let next = part.collapse(vma, range);

        Progress {
            next,
            outcome: part.outcome,
        }
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
}

/// A part of a range that is being collapsed.
struct Part<'e, 'g, 'mm> {
    engine: &'e mut Engine<'mm>,
    policy: &'e Policy,
    gfp: &'e mut Gfp<'g>,
    outcome: Outcome,
}

impl<'mm> Part<'_, '_, 'mm> {
    /// Scans windows from the first of `range` on, until there is a batch of them; collapses these,
    /// and returns where to go on.
    fn collapse(&mut self, vma: StableVma<'mm>, range: Range<usize>) -> usize {
        // A window that is huge already costs one look: nothing is allocated for it.
        let start = first_not_huge(&vma, range.clone());
        if start >= range.end || (start != range.start && start % PUD_SIZE == 0) {
            return start;
        }

        let (Ok(mut candidates), Ok(())) = (
            KVec::with_capacity(BATCH_MAX, GFP_KERNEL),
            self.engine.make_room(),
        ) else {
            self.outcome.note(Refusal::NoMemory);
            return range.end;
        };
        let next = self.scan_range(&vma, start..range.end, &mut candidates);
        drop(vma);
        hold_after(Pass::Scan);
        if !self.outcome.has_ended() {
            self.collapse_batch(candidates);
        }

        loop {
            if self.outcome.has_ended() {
                break;
            }
            if self.engine.again.is_empty() {
                self.engine.drain_for_undrained();
            }
            if self.engine.again.is_empty() {
                break;
            }
            cond_resched();
            self.collapse_again();
        }
        // The outcome of the windows that are left was noted when they were put there, or the
        // request has ended.
        self.engine.again.clear();
        self.engine.undrained.clear();
        next
    }

    /// Tries a batch of windows once more: windows that go the same way, without a gap between
    /// them.
    fn collapse_again(&mut self) {
        let Ok(mut candidates) = KVec::with_capacity(BATCH_MAX, GFP_KERNEL) else {
            return self.outcome.note(Refusal::NoMemory);
        };
        let Ok(room) = KVec::with_capacity(BATCH_MAX, GFP_KERNEL) else {
            return self.outcome.note(Refusal::NoMemory);
        };
        // Windows that have to be tried once more are put into this new list.
        let again = core::mem::replace(&mut self.engine.again, room);
        let first = again.first().copied();
        let mut stable = None;

        for (nr, window) in again.into_iter().enumerate() {
            let follows = first.is_some_and(|first| {
                (first.way == Way::Unmap) == (window.way == Way::Unmap)
                    && window.addr == first.addr.saturating_add(nr * PMD_SIZE)
                    && nr < self.engine.batch.get()
            });

            if !follows || self.outcome.has_ended() {
                self.defer(window);
                continue;
            }
            let vma = match self.revalidate(stable.take(), window) {
                Ok(vma) => vma,
                Err(_) => continue,
            };
            let limits = self.policy.limits_in(&vma);

            match self.scan(&vma, window, &limits) {
                Ok(Found::Huge) => {}
                Ok(Found::Candidate(candidate)) => {
                    self.gfp.enter(&vma);
                    self.add_candidate(&mut candidates, candidate, window);
                }
                Err(refusal) => self.refuse(window, refusal),
            }
            stable = Some(vma);
        }
        drop(stable);
        if !self.outcome.has_ended() {
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
        revalidate(self.engine.mm, self.policy, window.addr)
            .inspect_err(|refusal| self.refuse(window, *refusal))
    }

    /// Scans a window. The LRU caches of this CPU may have references to its pages. They are
    /// drained before the window is refused for that.
    fn scan(&mut self, vma: &VmaRef, window: Window, limits: &Limits) -> Result<Found, Refusal> {
        let load = match &mut self.engine.load {
            Some(load) => load,
            load => load.insert(KBox::zeroed(GFP_KERNEL).map_err(|_| Refusal::NoMemory)?),
        };

        match scan(vma, window, limits, load) {
            Err(Refusal::Referenced) => {
                lru::lru_add_drain();
                scan(vma, window, limits, load)
            }
            result => result,
        }
    }

    /// Scans windows until there is a batch of candidates.
    ///
    /// A batch ends at a gap: secondary MMUs keep their mappings of the windows between two
    /// candidates, which are huge or were refused.
    fn scan_range(
        &mut self,
        vma: &VmaRef,
        range: Range<usize>,
        candidates: &mut KVec<(Candidate, Window)>,
    ) -> usize {
        let limits = self.policy.limits_in(vma);
        let mut addr = range.start;
        let mut scanned = 0;

        while addr < range.end {
            let window = Window::new(addr);

            match self.scan(vma, window, &limits) {
                Ok(Found::Candidate(candidate)) => {
                    scanned += 1;
                    self.gfp.enter(vma);
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
            if self.outcome.has_ended()
                || addr % PUD_SIZE == 0
                || scanned == SCAN_MAX
                || candidates.len() + self.engine.again.len() + self.engine.undrained.len()
                    >= self.engine.batch.get()
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
        let Some((mut windows, absent)) = self.prealloc(candidates) else {
            return;
        };

        hold_after(Pass::Prealloc);
        let Some((vma, held)) = self.lock_vma(&mut windows, absent) else {
            return;
        };

        hold_after(Pass::FaultIn);
        self.run(vma, windows, held);
    }

    /// Allocates what candidates need, for as many as can be, and leaves the others to the next
    /// batch.
    ///
    /// Also returns which pages of the first window have to be faulted in. Such a window goes
    /// alone: pages that are read from swap are charged as well, and no huge page of another window
    /// may be held then.
    fn prealloc(
        &mut self,
        candidates: KVec<(Candidate, Window)>,
    ) -> Option<(PreparedWindows<'mm>, Absent)> {
        let Ok(mut windows) = PreparedWindows::new(candidates.len()) else {
            self.outcome.note(Refusal::NoMemory);
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
            let Engine { mm, pool, .. } = &mut *self.engine;
            let allocated = match candidate {
                Candidate::Pages(needs) => {
                    prealloc(pool, mm, self.gfp, needs.nid, &needs.nodes, effort)
                        .map(|prealloc| windows.pages.put(Prepared { window, prealloc }))
                }
                Candidate::Whole => PteTable::alloc(mm)
                    .map_err(|_| Refusal::NoMemory)
                    .map(|deposit| windows.wholes.put(Whole { window, deposit })),
            };

            match allocated {
                Ok(()) => absent = needs,
                Err(refusal) if effort == Effort::Full || refusal == Refusal::Killed => {
                    self.outcome.note(refusal);
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
            self.engine.batch.limit(windows.len());
        }
        Some((windows, absent))
    }

    /// Finds the VMA of a batch, now that all it needs is at hand, and faults in what is absent,
    /// which may lose the VMA again.
    ///
    /// Refuses windows from the front until one lies in a VMA that may be collapsed. Later windows
    /// that lie in another VMA are deferred by their batch.
    fn lock_vma(
        &mut self,
        windows: &mut PreparedWindows<'mm>,
        absent: Absent,
    ) -> Option<(StableVma<'mm>, trace::Held)> {
        while let Some(window) = windows.first() {
            let (mm, policy) = (self.engine.mm, self.policy);
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
            self.engine.drained &= absent != Absent::Swapped;
            match result {
                Ok(settled) => return Some(settled),
                Err(refusal) => {
                    self.refuse(window, refusal);
                    if refusal.ends_request() {
                        return None;
                    }
                    windows.drop_first(&mut self.engine.pool);
                }
            }
        }
        None
    }

    /// Takes a batch through all passes.
    fn run(&mut self, vma: StableVma<'mm>, windows: PreparedWindows<'mm>, held: trace::Held) {
        let limits = self.policy.limits_in(&vma);
        let nr = windows.len();
        let done = batch::run(&mut self.engine.pool, &vma, limits, windows, held);

        drop(vma);
        let Ok(Done { windows, contended }) = done else {
            return self.outcome.note(Refusal::NoMemory);
        };

        self.engine.batch.adapt(nr, contended);
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
        if self.engine.again.push_within_capacity(window).is_err() {
            self.outcome.note(Refusal::Locked);
        }
    }

    /// Notes a refusal, unless the window is to be tried again.
    fn refuse(&mut self, mut window: Window, refusal: Refusal) {
        let later = match refusal {
            Refusal::Referenced if !self.engine.drained => Some(&mut self.engine.undrained),
            refusal if refusal.is_fleeting() => Some(&mut self.engine.again),
            _ => None,
        };

        if let Some(later) = later.filter(|_| window.retries < WINDOW_TRIES) {
            window.retries += 1;
            if later.push_within_capacity(window).is_ok() {
                return;
            }
        }
        self.outcome.note(refusal);
    }
}

/// The pages of a window that have to be faulted in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Absent {
    Nothing,
    /// Pages that are being moved.
    Moving,
    /// Pages that were swapped out.
    Swapped,
}
