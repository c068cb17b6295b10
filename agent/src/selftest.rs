// SPDX-License-Identifier: GPL-2.0

//! Memory of this program to collapse, with known content.

use crate::failure::Failure;
use rustix::io::Errno;
use rustix::mm::{mmap_anonymous, munmap, MapFlags, ProtFlags};
use rustix::thread::{disable_transparent_huge_pages, transparent_huge_pages_are_disabled};
use std::ffi::c_void;
use std::ops::Range;
use std::slice;

/// The size of the memory.
const SIZE: usize = 64 << 20;

/// Memory made of small pages, with a pattern in it.
pub struct Memory {
    mapped: *mut c_void,
    length: usize,
    /// The part of the memory that whole windows fill, in words.
    words: Range<usize>,
}

impl Memory {
    /// Returns new memory, for windows of `window` bytes.
    pub fn new(window: usize) -> Result<Self, Failure> {
        let size = SIZE.next_multiple_of(window);
        let length = size + window;
        let failed = |errno| Failure::System("cannot map memory for the self-test", errno);
        // SAFETY: The kernel chooses an address where nothing is mapped.
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

        // Page faults must map small pages, whatever the settings in sysfs. MADV_NOHUGEPAGE could
        // be taken back only by MADV_HUGEPAGE, which makes khugepaged scan the process.
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
        // SAFETY: The words lie within the mapping, which is aligned, was zeroed by the kernel, and
        // belongs to `self` alone.
        unsafe {
            slice::from_raw_parts_mut(
                self.mapped.cast::<u64>().add(self.words.start),
                self.words.len(),
            )
        }
    }

    /// Returns the addresses of the memory.
    pub fn range(&self) -> Range<u64> {
        let address = |word| (self.mapped as usize + word * size_of::<u64>()) as u64;

        address(self.words.start)..address(self.words.end)
    }

    /// Returns whether the memory has kept its content.
    pub fn is_intact(&mut self) -> bool {
        self.words()
            .iter()
            .enumerate()
            .all(|(number, word)| *word == pattern(number))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: This is the mapping that `new()` made. No borrow of it is left.
        let _ = unsafe { munmap(self.mapped, self.length) };
    }
}

/// A page of memory that is never written to.
pub struct Untouched {
    mapped: *mut c_void,
    length: usize,
}

impl Untouched {
    /// Returns such memory.
    pub fn new(length: usize) -> Result<Self, Errno> {
        // SAFETY: The kernel chooses an address where nothing is mapped.
        let mapped = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ,
                MapFlags::PRIVATE,
            )
        }?;

        Ok(Self { mapped, length })
    }

    /// Reads it, so that the zero page is mapped there. Returns its address.
    pub fn read(&self) -> u64 {
        // SAFETY: This is the beginning of the mapping that `new()` made, which is readable.
        unsafe { self.mapped.cast::<u8>().read_volatile() };
        self.mapped as u64
    }
}

impl Drop for Untouched {
    fn drop(&mut self) {
        // SAFETY: This is the mapping that `new()` made. Nothing refers to it.
        let _ = unsafe { munmap(self.mapped, self.length) };
    }
}

/// Returns the content of a word. All words differ, and none is zero.
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
