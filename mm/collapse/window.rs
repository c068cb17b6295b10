// SPDX-License-Identifier: GPL-2.0

//! The windows of a range.
#![cfg_attr(
    not(CONFIG_THP_COLLAPSE_RUST_KUNIT_TEST),
    expect(
        dead_code,
        reason = "the request walk that iterates them comes with the engine"
    )
)]

use core::ops::Range;

/// Size of a window in bytes: 512 base pages of 4 KiB on x86-64, the only architecture that
/// `THP_COLLAPSE_RUST` allows.
pub(crate) const WINDOW_SIZE: usize = 2 << 20;

/// The aligned windows that lie wholly inside a range of addresses.
///
/// Parts of a window at either end are left out, as `MADV_COLLAPSE` promises.
#[derive(Clone, Debug)]
pub(crate) struct Windows {
    next: usize,
    left: usize,
}

impl Windows {
    /// The windows of `range`, an address range in bytes; none when it is empty or reversed.
    pub(crate) fn of(range: Range<usize>) -> Self {
        let end = range.end - range.end % WINDOW_SIZE;
        match range.start.checked_next_multiple_of(WINDOW_SIZE) {
            Some(next) => Self {
                next,
                left: end.saturating_sub(next) / WINDOW_SIZE,
            },
            None => Self { next: 0, left: 0 },
        }
    }
}

impl Iterator for Windows {
    /// The address of a window's first byte.
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        self.left = self.left.checked_sub(1)?;
        let window = self.next;
        // The end of the last window of the address space wraps to 0, which is never handed out.
        self.next = window.wrapping_add(WINDOW_SIZE);
        Some(window)
    }
}

#[cfg(CONFIG_THP_COLLAPSE_RUST_KUNIT_TEST)]
#[kernel::prelude::kunit_tests(thp_collapse_window)]
mod tests {
    use super::*;

    const W: usize = WINDOW_SIZE;

    #[test]
    fn whole_windows_only() {
        assert!(Windows::of(W..3 * W).eq([W, 2 * W]));
        assert!(Windows::of(W + 1..3 * W).eq([2 * W]));
        assert!(Windows::of(W..3 * W - 1).eq([W]));
        assert!(Windows::of(W + 1..3 * W - 1).eq([]));
    }

    #[test]
    fn empty_and_reversed_ranges() {
        assert!(Windows::of(W..W).eq([]));
        let (start, end) = (2 * W, W);
        assert!(Windows::of(start..end).eq([]));
        assert!(Windows::of(0..0).eq([]));
    }

    #[test]
    fn ends_of_the_address_space() {
        assert!(Windows::of(0..W).eq([0]));
        assert!(Windows::of(usize::MAX - 1..usize::MAX).eq([]));
        let last = usize::MAX - (2 * W - 1);
        assert!(Windows::of(last..usize::MAX).eq([last]));
    }
}
