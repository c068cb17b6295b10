// SPDX-License-Identifier: GPL-2.0

//! A kernel for tests, which does what a real one cannot be made to do.

use crate::amount::Amount;
use crate::failure::Failure;
use crate::kernel::{Capabilities, Flags, Kernel, Known, Pages, Room, Row, Scanned, Status, Vital};
use crate::maps::{Advice, Kind, Mapping};
use rustix::io::Errno;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

pub const WINDOW: u64 = 2 << 20;
pub const PAGE: u64 = 4096;
/// The number of pages in a window.
pub const ALL: u64 = WINDOW / PAGE;
/// Where the first mapping of each process begins.
pub const START: u64 = 0x7f00_0000_0000;

/// The content of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing: never touched, or zero pages only.
    Empty,
    /// Pages of the small size, all in memory.
    Small,
    /// A huge page.
    Huge,
    /// So many pages in memory, the last ones shared with another process, and so many swapped out.
    Part {
        present: u64,
        shared: u64,
        swapped: u64,
    },
}

impl Content {
    fn pages(self, start: u64) -> Pages {
        let (present, swapped) = match self {
            Self::Empty => (0, 0),
            Self::Small | Self::Huge => (ALL, 0),
            Self::Part {
                present, swapped, ..
            } => (present, swapped),
        };

        Pages {
            start,
            present,
            swapped,
            huge: self == Self::Huge,
        }
    }
}

/// The result that the next call is to have.
pub enum Answer {
    /// The result that the memory gives the call.
    Usual,
    /// An error, with nothing done.
    Fail(Errno),
    /// This many bytes are done. The rest is not looked at.
    Short(u64),
    /// The process is found to have exited.
    Exit,
    /// The range is found to be unmapped.
    Unmap,
}

/// Called with the number of a call and its range, for the answer to it.
type Script = Box<dyn FnMut(usize, &Range<u64>) -> Answer>;

/// An event at a time.
type Later = (Duration, Box<dyn FnOnce(&Fake)>);

/// Mappings of a process, in windows.
type Memory = Vec<(u64, Kind, Vec<Content>)>;

/// A process, as it was when it was found.
#[derive(Clone)]
pub struct Listed {
    pub name: String,
    pub cgroup: String,
    pub start: u64,
    pub user: u32,
}

pub struct Fake {
    pub known: Known,
    pub caps: Capabilities,
    /// The errors of reading mappings, of reading their contents, and of all requests.
    pub no_mappings: Cell<Option<Errno>>,
    pub no_contents: Cell<Option<Errno>>,
    pub no_collapse: Cell<Option<Errno>>,
    /// Set if processes have ruled out huge pages.
    pub opted_out: Cell<bool>,
    /// How much memory there is room for, as long as nothing is collapsed.
    pub room: Cell<u64>,
    /// A process that takes so long to look at.
    pub slow: Cell<Option<(i32, Duration)>>,
    /// A process that has new page faults whenever it is asked.
    pub restless: Cell<Option<i32>>,
    /// How many processes were opened.
    pub opened: Cell<u64>,
    /// How often all mappings were read.
    pub mappings_read: Cell<u64>,
    /// The advice of the owners of all mappings.
    pub advice: Cell<Advice>,
    /// Set if userfaultfd watches all mappings.
    pub watched: Cell<bool>,
    /// The time that listing processes takes.
    pub listing: Cell<Duration>,
    /// The time that a call takes for each window.
    pub cost: Cell<Duration>,
    pub memory: RefCell<BTreeMap<i32, Memory>>,
    pub listed: RefCell<BTreeMap<i32, Listed>>,
    pub script: RefCell<Script>,
    /// Called when mappings are read.
    pub looked_at: RefCell<Box<dyn FnMut()>>,
    pub calls: RefCell<Vec<(i32, Range<u64>, Flags)>>,
    pub pauses: RefCell<Vec<Duration>>,
    later: RefCell<Vec<Later>>,
    now: Cell<Duration>,
}

impl Fake {
    pub fn new() -> Self {
        let flags = Flags {
            limits: true,
            defrag: true,
        };

        Self {
            known: Known {
                collapse: true,
                flags,
                scan: true,
            },
            caps: Capabilities {
                nice: true,
                ptrace: true,
                admin: true,
            },
            no_mappings: Cell::new(None),
            no_contents: Cell::new(None),
            no_collapse: Cell::new(None),
            opted_out: Cell::default(),
            room: Cell::new(1 << 40),
            slow: Cell::default(),
            restless: Cell::default(),
            opened: Cell::default(),
            mappings_read: Cell::default(),
            advice: Cell::new(Advice::None),
            watched: Cell::default(),
            listing: Cell::default(),
            cost: Cell::new(Duration::from_micros(500)),
            memory: RefCell::default(),
            listed: RefCell::default(),
            script: RefCell::new(Box::new(|_, _| Answer::Usual)),
            looked_at: RefCell::new(Box::new(|| {})),
            calls: RefCell::default(),
            pauses: RefCell::default(),
            later: RefCell::default(),
            now: Cell::default(),
        }
    }

