// SPDX-License-Identifier: GPL-2.0

//! Collapsing the memory of one process.

use crate::amount::Amount;
use crate::back::Backs;
use crate::engine::Engine;
use crate::failure::{why, Failure, Verdict};
use crate::kernel::{Flags, Kernel, Known, Pages, Row, Scanned};
use crate::maps::{percent, windows, Advice, Kind};
use crate::pace::Pace;
use rustix::io::Errno;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The times to wait before a window is tried again because its pages were in use. Such a window is
/// tried once, and once more after each of these times.
const AGAIN: [Duration; 3] = [
    Duration::from_millis(1),
    Duration::from_millis(4),
    Duration::from_millis(16),
];
/// How many windows are looked at with one request. The kernel holds mmap_lock for that long.
const LOOK: u64 = 256;
/// For how long the advice that the owner of the memory gave is taken to be the same.
const MARKS_LAST: Duration = Duration::from_secs(60);

/// The memory to collapse, and the terms of the collapse.
pub struct Aim {
    /// The kinds of mappings to collapse.
    pub kinds: Vec<Kind>,
    /// The addresses to keep within.
    pub bounds: Range<u64>,
    /// Set to collapse mappings with MADV_NOHUGEPAGE, too, which MAP_STACK implies. The kernel may
    /// still refuse them.
    pub opted_out_too: bool,
    /// The flags of the calls.
    pub flags: Flags,
    /// The time after which nothing more is begun.
    pub budget: Option<Duration>,
    /// The time that a call should take at most.
    pub max_wait: Duration,
    /// The coverage that is wanted, in per cent. Where it is reached already, nothing is done.
    pub min_coverage: Option<f64>,
    /// Set to look only, and to collapse nothing.
    pub dry_run: bool,
    /// Which windows are worth it.
    pub limits: Limits,
}

/// Bounds for what collapse does to memory.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most pages of a window that may be missing. They are filled, and memory grows by them.
    pub max_holes: u64,
    /// The most pages of a window that may be swapped out. They are read in.
    pub max_swapped: u64,
    /// Set if a window may have pages that other processes map, too. It gets copies of them.
    pub shared: bool,
    /// By how much the memory of a process may grow, as a part of what it has in memory.
    pub max_growth: Amount,
    /// How much must be left of each limit, as a part of it.
    pub min_headroom: Amount,
}

/// The reason that a run ended for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// All windows were looked at.
    Done,
    /// The coverage was high enough already.
    Covered,
    /// The caller asked for a dry run.
    DryRun,
    /// The time was used up.
    Budget,
    /// There would not be enough headroom left.
    Headroom,
    /// The memory cgroup is full.
    CgroupFull,
    /// There is no memory for more.
    NoMemory,
    /// A signal came.
    Interrupted,
    /// The process exited.
    Exited,
}

/// Counts of windows by their outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
pub struct Windows {
    /// Windows that have become huge pages.
    pub collapsed: u64,
    /// Windows that were huge pages before.
    pub already_huge: u64,
    /// Windows that had nothing in them.
    pub empty: u64,
    /// Windows that were left alone, as they have more holes than --max-holes.
    pub sparse: u64,
    /// Windows that were left alone, as more of them is swapped out than --max-swapped.
    pub swapped: u64,
    /// Windows that were left alone, as other processes share pages of them.
    pub shared: u64,
    /// Windows that were left alone, as the process would grow by more than --max-growth; in a dry
    /// run, also as there would be less than --min-headroom.
    pub beyond_growth: u64,
    /// Windows that were left alone, as their owner has ruled out huge pages (MADV_NOHUGEPAGE).
    pub opted_out: u64,
    /// Windows that the kernel refused.
    pub refused: u64,
    /// Windows that the kernel refused lately, and that are left alone for a time.
    pub waiting: u64,
    /// Windows that were unmapped meanwhile.
    pub gone: u64,
    /// Windows that were not tried before the run ended.
    pub untried: u64,
}

impl Windows {
    /// Returns how many windows were tried.
    fn tried(&self) -> u64 {
        self.collapsed + self.refused + self.gone
    }
}

/// How much of the memory that is worth it is huge pages; sizes in bytes. Windows that are left
/// alone, and parts of mappings that are too small for a huge page, do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
pub struct Coverage {
    /// Bytes in memory, in whole windows of the mappings that are selected.
    pub resident: u64,
    /// The part of it that is huge pages.
    pub huge: u64,
    /// The part that could become huge pages.
    pub worth: u64,
    /// The huge part, in per cent of itself and the part that could become so. 100 if there is none
    /// of both.
    pub percent: f64,
}

impl Coverage {
    fn of(tally: &Tally, size: u64) -> Self {
        let windows = &tally.windows;
        let huge = (windows.already_huge + windows.collapsed) * size;
        let worth = (windows.refused + windows.waiting + windows.untried) * size;

        Self {
            resident: tally.resident,
            huge,
            worth,
            percent: match huge + worth {
                0 => 100.0,
                both => percent(huge, both),
            },
        }
    }

    /// Returns whether the coverage is at least `percent`.
    pub fn reaches(&self, percent: f64) -> bool {
        self.percent >= percent
    }
}

/// Windows that were refused for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
pub struct Refusal {
    /// The name of the errno.
    pub errno: String,
    /// The kind of memory.
    pub kind: Kind,
    /// The number of windows.
    pub windows: u64,
    /// The meaning of the errno.
    pub why: &'static str,
}

/// The result of a run.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
pub struct Report {
    /// The success or failure of the run, as its caller sees it.
    pub verdict: Verdict,
    /// The reason that the run ended for.
    pub ended: Ended,
    /// The limit that there is not enough headroom to, if that has ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// The outcome of the windows. A dry run has those to collapse as untried.
    pub windows: Windows,
    /// The reasons that windows were refused for.
    pub refusals: Vec<Refusal>,
    /// By how many bytes memory has grown, or would grow in a dry run.
    pub growth: u64,
    /// Memory of other kinds that was left out, in bytes.
    pub left_out: LeftOut,
    /// The coverage before.
    pub before: Coverage,
    /// The coverage after, unless the process has exited.
    pub after: Option<Coverage>,
    /// Calls to the kernel.
    pub slices: u64,
    /// How many of them were repeated for windows in use.
    pub retries: u64,
    /// How often the run paused because the kernel was slow.
    pub pauses: u64,
    /// How long the run took, in milliseconds.
    pub milliseconds: f64,
    /// The CPU time that was spent on looking, in milliseconds.
    pub looking_milliseconds: f64,
    /// The code of the kernel that served, if the caller asked for it and the trace tells.
    #[cfg_attr(feature = "generate", schemars(with = "Option<String>"))]
    pub engine: Option<Engine>,
    /// Huge pages among those collapsed that were mapped as such again without a copy, if `engine`
    /// is known.
    pub remapped: Option<u64>,
}

/// Memory of the kinds that were not asked for, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
pub struct LeftOut {
    /// In private memory.
    pub anon: u64,
    /// In shared memory.
    pub shmem: u64,
    /// In files.
    pub file: u64,
}

