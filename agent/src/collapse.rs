// SPDX-License-Identifier: GPL-2.0

//! Collapsing the memory of one process.

use crate::engine::Engine;
use crate::failure::{why, Failure, Verdict};
use crate::kernel::{Content, Flags, Kernel, Known};
use crate::maps::{Advice, Coverage, Kind, Mapping};
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
    /// The coverage that is wanted, in per cent. Where it is reached already, nothing is done.
    pub min_coverage: Option<f64>,
    /// Set to look only, and to collapse nothing.
    pub dry_run: bool,
}

impl Aim {
    fn wants(&self, mapping: &Mapping) -> bool {
        self.kinds.contains(&mapping.kind)
            && mapping.range.start < self.bounds.end
            && self.bounds.start < mapping.range.end
            && (self.opted_out_too || mapping.advice != Advice::Nohuge)
    }

    /// Returns the coverage of the mappings that are selected. A mapping counts as a whole, even if
    /// `bounds` cuts it.
    pub fn coverage(&self, mappings: &[Mapping]) -> Coverage {
        Coverage::of(mappings.iter().filter(|mapping| self.wants(mapping)))
    }
}

/// The reason that a run ended for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
    /// There is no memory for more.
    NoMemory,
    /// A signal came.
    Interrupted,
    /// The process exited.
    Exited,
}

/// Counts of windows by their outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Windows {
    /// Windows that have become huge pages.
    pub collapsed: u64,
    /// Windows that were huge pages before.
    pub already_huge: u64,
    /// Windows that had nothing in them.
    pub empty: u64,
    /// Windows that the kernel refused.
    pub refused: u64,
    /// Windows that were unmapped meanwhile.
    pub gone: u64,
    /// Windows that were not tried before the run ended.
    pub untried: u64,
}

/// Windows that were refused for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The name of the errno.
    pub errno: String,
    /// The number of windows.
    pub windows: u64,
    /// The meaning of the errno.
    pub why: &'static str,
}

/// The result of a run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The success or failure of the run, as its caller sees it.
    pub verdict: Verdict,
    /// The reason that the run ended for.
    pub ended: Ended,
    /// The outcome of the windows.
    pub windows: Windows,
    /// The reasons that windows were refused for.
    pub refusals: Vec<Refusal>,
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
    /// The code of the kernel that served, if the caller asked for it and the trace tells.
    pub engine: Option<Engine>,
    /// Huge pages among those collapsed that were mapped as such again without a copy, if `engine`
    /// is known.
    pub remapped: Option<u64>,
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

/// The windows that a run has to collapse.
#[derive(Default)]
struct Plan {
    /// Runs of adjacent windows of one mapping that are to be collapsed.
    rows: Vec<Range<u64>>,
    total: u64,
    already_huge: u64,
    empty: u64,
    /// Set if the kernel cannot tell the content of windows.
    guessed: bool,
}

impl Plan {
    fn add(&mut self, size: u64, windows: &Range<u64>, contents: &[Content], anonymous: bool) {
        for (content, start) in contents.iter().zip(windows.clone().step_by(size as usize)) {
            match content {
                Content::Huge => self.already_huge += 1,
                // A page of a file may be in the page cache without being mapped.
                Content::Empty if anonymous => self.empty += 1,
                Content::Empty | Content::Small => {
                    self.total += 1;
                    match self.rows.last_mut() {
                        Some(row) if row.end == start && start != windows.start => row.end += size,
                        _ => self.rows.push(start..start + size),
                    }
                }
            }
        }
    }
}

/// A run in progress.
struct Run<'a, K: Kernel> {
    kernel: &'a K,
    process: &'a K::Process,
    aim: &'a Aim,
    stop: &'a AtomicBool,
    begin: Duration,
    /// Mappings that userfaultfd watches.
    watched: Vec<Range<u64>>,
    total: u64,
    pace: Pace,
    windows: Windows,
    errnos: BTreeMap<i32, u64>,
    slices: u64,
    retries: u64,
    pauses: u64,
}

/// The reason that not all of a slice was done.
enum Stop {
    /// The run is over.
    Ended(Ended),
    /// The kernel refused it.
    Errno(Errno),
}

