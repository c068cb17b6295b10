// SPDX-License-Identifier: GPL-2.0

//! Walking the range of a request.

use crate::{
    batch::{
        self,
        Ready,
        Verdict, //
    },
    control::{
        Control,
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
    policy::Policy,
    scan::{
        scan,
        Candidate,
        Found, //
    },
};
use core::ops::Range;
use kernel::{
    alloc::KVec,
    mm::{
        folio,
        pgtable::{
            PMD_SIZE,
            PUD_SIZE, //
        },
        stable::StableVma,
        virt::VmaRef,
        MmWithUser,
    },
    prelude::*,
    task::cond_resched, //
};

/// How often a window is tried again, when what stood in the way may be gone in a moment.
const TRIES: u8 = 3;

/// How many page tables are looked at under one hold of a lock.
const SCAN_MAX: usize = 2 * BATCH_MAX;

/// A window that is to be tried again.
#[derive(Clone, Copy)]
struct Again {
    addr: usize,
    tries: u8,
}

/// A request that is being served.
struct Request<'mm> {
    control: Control<'mm>,
    outcome: Outcome,
    /// Windows of the last batch that are to be tried again, before anything else.
    again: KVec<Again>,
    /// Windows that seem to be kept by references that a drain of all CPUs may drop.
    undrained: KVec<Again>,
    ended: bool,
}

/// Collapses what can be collapsed of a range.
pub(crate) fn collapse(mm: &MmWithUser, range: Range<usize>, policy: Policy) -> Result {
    let mut request = Request {
        control: Control::new(mm, policy, range.clone()).map_err(|_| ENOMEM)?,
        outcome: Outcome::default(),
        again: KVec::with_capacity(BATCH_MAX, GFP_KERNEL)?,
        undrained: KVec::with_capacity(BATCH_MAX, GFP_KERNEL)?,
        ended: false,
    };

    request.walk(range);
    request.outcome.into_result()
}