/// Receives the progress of a run.
pub trait Progress {
    /// Called with the number of windows that are done, and the number of all.
    fn at(&mut self, done: u64, of: u64);
    /// Called when the run has ended.
    fn end(&mut self);
}

/// Ignores the progress.
pub struct Silent;

impl Progress for Silent {
    fn at(&mut self, _: u64, _: u64) {}
    fn end(&mut self) {}
}

/// The findings of one pass over the memory.
#[derive(Default)]
struct Tally {
    windows: Windows,
    resident: u64,
    growth: u64,
}

/// Ranges of which the owner has said something.
#[derive(Default)]
struct Marks {
    /// MADV_NOHUGEPAGE.
    opted_out: Vec<Range<u64>>,
    /// userfaultfd watches these.
    watched: Vec<Range<u64>>,
}

/// Knowledge of a process from earlier runs.
#[derive(Default)]
pub struct Past {
    /// Set if the pass that is under way collapses. One that only looks comes first.
    working: bool,
    /// The address at which the pass goes on.
    cursor: u64,
    tally: Tally,
    backs: Backs,
    marks: Option<(Duration, Marks)>,
    /// By how many bytes the process has grown.
    grown: u64,
    /// The coverage that the last complete pass has found.
    pub coverage: Option<Coverage>,
}

impl Past {
    /// Returns the time at which a window that was refused is to be tried again.
    pub fn next(&self) -> Option<Duration> {
        self.backs.next()
    }
}

/// The decision about a window.
enum Class {
    Huge,
    Empty,
    Sparse,
    Swapped,
    Shared,
    BeyondGrowth,
    OptedOut,
    Waiting,
    /// It is worth it. Memory grows by so many bytes.
    Worth(u64),
}

/// Adjacent windows of a mapping that are to be collapsed with one call.
struct Slice {
    range: Range<u64>,
    /// By how many bytes memory grows for each of them.
    growth: Vec<u64>,
}

/// A run in progress.
struct Run<'a, K: Kernel> {
    kernel: &'a K,
    pid: i32,
    process: &'a K::Process,
    aim: &'a Aim,
    stop: &'a AtomicBool,
    past: &'a mut Past,
    /// Set to wait, and to try again, where pages are in use.
    patient: bool,
    begin: Duration,
    /// The CPU time used before.
    cpu: Duration,
    rows: Vec<Row>,
    /// By how many bytes the process may grow.
    allowance: u64,
    /// By how many bytes it would grow, if all were done that was found worth it so far.
    foreseen: u64,
    left_out: LeftOut,
    /// How many windows there are to do, if that is known.
    total: u64,
    pace: Pace,
    windows: Windows,
    growth: u64,
    limit: Option<String>,
    errnos: BTreeMap<(i32, Kind), u64>,
    steps: u64,
    slices: u64,
    retries: u64,
    pauses: u64,
    /// The CPU time of calls.
    calling: Duration,
}

/// The reason that a pass is not complete.
enum Stop {
    /// The run is over.
    Ended(Ended),
    /// The kernel refused a call.
    Refused(Errno),
    /// Looking at the memory failed.
    Unreadable(Errno),
    /// The rows are no longer those that are mapped.
    Remapped,
}

/// Collapses the memory of process `pid` that `aim` selects, and returns a report. `process` holds
/// the process.
///
/// It is no failure if the process exits meanwhile: the report says so.
pub fn collapse<K: Kernel>(
    kernel: &K,
    pid: i32,
    process: &K::Process,
    aim: &Aim,
    stop: &AtomicBool,
    progress: &mut dyn Progress,
) -> Result<Report, Failure> {
    let mut past = Past::default();
    let mut run = Run::begin(kernel, pid, process, aim, stop, &mut past)?;
    let size = kernel.window();

    run.patient = true;
    if aim.dry_run {
        // Each collapse changes the room that is left.
        let room = kernel.room(process, aim.limits.min_headroom).bytes;

        if let Some(room) = room.checked_sub(size) {
            run.allowance = run.allowance.min(room);
        }
    }
    let before = match run.look() {
        Ok(tally) => tally,
        Err(stop) => {
            let ended = run.ended(stop)?;
            return Ok(run.report(ended, Windows::default(), Coverage::default(), None));
        }
    };
    let coverage = Coverage::of(&before, size);

    run.total = before.windows.untried;
    if aim
        .min_coverage
        .is_some_and(|wanted| coverage.reaches(wanted))
    {
        return Ok(run.report(Ended::Covered, before.windows, coverage, Some(coverage)));
    }
    if aim.dry_run {
        run.growth = before.growth;
        let ended = match run.total > 0 && run.room() == 0 {
            true => Ended::Headroom,
            false => Ended::DryRun,
        };
        return Ok(run.report(ended, before.windows, coverage, Some(coverage)));
    }
    let result = run.pass(true, progress);
    progress.end();
    let (ended, windows) = match result {
        Ok(()) => (Ended::Done, run.past.tally.windows),
        // The pass has not counted all of them.
        Err(stop) => {
            let untried = run.total.saturating_sub(run.windows.tried());
            let windows = Windows {
                untried,
                ..before.windows
            };
            (run.ended(stop)?, windows)
        }
    };
    let after = match ended {
        Ended::Exited => None,
        _ => run.look().ok().map(|tally| Coverage::of(&tally, size)),
    };

    Ok(run.report(ended, windows, coverage, after))
}

/// Goes on with the memory of a process that is watched, for as long as the budget of `aim` lasts.
/// If a pass over all of it has ended, the report says [`Ended::Done`] or [`Ended::Covered`].
pub fn visit<K: Kernel>(
    kernel: &K,
    pid: i32,
    process: &K::Process,
    aim: &Aim,
    stop: &AtomicBool,
    past: &mut Past,
) -> Result<Report, Failure> {
    let before = past.coverage.unwrap_or_default();
    let mut run = Run::begin(kernel, pid, process, aim, stop, past)?;
    let (ended, windows) = loop {
        let working = run.past.working;

        if let Err(stop) = run.pass(working, &mut Silent) {
            break (run.ended(stop)?, run.past.tally.windows);
        }
        let tally = std::mem::take(&mut run.past.tally);
        let coverage = Coverage::of(&tally, kernel.window());

        run.past.cursor = 0;
        run.past.coverage = Some(coverage);
        run.past.working = false;
        if aim
            .min_coverage
            .is_some_and(|wanted| coverage.reaches(wanted))
        {
            break (Ended::Covered, tally.windows);
        }
        if working || tally.windows.untried == 0 {
            break (Ended::Done, tally.windows);
        }
        run.past.working = true;
    };
    let after = match ended {
        Ended::Exited => None,
        _ => run.past.coverage,
    };

    Ok(run.report(ended, windows, before, after))
}