/// Collapses the memory of process `pid` that `aim` selects, and returns a report. `process` holds
/// the process.
///
/// It is no failure if the process exits: the report says so.
pub fn collapse<K: Kernel>(
    kernel: &K,
    pid: i32,
    process: &K::Process,
    aim: &Aim,
    stop: &AtomicBool,
    progress: &mut dyn Progress,
) -> Result<Report, Failure> {
    let begin = kernel.now();
    let known = kernel.known();

    check_flags(known, aim.flags)?;
    let mut run = Run {
        kernel,
        process,
        aim,
        stop,
        begin,
        watched: Vec::new(),
        total: 0,
        pace: Pace::new(),
        windows: Windows::default(),
        errnos: BTreeMap::new(),
        slices: 0,
        retries: 0,
        pauses: 0,
    };
    let mappings = match kernel.mappings(process) {
        Ok(mappings) => mappings,
        Err(Errno::SRCH) => return Ok(run.report(Ended::Exited, Coverage::default(), None)),
        Err(errno) => return Err(Failure::of_reading(pid, errno, kernel.capabilities())),
    };
    let before = aim.coverage(&mappings);

    // An empty request tells whether the kernel would serve any.
    match kernel.collapse(process, &(0..0), aim.flags) {
        Ok(_) => {}
        Err(Errno::SRCH) => return Ok(run.report(Ended::Exited, before, None)),
        Err(errno) => return Err(run.failure(pid, errno)),
    }
    if aim
        .min_coverage
        .is_some_and(|wanted| before.reaches(wanted))
    {
        return Ok(run.report(Ended::Covered, before, Some(before)));
    }

    let plan = match run.plan(&mappings) {
        Ok(plan) => plan,
        Err(Errno::SRCH) => return Ok(run.report(Ended::Exited, before, None)),
        Err(errno) => return Err(Failure::of_reading(pid, errno, kernel.capabilities())),
    };
    run.watched = mappings
        .iter()
        .filter(|mapping| mapping.watched)
        .map(|mapping| mapping.range.clone())
        .collect();
    run.total = plan.total;
    run.windows.already_huge = plan.already_huge;
    run.windows.empty = plan.empty;
    let ended = if aim.dry_run {
        Ended::DryRun
    } else {
        let ended = run.rows(&plan.rows, progress);
        progress.end();
        match ended {
            Ok(()) => Ended::Done,
            Err(Stop::Ended(ended)) => ended,
            Err(Stop::Errno(Errno::SRCH)) => Ended::Exited,
            Err(Stop::Errno(errno)) => return Err(run.failure(pid, errno)),
        }
    };
    let windows = &mut run.windows;
    windows.untried =
        plan.total - (windows.collapsed + windows.refused + windows.gone).min(plan.total);

    let after = match ended {
        Ended::Exited => None,
        _ => kernel.mappings(process).ok(),
    }
    .map(|mappings| aim.coverage(&mappings));
    if let (true, Some(after)) = (plan.guessed, after) {
        // The kernel told that a window is huge, but not since when.
        let more = after.huge.saturating_sub(before.huge) / kernel.window();
        let fewer = run.windows.collapsed.saturating_sub(more);

        run.windows.collapsed -= fewer;
        run.windows.already_huge += fewer;
    }
    Ok(run.report(ended, before, after))
}

