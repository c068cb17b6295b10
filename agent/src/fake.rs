// SPDX-License-Identifier: GPL-2.0

//! A kernel for tests, which does what a real one cannot be made to do.

use crate::kernel::{Capabilities, Content, Flags, Kernel, Known, Listed};
use crate::maps::{Advice, Kind, Mapping};
use rustix::io::Errno;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

pub const WINDOW: u64 = 2 << 20;
/// Where the first mapping of each process begins.
pub const START: u64 = 0x7f00_0000_0000;

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

/// Mappings of a process, in windows.
type Memory = Vec<(u64, Kind, Vec<Content>)>;

pub struct Fake {
    pub known: Known,
    pub caps: Capabilities,
    /// The errors of reading mappings, of reading their contents, and of all requests.
    pub no_mappings: Cell<Option<Errno>>,
    pub no_contents: Cell<Option<Errno>>,
    pub no_collapse: Cell<Option<Errno>>,
    /// Set if this kernel can tell the content of windows.
    pub tells_contents: bool,
    /// The advice of the owners of all mappings.
    pub advice: Cell<Advice>,
    /// Set if userfaultfd watches all mappings.
    pub watched: Cell<bool>,
    /// The time that listing processes takes.
    pub listing: Cell<Duration>,
    /// The time that a call takes for each window.
    pub cost: Cell<Duration>,
    pub memory: RefCell<BTreeMap<i32, Memory>>,
    pub listed: RefCell<Vec<Listed>>,
    pub script: RefCell<Script>,
    /// Called when mappings are read.
    pub looked_at: RefCell<Box<dyn FnMut()>>,
    pub calls: RefCell<Vec<(i32, Range<u64>, Flags)>>,
    pub pauses: RefCell<Vec<Duration>>,
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
            },
            caps: Capabilities {
                nice: true,
                ptrace: true,
                admin: true,
            },
            no_mappings: Cell::new(None),
            no_contents: Cell::new(None),
            no_collapse: Cell::new(None),
            tells_contents: true,
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
            now: Cell::default(),
        }
    }

    /// Adds a process that has one mapping with these contents.
    pub fn with(self, pid: i32, contents: &[Content]) -> Self {
        self.listed.borrow_mut().push(Listed {
            pid,
            name: format!("name{pid}"),
            cgroup: format!("/group/{pid}"),
        });
        self.map(pid, START, Kind::Anon, contents);
        self
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

    pub fn exit(&self, pid: i32) {
        self.memory.borrow_mut().remove(&pid);
        self.listed.borrow_mut().retain(|listed| listed.pid != pid);
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

fn contents_between<'a>(
    memory: &'a mut Memory,
    range: &'a Range<u64>,
) -> impl Iterator<Item = &'a mut Content> {
    memory.iter_mut().flat_map(|(start, _, contents)| {
        let addresses = (*start..).step_by(WINDOW as usize);

        addresses
            .zip(contents)
            .filter(|(addr, _)| range.contains(addr))
            .map(|(_, content)| content)
    })
}

impl Kernel for Fake {
    type Process = i32;

    fn window(&self) -> u64 {
        WINDOW
    }

    fn known(&self) -> Known {
        self.known
    }

    fn capabilities(&self) -> Capabilities {
        self.caps
    }

    fn open(&self, pid: i32) -> Result<i32, Errno> {
        match self.memory.borrow().contains_key(&pid) {
            true => Ok(pid),
            false => Err(Errno::SRCH),
        }
    }

    fn mappings(&self, pid: &i32) -> Result<Vec<Mapping>, Errno> {
        if let Some(errno) = self.no_mappings.get() {
            return Err(errno);
        }
        (self.looked_at.borrow_mut())();
        let memory = self.memory.borrow();
        let mappings = memory.get(pid).ok_or(Errno::SRCH)?.iter();

        Ok(mappings
            .map(|(start, kind, contents)| {
                let bytes = |meant: fn(&Content) -> bool| {
                    WINDOW * contents.iter().filter(|content| meant(content)).count() as u64
                };

                Mapping {
                    range: *start..start + WINDOW * contents.len() as u64,
                    kind: *kind,
                    name: String::new(),
                    resident: bytes(|content| *content != Content::Empty),
                    swapped: 0,
                    huge: bytes(|content| *content == Content::Huge),
                    eligible: true,
                    advice: self.advice.get(),
                    watched: self.watched.get(),
                }
            })
            .collect())
    }

    fn contents(&self, pid: &i32, range: &Range<u64>) -> Result<Option<Vec<Content>>, Errno> {
        if let Some(errno) = self.no_contents.get() {
            return Err(errno);
        }
        let mut memory = self.memory.borrow_mut();
        let memory = memory.get_mut(pid).ok_or(Errno::SRCH)?;

        Ok(self.tells_contents.then(|| {
            contents_between(memory, range)
                .map(|content| *content)
                .collect()
        }))
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

        for content in contents_between(memory, &(range.start..range.start + done)) {
            match content {
                Content::Empty => refused = true,
                _ => *content = Content::Huge,
            }
        }
        match refused {
            true => Err(Errno::INVAL),
            false => Ok(done),
        }
    }

    fn processes(&self) -> Vec<Listed> {
        self.now.set(self.now.get() + self.listing.get());
        self.listed.borrow().clone()
    }

    fn now(&self) -> Duration {
        self.now.get()
    }

    fn pause(&self, time: Duration) {
        self.pauses.borrow_mut().push(time);
        self.now.set(self.now.get() + time);
    }
}
