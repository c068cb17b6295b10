// SPDX-License-Identifier: GPL-2.0

//! Why windows are not collapsed, what the caller is told, and what the C code calls it.

use kernel::{
    error::code::*,
    mm::internal::{
        folio::Unexpected,
        trace::ScanResult, //
    },
    prelude::*, //
};

/// Why a window, or the rest of a request, was not collapsed.
///
/// There is no success in here: a window that is huge, by us or before us, has no refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// There is no page table, or one with nothing in it.
    Empty,
    /// More holes and zero pages than allowed.
    TooManyHoles,
    /// More swapped pages than allowed.
    TooManySwapped,
    /// More shared pages than allowed.
    TooManyShared,
    /// userfaultfd tracks a page of it.
    Uffd,
    /// A guard region, or another marker.
    Marker,
    /// A page of it was lost to a memory error.
    Poisoned,
    /// Memory of a device, or pages that are not ours to move.
    Foreign,
    /// A folio is locked.
    Locked,
    /// A folio has references that we cannot explain.
    Referenced,
    /// A folio is pinned: a device may write it. No drain of LRU caches can help that.
    Pinned,
    /// Its pages lie on nodes that are too far apart.
    TooFar,
    /// Somebody changed a slot while it was being collapsed.
    Raced,
    /// A page could not be read back from swap.
    SwapIn,
    /// Copying met bad memory.
    MachineCheck,
    /// The VMA may not have huge pages.
    Unfit,
    /// The VMA is no more what it was.
    Gone,
    /// There is no huge page to be had.
    NoHugePage,
    /// The memory cgroup is at its limit.
    Charge,
    /// There is no memory for bookkeeping.
    NoMemory,
    /// A fatal signal came.
    Killed,
    /// A file system still has use for the base pages of its file, such as to write them back.
    Writeback,
}

/// The answer to a refusal that serves its caller. When several windows were refused, the last of
/// these that occurred is reported: it is the most useful one to know.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Advice {
    /// This range will not collapse.
    Invalid,
    /// Try again.
    Again,
    /// Something is at its limit.
    Busy,
    /// Make memory available, or map what was not.
    NoMemory,
    /// The caller is dying.
    Interrupted,
}

impl Refusal {
    fn advice(self) -> Advice {
        match self {
            Refusal::Empty
            | Refusal::Uffd
            | Refusal::Marker
            | Refusal::Poisoned
            | Refusal::Foreign
            | Refusal::TooFar
            | Refusal::SwapIn
            | Refusal::MachineCheck
            | Refusal::Unfit
            | Refusal::Gone => Advice::Invalid,
            Refusal::Locked
            | Refusal::Referenced
            | Refusal::Pinned
            | Refusal::Raced
            | Refusal::Writeback => Advice::Again,
            Refusal::TooManyHoles
            | Refusal::TooManySwapped
            | Refusal::TooManyShared
            | Refusal::Charge => Advice::Busy,
            Refusal::NoHugePage | Refusal::NoMemory => Advice::NoMemory,
            Refusal::Killed => Advice::Interrupted,
        }
    }

    /// Returns whether the request ends with this: going on would meet it again.
    pub(crate) fn ends_request(self) -> bool {
        matches!(
            self,
            Refusal::NoHugePage
                | Refusal::Charge
                | Refusal::NoMemory
                | Refusal::Gone
                | Refusal::Killed
        )
    }

    /// Returns whether the window may well collapse when it is tried once more right away.
    pub(crate) fn is_fleeting(self) -> bool {
        matches!(self, Refusal::Locked | Refusal::Pinned | Refusal::Raced)
    }

    /// Tells how C code ended with a window: as success, or as a refusal.
    pub(crate) fn check(result: ScanResult) -> Result<(), Self> {
        match result {
            ScanResult::SUCCEED | ScanResult::PMD_MAPPED => Ok(()),
            ScanResult::EXCEED_NONE_PTE => Err(Refusal::TooManyHoles),
            ScanResult::EXCEED_SWAP_PTE => Err(Refusal::TooManySwapped),
            ScanResult::PAGE_LOCK => Err(Refusal::Locked),
            ScanResult::PAGE_COUNT | ScanResult::PAGE_LRU | ScanResult::DEL_PAGE_LRU => {
                Err(Refusal::Referenced)
            }
            ScanResult::PAGE_FILLED | ScanResult::PAGE_ANON => Err(Refusal::Raced),
            ScanResult::PAGE_HAS_PRIVATE | ScanResult::PAGE_DIRTY_OR_WRITEBACK => {
                Err(Refusal::Writeback)
            }
            ScanResult::ALLOC_HUGE_PAGE_FAIL => Err(Refusal::NoHugePage),
            ScanResult::CGROUP_CHARGE_FAIL => Err(Refusal::Charge),
            ScanResult::COPY_MC => Err(Refusal::MachineCheck),
            ScanResult::PTE_UFFD => Err(Refusal::Uffd),
            ScanResult::SCAN_ABORT => Err(Refusal::TooFar),
            ScanResult::VMA_CHECK | ScanResult::ADDRESS_RANGE => Err(Refusal::Unfit),
            ScanResult::ANY_PROCESS | ScanResult::VMA_NULL => Err(Refusal::Gone),
            // The pages of the file are not to be had, or not ours to move.
            _ => Err(Refusal::Foreign),
        }
    }
}

