// SPDX-License-Identifier: GPL-2.0

//! The interface to the kernel, as a trait: tests have an implementation of their own.

use crate::maps::{self, Mapping};
use rustix::io::Errno;
use rustix::process::{getpid, pidfd_open, Pid, PidfdFlags};
use rustix::thread::{capabilities, CapabilitySet};
use serde::Serialize;
use std::fs::{self, File};
use std::mem::size_of;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

/// Flags of process_madvise() for MADV_COLLAPSE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flags {
    /// MADV_F_COLLAPSE_LIMITS: heed the limits khugepaged/max_ptes_* of sysfs.
    pub limits: bool,
    /// MADV_F_COLLAPSE_DEFRAG: reclaim and compact memory for a huge page.
    pub defrag: bool,
}

impl Flags {
    fn bits(self) -> libc::c_uint {
        let limits = if self.limits {
            MADV_F_COLLAPSE_LIMITS
        } else {
            0
        };
        let defrag = if self.defrag {
            MADV_F_COLLAPSE_DEFRAG
        } else {
            0
        };

        limits | defrag
    }
}

/// The features of the running kernel.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Known {
    /// MADV_COLLAPSE, through process_madvise().
    pub collapse: bool,
    /// The flags that the kernel knows.
    pub flags: Flags,
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

/// The content of a window, which has the size of a huge page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing: never touched, or zero pages only.
    Empty,
    /// Pages of the small size, in memory or swapped out.
    Small,
    /// A huge page.
    Huge,
}

/// A process, as [`Kernel::processes`] lists them.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its process ID.
    pub pid: i32,
    /// Its command name.
    pub name: String,
    /// Its path in the unified cgroup hierarchy.
    pub cgroup: String,
}

/// The requests to the kernel.
pub trait Kernel {
    /// A process, held so that another one with its number is never taken for it.
    type Process;

    /// Returns the size of a huge page.
    fn window(&self) -> u64;
    /// Returns the features of the kernel.
    fn known(&self) -> Known;
    /// Returns the capabilities of this process.
    fn capabilities(&self) -> Capabilities;
    /// Opens a process, so that its number cannot come to mean another one.
    fn open(&self, pid: i32) -> Result<Self::Process, Errno>;
    /// Returns the mappings of a process.
    fn mappings(&self, process: &Self::Process) -> Result<Vec<Mapping>, Errno>;
    /// Returns the content of each window of an aligned range, or [`None`] if the kernel cannot
    /// tell.
    fn contents(
        &self,
        process: &Self::Process,
        range: &Range<u64>,
    ) -> Result<Option<Vec<Content>>, Errno>;
    /// Asks the kernel to collapse a range. Returns how many bytes of it the kernel has done.
    fn collapse(
        &self,
        process: &Self::Process,
        range: &Range<u64>,
        flags: Flags,
    ) -> Result<u64, Errno>;
    /// Returns all processes that have memory.
    fn processes(&self) -> Vec<Listed>;
    /// Returns the time since some beginning.
    fn now(&self) -> Duration;
    /// Waits for `time`.
    fn pause(&self, time: Duration);
}

/// The running kernel.
pub struct Linux {
    window: u64,
    known: Known,
    start: Instant,
}

/// A process of the running kernel.
pub struct Process {
    pid: i32,
    pidfd: OwnedFd,
}

const MADV_COLLAPSE: libc::c_int = 25;
const MADV_F_COLLAPSE_LIMITS: libc::c_uint = 0x10000;
const MADV_F_COLLAPSE_DEFRAG: libc::c_uint = 0x20000;

impl Linux {
    /// Finds out what the running kernel can do.
    pub fn new() -> Self {
        Self {
            window: fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .filter(|size: &u64| size.is_power_of_two())
                .unwrap_or(2 << 20),
            known: Self::probe(),
            start: Instant::now(),
        }
    }

    /// Returns the features of the running kernel.
    ///
    /// The kernel checks the flags before anything else, and the advice even of an empty request.
    /// So an empty request for this process itself succeeds if the kernel knows both.
    fn probe() -> Known {
        let oneself = pidfd_open(getpid(), PidfdFlags::empty());
        let knows = |flags| {
            oneself
                .as_ref()
                .is_ok_and(|pidfd| process_madvise(pidfd, &[], flags).is_ok())
        };

        Known {
            collapse: knows(Flags::default()),
            flags: Flags {
                limits: knows(Flags {
                    limits: true,
                    defrag: false,
                }),
                defrag: knows(Flags {
                    limits: false,
                    defrag: true,
                }),
            },
        }
    }
}

impl Kernel for Linux {
    type Process = Process;

    fn window(&self) -> u64 {
        self.window
    }

    fn known(&self) -> Known {
        self.known
    }

    fn capabilities(&self) -> Capabilities {
        let has = |cap| capabilities(None).is_ok_and(|sets| sets.effective.contains(cap));

        Capabilities {
            nice: has(CapabilitySet::SYS_NICE),
            ptrace: has(CapabilitySet::SYS_PTRACE),
            admin: has(CapabilitySet::SYS_ADMIN),
        }
    }