/// Checks that the kernel knows what it is asked for.
pub fn check_flags(known: Known, flags: Flags) -> Result<(), Failure> {
    if !known.collapse {
        return Err(Failure::NoCollapse);
    }
    if flags.limits && !known.flags.limits {
        return Err(Failure::UnknownFlag("--limits (MADV_F_COLLAPSE_LIMITS)"));
    }
    if flags.defrag && !known.flags.defrag {
        return Err(Failure::UnknownFlag("--defrag (MADV_F_COLLAPSE_DEFRAG)"));
    }
    Ok(())
}

impl<'a, K: Kernel> Run<'a, K> {
    /// Begins a run, unless nothing can be done for the process at all.
    fn begin(
        kernel: &'a K,
        pid: i32,
        process: &'a K::Process,
        aim: &'a Aim,
        stop: &'a AtomicBool,
        past: &'a mut Past,
    ) -> Result<Self, Failure> {
        check_flags(kernel.known(), aim.flags)?;
        let mut run = Self {
            kernel,
            pid,
            process,
            aim,
            stop,
            past,
            patient: false,
            begin: kernel.now(),
            cpu: kernel.cpu(),
            rows: Vec::new(),
            allowance: 0,
            foreseen: 0,
            left_out: LeftOut::default(),
            total: 0,
            pace: Pace::new(aim.max_wait),
            windows: Windows::default(),
            growth: 0,
            limit: None,
            errnos: BTreeMap::new(),
            steps: 0,
            slices: 0,
            retries: 0,
            pauses: 0,
            calling: Duration::ZERO,
        };
        let status = kernel
            .status(process)
            .map_err(|errno| run.failure(Stop::Unreadable(errno)))?;

        run.rows = run.read_rows().map_err(|stop| match stop {
            Stop::Unreadable(Errno::SRCH) => Failure::NoMemory(pid),
            stop => run.failure(stop),
        })?;
        if status.opted_out {
            return Err(Failure::OptedOut(pid));
        }
        run.allowance = aim.limits.max_growth.of(status.resident());
        let unless_wanted = |kind, bytes| match aim.kinds.contains(&kind) {
            true => 0,
            false => bytes,
        };
        run.left_out = LeftOut {
            anon: unless_wanted(Kind::Anon, status.anon),
            shmem: unless_wanted(Kind::Shmem, status.shmem),
            file: unless_wanted(Kind::File, status.file),
        };
        // An empty request tells whether the kernel would serve any.
        kernel
            .collapse(process, &(0..0), aim.flags)
            .map_err(|errno| run.failure(Stop::Refused(errno)))?;
        Ok(run)
    }

    /// Returns the failure for a stop before anything was done, or for one that concerns the
    /// process as a whole.
    fn failure(&self, stop: Stop) -> Failure {
        let capabilities = self.kernel.capabilities();
        let known = self.kernel.known();

        match stop {
            Stop::Refused(errno) => {
                Failure::of_collapsing(self.pid, errno, capabilities, known, self.aim.flags)
            }
            Stop::Unreadable(Errno::PERM) if !known.scan => Failure::CannotScan,
            Stop::Unreadable(errno) => Failure::of_reading(self.pid, errno, capabilities),
            Stop::Ended(_) | Stop::Remapped => Failure::NoProcess(self.pid),
        }
    }

    /// Returns how a run has ended, unless that is a failure.
    fn ended(&self, stop: Stop) -> Result<Ended, Failure> {
        match stop {
            Stop::Ended(ended) => Ok(ended),
            Stop::Refused(Errno::SRCH) | Stop::Unreadable(Errno::SRCH) => Ok(Ended::Exited),
            stop => Err(self.failure(stop)),
        }
    }

    fn read_rows(&self) -> Result<Vec<Row>, Stop> {
        let size = self.kernel.window();
        let mut rows = Vec::new();
        let mappings = self
            .kernel
            .rows(self.process, &mut |row| {
                let range = windows(&row.range, size, &self.aim.bounds);

                if self.aim.kinds.contains(&row.kind) && !range.is_empty() {
                    rows.push(Row { range, ..row });
                }
            })
            .map_err(Stop::Unreadable)?;

        match mappings {
            // It has exited.
            0 => Err(Stop::Unreadable(Errno::SRCH)),
            _ => Ok(rows),
        }
    }

    /// Looks at all windows, and collapses none.
    fn look(&mut self) -> Result<Tally, Stop> {
        self.past.cursor = 0;
        self.past.tally = Tally::default();
        self.pass(false, &mut Silent)?;
        self.past.cursor = 0;
        Ok(std::mem::take(&mut self.past.tally))
    }

    /// Goes on with a pass, until it is complete.
    fn pass(&mut self, working: bool, progress: &mut dyn Progress) -> Result<(), Stop> {
        self.foreseen = 0;
        loop {
            match self.rows(working, progress) {
                Err(Stop::Remapped) => self.rows = self.read_rows()?,
                other => return other,
            }
        }
    }

    fn rows(&mut self, working: bool, progress: &mut dyn Progress) -> Result<(), Stop> {
        let cursor = self.past.cursor;
        let mut index = self.rows.partition_point(|row| row.range.end <= cursor);

        while let Some(row) = self.rows.get(index).cloned() {
            self.past.cursor = self.past.cursor.max(row.range.start);
            match working {
                true => self.work(&row, progress)?,
                false => self.survey(&row)?,
            }
            self.past.cursor = row.range.end;
            index += 1;
        }
        Ok(())
    }

    /// Looks at a row.
    fn survey(&mut self, row: &Row) -> Result<(), Stop> {
        while self.past.cursor < row.range.end {
            self.may_go_on(false)?;
            let scanned = self.scan(row, LOOK)?;

            self.sort(row, &scanned, 0)?;
            self.past.cursor = scanned.end;
        }
        Ok(())
    }

    /// Collapses a row.
    fn work(&mut self, row: &Row, progress: &mut dyn Progress) -> Result<(), Stop> {
        // Up to this address each slice is one window, to learn which windows of the slice that
        // failed are refused.
        let mut singly = 0;
        let mut ahead = 1;

        while self.past.cursor < row.range.end {
            self.may_go_on(true)?;
            let most = match self.past.cursor < singly {
                true => 1,
                false => self.pace.windows(self.left()),
            };
            // The memory is looked at right before each slice: it may have been shared or freed.
            let scanned = self.scan(row, most.max(ahead))?;
            let Some(slice) = self.sort(row, &scanned, most)? else {
                self.past.cursor = scanned.end;
                ahead = LOOK.min(ahead * 2);
                continue;
            };

            ahead = 1;
            self.past.cursor = slice.range.start;
            match self.attempt(&slice) {
                Ok(()) => {}
                Err(Stop::Refused(errno)) if !is_final(errno) => match slice.growth.len() {
                    1 => self.refused(row.kind, &slice.range, errno)?,
                    _ => singly = slice.range.end,
                },
                Err(stop) => return Err(stop),
            }
            progress.at(self.windows.tried(), self.total);
        }
        Ok(())
    }

    fn scan(&mut self, row: &Row, most: u64) -> Result<Scanned, Stop> {
        self.steps += 1;
        self.kernel
            .scan(self.process, &(self.past.cursor..row.range.end), most)
            .map_err(Stop::Unreadable)
    }

