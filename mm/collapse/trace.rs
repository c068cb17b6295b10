// SPDX-License-Identifier: GPL-2.0

//! Tracepoints of windows and batches.

use crate::{
    hooks,
    outcome::{
        Refusal,
        Verdict, //
    }, //
};
use kernel::{
    mm::{
        internal::trace::{
            self,
            ScanResult, //
        },
        MmWithUser, //
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    },
};

/// How long a batch holds what others may wait for, and what it does twice.
pub(crate) struct Held {
    stable: Instant<Monotonic>,
    sources: Instant<Monotonic>,
    longest: Delta,
    switch: Instant<Monotonic>,
    untouchable: Delta,
    /// Pages that were copied again.
    pub(crate) recopied: usize,
    /// Rounds in which sources were made read-only again.
    pub(crate) rounds: usize,
    /// Windows that went the old way.
    pub(crate) old_way: usize,
    /// Huge pages that were mapped by a PMD entry again.
    pub(crate) remapped: usize,
}

impl Held {
    /// The VMA is stable.
    pub(crate) fn begin() -> Self {
        let now = Instant::now();

        Self {
            stable: now,
            sources: now,
            longest: Delta::ZERO,
            switch: now,
            untouchable: Delta::ZERO,
            recopied: 0,
            rounds: 0,
            old_way: 0,
            remapped: 0,
        }
    }

    /// The first source is about to be locked.
    pub(crate) fn sources_begin(&mut self) {
        self.sources = Instant::now();
    }

    /// The last source was unlocked.
    pub(crate) fn sources_end(&mut self) {
        self.longest = self.sources.elapsed();
    }

    /// Windows are about to be hidden from all CPUs.
    pub(crate) fn untouchable_begin(&mut self) {
        self.switch = Instant::now();
    }

    /// They are accessible again.
    pub(crate) fn untouchable_end(&mut self) {
        self.untouchable = self.untouchable.max(self.switch.elapsed());
    }
}

/// Reports that the pages of a window were faulted in.
#[inline(always)]
pub(crate) fn swapped_in(mm: &MmWithUser, nr: usize, refusal: Option<Refusal>) {
    trace::swapped_in(
        mm,
        nr,
        refusal.map_or(ScanResult::SUCCEED, ScanResult::from),
    );
}

/// Reports that the pages of a window were isolated.
#[inline(always)]
pub(crate) fn isolated(empty: usize, refusal: Option<Refusal>) {
    trace::isolated(empty, refusal.map_or(ScanResult::SUCCEED, ScanResult::from));
}

/// Reports a batch, and each window of it.
pub(crate) fn batch(
    mm: &MmWithUser,
    start: usize,
    verdicts: impl Iterator<Item = Verdict>,
    held: &Held,
) {
    let mut batch = trace::Batch {
        start,
        windows: 0,
        huge: 0,
        refused: 0,
        stable_us: held.stable.elapsed().as_micros_ceil(),
        source_us: held.longest.as_micros_ceil(),
        untouchable_ns: held.untouchable.as_nanos(),
        // CAST: A batch has no more than 16 windows.
        recopied: held.recopied as u32,
        rounds: held.rounds as u32,
        old_way: held.old_way as u32,
        remapped: held.remapped as u32,
    };

    for verdict in verdicts {
        batch.windows += 1;
        match verdict {
            Verdict::Huge => {
                batch.huge += 1;
                trace::collapsed(mm, ScanResult::SUCCEED);
            }
            Verdict::Refused(refusal) => {
                batch.refused += 1;
                trace::collapsed(mm, refusal.into());
            }
            Verdict::Deferred => {}
        }
    }
    hooks::count_work(held.recopied, held.rounds, held.old_way, held.remapped);
    trace::batch(mm, &batch);
}