    /// Adds a process that has one mapping with these contents.
    pub fn with(self, pid: i32, contents: &[Content]) -> Self {
        self.start(pid, contents);
        self
    }

    pub fn start(&self, pid: i32, contents: &[Content]) {
        let listed = Listed {
            name: format!("name{pid}"),
            cgroup: format!("/group/{pid}"),
            start: 1 + self.now.get().as_nanos() as u64,
            user: 1000,
        };

        self.listed.borrow_mut().insert(pid, listed);
        self.map(pid, START, Kind::Anon, contents);
    }

    pub fn map(&self, pid: i32, start: u64, kind: Kind, contents: &[Content]) {
        self.memory
            .borrow_mut()
            .entry(pid)
            .or_default()
            .push((start, kind, contents.to_vec()));
    }

    pub fn script(&self, script: impl FnMut(usize, &Range<u64>) -> Answer + 'static) {
        *self.script.borrow_mut() = Box::new(script);
    }

    /// Has something happen when this is waited beyond.
    pub fn later(&self, time: Duration, what: impl FnOnce(&Self) + 'static) {
        self.later.borrow_mut().push((time, Box::new(what)));
    }

    pub fn exit(&self, pid: i32) {
        self.memory.borrow_mut().remove(&pid);
        self.listed.borrow_mut().remove(&pid);
    }

    /// Sets all windows of a process to some content, as if it had written to it.
    pub fn fill(&self, pid: i32, content: Content) {
        for (_, _, contents) in self.memory.borrow_mut().entry(pid).or_default() {
            contents.fill(content);
        }
    }

    /// Returns the number of windows of each call.
    pub fn slices(&self) -> Vec<u64> {
        let windows = |range: &Range<u64>| (range.end - range.start) / WINDOW;

        self.calls
            .borrow()
            .iter()
            .map(|call| windows(&call.1))
            .collect()
    }
}

impl Fake {
    fn resident(&self, pid: i32) -> u64 {
        let memory = self.memory.borrow();
        let contents = memory.get(&pid).into_iter().flatten();

        contents
            .flat_map(|(_, _, contents)| contents)
            .map(|content| content.pages(0).present * PAGE)
            .sum()
    }
}

fn contents_between<'a>(
    memory: &'a mut Memory,
    range: &'a Range<u64>,
) -> impl Iterator<Item = (u64, &'a mut Content)> {
    memory.iter_mut().flat_map(|(start, _, contents)| {
        let addresses = (*start..).step_by(WINDOW as usize);

        addresses
            .zip(contents)
            .filter(|(addr, _)| range.contains(addr))
    })
}

impl Kernel for Fake {
    type Process = i32;

    fn window(&self) -> u64 {
        WINDOW
    }

    fn page(&self) -> u64 {
        PAGE
    }

    fn known(&self) -> Known {
        self.known
    }

    fn capabilities(&self) -> Capabilities {
        self.caps
    }

    fn pids(&self) -> Result<Vec<i32>, Errno> {
        self.now.set(self.now.get() + self.listing.get());
        Ok(self.listed.borrow().keys().copied().collect())
    }

    fn members(&self, cgroup: &str) -> Result<Vec<i32>, Errno> {
        if cgroup == "/missing" {
            return Err(Errno::NOENT);
        }
        self.now.set(self.now.get() + self.listing.get());
        let listed = self.listed.borrow();
        let within = listed
            .iter()
            .filter(|(_, listed)| listed.cgroup.starts_with(cgroup));

        Ok(within.map(|(pid, _)| *pid).collect())
    }

    fn user(&self, pid: i32) -> Result<u32, Errno> {
        let listed = self.listed.borrow();

        Ok(listed.get(&pid).ok_or(Errno::SRCH)?.user)
    }

    fn cgroup(&self, pid: i32) -> String {
        let listed = self.listed.borrow();

        listed
            .get(&pid)
            .map(|listed| listed.cgroup.clone())
            .unwrap_or_default()
    }

    fn vital(&self, pid: i32) -> Result<Vital, Errno> {
        let listed = self.listed.borrow();
        let listed = listed.get(&pid).ok_or(Errno::SRCH)?;

        Ok(Vital {
            start: listed.start,
            name: listed.name.clone(),
            resident: self.resident(pid),
            mapped: 1 << 40,
            faults: match self.restless.get() == Some(pid) {
                true => self.now.get().as_millis() as u64,
                false => 0,
            },
        })
    }

    fn open(&self, pid: i32, start: Option<u64>) -> Result<i32, Failure> {
        self.opened.set(self.opened.get() + 1);
        match self.listed.borrow().get(&pid) {
            Some(listed) if start.is_none_or(|start| start == listed.start) => Ok(pid),
            _ => Err(Failure::NoProcess(pid)),
        }
    }

    fn status(&self, pid: &i32) -> Result<Status, Errno> {
        Ok(Status {
            opted_out: self.opted_out.get(),
            anon: self.resident(*pid),
            shmem: 0,
            file: 0,
        })
    }

