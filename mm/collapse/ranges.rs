// SPDX-License-Identifier: GPL-2.0

//! The ranges of a request, as its caller gave them.

use core::ops::Range;
use kernel::{
    mm::{
        internal::stable,
        MmWithUser, //
    },
    page::PAGE_SIZE,
    prelude::*, //
};

/// One range. Nothing was looked at yet: it may be empty, unaligned, or wrap.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Segment {
    pub(crate) addr: usize,
    /// In bytes.
    pub(crate) len: usize,
}

impl Segment {
    /// The pages of the segment.
    ///
    /// # Errors
    ///
    /// `EINVAL` when it does not begin at a page, or wraps.
    fn pages(self) -> Result<Range<usize>> {
        if self.addr % PAGE_SIZE != 0 {
            return Err(EINVAL);
        }
        let len = self.len.checked_next_multiple_of(PAGE_SIZE).ok_or(EINVAL)?;
        let end = self.addr.checked_add(len).ok_or(EINVAL)?;

        Ok(self.addr..end)
    }
}

/// The segments that process_madvise() looks at: not those that are empty, so that nothing is
/// wrong with these, whatever their address. If there is any other, the first one is looked at
/// even when it is empty.
fn looked_at(segments: &[Segment]) -> impl Iterator<Item = Segment> + '_ {
    let all_empty = segments.iter().all(|segment| segment.len == 0);

    segments
        .iter()
        .copied()
        .enumerate()
        .filter(move |(nr, segment)| segment.len != 0 || (*nr == 0 && !all_empty))
        .map(|(_, segment)| segment)
}

/// All ranges of a request.
#[derive(Clone, Copy)]
pub(crate) struct Ranges<'a> {
    mm: &'a MmWithUser,
    foreign: bool,
    segments: &'a [Segment],
}

impl<'a> Ranges<'a> {
    /// The ranges that `segments` describe. They are of the caller's mm unless it is `foreign`.
    pub(crate) fn new(mm: &'a MmWithUser, foreign: bool, segments: &'a [Segment]) -> Self {
        Self {
            mm,
            foreign,
            segments,
        }
    }

    /// The segments to be served, in order.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment> + 'a {
        looked_at(self.segments)
    }

    /// The pages of a segment, without tags in their addresses.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the segment cannot be served, `EINTR` when a fatal signal came.
    pub(crate) fn pages(&self, segment: Segment) -> Result<Range<usize>> {
        let pages = segment.pages()?;
        let start = if self.foreign {
            self.mm
                .mmap_read_lock_killable()?
                .untagged_addr(pages.start)
        } else {
            stable::untagged_addr(pages.start)
        };

        Ok(start..start.saturating_add(pages.len()))
    }
}

#[cfg(CONFIG_THP_COLLAPSE_RUST_KUNIT_TEST)]
#[kernel::prelude::kunit_tests(thp_collapse_ranges)]
mod tests {
    use super::*;

    fn segment(addr: usize, len: usize) -> Segment {
        Segment { addr, len }
    }

    #[test]
    fn whole_pages() {
        assert_eq!(segment(0, 0).pages(), Ok(0..0));
        assert_eq!(segment(PAGE_SIZE, 1).pages(), Ok(PAGE_SIZE..2 * PAGE_SIZE));
        assert_eq!(
            segment(PAGE_SIZE, PAGE_SIZE).pages(),
            Ok(PAGE_SIZE..2 * PAGE_SIZE)
        );
        assert_eq!(
            segment(PAGE_SIZE, PAGE_SIZE + 1).pages(),
            Ok(PAGE_SIZE..3 * PAGE_SIZE)
        );
    }

    #[test]
    fn unaligned_or_wrapping_is_invalid() {
        let last = usize::MAX - (PAGE_SIZE - 1);

        assert_eq!(segment(1, PAGE_SIZE).pages(), Err(EINVAL));
        assert_eq!(segment(1, 0).pages(), Err(EINVAL));
        // The length wraps when it is rounded up; the end wraps; the end is 0.
        assert_eq!(segment(0, usize::MAX).pages(), Err(EINVAL));
        assert_eq!(segment(2 * PAGE_SIZE, last).pages(), Err(EINVAL));
        assert_eq!(segment(last, PAGE_SIZE).pages(), Err(EINVAL));
        assert_eq!(segment(0, last).pages(), Ok(0..last));
    }

    #[test]
    fn empty_segments_are_passed_over() {
        let (empty, some, odd) = (segment(0, 0), segment(0, 1), segment(1, 0));

        assert_eq!(looked_at(&[]).count(), 0);
        assert_eq!(looked_at(&[odd]).count(), 0);
        assert_eq!(looked_at(&[odd, empty]).count(), 0);
        assert_eq!(looked_at(&[some, odd, some]).count(), 2);
        assert_eq!(looked_at(&[some, some, odd]).count(), 2);
        assert_eq!(looked_at(&[odd, some]).next(), Some(odd));
        assert_eq!(looked_at(&[empty, odd, some]).count(), 2);
    }
}
