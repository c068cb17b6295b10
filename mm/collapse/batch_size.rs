// SPDX-License-Identifier: GPL-2.0

//! How many windows a batch may have.

/// Windows in a batch, when nothing waits for it.
pub(crate) const BATCH_MAX: usize = 16;

/// Windows in the first batch of a request. A thread that waits for a lock of a batch waits for all
/// of it: batches grow as long as nothing waits.
const BATCH_FIRST: usize = 2;

/// How many windows the next batch may have.
pub(crate) struct BatchSize {
    windows: usize,
    /// Whether anybody has waited for a batch.
    waited_for: bool,
}

impl BatchSize {
    /// Returns the size of the first batch.
    pub(crate) fn first() -> Self {
        Self {
            windows: BATCH_FIRST,
            waited_for: false,
        }
    }

    /// Returns how many windows the next batch may have.
    pub(crate) fn get(&self) -> usize {
        self.windows
    }

    /// Makes the next batch one of `nr` windows, since there is no memory for more.
    pub(crate) fn limit(&mut self, nr: usize) {
        self.windows = nr;
    }

    /// Adapts the size of batches to one that had `nr` windows, as TCP does its window (RFC 5681):
    /// half when somebody waited for our lock or for a page; else double, or one more once somebody
    /// has waited. A batch that was not full does not tell what a larger one would do.
    pub(crate) fn adapt(&mut self, nr: usize, contended: bool) {
        self.waited_for |= contended;
        if contended {
            self.windows = (self.windows / 2).max(1);
        } else if nr >= self.windows {
            let more = if self.waited_for { 1 } else { self.windows };

            self.windows = (self.windows + more).min(BATCH_MAX);
        }
    }
}

#[cfg(CONFIG_THP_COLLAPSE_RUST_KUNIT_TEST)]
#[kernel::prelude::kunit_tests(thp_collapse_batch_size)]
mod tests {
    use super::*;

    /// Has a full batch pass, and returns the size of the next.
    fn full(size: &mut BatchSize, contended: bool) -> usize {
        size.adapt(size.get(), contended);
        size.get()
    }

    #[test]
    fn batches_double_until_something_waits() {
        let mut size = BatchSize::first();

        assert_eq!(size.get(), 2);
        for expected in [4, 8, 16, 16] {
            assert_eq!(full(&mut size, false), expected);
        }
    }

    #[test]
    fn contended_batches_are_halved_and_then_grow_by_one() {
        let mut size = BatchSize::first();

        while size.get() < BATCH_MAX {
            full(&mut size, false);
        }
        assert_eq!(full(&mut size, true), 8);
        for expected in [9, 10, 11] {
            assert_eq!(full(&mut size, false), expected);
        }
        for expected in [5, 2, 1, 1] {
            assert_eq!(full(&mut size, true), expected);
        }
        for _ in 0..BATCH_MAX {
            full(&mut size, false);
        }
        assert_eq!(size.get(), BATCH_MAX);
    }

    #[test]
    fn a_batch_that_is_not_full_lets_none_grow() {
        let mut size = BatchSize::first();

        full(&mut size, false);
        size.adapt(3, false);
        assert_eq!(size.get(), 4);
        // But it does tell that something waits.
        size.adapt(1, true);
        assert_eq!(size.get(), 2);
    }

    #[test]
    fn a_limit_holds_for_one_batch() {
        let mut size = BatchSize::first();

        full(&mut size, false);
        size.limit(1);
        assert_eq!(size.get(), 1);
        assert_eq!(full(&mut size, false), 2);
    }
}
