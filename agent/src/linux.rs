// SPDX-License-Identifier: GPL-2.0

//! The running kernel.

use crate::amount::Amount;
use crate::failure::Failure;
use crate::kernel::{Capabilities, Flags, Kernel, Known, Pages, Room, Row, Scanned, Status, Vital};
use crate::maps::{self, Mapping};
use crate::proc::{self, Mount};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{getpid, pidfd_open, Pid, PidfdFlags};
use rustix::thread::{capabilities, CapabilitySet};
use rustix::time::{clock_gettime, ClockId};
use std::cell::OnceCell;
use std::fs::{self, File};
use std::io::{self, Read};
use std::mem::size_of;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// The running kernel.
pub struct Linux {
    window: u64,
    page: u64,
    known: Known,
    /// The hierarchy of cgroup v2, and that of the memory controller, which may be v1.
    unified: Option<Mount>,
    memory: Option<(Mount, Version)>,
    /// The page frame of the zero page, for kernels without PAGEMAP_SCAN.
    zero_page: OnceCell<Option<u64>>,
    start: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// A process of the running kernel.
pub struct Process {
    pid: i32,
    pidfd: OwnedFd,
    pagemap: OnceCell<File>,
    /// The folders of its memory cgroup and the ones above it.
    groups: OnceCell<Vec<String>>,
}

const MADV_COLLAPSE: libc::c_int = 25;
const MADV_F_COLLAPSE_LIMITS: libc::c_uint = 0x10000;
const MADV_F_COLLAPSE_DEFRAG: libc::c_uint = 0x20000;

impl Linux {
    /// Finds out what the running kernel can do.
    pub fn new() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let unified = Mount::find(&mounts, "");
        let version1 = Mount::find(&mounts, "memory").map(|mount| (mount, Version::V1));

        Self {
            window: fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .filter(|size: &u64| size.is_power_of_two())
                .unwrap_or(2 << 20),
            page: rustix::param::page_size() as u64,
            known: Self::probe(),
            memory: version1.or_else(|| Some((unified.clone()?, Version::V2))),
            unified,
            zero_page: OnceCell::new(),
            start: Instant::now(),
        }
    }

    /// Returns whether /proc is there, and shows the PID namespace of this process.
    pub fn proc_is_ours() -> Result<(), Failure> {
        let oneself = fs::read_link("/proc/self").map_err(|_| Failure::NoProc)?;

        match oneself == Path::new(&getpid().as_raw_nonzero().to_string()) {
            true => Ok(()),
            false => Err(Failure::ForeignProc),
        }
    }

    /// Returns the path in the unified hierarchy that the command line means by `text`, which may
    /// be below /sys/fs/cgroup, or as in /proc/PID/cgroup.
    pub fn cgroup_path(&self, text: &str) -> Result<String, String> {
        let mount = self
            .unified
            .as_ref()
            .ok_or("cgroup v2 is not mounted here")?;

        mount.path(text)
    }

    /// Returns the features of the running kernel.
    ///
    /// The kernel checks the flags before anything else, and the advice even of an empty request.
    /// So an empty request for this process itself succeeds if the kernel knows both.
    fn probe() -> Known {
        let oneself = pidfd_open(getpid(), PidfdFlags::empty());
        let knows = |limits, defrag| {
            let flags = Flags { limits, defrag };

            oneself
                .as_ref()
                .is_ok_and(|pidfd| process_madvise(pidfd, &[], flags).is_ok())
        };

        Known {
            collapse: knows(false, false),
            flags: Flags {
                limits: knows(true, false),
                defrag: knows(false, true),
            },
            scan: File::open("/proc/self/pagemap")
                .is_ok_and(|pagemap| scan_pagemap(&pagemap, 0..0, &mut []).is_ok()),
        }
    }

    /// The same as [`scan_pagemap`] for kernels without it, of one window after the other.
    fn read_pagemap(&self, pagemap: &File, start: u64) -> Result<Pages, Errno> {
        let entries = self.entries(pagemap, start)?;
        let zero_page = *self.zero_page.get_or_init(|| self.find_zero_page().ok());
        let mut pages = Pages {
            start,
            ..Pages::default()
        };

        for entry in &entries {
            if entry & PM_SWAP != 0 {
                pages.swapped += 1;
            } else if entry & PM_PRESENT != 0 {
                match entry & PM_FRAME {
                    0 => return Err(Errno::PERM),
                    frame if Some(frame) == zero_page => {}
                    _ => pages.present += 1,
                }
            }
        }
        // Pages that lie in memory like a huge page are one, or were one until it was split.
        let first = entries.first().copied().unwrap_or(0) & PM_FRAME;
        let in_order = |(index, entry): (usize, &u64)| entry & PM_FRAME == first + index as u64;

        pages.huge = pages.present == entries.len() as u64
            && first % pages.present == 0
            && entries.iter().enumerate().all(in_order);
        Ok(pages)
    }