impl<'mm> Request<'mm> {
    fn note(&mut self, refusal: Refusal) {
        self.outcome.note(refusal);
        self.ended |= refusal.ends_request();
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
            cond_resched();
            let vma = match self
                .control
                .mm
                .find_stable_vma(addr, self.control.policy.stability)
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

            if !vma.is_anonymous() {
                drop(vma);
                if let Err(err) = entry::collapse_file(self.control.mm, addr..vma_end) {
                    self.note(Refusal::File(err));
                }
                addr = vma_end;
            } else if !vma.may_collapse(self.control.policy.heed_nohugepage) {
                self.note(Refusal::Unfit);
                addr = vma_end;
            } else {
                let windows = align_up(addr)..align_down(vma_end);

                if windows.is_empty() {
                    addr = vma_end;
                    continue;
                }
                addr = self.collapse_some(vma, windows.clone());
                if addr >= windows.end {
                    addr = vma_end;
                }
            }
        }
    }

    /// Scans windows from the first of `range` on, until there is a batch of them; collapses these,
    /// and returns where to go on.
    fn collapse_some(&mut self, vma: StableVma<'mm>, range: Range<usize>) -> usize {
        let Ok(mut candidates) = KVec::with_capacity(BATCH_MAX, GFP_KERNEL) else {
            self.note(Refusal::NoMemory);
            return range.end;
        };
        let next = self.scan_range(&vma, range, &mut candidates);
        drop(vma);
        hold_after(Pass::Scan);
        self.collapse_batch(candidates);

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

    /// Tries windows once more.
    fn collapse_again(&mut self) {
        let Ok(mut candidates) = KVec::with_capacity(BATCH_MAX, GFP_KERNEL) else {
            return self.note(Refusal::NoMemory);
        };
        // Copied, so that what comes back finds the room that was made for it.
        let mut again = [Again { addr: 0, tries: 0 }; BATCH_MAX];
        let nr = self.again.len();

        for (copy, window) in again.iter_mut().zip(&self.again) {
            *copy = *window;
        }
        self.again.clear();
        let Some(first) = again.iter().take(nr).next() else {
            return;
        };
        let vma = match revalidate(self.control.mm, &self.control.policy, first.addr) {
            Ok(vma) => vma,
            Err(refusal) => return self.note(refusal),
        };
        let limits = self.control.policy.limits_in(&vma);

        for window in again.iter().take(nr) {
            match scan(&vma, window.addr, &limits) {
                Ok(Found::Huge) => {}
                Ok(Found::Candidate(candidate)) => {
                    let _ = candidates.push_within_capacity((candidate, window.tries));
                }
                Err(refusal) => self.refuse(*window, refusal),
            }
        }
        drop(vma);
        self.collapse_batch(candidates);
    }

    /// Scans windows until there is a batch of candidates.
    fn scan_range(
        &mut self,
        vma: &VmaRef,
        range: Range<usize>,
        candidates: &mut KVec<(Candidate, u8)>,
    ) -> usize {
        let limits = self.control.policy.limits_in(vma);
        let mut addr = range.start;
        let mut scanned = 0;

        while addr < range.end {
            match scan(vma, addr, &limits) {
                Ok(Found::Huge) => {}
                Ok(Found::Candidate(candidate)) => {
                    scanned += 1;
                    let _ = candidates.push_within_capacity((candidate, 0));
                }
                Err(refusal) => {
                    scanned += 1;
                    self.refuse(Again { addr, tries: 0 }, refusal);
                }
            }
            addr += PMD_SIZE;
            // A batch lies in one PMD table, and its memory for windows to be tried again is
            // bounded.
            if addr % PUD_SIZE == 0
                || scanned == SCAN_MAX
                || candidates.len() + self.again.len() + self.undrained.len() >= self.control.batch
            {
                break;
            }
        }
        addr
    }

    /// Collapses candidates.
    fn collapse_batch(&mut self, candidates: KVec<(Candidate, u8)>) {
        let mut tries: [Again; BATCH_MAX] = [Again { addr: 0, tries: 0 }; BATCH_MAX];
        let mut ready = match KVec::with_capacity(candidates.len(), GFP_KERNEL) {
            Ok(ready) => ready,
            Err(_) => return self.note(Refusal::NoMemory),
        };
        let mut swapped: [bool; BATCH_MAX] = [false; BATCH_MAX];

        for (((candidate, tried), again), swapped) in
            candidates.into_iter().zip(&mut tries).zip(&mut swapped)
        {
            // When there is no more to be had, what there is, is used.
            match self.control.provide(candidate.nid, &candidate.nodes) {
                Ok(kit) => {
                    *again = Again {
                        addr: candidate.addr,
                        tries: tried,
                    };
                    *swapped = candidate.swapped > 0;
                    let _ = ready.push_within_capacity(Ready {
                        addr: candidate.addr,
                        kit,
                    });
                }
                Err(refusal) => {
                    self.note(refusal);
                    break;
                }
            }
        }

        let Some(first) = ready.first() else { return };
        hold_after(Pass::Provide);
        let mut vma = match revalidate(self.control.mm, &self.control.policy, first.addr) {
            Ok(vma) => vma,
            Err(refusal) => return self.note(refusal),
        };

        // Faulting in may have to look for the VMA again. Windows that it fails for leave.
        let mut fit = match KVec::with_capacity(ready.len(), GFP_KERNEL) {
            Ok(fit) => fit,
            Err(_) => return self.note(Refusal::NoMemory),
        };
        for (window, swapped) in ready.into_iter().zip(swapped) {
            if swapped {
                match fault_in(self.control.mm, &self.control.policy, vma, window.addr) {
                    Ok(stable) => vma = stable,
                    Err((stable, refusal)) => {
                        self.refuse(Self::find(&tries, window.addr), refusal);
                        self.control.keep(window.kit);
                        match stable {
                            Some(stable) => vma = stable,
                            None => return,
                        }
                        continue;
                    }
                }
            }
            let _ = fit.push_within_capacity(window);
        }

        hold_after(Pass::FaultIn);
        let mut verdicts = [(0, Verdict::Huge); BATCH_MAX];
        let mut left = verdicts.iter_mut();
        let contended = batch::run(&mut self.control, &vma, fit, |addr, verdict| {
            if let Some(slot) = left.next() {
                *slot = (addr, verdict);
            }
        });
        drop(vma);
        self.control.adapt(contended);

        for (addr, verdict) in verdicts {
            let again = Self::find(&tries, addr);

            match verdict {
                Verdict::Huge => {}
                Verdict::Refused(refusal) => self.refuse(again, refusal),
                Verdict::Deferred => {
                    // There is room for a batch; if ever not, the caller is told to try again.
                    if self.again.push_within_capacity(again).is_err() {
                        self.note(Refusal::Locked);
                    }
                }
            }
        }
    }

    fn find(tries: &[Again], addr: usize) -> Again {
        tries
            .iter()
            .copied()
            .find(|again| again.addr == addr)
            .unwrap_or(Again { addr, tries: TRIES })
    }

    /// Notes a refusal, unless the window is to be tried again.
    fn refuse(&mut self, mut window: Again, refusal: Refusal) {
        if refusal == Refusal::Referenced && !self.control.drained {
            if self.undrained.push_within_capacity(window).is_ok() {
                return;
            }
        }
        if refusal.is_fleeting() && window.tries < TRIES {
            window.tries += 1;
            if self.again.push_within_capacity(window).is_ok() {
                return;
            }
        }
        self.note(refusal);
    }
}

fn align_down(addr: usize) -> usize {
    addr & !(PMD_SIZE - 1)
}

fn align_up(addr: usize) -> usize {
    align_down(addr.saturating_add(PMD_SIZE - 1))
}
