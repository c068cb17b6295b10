// SPDX-License-Identifier: GPL-2.0

//! Memory of our own to collapse, of which is known what must be in it.

use crate::failure::Failure;
use rustix::mm::{mmap_anonymous, munmap, MapFlags, ProtFlags};
use rustix::thread::{disable_transparent_huge_pages, transparent_huge_pages_are_disabled};
use std::ffi::c_void;
use std::ops::Range;
use std::slice;

/// How much memory.
const SIZE: usize = 64 << 20;

/// Memory made of small pages, with a pattern in it.
pub struct Memory {
    mapped: *mut c_void,
    length: usize,
    /// The part of it that windows fill.
    words: Range<usize>,
}

impl Memory {
    /// Makes it, for windows of so many bytes.
    pub fn new(window: usize) -> Result<Self, Failure> {
        let size = SIZE.next_multiple_of(window);
        let length = size + window;
        let failed = |errno| Failure::System("cannot map memory for the self-test", errno);
        // SAFETY: New memory, where there was none.
        let mapped = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .map_err(failed)?;
        let skip = (mapped as usize).next_multiple_of(window) - mapped as usize;
        let word = size_of::<u64>();
        let mut memory = Self {
            mapped,
            length,
            words: skip / word..(skip + size) / word,
        };

        // Page faults are to bring small pages, whatever sysfs says. MADV_NOHUGEPAGE could not be
        // taken back without calling khugepaged.
        let failed = |errno| Failure::System("prctl(PR_SET_THP_DISABLE)", errno);
        let disabled = transparent_huge_pages_are_disabled().map_err(failed)?;

        disable_transparent_huge_pages(true).map_err(failed)?;
        for (number, word) in memory.words().iter_mut().enumerate() {
            *word = pattern(number);
        }
        disable_transparent_huge_pages(disabled).map_err(failed)?;
        Ok(memory)
    }

    fn words(&mut self) -> &mut [u64] {
        // SAFETY: The words lie within what was mapped, which is aligned and zeroed, and nobody
        // else has it.
        unsafe {
            slice::from_raw_parts_mut(
                self.mapped.cast::<u64>().add(self.words.start),
                self.words.len(),
            )
        }
    }

    /// Its addresses.
    pub fn range(&self) -> Range<u64> {
        let address = |word| (self.mapped as usize + word * size_of::<u64>()) as u64;

        address(self.words.start)..address(self.words.end)
    }

    /// Whether there is in it what was put there.
    pub fn is_intact(&mut self) -> bool {
        self.words()
            .iter()
            .enumerate()
            .all(|(number, word)| *word == pattern(number))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: What was mapped, and is borrowed by nobody.
        let _ = unsafe { munmap(self.mapped, self.length) };
    }
}

/// What is in a word: no two are the same, nor is any zero.
fn pattern(number: usize) -> u64 {
    (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_word_is_noticed() {
        let mut memory = Memory::new(2 << 20).unwrap();
        let range = memory.range();

        assert_eq!(range.start % (2 << 20), 0);
        assert_eq!(range.end - range.start, SIZE as u64);
        assert!(memory.is_intact());
        *memory.words().last_mut().unwrap() ^= 1;
        assert!(!memory.is_intact());
    }
}
