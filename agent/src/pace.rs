// SPDX-License-Identifier: GPL-2.0

//! The pace of a run: the size of each request, and pauses when the kernel is slow.

use std::time::Duration;

/// The time that a slice should take: short enough to stop in time, long enough to be worth a call.
const SLICE: Duration = Duration::from_millis(40);
/// The most windows in a slice.
const MOST: u64 = 64;
/// A window is slow if it takes more than this many times the usual time. Then other tasks need the
/// locks, the memory or the CPU.
const SLOW: u32 = 4;
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// The pace of a run.
pub struct Pace {
    windows: u64,
    /// The time that a window usually takes.
    usual: Option<Duration>,
}

impl Pace {
    /// Returns the pace to begin with: as many windows as the engine has in one batch.
    pub fn new() -> Self {
        Self {
            windows: 16,
            usual: None,
        }
    }

    /// Returns how many windows the next slice should have.
    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// Learns from a slice. Returns how long to pause, if the slice was slow.
    pub fn learn(&mut self, windows: u64, took: Duration) -> Option<Duration> {
        let each = took / u32::try_from(windows.max(1)).unwrap_or(u32::MAX);
        let usual = self.usual.unwrap_or(each);
        let slow = each > usual.saturating_mul(SLOW);

        // A time that stays long becomes the usual one, so that pauses do not go on for ever.
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
