// SPDX-License-Identifier: GPL-2.0

//! Walking the range of a request.

use crate::{
    engine::{
        Engine,
        Progress, //
    },
    file,
    gfp::Gfp,
    outcome::{
        Outcome,
        Refusal, //
    },
    policy::Policy,
    ranges::{
        Ranges,
        Segment, //
    },
    scan::first_not_huge,
};
use core::ops::Range;
use kernel::{
    mm::{
        internal::{
            pgtable::PMD_SIZE,
            stable::StableVma, //
        },
        MmWithUser, //
    },
    prelude::*,
    task::cond_resched, //
};

/// A request that is being served.
struct Request<'mm> {
    mm: &'mm MmWithUser,
    policy: Policy,
    gfp: Gfp<'mm>,
    engine: Engine<'mm>,
}

/// Collapses what can be collapsed of some ranges, and returns how many bytes it got through.
///
/// As process_madvise() does, this ends with the first range that was not wholly served, and tells
/// why only when that is also the first of all.
pub(crate) fn collapse(mm: &MmWithUser, policy: Policy, segments: &[Segment]) -> Result<usize> {
    let ranges = Ranges::new(mm, policy.foreign, segments);
    let mut request = Request {
        mm,
        policy,
        gfp: Gfp::new(mm, &policy, ranges),
        engine: Engine::new(mm),
    };
    let mut bytes: usize = 0;

    for segment in ranges.segments() {
        let result = ranges.pages(segment).and_then(|range| {
            let mut outcome = Outcome::default();

            request.walk(range, &mut outcome);
            outcome.into_result()
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
    /// Goes through the VMAs of the range.
    fn walk(&mut self, range: Range<usize>, outcome: &mut Outcome) {
        let Range {
            start: mut addr,
            end,
        } = range;

        while addr < end && !outcome.has_ended() {
            if current!().fatal_signal_pending() {
                return outcome.note(Refusal::Killed);
            }
            if self.policy.foreign && self.mm.is_abandoned() {
                return outcome.note(Refusal::Gone);
            }
            cond_resched();
            let vma = match self.mm.find_stable_vma(addr) {
                Ok(Some(vma)) => vma,
                Ok(None) => return outcome.note_gap(),
                Err(_) => return outcome.note(Refusal::Killed),
            };
            if vma.start() > addr {
                outcome.note_gap();
                addr = vma.start();
                if addr >= end {
                    return;
                }
            }
            let vma_end = vma.end().min(end);

            if !vma.may_collapse(self.policy.heed_nohugepage) {
                outcome.note(Refusal::Unfit);
                addr = vma_end;
            } else {
                let windows = align_up(addr)..align_down(vma_end);

                if windows.is_empty() {
                    addr = vma_end;
                    continue;
                }
                addr = if vma.is_anonymous() {
                    self.collapse_anon(vma, windows.clone(), outcome)
                } else {
                    self.collapse_file(vma, windows.clone(), outcome)
                };
                if addr >= windows.end {
                    addr = vma_end;
                }
            }
        }
    }

    /// Has the engine collapse some windows of `range`, in anonymous memory. Returns where to go
    /// on.
    fn collapse_anon(
        &mut self,
        vma: StableVma<'mm>,
        range: Range<usize>,
        outcome: &mut Outcome,
    ) -> usize {
        let Progress {
            next,
            outcome: part,
        } = self
            .engine
            .collapse(vma, range, &self.policy, &mut self.gfp);

        outcome.merge(part);
        next
    }

    /// Has the C code collapse the first window of `range`, in a file or in shmem, that is not
    /// huge. Returns where to go on.
    fn collapse_file(
        &mut self,
        vma: StableVma<'mm>,
        range: Range<usize>,
        outcome: &mut Outcome,
    ) -> usize {
        // Mappings whose huge pages are of another kind, of hugetlb and DAX, may not be collapsed.
        let addr = first_not_huge(&vma, range.clone());
        if addr >= range.end || addr != range.start {
            return addr;
        }
        let limits = self.policy.limits_in(&vma);

        self.gfp.enter(&vma);
        drop(vma);
        let result = self.gfp.get().and_then(|gfp| {
            file::collapse_window(self.mm, addr, limits, gfp, self.policy.heed_nohugepage)
        });

        if let Err(refusal) = result {
            if refusal == Refusal::Referenced && self.engine.drain_lru() {
                return addr;
            }
            outcome.note(refusal);
        }
        addr + PMD_SIZE
    }
}

fn align_down(addr: usize) -> usize {
    addr & !(PMD_SIZE - 1)
}

fn align_up(addr: usize) -> usize {
    align_down(addr.saturating_add(PMD_SIZE - 1))
}