fn check_flags(known: Known, flags: Flags) -> Result<(), Failure> {
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

impl<K: Kernel> Run<'_, K> {
    fn failure(&self, pid: i32, errno: Errno) -> Failure {
        Failure::of_collapsing(
            pid,
            errno,
            self.kernel.capabilities(),
            self.kernel.known(),
            self.aim.flags,
        )
    }

    fn plan(&self, mappings: &[Mapping]) -> Result<Plan, Errno> {
        let size = self.kernel.window();
        let mut plan = Plan::default();

        for mapping in mappings.iter().filter(|mapping| self.aim.wants(mapping)) {
            let windows = mapping.windows(size, &self.aim.bounds);
            let anonymous = mapping.kind == Kind::Anon;

            if windows.is_empty() {
                continue;
            }
            if anonymous && mapping.resident == 0 && mapping.swapped == 0 {
                plan.empty += (windows.end - windows.start) / size;
                continue;
            }
            match self.kernel.contents(self.process, &windows)? {
                Some(contents) => plan.add(size, &windows, &contents, anonymous),
                None => {
                    plan.guessed = true;
                    plan.total += (windows.end - windows.start) / size;
                    plan.rows.push(windows);
                }
            }
        }
        Ok(plan)
    }

    /// Collapses all rows of a plan.
    fn rows(&mut self, rows: &[Range<u64>], progress: &mut dyn Progress) -> Result<(), Stop> {
        let size = self.kernel.window();

        for row in rows {
            let mut start = row.start;
            // Up to this address each slice is one window, to learn which windows of the slice that
            // failed are refused.
            let mut singly = start;

            while start < row.end {
                self.may_go_on()?;
                let most = self.pace.windows().saturating_mul(size);
                let end = match start < singly {
                    true => start + size,
                    false => start.saturating_add(most).min(row.end),
                };
                match self.slice(&(start..end)) {
                    Ok(bytes) => {
                        self.windows.collapsed += bytes / size;
                        start += bytes;
                    }
                    Err(Stop::Errno(errno)) if !is_final(errno) => {
                        if end - start > size {
                            singly = end;
                            continue;
                        }
                        self.refused(&(start..end), errno)?;
                        start = end;
                    }
                    Err(stop) => return Err(stop),
                }
                let windows = self.windows;
                progress.at(
                    windows.collapsed + windows.refused + windows.gone,
                    self.total,
                );
            }
        }
        Ok(())
    }

    fn may_go_on(&self) -> Result<(), Stop> {
        let used = self.kernel.now().saturating_sub(self.begin);

        if self.stop.load(Ordering::Relaxed) {
            return Err(Stop::Ended(Ended::Interrupted));
        }
        // At least one slice is done: else a process whose mappings take long to read gets none.
        if self.slices > 0 && self.aim.budget.is_some_and(|budget| used >= budget) {
            return Err(Stop::Ended(Ended::Budget));
        }
        Ok(())
    }

    /// Collapses one slice. Returns how many bytes of it are done, in whole windows, but never 0.
    fn slice(&mut self, range: &Range<u64>) -> Result<u64, Stop> {
        let size = self.kernel.window();
        let alone = range.end - range.start == size;
        let mut pauses = AGAIN.iter();

        loop {
            let begin = self.kernel.now();
            let result = self
                .kernel
                .collapse(self.process, range, self.aim.flags)
                .map(|bytes| bytes - bytes % size);
            let took = self.kernel.now().saturating_sub(begin);

            self.slices += 1;
            if let Some(pause) = self.pace.learn((range.end - range.start) / size, took) {
                self.pauses += 1;
                self.pause(pause)?;
            }
            let errno = match result {
                // The kernel stopped early and does not say why. A request for the rest will tell.
                Ok(0) => Errno::AGAIN,
                Ok(bytes) => return Ok(bytes.min(range.end - range.start)),
                Err(errno) => errno,
            };
            match (errno, pauses.next()) {
                (Errno::AGAIN | Errno::INTR, Some(pause)) if alone => {
                    self.may_go_on()?;
                    self.retries += 1;
                    self.pause(*pause)?;
                }
                _ => return Err(Stop::Errno(errno)),
            }
        }
    }

    /// Waits for `time`, but not beyond the budget.
    fn pause(&self, time: Duration) -> Result<(), Stop> {
        let used = self.kernel.now().saturating_sub(self.begin);
        let left = self.aim.budget.map(|budget| budget.saturating_sub(used));

        self.kernel.pause(left.map_or(time, |left| left.min(time)));
        Ok(())
    }

    /// Records that a window was refused. Ends the run if the next windows would be refused, too.
    fn refused(&mut self, window: &Range<u64>, errno: Errno) -> Result<(), Stop> {
        if errno == Errno::NOMEM && !self.is_mapped(window)? {
            self.windows.gone += 1;
            return Ok(());
        }
        self.windows.refused += 1;
        *self.errnos.entry(errno.raw_os_error()).or_default() += 1;
        let is_watched = || self.watched.iter().any(|row| row.contains(&window.start));
        // EBUSY means that the memory cgroup is full, unless there are limits, or userfaultfd keeps
        // holes from being filled.
        let exhausted = match errno {
            Errno::NOMEM => true,
            Errno::BUSY => !self.aim.flags.limits && !is_watched(),
            _ => false,
        };
        match exhausted {
            true => Err(Stop::Ended(Ended::NoMemory)),
            false => Ok(()),
        }
    }

    /// Returns whether a window is mapped: the kernel returns ENOMEM for unmapped memory, too.
    fn is_mapped(&self, window: &Range<u64>) -> Result<bool, Stop> {
        let mappings = self.kernel.mappings(self.process).map_err(Stop::Errno)?;

        Ok(mappings
            .iter()
            .any(|mapping| mapping.range.start <= window.start && window.end <= mapping.range.end))
    }

    fn report(&self, ended: Ended, before: Coverage, after: Option<Coverage>) -> Report {
        let known = self.kernel.known();
        let refusals = self.errnos.iter().map(|(errno, windows)| {
            let (errno, why) = why(Errno::from_raw_os_error(*errno), known, self.aim.flags);

            Refusal {
                errno,
                windows: *windows,
                why,
            }
        });
        let used = self.kernel.now().saturating_sub(self.begin);

        Report {
            verdict: self.verdict(ended, after),
            ended,
            windows: self.windows,
            refusals: refusals.collect(),
            before,
            after,
            slices: self.slices,
            retries: self.retries,
            pauses: self.pauses,
            milliseconds: (used.as_secs_f64() * 10000.0).round() / 10.0,
            engine: None,
            remapped: None,
        }
    }

    fn verdict(&self, ended: Ended, after: Option<Coverage>) -> Verdict {
        let windows = &self.windows;

        match (ended, self.aim.min_coverage, after) {
            (Ended::Exited | Ended::Covered | Ended::DryRun, ..) => Verdict::Success,
            // The coverage that was asked for decides, not the number of refusals.
            (_, Some(wanted), Some(after)) if after.reaches(wanted) => Verdict::Success,
            (_, None, _) if windows.refused == 0 && windows.untried == 0 => Verdict::Success,
            _ if windows.refused > 0 && windows.collapsed + windows.already_huge == 0 => {
                Verdict::Refused
            }
            _ => Verdict::Partial,
        }
    }
}

