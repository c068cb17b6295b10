// SPDX-License-Identifier: GPL-2.0

//! The interface to the kernel, as a trait: tests have an implementation of their own.

use crate::amount::Amount;
use crate::failure::Failure;
use crate::maps::{Kind, Mapping};
use rustix::io::Errno;
use serde::Serialize;
use std::ops::Range;
use std::time::Duration;

/// Flags of process_madvise() for MADV_COLLAPSE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
pub struct Flags {
    /// MADV_F_COLLAPSE_LIMITS: heed the limits khugepaged/max_ptes_* of sysfs.
    pub limits: bool,
    /// MADV_F_COLLAPSE_DEFRAG: reclaim and compact memory for a huge page.
    pub defrag: bool,
}

/// The features of the running kernel.
#[derive(Clone, Copy, Debug, Serialize)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
pub struct Known {
    /// MADV_COLLAPSE, through process_madvise().
    pub collapse: bool,
    /// The flags that the kernel knows.
    pub flags: Flags,
    /// PAGEMAP_SCAN, which tells what is in a window.
    pub scan: bool,
}

/// The capabilities that matter, as this process has them.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities {
    /// CAP_SYS_NICE: to act on other processes.
    pub nice: bool,
    /// CAP_SYS_PTRACE: to look into processes of other users.
    pub ptrace: bool,
    /// CAP_SYS_ADMIN: to act on other processes without limits.
    pub admin: bool,
}

/// A process, as /proc/PID/stat tells about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vital {
    /// When the process started. With its number, this tells it from all others.
    pub start: u64,
    /// The command name.
    pub name: String,
    /// Bytes in memory.
    pub resident: u64,
    /// Bytes of address space: none for zombies, and for the kernel's own threads.
    pub mapped: u64,
    /// How many page faults there have been.
    pub faults: u64,
}

/// A process, as /proc/PID/status tells about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Set if the process has ruled out huge pages (PR_SET_THP_DISABLE).
    pub opted_out: bool,
    /// Bytes in memory, by kind.
    pub anon: u64,
    /// See `anon`.
    pub shmem: u64,
    /// See `anon`.
    pub file: u64,
}

impl Status {
    /// Returns the bytes in memory.
    pub fn resident(&self) -> u64 {
        self.anon + self.shmem + self.file
    }
}

/// A mapping in which whole windows fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The part of its addresses that whole windows fill.
    pub range: Range<u64>,
    /// The kind of memory that is mapped.
    pub kind: Kind,
}

/// The contents of a window, in base pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// The address of the window.
    pub start: u64,
    /// Pages in memory that are not the zero page.
    pub present: u64,
    /// Pages that are swapped out.
    pub swapped: u64,
    /// Set if it is mapped by a huge page.
    pub huge: bool,
}

/// A part of a mapping, as it was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Scanned {
    /// The windows that have something in them.
    pub windows: Vec<Pages>,
    /// The address up to which windows were looked at.
    pub end: u64,
}

/// How much memory may still be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// That many bytes.
    pub bytes: u64,
    /// The limit that it is up against.
    pub by: String,
}

/// The requests to the kernel.
pub trait Kernel {
    /// A process, held so that another one with its number is never taken for it.
    type Process;

    /// Returns the size of a huge page.
    fn window(&self) -> u64;
    /// Returns the size of a base page.
    fn page(&self) -> u64;
    /// Returns the features of the kernel.
    fn known(&self) -> Known;
    /// Returns the capabilities of this process.
    fn capabilities(&self) -> Capabilities;
    /// Returns the numbers of all processes that can be seen.
    fn pids(&self) -> Result<Vec<i32>, Errno>;
    /// Returns the numbers of the processes in a cgroup and the ones below it.
    fn members(&self, cgroup: &str) -> Result<Vec<i32>, Errno>;
    /// Returns the user of a process.
    fn user(&self, pid: i32) -> Result<u32, Errno>;
    /// Returns the path of a process in the unified cgroup hierarchy, or an empty string.
    fn cgroup(&self, pid: i32) -> String;
    /// Returns what a process is about, without opening it.
    fn vital(&self, pid: i32) -> Result<Vital, Errno>;
    /// Opens a process. If `start` is given, it is the process with this number that started then.
    fn open(&self, pid: i32, start: Option<u64>) -> Result<Self::Process, Failure>;
    /// Returns what /proc/PID/status says.
    fn status(&self, process: &Self::Process) -> Result<Status, Errno>;
    /// Calls `each` for the mappings in which whole windows fit, by address. Returns how many
    /// mappings there are in all.
    fn rows(&self, process: &Self::Process, each: &mut dyn FnMut(Row)) -> Result<u64, Errno>;
    /// Calls `each` for all mappings, by address. This takes much longer than [`Kernel::rows`].
    fn mappings(&self, process: &Self::Process, each: &mut dyn FnMut(Mapping))
        -> Result<(), Errno>;
    /// Looks into the windows of a range, until about `most` of them have something in them.
    fn scan(
        &self,
        process: &Self::Process,
        range: &Range<u64>,
        most: u64,
    ) -> Result<Scanned, Errno>;
    /// Returns how many pages of a window no other process maps.
    fn exclusive(&self, process: &Self::Process, start: u64) -> Result<u64, Errno>;
    /// Returns how much memory may still be taken on behalf of a process if `reserve` is left of
    /// each limit: of its memory cgroups and the ones above them, and of the machine.
    fn room(&self, process: &Self::Process, reserve: Amount) -> Room;
    /// Asks the kernel to collapse a range. Returns how many bytes of it the kernel has done.
    fn collapse(
        &self,
        process: &Self::Process,
        range: &Range<u64>,
        flags: Flags,
    ) -> Result<u64, Errno>;
    /// Returns the time since some beginning.
    fn now(&self) -> Duration;
    /// Returns the CPU time of this thread.
    fn cpu(&self) -> Duration;
    /// Waits for `time`.
    fn pause(&self, time: Duration);
}
