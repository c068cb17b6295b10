// SPDX-License-Identifier: GPL-2.0

//! How much to ask for at a time, and when to stand back.

use std::time::Duration;

/// A slice is to take about as long: short enough to stop in, long enough to be worth a call.
const SLICE: Duration = Duration::from_millis(40);
/// No more windows than this in a slice.
const MOST: u64 = 64;
/// A window that takes so many times what is usual is slow: somebody else needs the locks, the
/// memory or the processor.
const SLOW: u32 = 4;
/// The longest time to stand back for.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// The pace of a run.
pub struct Pace {
    windows: u64,
    /// What a window takes as a rule.
    usual: Option<Duration>,
}

impl Pace {
    /// It begins with as much as the engine takes in one batch.
    pub fn new() -> Self {
        Self {
            windows: 16,
            usual: None,
        }
    }

    /// How many windows the next slice is to have.
    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// Learns from a slice. Returns how long to stand back, when it was slow.
    pub fn learn(&mut self, windows: u64, took: Duration) -> Option<Duration> {
        let each = took / u32::try_from(windows.max(1)).unwrap_or(u32::MAX);
        let usual = self.usual.unwrap_or(each);
        let slow = each > usual.saturating_mul(SLOW);

        // What stays slow becomes usual, so that nobody stands back for ever.
        self.usual = Some((usual.saturating_mul(3).saturating_add(each)) / 4);
        if slow || took > SLICE.saturating_mul(2) {
            self.windows = (self.windows / 2).max(1);
        } else if took < SLICE / 2 {
            self.windows = (self.windows * 2).min(MOST);
        }
        slow.then(|| took.min(LONGEST_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn slices_grow_while_they_are_quick() {
        let mut pace = Pace::new();

        for _ in 0..5 {
            assert_eq!(pace.learn(16, ms(8)), None);
        }
        assert_eq!(pace.windows(), MOST);
        assert_eq!(pace.learn(64, ms(30)), None);
        assert_eq!(pace.windows(), MOST);
    }

    #[test]
    fn slow_slices_shrink_and_are_stood_back_from() {
        let mut pace = Pace::new();

        pace.learn(16, ms(30));
        assert_eq!(pace.windows(), 16);
        assert_eq!(pace.learn(16, ms(160)), Some(ms(160)));
        assert_eq!(pace.windows(), 8);
        assert_eq!(pace.learn(8, ms(4000)), Some(LONGEST_PAUSE));
        for _ in 0..10 {
            pace.learn(1, ms(500));
        }
        assert_eq!(pace.windows(), 1);
        // A machine that is slow throughout is not stood back from.
        assert_eq!(pace.learn(1, ms(500)), None);
    }
}