    /// Returns the entries of /proc/PID/pagemap for a window.
    fn entries(&self, pagemap: &File, start: u64) -> Result<Vec<u64>, Errno> {
        let size = size_of::<u64>() as u64;
        let mut bytes = vec![0; (self.window / self.page * size) as usize];

        pagemap
            .read_exact_at(&mut bytes, start / self.page * size)
            .map_err(errno_of_proc)?;
        Ok(bytes
            .chunks_exact(size as usize)
            .filter_map(|chunk| Some(u64::from_ne_bytes(chunk.try_into().ok()?)))
            .collect())
    }

    fn find_zero_page(&self) -> Result<u64, Errno> {
        let memory = crate::selftest::Untouched::new(self.page as usize)?;
        let mut entry = [0; 8];

        File::open("/proc/self/pagemap")
            .and_then(|pagemap| pagemap.read_exact_at(&mut entry, memory.read() / self.page * 8))
            .map_err(errno_of_proc)?;
        Ok(u64::from_ne_bytes(entry) & PM_FRAME)
    }

    fn groups(&self, pid: i32) -> Vec<String> {
        let Some((mount, version)) = &self.memory else {
            return Vec::new();
        };
        let controller = match version {
            Version::V1 => "memory",
            Version::V2 => "",
        };

        fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .ok()
            .and_then(|text| Some(mount.ancestors(proc::cgroup(&text, controller)?)))
            .unwrap_or_default()
    }

    /// Returns how much of a memory cgroup is used, and its lowest limit.
    fn usage(&self, folder: &str) -> Option<(u64, u64, String)> {
        let read = |file: &str| -> Option<u64> {
            let path = format!("{folder}/{file}");

            // "max" is no limit, and neither is a file that is not there.
            fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        let (current, limits): (_, &[&str]) = match self.memory.as_ref()?.1 {
            Version::V1 => ("memory.usage_in_bytes", &["memory.limit_in_bytes"]),
            Version::V2 => ("memory.current", &["memory.high", "memory.max"]),
        };
        let (limit, file) = limits
            .iter()
            .filter_map(|file| Some((read(file)?, file)))
            .min()?;

        Some((read(current)?, limit, format!("{file} of {folder}")))
    }
}

impl Process {
    /// Opens a file of /proc/PID. The process is found to be alive after that, so its number did
    /// not mean another process when the file was opened.
    fn file(&self, name: &str) -> Result<File, Errno> {
        let file = File::open(format!("/proc/{}/{name}", self.pid)).map_err(errno_of_proc)?;
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];

        match poll(&mut fds, Some(&Timespec::default()))? {
            0 => Ok(file),
            _ => Err(Errno::SRCH),
        }
    }

    fn read(&self, name: &str) -> Result<String, Errno> {
        let mut text = Vec::new();

        self.file(name)?
            .read_to_end(&mut text)
            .map_err(errno_of_proc)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn pagemap(&self) -> Result<&File, Errno> {
        if let Some(file) = self.pagemap.get() {
            return Ok(file);
        }
        let file = self.file("pagemap")?;

        Ok(self.pagemap.get_or_init(|| file))
    }
}

impl Kernel for Linux {
    type Process = Process;

    fn window(&self) -> u64 {
        self.window
    }

    fn page(&self) -> u64 {
        self.page
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

    fn pids(&self) -> Result<Vec<i32>, Errno> {
        Ok(fs::read_dir("/proc")
            .map_err(errno_of_proc)?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect())
    }

    fn members(&self, cgroup: &str) -> Result<Vec<i32>, Errno> {
        let mount = self.unified.as_ref().ok_or(Errno::NOENT)?;
        let folder = mount.ancestors(cgroup).into_iter().next();
        let mut found = Vec::new();
        let mut folders = vec![std::path::PathBuf::from(folder.ok_or(Errno::NOENT)?)];
        let mut is_first = true;

        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Ok(entries) => entries,
                Err(err) if is_first => return Err(errno_of(&err)),
                // It was removed meanwhile.
                Err(_) => continue,
            };
            is_first = false;
            folders.extend(
                entries
                    .flatten()
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
            // A threaded cgroup has no list: its processes are in that of a cgroup above it.
            if let Ok(text) = fs::read_to_string(folder.join("cgroup.procs")) {
                // Processes that our PID namespace does not have are listed as 0.
                let pids = text.lines().filter_map(|line| line.parse::<i32>().ok());

                found.extend(pids.filter(|pid| *pid > 0));
            }
        }
        Ok(found)
    }