    /// Counts windows from the cursor on, up to the first ones that are worth it. Returns those, but
    /// no more than `most`. If that is 0, counts all of them.
    fn sort(&mut self, row: &Row, scanned: &Scanned, most: u64) -> Result<Option<Slice>, Stop> {
        let size = self.kernel.window();
        let mut slice: Option<Slice> = None;
        let mut next = self.past.cursor;

        if most > 0 {
            self.foreseen = 0;
        }
        for pages in &scanned.windows {
            if let Some(slice) = &slice {
                // The windows that follow are counted when their turn has come.
                if slice.range.end != pages.start || slice.growth.len() as u64 >= most {
                    break;
                }
            }
            let class = self.classify(row, pages)?;

            match (class, &mut slice) {
                (Class::Worth(growth), Some(slice)) => {
                    slice.range.end += size;
                    slice.growth.push(growth);
                    continue;
                }
                (_, Some(_)) => break,
                (Class::Worth(growth), None) if most > 0 => {
                    slice = Some(Slice {
                        range: pages.start..pages.start + size,
                        growth: vec![growth],
                    });
                }
                (class, None) => self.count(&class, pages),
            }
            self.past.tally.windows.empty += pages.start.saturating_sub(next) / size;
            next = pages.start + size;
        }
        if slice.is_none() {
            self.past.tally.windows.empty += scanned.end.saturating_sub(next) / size;
        }
        Ok(slice)
    }

    fn count(&mut self, class: &Class, pages: &Pages) {
        let tally = &mut self.past.tally;
        let windows = &mut tally.windows;
        let counter = match class {
            Class::Huge => &mut windows.already_huge,
            Class::Empty => &mut windows.empty,
            Class::Sparse => &mut windows.sparse,
            Class::Swapped => &mut windows.swapped,
            Class::Shared => &mut windows.shared,
            Class::BeyondGrowth => &mut windows.beyond_growth,
            Class::OptedOut => &mut windows.opted_out,
            Class::Waiting => &mut windows.waiting,
            Class::Worth(growth) => {
                tally.growth += growth;
                &mut windows.untried
            }
        };

        *counter += 1;
        tally.resident += pages.present * self.kernel.page();
    }

    fn classify(&mut self, row: &Row, pages: &Pages) -> Result<Class, Stop> {
        let limits = &self.aim.limits;
        let all = self.kernel.window() / self.kernel.page();
        let holes = all.saturating_sub(pages.present + pages.swapped);

        if pages.huge {
            return Ok(Class::Huge);
        }
        if holes == all {
            return Ok(Class::Empty);
        }
        if holes > limits.max_holes {
            return Ok(Class::Sparse);
        }
        if pages.swapped > limits.max_swapped {
            return Ok(Class::Swapped);
        }
        if self.past.backs.has(pages.start, self.kernel.now()) {
            return Ok(Class::Waiting);
        }
        if !self.aim.opted_out_too && has(&self.marks()?.opted_out, pages.start) {
            return Ok(Class::OptedOut);
        }
        // Memory that is shared by its nature is not copied.
        let shared = match row.kind {
            Kind::Anon => {
                let exclusive = self.kernel.exclusive(self.process, pages.start);
                pages
                    .present
                    .saturating_sub(exclusive.map_err(Stop::Unreadable)?)
            }
            _ => 0,
        };

        if shared > 0 && !limits.shared {
            return Ok(Class::Shared);
        }
        let growth = (holes + pages.swapped + shared) * self.kernel.page();

        if growth > 0 && self.past.grown + self.foreseen + growth > self.allowance {
            return Ok(Class::BeyondGrowth);
        }
        self.foreseen += growth;
        Ok(Class::Worth(growth))
    }

    /// Returns what the owner has said about ranges. To find out takes long where there are many
    /// mappings, so it is done only when there is something to collapse.
    fn marks(&mut self) -> Result<&Marks, Stop> {
        let now = self.kernel.now();
        let is_old = |(since, _): &mut (Duration, Marks)| now.saturating_sub(*since) >= MARKS_LAST;

        self.past.marks.take_if(is_old);
        if self.past.marks.is_none() {
            let mut marks = Marks::default();

            self.kernel
                .mappings(self.process, &mut |mapping| {
                    if mapping.advice == Advice::Nohuge {
                        marks.opted_out.push(mapping.range.clone());
                    }
                    if mapping.watched {
                        marks.watched.push(mapping.range);
                    }
                })
                .map_err(Stop::Unreadable)?;
            self.past.marks = Some((now, marks));
        }
        Ok(&self.past.marks.get_or_insert_default().1)
    }

    fn used(&self) -> Duration {
        self.kernel.now().saturating_sub(self.begin)
    }

    fn left(&self) -> Option<Duration> {
        Some(self.aim.budget?.saturating_sub(self.used()))
    }