impl From<Refusal> for ScanResult {
    /// Tells users of tracepoints, in the words of the C code, why a window was refused.
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Empty => ScanResult::NO_PTE_TABLE,
            Refusal::TooManyHoles => ScanResult::EXCEED_NONE_PTE,
            Refusal::TooManySwapped => ScanResult::EXCEED_SWAP_PTE,
            Refusal::TooManyShared => ScanResult::EXCEED_SHARED_PTE,
            Refusal::Uffd => ScanResult::PTE_UFFD,
            Refusal::Marker | Refusal::Poisoned | Refusal::SwapIn => ScanResult::PTE_NON_PRESENT,
            Refusal::Foreign => ScanResult::PAGE_NULL,
            Refusal::Locked => ScanResult::PAGE_LOCK,
            Refusal::Referenced | Refusal::Pinned => ScanResult::PAGE_COUNT,
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
}

impl From<Unexpected> for Refusal {
    fn from(unexpected: Unexpected) -> Self {
        match unexpected {
            Unexpected::Reference => Refusal::Referenced,
            Unexpected::Pin => Refusal::Pinned,
        }
    }
}

/// How a window left its batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It is huge.
    Huge,
    /// It was refused.
    Refused(Refusal),
    /// It is to be tried again soon: something waits for a lock of ours, another window needs the
    /// same folio, it lies in another VMA by now, or is to go another way.
    Deferred,
}

/// The outcome of a range so far.
#[derive(Default)]
pub(crate) struct Outcome {
    worst: Option<Advice>,
    ended: bool,
}

impl Outcome {
    pub(crate) fn note(&mut self, refusal: Refusal) {
        self.worst = self.worst.max(Some(refusal.advice()));
        self.ended |= refusal.ends_request();
    }

    /// Adds what became of a part of the range.
    pub(crate) fn merge(&mut self, part: Outcome) {
        self.worst = self.worst.max(part.worst);
        self.ended |= part.ended;
    }

    /// Returns whether the request ends here.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Part of the range is not mapped.
    pub(crate) fn note_gap(&mut self) {
        self.worst = self.worst.max(Some(Advice::NoMemory));
    }

    pub(crate) fn into_result(self) -> Result {
        match self.worst {
            None => Ok(()),
            Some(Advice::Invalid) => Err(EINVAL),
            Some(Advice::Again) => Err(EAGAIN),
            Some(Advice::Busy) => Err(EBUSY),
            Some(Advice::NoMemory) => Err(ENOMEM),
            Some(Advice::Interrupted) => Err(EINTR),
        }
    }
}

#[cfg(CONFIG_THP_COLLAPSE_RUST_KUNIT_TEST)]
#[kernel::prelude::kunit_tests(thp_collapse_outcome)]
mod tests {
    use super::*;

    fn told(refusals: &[Refusal]) -> Result {
        let mut outcome = Outcome::default();

        for refusal in refusals {
            outcome.note(*refusal);
        }
        outcome.into_result()
    }

    #[test]
    fn nothing_refused_is_success() {
        assert_eq!(told(&[]), Ok(()));
    }

    #[test]
    fn each_refusal_has_its_errno() {
        assert_eq!(told(&[Refusal::Empty]), Err(EINVAL));
        assert_eq!(told(&[Refusal::Uffd]), Err(EINVAL));
        assert_eq!(told(&[Refusal::Locked]), Err(EAGAIN));
        assert_eq!(told(&[Refusal::Referenced]), Err(EAGAIN));
        assert_eq!(told(&[Refusal::Pinned]), Err(EAGAIN));
        assert_eq!(told(&[Refusal::Raced]), Err(EAGAIN));
        assert_eq!(told(&[Refusal::TooManyHoles]), Err(EBUSY));
        assert_eq!(told(&[Refusal::Charge]), Err(EBUSY));
        assert_eq!(told(&[Refusal::NoHugePage]), Err(ENOMEM));
        assert_eq!(told(&[Refusal::Killed]), Err(EINTR));
        assert_eq!(told(&[Refusal::Writeback]), Err(EAGAIN));
    }

    #[test]
    fn the_most_useful_errno_wins() {
        assert_eq!(told(&[Refusal::Locked, Refusal::Empty]), Err(EAGAIN));
        assert_eq!(told(&[Refusal::Charge, Refusal::Locked]), Err(EBUSY));
        assert_eq!(told(&[Refusal::Charge, Refusal::NoHugePage]), Err(ENOMEM));
        assert_eq!(told(&[Refusal::Killed, Refusal::NoHugePage]), Err(EINTR));
    }

    #[test]
    fn parts_add_up() {
        let (mut outcome, mut part) = (Outcome::default(), Outcome::default());

        outcome.note(Refusal::Locked);
        part.note(Refusal::Empty);
        outcome.merge(part);
        assert!(!outcome.has_ended());

        let mut part = Outcome::default();

        part.note(Refusal::Charge);
        outcome.merge(part);
        assert!(outcome.has_ended());
        assert_eq!(outcome.into_result(), Err(EBUSY));
    }

    #[test]
    fn what_both_engines_refuse_has_one_result() {
        for refusal in [
            Refusal::TooManyHoles,
            Refusal::TooManySwapped,
            Refusal::Uffd,
            Refusal::Locked,
            Refusal::Referenced,
            Refusal::TooFar,
            Refusal::MachineCheck,
            Refusal::Unfit,
            Refusal::Gone,
            Refusal::NoHugePage,
            Refusal::Charge,
        ] {
            assert_eq!(Refusal::check(refusal.into()), Err(refusal));
        }
        assert_eq!(Refusal::check(ScanResult::SUCCEED), Ok(()));
    }

    #[test]
    fn a_gap_is_told_as_enomem() {
        let mut outcome = Outcome::default();

        outcome.note(Refusal::Locked);
        outcome.note_gap();
        assert_eq!(outcome.into_result(), Err(ENOMEM));
    }
}