    fn open(&self, pid: i32) -> Result<Process, Errno> {
        let number = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
        let pidfd = pidfd_open(number, PidfdFlags::empty()).map_err(|errno| match errno {
            // The number is that of a thread, or one that no process can have.
            Errno::INVAL | Errno::NOENT => Errno::SRCH,
            other => other,
        })?;

        Ok(Process { pid, pidfd })
    }

    fn mappings(&self, process: &Process) -> Result<Vec<Mapping>, Errno> {
        let text = fs::read(format!("/proc/{}/smaps", process.pid)).map_err(errno_of_proc)?;

        maps::parse(&text).ok_or(Errno::PROTO)
    }

    fn contents(
        &self,
        process: &Process,
        range: &Range<u64>,
    ) -> Result<Option<Vec<Content>>, Errno> {
        let pagemap =
            File::open(format!("/proc/{}/pagemap", process.pid)).map_err(errno_of_proc)?;
        let count = range.end.saturating_sub(range.start) / self.window;
        let mut contents = vec![Content::Empty; usize::try_from(count).map_err(|_| Errno::NOMEM)?];
        let mut regions = vec![Region::default(); 1024];
        let mut addr = range.start;

        while addr < range.end {
            let (found, next) = match scan_pagemap(&pagemap, addr..range.end, &mut regions) {
                Ok(scanned) => scanned,
                Err(Errno::NOTTY) => return Ok(None),
                Err(errno) => return Err(errno),
            };
            for region in regions.iter().take(found) {
                let content = match region.categories & PAGE_IS_HUGE {
                    0 => Content::Small,
                    _ => Content::Huge,
                };
                let first = (region.start.max(range.start) - range.start) / self.window;
                let end = (region.end.min(range.end) - range.start).div_ceil(self.window);

                for window in contents.iter_mut().take(end as usize).skip(first as usize) {
                    *window = content;
                }
            }
            // The kernel always moves on. If it did not, this would loop for ever.
            if next <= addr {
                return Err(Errno::PROTO);
            }
            addr = next;
        }
        Ok(Some(contents))
    }

    fn collapse(&self, process: &Process, range: &Range<u64>, flags: Flags) -> Result<u64, Errno> {
        let iovec = libc::iovec {
            iov_base: range.start as *mut libc::c_void,
            iov_len: range.end.saturating_sub(range.start) as usize,
        };

        process_madvise(&process.pidfd, &[iovec], flags)
    }

    fn processes(&self) -> Vec<Listed> {
        let Ok(all) = procfs::process::all_processes() else {
            return Vec::new();
        };
        // A process that exits meanwhile has no name any more, and is not listed. Nor are processes
        // without memory: zombies and kernel threads.
        all.flatten()
            .filter_map(|process| {
                let stat = process.stat().ok().filter(|stat| stat.vsize > 0)?;

                Some(Listed {
                    pid: process.pid,
                    name: stat.comm,
                    cgroup: process
                        .cgroups()
                        .ok()
                        .and_then(|cgroups| {
                            cgroups
                                .0
                                .into_iter()
                                .find(|cgroup| cgroup.hierarchy == 0)
                                .map(|cgroup| cgroup.pathname)
                        })
                        .unwrap_or_default(),
                })
            })
            .collect()
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn pause(&self, time: Duration) {
        thread::sleep(time);
    }
}

/// Returns the errno for a failure to open or read a file of /proc/PID.
fn errno_of_proc(err: std::io::Error) -> Errno {
    match Errno::from_io_error(&err) {
        Some(Errno::NOENT) | None => Errno::SRCH,
        Some(errno) => errno,
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn process_madvise(pidfd: &OwnedFd, ranges: &[libc::iovec], flags: Flags) -> Result<u64, Errno> {
    // SAFETY: The kernel reads `ranges.len()` iovecs at `ranges`, which is borrowed for the call.
    // MADV_COLLAPSE changes the content of no memory, of this process or another.
    let done = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            pidfd.as_raw_fd(),
            ranges.as_ptr(),
            ranges.len(),
            MADV_COLLAPSE,
            flags.bits(),
        )
    };

    u64::try_from(done).map_err(|_| last_errno())
}

/// `struct page_region` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;
const PAGE_IS_HUGE: u64 = 1 << 6;
/// `_IOWR('f', 16, struct pm_scan_arg)`
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
const _: () = assert!(size_of::<ScanArg>() == 0x60);

/// Finds the pages of a range that are not zero pages. Returns how many regions of them it has put
/// into `regions`, and the address up to which it has looked.
fn scan_pagemap(
    pagemap: &File,
    range: Range<u64>,
    regions: &mut [Region],
) -> Result<(usize, u64), Errno> {
    let mut arg = ScanArg {
        size: size_of::<ScanArg>() as u64,
        start: range.start,
        end: range.end,
        vec: regions.as_mut_ptr() as u64,
        vec_len: regions.len() as u64,
        category_inverted: PAGE_IS_PFNZERO,
        category_mask: PAGE_IS_PFNZERO,
        category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
        return_mask: PAGE_IS_HUGE,
        ..ScanArg::default()
    };
    // SAFETY: The argument is what this ioctl takes, and says where `regions` are and how many: no
    // more is written. Both are borrowed until it returns.
    let found = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN as _, &mut arg) };

    match usize::try_from(found) {
        Ok(found) => Ok((found, arg.walk_end)),
        Err(_) => Err(last_errno()),
    }
}