    fn user(&self, pid: i32) -> Result<u32, Errno> {
        fs::metadata(format!("/proc/{pid}"))
            .map(|data| data.uid())
            .map_err(errno_of_proc)
    }

    fn cgroup(&self, pid: i32) -> String {
        fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .ok()
            .and_then(|text| Some(proc::cgroup(&text, "")?.to_owned()))
            .unwrap_or_default()
    }

    fn vital(&self, pid: i32) -> Result<Vital, Errno> {
        let stat = fs::read(format!("/proc/{pid}/stat")).map_err(errno_of_proc)?;

        proc::vital(&stat, self.page).ok_or(Errno::PROTO)
    }

    fn open(&self, pid: i32, start: Option<u64>) -> Result<Process, Failure> {
        let number = Pid::from_raw(pid).ok_or(Failure::NoProcess(pid))?;
        let pidfd = match pidfd_open(number, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            // The number may be that of a thread.
            Err(Errno::INVAL | Errno::NOENT | Errno::SRCH) => {
                let leader = fs::read_to_string(format!("/proc/{pid}/status"))
                    .ok()
                    .and_then(|text| proc::number(&text, "Tgid:"))
                    .filter(|leader| *leader != pid as u64);

                return Err(match leader {
                    Some(leader) => Failure::Thread(pid, leader),
                    None => Failure::NoProcess(pid),
                });
            }
            Err(errno) => return Err(Failure::System("cannot open the process", errno)),
        };
        // The number that /proc has for this very process.
        let info = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
        let seen = fs::read_to_string(info)
            .ok()
            .and_then(|text| proc::number(&text, "Pid:"));

        match seen {
            Some(seen) if seen == pid as u64 => {}
            // -1 stands for a process that has exited.
            None => return Err(Failure::NoProcess(pid)),
            Some(_) => return Err(Failure::ForeignProc),
        }
        let process = Process {
            pid,
            pidfd,
            pagemap: OnceCell::new(),
            groups: OnceCell::new(),
        };
        let vital = process
            .read("stat")
            .ok()
            .and_then(|stat| proc::vital(stat.as_bytes(), self.page));

        match vital {
            Some(vital) if start.is_none_or(|start| vital.start == start) => Ok(process),
            // A zombie is still there.
            None if start.is_none() && Path::new(&format!("/proc/{pid}")).exists() => {
                Err(Failure::NoMemory(pid))
            }
            _ => Err(Failure::NoProcess(pid)),
        }
    }

    fn status(&self, process: &Process) -> Result<Status, Errno> {
        let text = process.read("status")?;
        let bytes = |key| proc::number(&text, key).unwrap_or(0) << 10;

        Ok(Status {
            opted_out: proc::number(&text, "THP_enabled:") == Some(0),
            anon: bytes("RssAnon:"),
            shmem: bytes("RssShmem:"),
            file: bytes("RssFile:"),
        })
    }

    fn rows(&self, process: &Process, each: &mut dyn FnMut(Row)) -> Result<u64, Errno> {
        let mut count = 0;

        maps::read_maps(process.file("maps")?, |line| {
            let range = maps::windows(&line.range, self.window, &(0..u64::MAX));

            count += 1;
            if !range.is_empty() {
                each(Row {
                    range,
                    kind: line.kind(),
                });
            }
        })
        .map_err(errno_of_proc)?;
        Ok(count)
    }

    fn mappings(&self, process: &Process, each: &mut dyn FnMut(Mapping)) -> Result<(), Errno> {
        maps::read_smaps(process.file("smaps")?, each).map_err(errno_of_proc)
    }