    fn may_go_on(&self, working: bool) -> Result<(), Stop> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Stop::Ended(Ended::Interrupted));
        }
        // At least one step is done: else a process whose mappings take long to read gets none.
        let is_bounded = match self.patient {
            true => working && self.slices > 0,
            false => self.steps > 0,
        };
        if is_bounded && self.left().is_some_and(|left| left.is_zero()) {
            return Err(Stop::Ended(Ended::Budget));
        }
        Ok(())
    }

    /// Returns for how many windows there is room. If there is none, remembers why.
    fn room(&mut self) -> u64 {
        let room = self.kernel.room(self.process, self.aim.limits.min_headroom);
        let windows = room.bytes / self.kernel.window();

        self.limit = (windows == 0).then_some(room.by);
        windows
    }

    /// Collapses one slice, or the beginning of it, and moves the cursor behind it.
    fn attempt(&mut self, slice: &Slice) -> Result<(), Stop> {
        let size = self.kernel.window();
        // The huge pages are allocated before the pages are freed that they replace.
        let windows = self.room().min(slice.growth.len() as u64);
        let range = slice.range.start..slice.range.start + windows * size;
        let mut pauses = AGAIN.iter();

        if windows == 0 {
            return Err(Stop::Ended(Ended::Headroom));
        }
        let bytes = loop {
            let begin = self.kernel.now();
            let cpu = self.kernel.cpu();
            let result = self
                .kernel
                .collapse(self.process, &range, self.aim.flags)
                .map(|bytes| bytes - bytes % size);
            let took = self.kernel.now().saturating_sub(begin);

            self.slices += 1;
            self.calling += self.kernel.cpu().saturating_sub(cpu);
            // A refusal takes less time, or another one.
            if let Ok(done @ 1..) = result {
                if let Some(pause) = self.pace.learn(done / size, took) {
                    self.pauses += 1;
                    self.pause(pause);
                }
            }
            let errno = match result {
                // The kernel stopped early and does not say why. A request for the rest will tell.
                Ok(0) => Errno::AGAIN,
                Ok(bytes) => break bytes.min(range.end - range.start),
                Err(errno) => errno,
            };
            match (errno, pauses.next()) {
                (Errno::AGAIN | Errno::INTR, Some(pause)) if windows == 1 && self.patient => {
                    self.may_go_on(true)?;
                    self.retries += 1;
                    self.pause(*pause);
                }
                _ => return Err(Stop::Refused(errno)),
            }
        };
        let done = bytes / size;
        let growth: u64 = slice.growth.iter().take(done as usize).sum();

        for window in range.step_by(size as usize).take(done as usize) {
            self.past.backs.remove(window);
        }
        self.windows.collapsed += done;
        self.growth += growth;
        self.past.grown += growth;
        self.past.tally.windows.collapsed += done;
        self.past.tally.resident += bytes;
        self.past.cursor += bytes;
        Ok(())
    }

    /// Waits for `time`, but not beyond the budget.
    fn pause(&self, time: Duration) {
        self.kernel
            .pause(self.left().map_or(time, |left| left.min(time)));
    }

    /// Records that a window was refused, and moves the cursor behind it. Ends the run if the next
    /// windows would be refused, too.
    fn refused(&mut self, kind: Kind, window: &Range<u64>, errno: Errno) -> Result<(), Stop> {
        if errno == Errno::NOMEM && !self.is_mapped(window)? {
            self.windows.gone += 1;
            self.past.tally.windows.gone += 1;
            self.past.cursor = window.end;
            return Err(Stop::Remapped);
        }
        self.windows.refused += 1;
        *self.errnos.entry((errno.raw_os_error(), kind)).or_default() += 1;
        // EBUSY means that the memory cgroup is full, unless there are limits, or userfaultfd keeps
        // holes from being filled.
        match errno {
            Errno::NOMEM => return Err(Stop::Ended(Ended::NoMemory)),
            Errno::BUSY if self.aim.flags.limits => {}
            Errno::BUSY if has(&self.marks()?.watched, window.start) => {}
            Errno::BUSY => return Err(Stop::Ended(Ended::CgroupFull)),
            _ => {}
        }
        if !self.patient {
            self.past.backs.add(window.start, errno, self.kernel.now());
        }
        self.past.tally.windows.refused += 1;
        self.past.tally.resident += window.end - window.start;
        self.past.cursor = window.end;
        Ok(())
    }

    /// Returns whether a window is mapped: the kernel returns ENOMEM for unmapped memory, too.
    fn is_mapped(&self, window: &Range<u64>) -> Result<bool, Stop> {
        let rows = self.read_rows()?;

        Ok(rows
            .iter()
            .any(|row| row.range.start <= window.start && window.end <= row.range.end))
    }

    /// Returns the report. `windows` has the classes of those that were not tried.
    fn report(
        &mut self,
        ended: Ended,
        windows: Windows,
        before: Coverage,
        after: Option<Coverage>,
    ) -> Report {
        let known = self.kernel.known();
        let milliseconds = |time: Duration| (time.as_secs_f64() * 10000.0).round() / 10.0;
        let used = self.used();
        let looking = self.kernel.cpu().saturating_sub(self.cpu + self.calling);

        self.windows = Windows {
            collapsed: self.windows.collapsed,
            refused: self.windows.refused,
            gone: self.windows.gone,
            ..windows
        };
        Report {
            verdict: self.verdict(ended, after),
            ended,
            limit: match ended {
                Ended::Headroom => self.limit.take(),
                _ => None,
            },
            windows: self.windows,
            refusals: self
                .errnos
                .iter()
                .map(|((errno, kind), windows)| {
                    let errno = Errno::from_raw_os_error(*errno);
                    let (errno, why) = why(errno, *kind, known, self.aim.flags);

                    Refusal {
                        errno,
                        kind: *kind,
                        windows: *windows,
                        why,
                    }
                })
                .collect(),
            growth: self.growth,
            left_out: self.left_out,
            before,
            after,
            slices: self.slices,
            retries: self.retries,
            pauses: self.pauses,
            milliseconds: milliseconds(used),
            looking_milliseconds: milliseconds(looking),
            engine: None,
            remapped: None,
        }
    }

    fn verdict(&self, ended: Ended, after: Option<Coverage>) -> Verdict {
        let windows = &self.windows;

        match (ended, self.aim.min_coverage, after) {
            (Ended::Covered | Ended::DryRun, ..) => Verdict::Success,
            // The coverage that was asked for decides, not the number of refusals.
            (_, Some(wanted), Some(after)) if after.reaches(wanted) => Verdict::Success,
            (Ended::Done, None, _) if windows.refused + windows.waiting == 0 => Verdict::Success,
            (Ended::Done | Ended::NoMemory | Ended::CgroupFull, ..)
                if windows.refused + windows.waiting > 0
                    && windows.collapsed + windows.already_huge == 0 =>
            {
                Verdict::Refused
            }
            _ => Verdict::Partial,
        }
    }
}

fn has(ranges: &[Range<u64>], address: u64) -> bool {
    let index = ranges.partition_point(|range| range.end <= address);

    ranges
        .get(index)
        .is_some_and(|range| range.start <= address)
}