    fn rows(&self, pid: &i32, each: &mut dyn FnMut(Row)) -> Result<u64, Errno> {
        if let Some(errno) = self.no_mappings.get() {
            return Err(errno);
        }
        (self.looked_at.borrow_mut())();
        if let Some((_, time)) = self.slow.get().filter(|(slow, _)| slow == pid) {
            self.now.set(self.now.get() + time);
        }
        let memory = self.memory.borrow();
        let mappings = memory.get(pid).ok_or(Errno::SRCH)?;

        for (start, kind, contents) in mappings {
            each(Row {
                range: *start..start + WINDOW * contents.len() as u64,
                kind: *kind,
            });
        }
        // There is always something that is too small for a huge page.
        Ok(mappings.len() as u64 + 1)
    }

    fn mappings(&self, pid: &i32, each: &mut dyn FnMut(Mapping)) -> Result<(), Errno> {
        let memory = self.memory.borrow();
        let mappings = memory.get(pid).ok_or(Errno::SRCH)?;

        self.mappings_read.set(self.mappings_read.get() + 1);
        for (start, kind, contents) in mappings {
            each(Mapping {
                range: *start..start + WINDOW * contents.len() as u64,
                kind: *kind,
                name: String::new(),
                resident: 0,
                swapped: 0,
                huge: 0,
                eligible: true,
                advice: self.advice.get(),
                watched: self.watched.get(),
            });
        }
        Ok(())
    }

    fn scan(&self, pid: &i32, range: &Range<u64>, most: u64) -> Result<Scanned, Errno> {
        if let Some(errno) = self.no_contents.get() {
            return Err(errno);
        }
        let mut memory = self.memory.borrow_mut();
        let memory = memory.get_mut(pid).ok_or(Errno::SRCH)?;
        let mut windows: Vec<Pages> = contents_between(memory, range)
            .filter(|(_, content)| **content != Content::Empty)
            .map(|(start, content)| content.pages(start))
            .take(most as usize + 1)
            .collect();
        let end = match windows.get(most as usize) {
            Some(next) => next.start,
            None => range.end,
        };

        windows.truncate(most as usize);
        Ok(Scanned { windows, end })
    }

    fn exclusive(&self, pid: &i32, start: u64) -> Result<u64, Errno> {
        let mut memory = self.memory.borrow_mut();
        let memory = memory.get_mut(pid).ok_or(Errno::SRCH)?;
        let window = start..start + WINDOW;
        let content = contents_between(memory, &window).next();

        Ok(match content {
            Some((
                _,
                Content::Part {
                    present, shared, ..
                },
            )) => *present - *shared,
            _ => ALL,
        })
    }

    fn room(&self, _: &i32, _: Amount) -> Room {
        Room {
            bytes: self.room.get(),
            by: "memory.max of /group".into(),
        }
    }

    fn collapse(&self, pid: &i32, range: &Range<u64>, flags: Flags) -> Result<u64, Errno> {
        if let Some(errno) = self.no_collapse.get() {
            return Err(errno);
        }
        if !self.memory.borrow().contains_key(pid) {
            return Err(Errno::SRCH);
        }
        if range.is_empty() {
            return Ok(0);
        }
        let number = self.calls.borrow().len();
        let windows = (range.end - range.start) / WINDOW;

        self.calls.borrow_mut().push((*pid, range.clone(), flags));
        self.now
            .set(self.now.get() + self.cost.get() * windows as u32);
        let done = match (self.script.borrow_mut())(number, range) {
            Answer::Usual => range.end - range.start,
            Answer::Short(bytes) => bytes,
            Answer::Fail(errno) => return Err(errno),
            Answer::Exit => {
                self.exit(*pid);
                return Err(Errno::SRCH);
            }
            Answer::Unmap => {
                let mut memory = self.memory.borrow_mut();
                let mappings = memory.get_mut(pid).ok_or(Errno::SRCH)?;

                mappings.retain(|mapping| !range.contains(&mapping.0));
                return Err(Errno::NOMEM);
            }
        };
        let mut memory = self.memory.borrow_mut();
        let memory = memory.get_mut(pid).ok_or(Errno::SRCH)?;
        let mut refused = false;

        let whole = range.start..range.start + done - done % WINDOW;

        for (_, content) in contents_between(memory, &whole) {
            match content {
                Content::Empty => refused = true,
                content => {
                    let missing = ALL - content.pages(0).present;

                    self.room
                        .set(self.room.get().saturating_sub(missing * PAGE));
                    *content = Content::Huge;
                }
            }
        }
        match refused {
            true => Err(Errno::INVAL),
            false => Ok(done),
        }
    }

    fn now(&self) -> Duration {
        self.now.get()
    }

    fn cpu(&self) -> Duration {
        self.now.get()
    }

    fn pause(&self, time: Duration) {
        self.pauses.borrow_mut().push(time);
        self.now.set(self.now.get() + time);
        let (due, rest) = self
            .later
            .take()
            .into_iter()
            .partition::<Vec<_>, _>(|(due, _)| *due <= self.now.get());

        *self.later.borrow_mut() = rest;
        for (_, what) in due {
            what(self);
        }
    }
}