    fn scan(&self, process: &Process, range: &Range<u64>, most: u64) -> Result<Scanned, Errno> {
        let pagemap = process.pagemap()?;
        let mut windows: Vec<Pages> = Vec::new();
        let mut addr = range.start;
        // The memory that is looked at in one go: little, if there is much in it.
        let mut step = most.saturating_mul(self.window);
        let mut regions = [Region::default(); 512];

        while addr < range.end {
            let end = addr - addr % self.window;

            if windows.len() as u64 >= most && end > range.start {
                windows.retain(|pages| pages.start < end);
                return Ok(Scanned { windows, end });
            }
            if !self.known.scan {
                let pages = self.read_pagemap(pagemap, addr)?;

                if pages.present + pages.swapped > 0 {
                    windows.push(pages);
                }
                addr += self.window;
                continue;
            }
            let until = end
                .saturating_add(step)
                .max(addr + self.page)
                .min(range.end);
            let (found, next) = scan_pagemap(pagemap, addr..until, &mut regions)?;

            for region in regions.iter().take(found) {
                self.add(&mut windows, region);
            }
            // The kernel always moves on. If it did not, this would loop for ever.
            if next <= addr {
                return Err(Errno::PROTO);
            }
            addr = next;
            if found == 0 {
                step = step.saturating_mul(2);
            }
        }
        Ok(Scanned {
            windows,
            end: range.end,
        })
    }

    fn exclusive(&self, process: &Process, start: u64) -> Result<u64, Errno> {
        let entries = self.entries(process.pagemap()?, start)?;
        let is_exclusive =
            |entry: &&u64| *entry & (PM_PRESENT | PM_EXCLUSIVE) == PM_PRESENT | PM_EXCLUSIVE;

        Ok(entries.iter().filter(is_exclusive).count() as u64)
    }

    fn room(&self, process: &Process, reserve: Amount) -> Room {
        let groups = process.groups.get_or_init(|| self.groups(process.pid));
        let mut usages: Vec<(u64, u64, String)> = groups
            .iter()
            .filter_map(|group| self.usage(group))
            .collect();

        if let Ok(text) = fs::read_to_string("/proc/meminfo") {
            let number = |key| proc::number(&text, key).map(|kib| kib << 10);

            if let (Some(total), Some(available)) = (number("MemTotal:"), number("MemAvailable:")) {
                let used = total.saturating_sub(available);
                usages.push((used, total, "MemAvailable of the machine".into()));
            }
        }
        usages
            .into_iter()
            .map(|(used, limit, by)| Room {
                bytes: limit.saturating_sub(reserve.of(limit)).saturating_sub(used),
                by,
            })
            .min_by_key(|room| room.bytes)
            .unwrap_or(Room {
                bytes: 0,
                by: "/proc/meminfo, which cannot be read".into(),
            })
    }