/// Returns whether an errno concerns the process as a whole, rather than a window.
fn is_final(errno: Errno) -> bool {
    matches!(errno, Errno::SRCH | Errno::PERM | Errno::ACCESS)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::fake::{Answer, Content, Fake, ALL, PAGE, START, WINDOW};
    use crate::kernel::Capabilities;
    use Content::{Empty, Huge, Part, Small};

    const PID: i32 = 7;

    /// Has every collapse of a window fail.
    fn fail_at(kernel: &Fake, window: u64, errno: Errno) {
        kernel.script(move |_, range| match range.contains(&window) {
            true => Answer::Fail(errno),
            false => Answer::Usual,
        });
    }

    pub(crate) fn aim() -> Aim {
        Aim {
            kinds: vec![Kind::Anon],
            bounds: 0..u64::MAX,
            opted_out_too: false,
            flags: Flags::default(),
            budget: None,
            max_wait: Duration::from_millis(8),
            min_coverage: None,
            dry_run: false,
            limits: Limits {
                max_holes: 64,
                max_swapped: 0,
                shared: false,
                max_growth: Amount::Percent(5.0),
                min_headroom: Amount::Percent(10.0),
            },
        }
    }

    fn holes(holes: u64) -> Content {
        Part {
            present: ALL - holes,
            shared: 0,
            swapped: 0,
        }
    }

    fn run(kernel: &Fake, aim: &Aim) -> Result<Report, Failure> {
        collapse(kernel, PID, &PID, aim, &AtomicBool::new(false), &mut Silent)
    }

    fn window(number: u64) -> u64 {
        START + number * WINDOW
    }

    #[test]
    fn says_what_became_of_each_window() {
        let kernel = Fake::new().with(PID, &[Small, Huge, Empty, Small, Small]);
        let report = run(&kernel, &aim()).unwrap();

        assert_eq!(
            (report.verdict, report.ended),
            (Verdict::Success, Ended::Done)
        );
        let windows = Windows {
            collapsed: 3,
            already_huge: 1,
            empty: 1,
            ..Windows::default()
        };
        assert_eq!(report.windows, windows);
        assert_eq!(report.before.percent, 25.0);
        assert_eq!(report.after.unwrap().percent, 100.0);
        // No call is made for windows that are huge or empty.
        assert_eq!(kernel.slices(), [1, 1, 1]);
    }

    #[test]
    fn slices_do_not_cross_mappings() {
        let kernel = Fake::new().with(PID, &[Small]);
        kernel.map(PID, window(1), Kind::Anon, &[Small]);
        kernel.map(PID, window(2), Kind::File, &[Small, Empty]);
        run(&kernel, &aim()).unwrap();

        assert_eq!(kernel.slices(), [1, 1]);
        let files = Aim {
            kinds: vec![Kind::File],
            ..aim()
        };
        run(&kernel, &files).unwrap();
        assert_eq!(kernel.calls.borrow()[2].1, window(2)..window(3));
    }

    #[test]
    fn an_opt_out_stands_unless_it_is_overruled() {
        let kernel = Fake::new().with(PID, &[Small; 3]);
        kernel.advice.set(Advice::Nohuge);
        let report = run(&kernel, &aim()).unwrap();

        assert!(kernel.slices().is_empty());
        assert_eq!(
            (report.windows.opted_out, report.verdict),
            (3, Verdict::Success)
        );
        let overrule = Aim {
            opted_out_too: true,
            ..aim()
        };
        assert_eq!(run(&kernel, &overrule).unwrap().windows.collapsed, 3);
    }

    #[test]
    fn keeps_within_the_range() {
        let kernel = Fake::new().with(PID, &[Small; 8]);
        let bounds = window(2) + 1..window(6) + 1;
        let report = run(&kernel, &Aim { bounds, ..aim() }).unwrap();

        assert_eq!(report.windows.collapsed, 3);
        let calls = kernel.calls.borrow();
        assert_eq!(calls[0].1.start, window(3));
        assert_eq!(calls.last().unwrap().1.end, window(6));
    }

    #[test]
    fn a_refused_window_does_not_hide_the_others() {
        let kernel = Fake::new().with(PID, &[Small; 40]);
        fail_at(&kernel, window(3), Errno::INVAL);
        let report = run(&kernel, &aim()).unwrap();

        assert_eq!(report.verdict, Verdict::Partial);
        assert_eq!((report.windows.collapsed, report.windows.refused), (39, 1));
        assert_eq!(report.refusals[0].errno, "EINVAL");
        assert_eq!((report.refusals.len(), report.refusals[0].windows), (1, 1));
        // Larger ones as long as all goes well, the windows of one one by one, and larger ones again.
        let slices = kernel.slices();
        assert_eq!(slices[..7], [1, 2, 4, 1, 1, 1, 1]);
        assert!(slices[7..].iter().any(|windows| *windows > 4), "{slices:?}");
    }

    #[test]
    fn all_refused_is_refused() {
        let kernel = Fake::new().with(PID, &[Small; 20]);
        kernel.script(|_, _| Answer::Fail(Errno::INVAL));
        let report = run(&kernel, &aim()).unwrap();

        assert_eq!(
            (report.verdict, report.windows.refused),
            (Verdict::Refused, 20)
        );
    }

    #[test]
    fn what_is_transient_is_retried_boundedly() {
        let kernel = Fake::new().with(PID, &[Small; 10]);
        kernel.script(|_, _| Answer::Fail(Errno::AGAIN));
        let report = run(&kernel, &aim()).unwrap();

        assert_eq!((report.windows.refused, report.retries), (10, 30));
        assert_eq!(report.refusals[0].errno, "EAGAIN");
        // Each window four times.
        assert_eq!(report.slices, 10 * 4);
        assert_eq!(kernel.pauses.borrow()[..3], AGAIN);
    }

    #[test]
    fn a_storm_that_ends_is_outlasted() {
        let kernel = Fake::new().with(PID, &[Small; 10]);
        kernel.script(|number, _| match number < 3 {
            true => Answer::Fail(Errno::AGAIN),
            false => Answer::Usual,
        });
        let report = run(&kernel, &aim()).unwrap();

        assert_eq!(
            (report.verdict, report.windows.collapsed),
            (Verdict::Success, 10)
        );
        assert_eq!(report.retries, 3);
    }

    #[test]
    fn short_counts_are_continued() {
        let kernel = Fake::new().with(PID, &[Small; 10]);
        // The third call does not end at a window, and the fourth does nothing at all.
        kernel.script(|number, _| match number {
            2 => Answer::Short(WINDOW + 4096),
            3 => Answer::Short(0),
            _ => Answer::Usual,
        });
        let report = run(&kernel, &aim()).unwrap();

        assert_eq!(
            (report.verdict, report.windows.collapsed),
            (Verdict::Success, 10)
        );
        assert_eq!(kernel.calls.borrow()[3].1.start, window(4));
    }

    #[test]
    fn a_kernel_that_does_nothing_is_not_asked_for_ever() {
        let kernel = Fake::new().with(PID, &[Small; 3]);
        kernel.script(|_, _| Answer::Short(0));
        let report = run(&kernel, &aim()).unwrap();

        assert_eq!((report.windows.refused, report.slices), (3, 3 * 4));
    }

    #[test]
    fn stands_back_from_slow_slices() {
        let kernel = Fake::new().with(PID, &[Small; 100]);
        let slow = Duration::from_millis(500);
        let mut report = run(&kernel, &aim()).unwrap();
        assert_eq!(report.pauses, 0);

        let kernel = std::rc::Rc::new(Fake::new().with(PID, &[Small; 100]));
        let clock = std::rc::Rc::downgrade(&kernel);
        kernel.script(move |number, _| {
            if let (Some(kernel), 1) = (clock.upgrade(), number) {
                kernel.pause(slow);
            }
            Answer::Usual
        });
        report = run(&kernel, &aim()).unwrap();
        assert_eq!((report.pauses, report.windows.collapsed), (1, 100));
        let slices = kernel.slices();
        assert!(slices[2] < slices[1], "{slices:?}");
    }

    #[test]
    fn the_budget_ends_it() {
        let kernel = Fake::new().with(PID, &[Small; 200]);
        kernel.cost.set(Duration::from_millis(1));
        let budget = Some(Duration::from_millis(60));
        let report = run(&kernel, &Aim { budget, ..aim() }).unwrap();

        assert_eq!(
            (report.verdict, report.ended),
            (Verdict::Partial, Ended::Budget)
        );
        assert!(report.windows.collapsed >= 60 && report.windows.untried > 0);
        assert_eq!(report.windows.collapsed + report.windows.untried, 200);
        assert!(report.milliseconds < 150.0);
    }

    #[test]
    fn waiting_counts_for_the_budget() {
        let kernel = Fake::new().with(PID, &[Small; 200]);
        kernel.cost.set(Duration::ZERO);
        kernel.script(|_, _| Answer::Fail(Errno::AGAIN));
        let budget = Duration::from_millis(50);
        let report = run(
            &kernel,
            &Aim {
                budget: Some(budget),
                ..aim()
            },
        )
        .unwrap();

        assert_eq!(report.ended, Ended::Budget);
        assert!(kernel.now() <= budget);
    }

    #[test]
    fn a_signal_ends_it() {
        let kernel = Fake::new().with(PID, &[Small; 20]);
        let stop = AtomicBool::new(true);
        let report = collapse(&kernel, PID, &PID, &aim(), &stop, &mut Silent).unwrap();

        assert_eq!(
            (report.ended, report.windows.collapsed),
            (Ended::Interrupted, 0)
        );
        assert_eq!(report.verdict, Verdict::Partial);
        assert!(kernel.slices().is_empty());
    }

    #[test]
    fn no_memory_ends_it() {
        for (errno, limits, ended) in [
            (Errno::NOMEM, false, Ended::NoMemory),
            (Errno::BUSY, false, Ended::CgroupFull),
            (Errno::BUSY, true, Ended::Done),
        ] {
            let kernel = Fake::new().with(PID, &[Small; 20]);
            kernel.script(move |_, range| match range.contains(&window(5)) {
                true => Answer::Fail(errno),
                false => Answer::Usual,
            });
            let flags = Flags {
                limits,
                defrag: false,
            };
            let report = run(&kernel, &Aim { flags, ..aim() }).unwrap();

            assert_eq!((report.verdict, report.ended), (Verdict::Partial, ended));
            assert_eq!(report.windows.refused, 1);
            assert_eq!(report.windows.untried > 0, ended != Ended::Done);
            assert_eq!(kernel.calls.borrow()[0].2, flags);
        }
    }

    #[test]
    fn holes_that_userfaultfd_watches_do_not_end_it() {
        let kernel = Fake::new().with(PID, &[Small; 20]);
        kernel.watched.set(true);
        fail_at(&kernel, window(5), Errno::BUSY);
        let report = run(&kernel, &aim()).unwrap();

        assert_eq!(report.ended, Ended::Done);
        assert_eq!((report.windows.collapsed, report.windows.refused), (19, 1));
        assert!(report.refusals[0].why.contains("userfaultfd"));
    }

    #[test]
    fn what_is_unmapped_meanwhile_is_not_refused() {
        let kernel = Fake::new().with(PID, &[Small; 4]);
        kernel.map(PID, window(10), Kind::Anon, &[Small; 4]);
        kernel.script(|number, _| match number {
            0 => Answer::Unmap,
            _ => Answer::Usual,
        });
        let report = run(&kernel, &aim()).unwrap();

        assert_eq!((report.windows.gone, report.windows.collapsed), (1, 4));
        assert_eq!(
            (report.verdict, report.ended),
            (Verdict::Success, Ended::Done)
        );
    }

    #[test]
    fn exit_is_told_from_success_whenever_it_comes() {
        let exited = |kernel: &Fake| {
            let report = run(kernel, &aim()).unwrap();
            assert_eq!(
                (report.verdict, report.ended),
                (Verdict::Partial, Ended::Exited)
            );
            assert_eq!(report.after, None);
            report
        };
        let fresh = || Fake::new().with(PID, &[Small; 40]);

        // If there was nothing to begin with, it is a failure.
        let failure = |kernel: &Fake| run(kernel, &aim()).unwrap_err();
        assert_eq!(failure(&Fake::new()), Failure::NoMemory(PID));
        let kernel = fresh();
        kernel.no_collapse.set(Some(Errno::SRCH));
        assert_eq!(failure(&kernel), Failure::NoProcess(PID));
        let kernel = fresh();
        kernel.no_contents.set(Some(Errno::SRCH));
        exited(&kernel);
        for (exits, collapsed) in [(0, 0), (1, 1), (2, 3)] {
            let kernel = fresh();
            kernel.script(move |number, _| match number == exits {
                true => Answer::Exit,
                false => Answer::Usual,
            });
            let windows = exited(&kernel).windows;
            assert_eq!(
                (windows.collapsed, windows.untried),
                (collapsed, 40 - collapsed)
            );
        }
        // The process may also exit between a slice and the check whether the window is mapped.
        let kernel = std::rc::Rc::new(fresh());
        let again = std::rc::Rc::downgrade(&kernel);
        kernel.script(move |_, _| {
            again.upgrade().unwrap().exit(PID);
            Answer::Fail(Errno::NOMEM)
        });
        exited(&kernel);
    }

    #[test]
    fn lacking_permission_is_said_at_every_step() {
        let mut kernel = Fake::new().with(PID, &[Small; 4]);
        kernel.caps = Capabilities {
            nice: false,
            ptrace: false,
            admin: false,
        };
        let failure = |kernel: &Fake| run(kernel, &aim()).unwrap_err().to_string();

        kernel.no_mappings.set(Some(Errno::ACCESS));
        assert!(failure(&kernel).contains("CAP_SYS_PTRACE is missing"));
        kernel.no_mappings.set(None);
        kernel.no_contents.set(Some(Errno::ACCESS));
        assert!(failure(&kernel).contains("CAP_SYS_PTRACE is missing"));
        kernel.no_contents.set(None);
        kernel.no_collapse.set(Some(Errno::ACCESS));
        assert!(failure(&kernel).contains("CAP_SYS_PTRACE is missing"));
        kernel.no_collapse.set(Some(Errno::PERM));
        assert!(failure(&kernel).contains("CAP_SYS_NICE"));
        // Said before anything is done, and in a dry run as well.
        assert!(kernel.slices().is_empty());
        let dry_run = Aim {
            dry_run: true,
            ..aim()
        };
        assert!(run(&kernel, &dry_run).is_err());
        kernel.no_collapse.set(None);
        kernel.caps.nice = true;
        kernel.script(|_, _| Answer::Fail(Errno::PERM));
        assert!(failure(&kernel).contains("CAP_SYS_ADMIN, which is missing, or --limits"));
        assert_eq!(kernel.slices().len(), 1);
    }

    #[test]
    fn unknown_flags_are_not_tried() {
        let mut kernel = Fake::new().with(PID, &[Small]);
        kernel.known.flags = Flags::default();
        for (limits, defrag) in [(true, false), (false, true)] {
            let flags = Flags { limits, defrag };
            let failure = run(&kernel, &Aim { flags, ..aim() }).unwrap_err();
            assert!(matches!(failure, Failure::UnknownFlag(_)));
        }
        kernel.known.collapse = false;
        assert_eq!(run(&kernel, &aim()).unwrap_err(), Failure::NoCollapse);
        assert!(kernel.slices().is_empty());
    }

    #[test]
    fn coverage_asked_for_is_what_counts() {
        let kernel = Fake::new().with(PID, &[Small, Small, Small, Huge]);
        let with = |percent| Aim {
            min_coverage: Some(percent),
            ..aim()
        };

        assert_eq!(run(&kernel, &with(25.0)).unwrap().ended, Ended::Covered);
        assert!(kernel.slices().is_empty());
        fail_at(&kernel, START, Errno::INVAL);
        let report = run(&kernel, &with(75.0)).unwrap();
        assert_eq!(
            (report.verdict, report.windows.refused),
            (Verdict::Success, 1)
        );
        assert_eq!(run(&kernel, &with(80.0)).unwrap().verdict, Verdict::Partial);
    }

    #[test]
    fn a_dry_run_does_nothing() {
        let kernel = Fake::new().with(PID, &[Small, Empty, Huge]);
        let dry_run = Aim {
            dry_run: true,
            ..aim()
        };
        let report = run(&kernel, &dry_run).unwrap();

        assert!(kernel.slices().is_empty());
        assert_eq!(
            (report.verdict, report.windows.untried),
            (Verdict::Success, 1)
        );
        assert_eq!((report.windows.already_huge, report.windows.empty), (1, 1));
    }

    /// Returns the windows of a report that has nothing else in it.
    fn left(kernel: &Fake) -> Windows {
        let report = run(kernel, &aim()).unwrap();

        assert!(kernel.slices().is_empty());
        assert_eq!((report.verdict, report.growth), (Verdict::Success, 0));
        assert_eq!(report.after.unwrap().percent, 100.0);
        report.windows
    }

    #[test]
    fn sparse_windows_are_left_alone() {
        let kernel = Fake::new().with(PID, &[holes(ALL - 1); 512]);
        let sparse = 512;

        assert_eq!(
            left(&kernel),
            Windows {
                sparse,
                ..Windows::default()
            }
        );
        // Up to the bound they are not.
        let kernel = Fake::new().with(PID, &[holes(64), holes(65), Small, Small, Small, Small]);
        let report = run(&kernel, &aim()).unwrap();
        assert_eq!((report.windows.collapsed, report.windows.sparse), (5, 1));
        assert_eq!(report.growth, 64 * PAGE);
    }

    #[test]
    fn swapped_and_shared_windows_are_left_alone() {
        let swapped = Part {
            present: ALL - 1,
            shared: 0,
            swapped: 1,
        };
        let shared = Part {
            present: ALL,
            shared: 1,
            swapped: 0,
        };
        let windows = left(&Fake::new().with(PID, &[swapped, shared, shared]));

        assert_eq!((windows.swapped, windows.shared), (1, 2));
        let kernel = Fake::new().with(PID, &[Small, Small, swapped, shared]);
        let mut aim = aim();
        aim.limits.max_swapped = 1;
        aim.limits.shared = true;
        let report = run(&kernel, &aim).unwrap();
        assert_eq!((report.windows.collapsed, report.growth), (4, 2 * PAGE));
    }

    #[test]
    fn memory_that_is_shared_by_its_nature_is_not_left_alone() {
        let kernel = Fake::new().with(PID, &[]);
        let shared = Part {
            present: ALL,
            shared: ALL,
            swapped: 0,
        };
        kernel.map(PID, window(8), Kind::Shmem, &[shared; 2]);
        let kinds = vec![Kind::Shmem];
        let report = run(&kernel, &Aim { kinds, ..aim() }).unwrap();

        assert_eq!(report.windows.collapsed, 2);
    }

    #[test]
    fn what_is_shared_meanwhile_is_left_alone() {
        let kernel = std::rc::Rc::new(Fake::new().with(PID, &[Small; 200]));
        let forks = std::rc::Rc::downgrade(&kernel);
        kernel.script(move |number, _| {
            if let (Some(kernel), 10) = (forks.upgrade(), number) {
                kernel.fill(
                    PID,
                    Part {
                        present: ALL,
                        shared: 1,
                        swapped: 0,
                    },
                );
            }
            Answer::Usual
        });
        let report = run(&kernel, &aim()).unwrap();

        assert!(report.windows.shared > 0);
        assert_eq!(kernel.calls.borrow().len(), 11);
    }

    #[test]
    fn growth_is_bounded_and_foreseen() {
        for max_growth in [Amount::Percent(5.0), Amount::Bytes(3 << 20)] {
            let kernel = Fake::new().with(PID, &[holes(50); 200]);
            kernel.map(PID, window(300), Kind::Anon, &[Small; 20]);
            let mut aim = aim();
            aim.limits.max_growth = max_growth;
            aim.dry_run = true;
            let bound = max_growth.of(kernel.vital(PID).unwrap().resident);
            let forecast = run(&kernel, &aim).unwrap();
            assert!(kernel.slices().is_empty());
            aim.dry_run = false;
            let report = run(&kernel, &aim).unwrap();

            assert!(report.growth <= bound && report.growth > bound - 50 * PAGE);
            assert_eq!(report.windows.collapsed, report.growth / (50 * PAGE) + 20);
            assert_eq!(forecast.windows.untried, report.windows.collapsed);
            assert_eq!(forecast.growth, report.growth);
            assert_eq!(report.after.unwrap().percent, 100.0);
            assert!(report.windows.beyond_growth > 0);
        }
    }

    #[test]
    fn headroom_is_left() {
        let kernel = Fake::new().with(PID, &[holes(50); 20]);
        let mut aim = aim();
        aim.limits.max_growth = Amount::Percent(100.0);
        kernel.room.set(WINDOW + 5 * 50 * PAGE);
        let report = run(&kernel, &aim).unwrap();

        assert_eq!(
            (report.verdict, report.ended),
            (Verdict::Partial, Ended::Headroom)
        );
        assert_eq!((report.windows.collapsed, report.windows.untried), (6, 14));
        assert_eq!(report.limit.as_deref(), Some("memory.max of /group"));
        aim.dry_run = true;
        kernel.room.set(WINDOW + 5 * 50 * PAGE);
        kernel.fill(PID, holes(50));
        assert_eq!(run(&kernel, &aim).unwrap().windows.untried, 5);
        kernel.room.set(WINDOW - 1);
        assert_eq!(run(&kernel, &aim).unwrap().ended, Ended::Headroom);
    }

    #[test]
    fn slices_are_no_larger_than_there_is_room_for() {
        let kernel = Fake::new().with(PID, &[Small; 60]);
        kernel.room.set(3 * WINDOW);
        run(&kernel, &aim()).unwrap();

        assert_eq!(kernel.slices().into_iter().max(), Some(3));
    }

    #[test]
    fn a_process_that_rules_out_huge_pages_is_left_alone() {
        let kernel = Fake::new().with(PID, &[Small; 4]);
        kernel.opted_out.set(true);
        let dry_run = Aim {
            dry_run: true,
            ..aim()
        };

        for aim in [aim(), dry_run] {
            let failure = run(&kernel, &aim).unwrap_err();
            assert_eq!(failure.verdict(), Verdict::Refused);
            assert!(failure.to_string().contains("THP_enabled: 0"));
        }
    }

    #[test]
    fn advice_is_read_only_if_there_is_something_to_do() {
        let kernel = Fake::new().with(PID, &[Huge, holes(200), Empty]);
        run(&kernel, &aim()).unwrap();

        assert_eq!(kernel.mappings_read.get(), 0);
        let kernel = Fake::new().with(PID, &[Small; 100]);
        run(&kernel, &aim()).unwrap();
        assert_eq!(kernel.mappings_read.get(), 1);
    }
}
