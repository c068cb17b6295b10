// SPDX-License-Identifier: GPL-2.0

//! What windows and batches tell of themselves.

use crate::{
    batch::Verdict,
    outcome::Refusal,
    scan::Found, //
};
use kernel::{
    mm::{
        trace::{
            self,
            ScanResult, //
        },
        MmWithUser,
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    },
};

/// How long a batch holds what others may wait for.
pub(crate) struct Held {
    stable: Instant<Monotonic>,
    sources: Instant<Monotonic>,
    longest: Delta,
}

impl Held {
    /// The VMA is stable.
    pub(crate) fn begin() -> Self {
        let now = Instant::now();

        Self {
            stable: now,
            sources: now,
            longest: Delta::ZERO,
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
}

fn scan_result(refusal: Refusal) -> ScanResult {
    match refusal {
        Refusal::Empty => ScanResult::NO_PTE_TABLE,
        Refusal::TooManyHoles => ScanResult::EXCEED_NONE_PTE,
        Refusal::TooManySwapped => ScanResult::EXCEED_SWAP_PTE,
        Refusal::TooManyShared => ScanResult::EXCEED_SHARED_PTE,
        Refusal::Uffd => ScanResult::PTE_UFFD,
        Refusal::Marker | Refusal::Poisoned | Refusal::SwapIn => ScanResult::PTE_NON_PRESENT,
        Refusal::Foreign => ScanResult::PAGE_NULL,
        Refusal::Locked => ScanResult::PAGE_LOCK,
        Refusal::Referenced => ScanResult::PAGE_COUNT,
        Refusal::TooFar => ScanResult::SCAN_ABORT,
        Refusal::MachineCheck => ScanResult::COPY_MC,
        Refusal::Unfit => ScanResult::VMA_CHECK,
        Refusal::Gone => ScanResult::VMA_NULL,
        Refusal::NoHugePage => ScanResult::ALLOC_HUGE_PAGE_FAIL,
        Refusal::Charge => ScanResult::CGROUP_CHARGE_FAIL,
        Refusal::Raced | Refusal::NoMemory | Refusal::Killed | Refusal::Writeback => {
            ScanResult::FAIL
        }
    }
}

/// Reports the scan of a window.
#[inline(always)]
pub(crate) fn scanned(
    mm: &MmWithUser,
    empty: usize,
    swapped: usize,
    found: &Result<Found, Refusal>,
) {
    let result = match found {
        Ok(Found::Huge) => ScanResult::PMD_MAPPED,
        Ok(Found::Candidate(_)) => ScanResult::SUCCEED,
        Err(refusal) => scan_result(*refusal),
    };

    trace::scanned(mm, empty, swapped, result);
}

/// Reports that the pages of a window were faulted in.
#[inline(always)]
pub(crate) fn swapped_in(mm: &MmWithUser, nr: usize, refusal: Option<Refusal>) {
    trace::swapped_in(mm, nr, refusal.map_or(ScanResult::SUCCEED, scan_result));
}

/// Reports that the pages of a window were isolated.
#[inline(always)]
pub(crate) fn isolated(empty: usize, refusal: Option<Refusal>) {
    trace::isolated(empty, refusal.map_or(ScanResult::SUCCEED, scan_result));
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
                trace::collapsed(mm, scan_result(refusal));
            }
            Verdict::Deferred => {}
        }
    }
    trace::batch(mm, &batch);
}
