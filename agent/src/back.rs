// SPDX-License-Identifier: GPL-2.0

//! Windows that were refused, and are left alone for a time.

use rustix::io::Errno;
use std::collections::BTreeMap;
use std::time::Duration;

/// The most windows to remember of a process: about 3 MiB.
const MOST: usize = 1 << 16;
/// The first time for which a window is left alone that was in use.
const IN_USE: Duration = Duration::from_secs(10);
/// The first time for which a window is left alone for another reason.
const OTHER: Duration = Duration::from_secs(60);
/// The longest time for which a window is left alone.
const LONGEST: Duration = Duration::from_secs(3600);

/// Windows of a process that are left alone.
#[derive(Default)]
pub struct Backs(BTreeMap<u64, Back>);

struct Back {
    times: u32,
    until: Duration,
}

impl Backs {
    /// Returns whether a window is to be left alone.
    pub fn has(&self, window: u64, now: Duration) -> bool {
        self.0.get(&window).is_some_and(|back| now < back.until)
    }

    /// Remembers that a window was refused. Each time it is left alone for longer.
    pub fn add(&mut self, window: u64, errno: Errno, now: Duration) {
        if self.0.len() >= MOST && !self.0.contains_key(&window) {
            self.0.retain(|_, back| now < back.until);
            // If most of them are still to be left alone, the lowest addresses are tried again.
            while self.0.len() > MOST / 4 * 3 {
                self.0.pop_first();
            }
        }
        let first = match errno {
            Errno::AGAIN | Errno::INTR => IN_USE,
            _ => OTHER,
        };
        let back = self.0.entry(window).or_insert(Back {
            times: 0,
            until: now,
        });

        back.until = now + LONGEST.min(first.saturating_mul(1 << back.times));
        back.times = (back.times + 1).min(16);
    }

    /// Forgets a window, which is no longer refused.
    pub fn remove(&mut self, window: u64) {
        self.0.remove(&window);
    }

    /// Returns the time at which the first of the windows is to be tried again.
    pub fn next(&self) -> Option<Duration> {
        self.0.values().map(|back| back.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn windows_are_left_alone_for_longer_and_longer() {
        let mut backs = Backs::default();

        backs.add(4, Errno::AGAIN, seconds(100));
        assert!(backs.has(4, seconds(109)) && !backs.has(4, seconds(110)));
        backs.add(4, Errno::AGAIN, seconds(110));
        assert!(backs.has(4, seconds(129)) && !backs.has(4, seconds(130)));
        backs.add(5, Errno::INVAL, seconds(0));
        assert_eq!(backs.next(), Some(seconds(60)));
        for _ in 0..100 {
            backs.add(5, Errno::INVAL, seconds(0));
        }
        assert!(!backs.has(5, seconds(3600)));
        backs.remove(4);
        assert!(!backs.has(4, seconds(111)));
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered() {
        let mut backs = Backs::default();

        for window in 0..3 * MOST as u64 {
            backs.add(window, Errno::INVAL, seconds(window / 4000));
        }
        assert!((MOST / 2..=MOST).contains(&backs.0.len()));
    }
}