/// Returns whether an errno concerns the process as a whole, rather than a window.
fn is_final(errno: Errno) -> bool {
    matches!(errno, Errno::SRCH | Errno::PERM | Errno::ACCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Answer, Fake, START, WINDOW};
    use crate::kernel::Capabilities;
    use Content::{Empty, Huge, Small};

    const PID: i32 = 7;

    fn aim() -> Aim {
        Aim {
            kinds: vec![Kind::Anon],
            bounds: 0..u64::MAX,
            opted_out_too: false,
            flags: Flags::default(),
            budget: None,
            min_coverage: None,
            dry_run: false,
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
        assert_eq!(kernel.slices(), [1, 2]);
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
        // The page cache may have pages that are not mapped.
        run(&kernel, &files).unwrap();
        assert_eq!(kernel.calls.borrow()[2].1, window(2)..window(4));
    }

    #[test]
    fn an_opt_out_stands_unless_it_is_overruled() {
        let kernel = Fake::new().with(PID, &[Small; 3]);
        kernel.advice.set(Advice::Nohuge);
        let report = run(&kernel, &aim()).unwrap();

        assert!(kernel.slices().is_empty());
        assert_eq!(
            (report.before, report.verdict),
            (Coverage::default(), Verdict::Success)
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
        assert_eq!(kernel.calls.borrow()[0].1, window(3)..window(6));
    }

    #[test]
    fn a_refused_window_does_not_hide_the_others() {
        let kernel = Fake::new().with(PID, &[Small; 40]);
        kernel.script(|_, range| match range.contains(&window(3)) {
            true => Answer::Fail(Errno::INVAL),
            false => Answer::Usual,
        });
        let report = run(&kernel, &aim()).unwrap();

        assert_eq!(report.verdict, Verdict::Partial);
        assert_eq!((report.windows.collapsed, report.windows.refused), (39, 1));
        assert_eq!(report.refusals[0].errno, "EINVAL");
        assert_eq!((report.refusals.len(), report.refusals[0].windows), (1, 1));
        // One slice, its windows one by one, and larger ones again.
        assert_eq!(kernel.slices()[..17], [&[16], &[1; 16][..]].concat());
        assert!(kernel.slices()[17] > 1);
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
        // The slice, and each window four times.
        assert_eq!(report.slices, 1 + 10 * 4);
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
        assert_eq!(report.retries, 2);
    }

    #[test]
    fn short_counts_are_continued() {
        let kernel = Fake::new().with(PID, &[Small; 10]);
        // The first call does not end at a window, and the second does nothing at all.
        kernel.script(|number, _| match number {
            0 => Answer::Short(3 * WINDOW + 4096),
            1 => Answer::Short(0),
            _ => Answer::Usual,
        });
        let report = run(&kernel, &aim()).unwrap();

        assert_eq!(
            (report.verdict, report.windows.collapsed),
            (Verdict::Success, 10)
        );
        assert_eq!(kernel.calls.borrow()[1].1, window(3)..window(10));
    }

    #[test]
    fn a_kernel_that_does_nothing_is_not_asked_for_ever() {
        let kernel = Fake::new().with(PID, &[Small; 3]);
        kernel.script(|_, _| Answer::Short(0));
        let report = run(&kernel, &aim()).unwrap();

        assert_eq!((report.windows.refused, report.slices), (3, 1 + 3 * 4));
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
            (report.ended, report.windows.untried),
            (Ended::Interrupted, 20)
        );
        assert_eq!(report.verdict, Verdict::Partial);
        assert!(kernel.slices().is_empty());
    }

    #[test]
    fn no_memory_ends_it() {
        for (errno, limits, ended) in [
            (Errno::NOMEM, false, Ended::NoMemory),
            (Errno::BUSY, false, Ended::NoMemory),
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
            assert_eq!(report.windows.untried > 0, ended == Ended::NoMemory);
            assert_eq!(kernel.calls.borrow()[0].2, flags);
        }
    }

    #[test]
    fn holes_that_userfaultfd_watches_do_not_end_it() {
        let kernel = Fake::new().with(PID, &[Small; 20]);
        kernel.watched.set(true);
        kernel.script(|_, range| match range.contains(&window(5)) {
            true => Answer::Fail(Errno::BUSY),
            false => Answer::Usual,
        });
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
            1..=4 => Answer::Fail(Errno::NOMEM),
            _ => Answer::Usual,
        });
        let report = run(&kernel, &aim()).unwrap();

        assert_eq!((report.windows.gone, report.windows.collapsed), (4, 4));
        assert_eq!(
            (report.verdict, report.ended),
            (Verdict::Success, Ended::Done)
        );
    }

    #[test]
    fn exit_is_no_failure_whenever_it_comes() {
        let exited = |kernel: &Fake| {
            let report = run(kernel, &aim()).unwrap();
            assert_eq!(
                (report.verdict, report.ended),
                (Verdict::Success, Ended::Exited)
            );
            assert_eq!(report.after, None);
            report
        };
        let fresh = || Fake::new().with(PID, &[Small; 40]);

        exited(&Fake::new());
        let kernel = fresh();
        kernel.no_collapse.set(Some(Errno::SRCH));
        exited(&kernel);
        let kernel = fresh();
        kernel.no_contents.set(Some(Errno::SRCH));
        exited(&kernel);
        for exits in [0, 1] {
            let kernel = fresh();
            kernel.script(move |number, _| match number == exits {
                true => Answer::Exit,
                false => Answer::Usual,
            });
            assert_eq!(exited(&kernel).windows.collapsed, 16 * exits as u64);
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
        kernel.script(|_, range| match range.contains(&START) {
            true => Answer::Fail(Errno::INVAL),
            false => Answer::Usual,
        });
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

    #[test]
    fn kernels_that_cannot_tell_contents_will_do() {
        let mut kernel = Fake::new().with(PID, &[Small, Huge, Huge, Small]);
        kernel.tells_contents = false;
        let report = run(&kernel, &aim()).unwrap();

        assert_eq!(
            (report.windows.collapsed, report.windows.already_huge),
            (2, 2)
        );
        assert_eq!(kernel.slices(), [4]);
    }
}
