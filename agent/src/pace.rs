// SPDX-License-Identifier: GPL-2.0

//! The pace of a run: the size of each request, and pauses when the kernel is slow.

use std::time::Duration;

/// The most windows in a slice.
const MOST: u64 = 64;
/// A window is slow if it takes more than this many times the usual time. Then other tasks need the
/// locks, the memory or the CPU.
const SLOW: u32 = 4;
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// The pace of a run.
pub struct Pace {
    /// The longest time that a slice may take. A thread of the process that needs what a request
    /// has locked waits until it ends, but not longer.
    longest: Duration,
    /// The time that a window takes. It rises at once, and falls slowly.
    usual: Option<Duration>,
    /// How many windows the last slice had.
    last: u64,
}

impl Pace {
    /// Returns the pace to begin with: a single window.
    pub fn new(longest: Duration) -> Self {
        Self {
            longest,
            usual: None,
            last: 0,
        }
    }

    /// Returns how many windows the next slice may have if it should end within `left`, too. It has
    /// one at least, and no more than twice as many as the last one: the next windows may take
    /// longer.
    pub fn windows(&self, left: Option<Duration>) -> u64 {
        let Some(usual) = self.usual else {
            return 1;
        };
        let time = self.longest.min(left.unwrap_or(Duration::MAX));
        let windows = time.as_nanos() / usual.as_nanos().max(1);
        let most = MOST.min(self.last * 2);

        u64::try_from(windows).unwrap_or(MOST).clamp(1, most)
    }

    /// Learns from a slice of which so many windows were collapsed. Returns how long to pause, if
    /// the slice was slow.
    pub fn learn(&mut self, windows: u64, took: Duration) -> Option<Duration> {
        let each = took / u32::try_from(windows.max(1)).unwrap_or(u32::MAX);
        let usual = self.usual.unwrap_or(each);

        // A time that stays long becomes the usual one, so that pauses do not go on for ever.
        self.usual = Some(each.max((usual.saturating_mul(3).saturating_add(each)) / 4));
        self.last = windows.max(1);
        (each > usual.saturating_mul(SLOW)).then(|| took.min(LONGEST_PAUSE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn slices_are_as_long_as_the_process_may_wait() {
        let mut pace = Pace::new(ms(10));

        assert_eq!(pace.windows(None), 1);
        pace.learn(1, ms(2));
        assert_eq!(pace.windows(None), 2);
        pace.learn(2, ms(4));
        pace.learn(4, ms(8));
        assert_eq!(pace.windows(None), 5);
        assert_eq!(pace.windows(Some(ms(5))), 2);
        assert_eq!(pace.windows(Some(ms(0))), 1);
        for _ in 0..20 {
            pace.learn(50, ms(1));
        }
        assert_eq!(pace.windows(None), MOST);
        pace.learn(1, Duration::ZERO);
        assert_eq!(pace.windows(None), 2);
    }

    #[test]
    fn slow_slices_shrink_and_are_stood_back_from() {
        let mut pace = Pace::new(ms(40));

        pace.learn(10, ms(20));
        assert_eq!(pace.windows(None), 20);
        assert_eq!(pace.learn(10, ms(100)), Some(ms(100)));
        assert_eq!(pace.windows(None), 4);
        assert_eq!(pace.learn(8, ms(4000)), Some(LONGEST_PAUSE));
        assert_eq!(pace.windows(None), 1);
        // A machine that is slow throughout is not stood back from.
        assert_eq!(pace.learn(1, ms(500)), None);
        for _ in 0..60 {
            pace.learn(8, ms(16));
        }
        assert_eq!(pace.windows(None), 16);
    }
}