    fn collapse(&self, process: &Process, range: &Range<u64>, flags: Flags) -> Result<u64, Errno> {
        let iovec = libc::iovec {
            iov_base: range.start as *mut libc::c_void,
            iov_len: range.end.saturating_sub(range.start) as usize,
        };

        process_madvise(&process.pidfd, &[iovec], flags)
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn cpu(&self) -> Duration {
        let time = clock_gettime(ClockId::ThreadCPUTime);

        Duration::try_from(time).unwrap_or_default()
    }

    fn pause(&self, time: Duration) {
        thread::sleep(time);
    }
}

impl Linux {
    /// Adds the pages of a region, which may begin or end amid a window, to those of the windows.
    fn add(&self, windows: &mut Vec<Pages>, region: &Region) {
        let mut start = region.start;

        while start < region.end {
            let window = start - start % self.window;
            let end = region.end.min(window + self.window);
            let count = (end - start) / self.page;

            if windows.last().is_none_or(|last| last.start != window) {
                windows.push(Pages {
                    start: window,
                    ..Pages::default()
                });
            }
            if let Some(pages) = windows.last_mut() {
                match region.categories & PAGE_IS_SWAPPED {
                    0 => pages.present += count,
                    _ => pages.swapped += count,
                }
                pages.huge |= region.categories & PAGE_IS_HUGE != 0;
            }
            start = end;
        }
    }
}

fn errno_of(err: &io::Error) -> Errno {
    Errno::from_io_error(err).unwrap_or(Errno::IO)
}

/// Returns the errno for a failure to open or read a file of /proc/PID.
fn errno_of_proc(err: io::Error) -> Errno {
    match err.kind() {
        io::ErrorKind::InvalidData => Errno::PROTO,
        _ => match Errno::from_io_error(&err) {
            Some(Errno::NOENT) | None => Errno::SRCH,
            Some(errno) => errno,
        },
    }
}

fn last_errno() -> Errno {
    errno_of(&io::Error::last_os_error())
}

impl Flags {
    fn bits(self) -> libc::c_uint {
        let limits = match self.limits {
            true => MADV_F_COLLAPSE_LIMITS,
            false => 0,
        };
        let defrag = match self.defrag {
            true => MADV_F_COLLAPSE_DEFRAG,
            false => 0,
        };

        limits | defrag
    }
}

fn process_madvise(pidfd: &impl AsFd, ranges: &[libc::iovec], flags: Flags) -> Result<u64, Errno> {
    // SAFETY: The kernel reads `ranges.len()` iovecs at `ranges`, which is borrowed for the call.
    // MADV_COLLAPSE changes the content of no memory, of this process or another.
    let done = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            pidfd.as_fd().as_raw_fd(),
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

/// Bits of /proc/PID/pagemap, as in Documentation/admin-guide/mm/pagemap.rst.
const PM_FRAME: u64 = (1 << 55) - 1;
const PM_EXCLUSIVE: u64 = 1 << 56;
const PM_SWAP: u64 = 1 << 62;
const PM_PRESENT: u64 = 1 << 63;

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
        return_mask: PAGE_IS_HUGE | PAGE_IS_SWAPPED,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selftest::Memory;

    fn open(kernel: &Linux) -> Process {
        kernel.open(std::process::id() as i32, None).unwrap()
    }

    #[test]
    fn pagemap_is_read_where_it_cannot_be_scanned() {
        let mut kernel = Linux::new();
        // Frames are shown to the mighty only.
        if !kernel.known.scan || !kernel.capabilities().admin {
            return;
        }
        let process = open(&kernel);
        let memory = Memory::new(kernel.window as usize).unwrap();
        let range = memory.range();
        let first = range.start..range.start + kernel.window;
        let _ = kernel.collapse(&process, &first, Flags::default());
        let around = range.start - kernel.window..range.end + kernel.window;
        let scanned = kernel.scan(&process, &around, 1000).unwrap();
        kernel.known.scan = false;

        assert_eq!(kernel.scan(&process, &around, 1000).unwrap(), scanned);
        assert!(scanned.windows.len() >= 32);
        assert_eq!(scanned.windows.last().unwrap().start % kernel.window, 0);
    }

    #[test]
    fn windows_are_counted_exactly() {
        let kernel = Linux::new();
        if !kernel.known.scan {
            return;
        }
        let process = open(&kernel);
        let memory = Memory::new(kernel.window as usize).unwrap();
        let range = memory.range();
        let part = range.start..range.start + 5 * kernel.window;
        let scanned = kernel.scan(&process, &part, 3).unwrap();
        let all = kernel.window / kernel.page;

        assert_eq!(scanned.windows.len(), 3);
        assert_eq!(scanned.end, range.start + 3 * kernel.window);
        for pages in &scanned.windows {
            assert_eq!((pages.present, pages.swapped), (all, 0));
            assert_eq!(kernel.exclusive(&process, pages.start), Ok(all));
        }
    }

    #[test]
    fn a_process_is_told_from_others_with_its_number() {
        let kernel = Linux::new();
        let pid = std::process::id() as i32;
        let vital = kernel.vital(pid).unwrap();

        assert!(kernel.open(pid, Some(vital.start)).is_ok());
        let stranger = kernel.open(pid, Some(vital.start + 1));
        assert_eq!(stranger.map(|_| ()), Err(Failure::NoProcess(pid)));
        assert!(vital.resident > 0 && vital.mapped > vital.resident);
        // Threads have numbers, too.
        let (say, hear) = std::sync::mpsc::channel();
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            say.send(rustix::thread::gettid().as_raw_nonzero().get())
                .unwrap();
            let _ = ends.recv();
        });
        let tid = hear.recv().unwrap();
        let failure = kernel.open(tid, None).map(|_| ());
        drop(end);
        thread.join().unwrap();
        assert_eq!(failure, Err(Failure::Thread(tid, pid as u64)));
    }

    #[test]
    fn there_is_room_somewhere() {
        let kernel = Linux::new();
        let process = open(&kernel);
        let all = kernel.room(&process, Amount::Bytes(0));
        let less = kernel.room(&process, Amount::Percent(50.0));

        assert!(all.bytes > less.bytes, "{all:?} {less:?}");
        assert_eq!(kernel.room(&process, Amount::Percent(100.0)).bytes, 0);
    }
}
