// SPDX-License-Identifier: GPL-2.0

//! Keeping processes above a coverage.

use crate::collapse::{check_flags, visit, Aim, Ended, Past, Report};
use crate::failure::{Failure, Verdict};
use crate::kernel::{Kernel, Vital};
use rustix::io::Errno;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// The length of a round. A round that has used more than its budget is longer.
const ROUND: Duration = Duration::from_secs(1);
/// How often processes are looked for. Processes that have grown since are looked at then, too.
const FIND: Duration = Duration::from_secs(5);
/// The shortest time for which a process is left alone after a pass over its memory.
const SHORTEST_REST: Duration = Duration::from_secs(5);
/// The longest one, if nothing can be done.
const LONGEST_REST: Duration = Duration::from_secs(64);
/// The time for which a process is left alone if there is nothing that could become worth it without
/// new page faults, which are noticed.
const QUIET: Duration = Duration::from_secs(600);
/// To look at one process takes no more than one part in so many of the budget on average.
const LOOKING: u32 = 5;
/// The longest time until a signal is noticed.
const NAP: Duration = Duration::from_millis(100);

/// The processes to watch, or to show.
#[derive(Default)]
pub struct Selection {
    /// Processes with these numbers.
    pub pids: Vec<i32>,
    /// Processes with these command names.
    pub names: Vec<String>,
    /// Processes in these cgroups, or below them.
    pub cgroups: Vec<String>,
    /// But none with these command names.
    pub excluded: Vec<String>,
    /// If not empty, only processes of these users.
    pub users: Vec<u32>,
    /// Only processes that have so many bytes in memory.
    pub min_resident: u64,
    /// When the processes with numbers have started. Later ones with these numbers are strangers.
    pub starts: BTreeMap<i32, u64>,
}

impl Selection {
    /// Finds the processes. Those given by number have to be there the first time. Calls `warn` for
    /// what cannot be found.
    pub fn find<K: Kernel>(
        &mut self,
        kernel: &K,
        mut warn: impl FnMut(String),
    ) -> Result<BTreeMap<i32, Vital>, Failure> {
        let mut found = BTreeMap::new();

        for pid in &self.pids {
            let Ok(vital) = kernel.vital(*pid) else {
                if self.starts.contains_key(pid) {
                    continue;
                }
                // This tells what is wrong with the number.
                kernel.open(*pid, None)?;
                return Err(Failure::NoProcess(*pid));
            };
            if *self.starts.entry(*pid).or_insert(vital.start) == vital.start {
                found.insert(*pid, vital);
            }
        }
        let mut listed = Vec::new();

        for cgroup in &self.cgroups {
            match kernel.members(cgroup) {
                Ok(members) => listed.extend(members),
                Err(Errno::NOENT) => warn(format!("there is no cgroup {cgroup}")),
                Err(errno) => warn(format!("cannot read cgroup {cgroup}: {errno}")),
            }
        }
        // A process that exits meanwhile has no name any more, and is not selected.
        for pid in listed {
            if let Ok(vital) = kernel.vital(pid) {
                found.insert(pid, vital);
            }
        }
        if !self.names.is_empty() {
            let all = kernel
                .pids()
                .map_err(|errno| Failure::System("cannot read /proc", errno))?;

            for pid in all {
                if found.contains_key(&pid) {
                    continue;
                }
                if let Ok(vital) = kernel.vital(pid) {
                    if self.names.contains(&vital.name) {
                        found.insert(pid, vital);
                    }
                }
            }
        }
        // Neither zombies nor the kernel's own threads have any memory.
        found.retain(|pid, vital| {
            vital.mapped > 0
                && vital.resident >= self.min_resident
                && !self.excluded.contains(&vital.name)
                && (self.users.is_empty()
                    || kernel
                        .user(*pid)
                        .is_ok_and(|user| self.users.contains(&user)))
        });
        Ok(found)
    }

    /// Returns whether no other process can come to be selected.
    fn is_closed(&self) -> bool {
        self.names.is_empty() && self.cgroups.is_empty()
    }
}

/// Messages while processes are watched.
pub enum Told<'a> {
    /// The result for a process.
    Event(&'a Event),
    /// Something is not as it was probably meant.
    Warning(&'a str),
}

/// The result for a process in a round.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
pub struct Event {
    /// Seconds since 1970.
    pub time: u64,
    /// The number of the round.
    pub round: u64,
    /// The process ID.
    pub pid: i32,
    /// The command name of the process.
    pub name: String,
    /// The path of the process in the unified cgroup hierarchy, or an empty string.
    pub cgroup: String,
    /// The result.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The result of one turn of a process.
#[derive(Debug, Serialize)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The report of a collapse, as far as there was time for it.
    Report(Box<Report>),
    /// The reason that nothing could be done for.
    Error(String),
}

/// The result of all rounds.
#[derive(Debug, Default, Serialize)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
pub struct Summary {
    /// How many rounds there were.
    pub rounds: u64,
    /// How many processes there are at the end.
    pub processes: u64,
    /// How many of these processes had the coverage when last all of it was looked at.
    pub covered: u64,
    /// How many of these processes the kernel refused to collapse anything for.
    pub refused: u64,
    /// How many windows were collapsed.
    pub collapsed: u64,
    /// By how many bytes memory has grown by that.
    pub growth: u64,
    /// How long the work took, in milliseconds.
    pub milliseconds: u64,
    /// Set if a signal has ended it.
    pub stopped: bool,
}

impl Summary {
    /// Returns the verdict that decides the exit status.
    pub fn verdict(&self) -> Verdict {
        match self.processes {
            // To be stopped is the usual end.
            _ if self.stopped => Verdict::Success,
            all if all == self.covered => Verdict::Success,
            all if all == self.refused && self.collapsed == 0 => Verdict::Refused,
            _ => Verdict::Partial,
        }
    }
}

/// How processes are watched.
pub struct Watch {
    /// The work to be done for each. The budget in it is not used.
    pub aim: Aim,
    /// How much of a second is used on average.
    pub budget: Duration,
    /// How many rounds there are, unless only a signal ends it.
    pub rounds: Option<u64>,
}

/// A process that is watched. It is opened for each turn, so that many processes do not take many
/// file descriptors.
struct Kept {
    /// As it was at its last turn.
    seen: Vital,
    past: Past,
    covered: bool,
    refused: bool,
    /// When it has its next turn.
    due: Duration,
    /// Before that time it has none, even if it has grown.
    not_before: Duration,
    last_turn: Duration,
    /// How long to leave it alone, the next time that nothing can be done.
    rest: Duration,
    /// The last message about it.
    told: Option<State>,
}

/// The facts that are told when they have changed.
#[derive(PartialEq)]
enum State {
    Report {
        /// The reason that not all was looked at, unless it is lack of time.
        ended: Option<Ended>,
        covered: bool,
        refused: bool,
    },
    Error(String),
}

/// Watches processes until `stop` is set, for some rounds, or until all of them are gone for good.
pub fn watch<K: Kernel>(
    kernel: &K,
    selection: &mut Selection,
    watch: &mut Watch,
    stop: &AtomicBool,
    mut tell: impl FnMut(Told) -> Result<(), Failure>,
) -> Result<Summary, Failure> {
    check_flags(kernel.known(), watch.aim.flags)?;
    let mut kept: BTreeMap<i32, Kept> = BTreeMap::new();
    let mut summary = Summary::default();
    let mut busy = Duration::ZERO;
    let mut next_find = kernel.now();
    let mut warned: Vec<String> = Vec::new();
    let mut matched = false;
    // There is no huge page to be had before that time.
    let mut hold = Duration::ZERO;
    let mut longer = SHORTEST_REST;

    while watch.rounds.is_none_or(|rounds| summary.rounds < rounds) && !stop.load(Ordering::Relaxed)
    {
        let begin = kernel.now();

        summary.rounds += 1;
        if begin >= next_find {
            let mut warnings = Vec::new();
            let found = selection.find(kernel, |warning| warnings.push(warning))?;

            next_find = begin + FIND;
            if found.is_empty() && selection.is_closed() {
                kept.clear();
                break;
            }
            matched |= !found.is_empty();
            if found.is_empty() {
                warnings.push("no process matches".into());
            }
            for warning in &warnings {
                if !warned.contains(warning) {
                    tell(Told::Warning(warning))?;
                }
            }
            warned = warnings;
            let pages = kernel.window() / kernel.page();
            take(&mut kept, found, begin, kernel.window(), pages);
        }
        let mut due: Vec<(Duration, i32)> = kept
            .iter()
            .filter(|(_, kept)| kept.due.max(kept.not_before).max(hold) <= begin)
            .map(|(pid, kept)| (kept.last_turn, *pid))
            .collect();
        due.sort_unstable();
        let alone = due.len() == 1;

        for (turn, (_, pid)) in due.into_iter().enumerate() {
            let now = kernel.now();
            let left = watch.budget.saturating_sub(now.saturating_sub(begin));
            let Some(one) = kept.get_mut(&pid) else {
                continue;
            };
            // The first process has its turn even if finding the processes took all of the budget.
            if turn > 0 && left.is_zero() || stop.load(Ordering::Relaxed) {
                break;
            }
            watch.aim.budget = Some(match alone {
                true => left,
                false => left.min(watch.budget / 2),
            });
            one.last_turn = now;
            let result = kernel
                .open(pid, Some(one.seen.start))
                .and_then(|process| visit(kernel, pid, &process, &watch.aim, stop, &mut one.past));
            let now = kernel.now();
            let mut exited = false;
            let outcome = match result {
                Ok(report) => {
                    exited = report.ended == Ended::Exited;
                    summary.collapsed += report.windows.collapsed;
                    summary.growth += report.growth;
                    if report.windows.collapsed > 0 {
                        longer = SHORTEST_REST;
                    }
                    if report.ended == Ended::NoMemory {
                        hold = now + longer;
                        longer = LONGEST_REST.min(longer * 2);
                    }
                    one.learn(&report, watch, now);
                    Outcome::Report(Box::new(report))
                }
                // Another process may have its number by now.
                Err(Failure::NoProcess(_) | Failure::NoMemory(_)) => {
                    kept.remove(&pid);
                    continue;
                }
                Err(err) => {
                    one.refused = err.verdict() == Verdict::Refused;
                    one.covered = false;
                    one.give_rest(now);
                    Outcome::Error(err.to_string())
                }
            };

            if one.is_news(&outcome) {
                tell(Told::Event(&Event {
                    time: SystemTime::UNIX_EPOCH
                        .elapsed()
                        .unwrap_or_default()
                        .as_secs(),
                    round: summary.rounds,
                    pid,
                    name: one.seen.name.clone(),
                    cgroup: kernel.cgroup(pid),
                    outcome,
                }))?;
            }
            if exited {
                kept.remove(&pid);
            }
            if hold > now {
                break;
            }
        }
        let used = kernel.now().saturating_sub(begin);

        busy += used;
        if watch.rounds != Some(summary.rounds) {
            rest(kernel, stop, used, watch.budget);
        }
    }
    summary.stopped = stop.load(Ordering::Relaxed);
    if !matched && !summary.stopped {
        return Err(Failure::NothingMatched);
    }
    summary.processes = kept.len() as u64;
    summary.covered = kept.values().filter(|kept| kept.covered).count() as u64;
    summary.refused = kept.values().filter(|kept| kept.refused).count() as u64;
    summary.milliseconds = u64::try_from(busy.as_millis()).unwrap_or(u64::MAX);
    Ok(summary)
}

/// Adds processes that are new, and removes processes that are no longer selected. A process that
/// has grown has its turn.
fn take(
    kept: &mut BTreeMap<i32, Kept>,
    found: BTreeMap<i32, Vital>,
    now: Duration,
    window: u64,
    pages: u64,
) {
    kept.retain(|pid, kept| {
        found
            .get(pid)
            .is_some_and(|vital| vital.start == kept.seen.start)
    });
    for (pid, vital) in found {
        let one = kept.entry(pid).or_insert_with(|| Kept {
            seen: vital.clone(),
            past: Past::default(),
            covered: false,
            refused: false,
            due: now,
            not_before: now,
            last_turn: Duration::ZERO,
            rest: SHORTEST_REST,
            told: None,
        });
        let has_grown = vital.resident >= one.seen.resident + window;
        // Memory that was freed and touched again is as much as before.
        let has_changed = vital.faults >= one.seen.faults + pages;

        if has_grown || has_changed {
            one.due = now;
            one.rest = SHORTEST_REST;
            one.seen = vital;
        } else {
            one.seen.resident = one.seen.resident.min(vital.resident);
            one.seen.name = vital.name;
        }
    }
}

/// Waits for the next round, for so long that the work keeps to its budget on average.
fn rest<K: Kernel>(kernel: &K, stop: &AtomicBool, used: Duration, budget: Duration) {
    let fair = ROUND.mul_f64(used.as_secs_f64() / budget.as_secs_f64());
    let mut left = ROUND.max(fair).saturating_sub(used);

    while !left.is_zero() && !stop.load(Ordering::Relaxed) {
        let nap = left.min(NAP);

        kernel.pause(nap);
        left -= nap;
    }
}

impl Kept {
    /// Decides from a report when the process has its next turn.
    fn learn(&mut self, report: &Report, watch: &Watch, now: Duration) {
        let looking = Duration::from_secs_f64(report.looking_milliseconds / 1000.0);
        let part = ROUND.as_secs_f64() / watch.budget.as_secs_f64();
        let complete = matches!(report.ended, Ended::Done | Ended::Covered);

        self.refused = report.verdict == Verdict::Refused;
        if complete {
            let wanted = watch.aim.min_coverage.unwrap_or(100.0);

            self.covered = report.after.is_some_and(|after| after.reaches(wanted));
        }
        if report.windows.collapsed > 0 {
            self.rest = SHORTEST_REST;
        }
        self.not_before = now + (looking * LOOKING).mul_f64(part);
        if report.ended == Ended::Budget {
            self.due = now;
            return;
        }
        let windows = &report.windows;

        if complete && windows.collapsed + windows.refused + windows.waiting + windows.shared == 0 {
            self.due = now + QUIET;
            return;
        }
        self.give_rest(now);
        // Windows that were refused are tried again in time.
        if let Some(next) = self.past.next() {
            self.due = self.due.min(next.max(now + SHORTEST_REST));
        }
    }

    fn give_rest(&mut self, now: Duration) {
        self.due = now + self.rest;
        self.rest = LONGEST_REST.min(self.rest * 2);
    }

    /// Returns whether an outcome is to be told: something was done, or it is not the same as before.
    fn is_news(&mut self, outcome: &Outcome) -> bool {
        let (state, done) = match outcome {
            Outcome::Error(error) => (State::Error(error.clone()), false),
            Outcome::Report(report) => (
                State::Report {
                    ended: Some(report.ended).filter(|ended| {
                        !matches!(ended, Ended::Done | Ended::Covered | Ended::Budget)
                    }),
                    covered: self.covered,
                    refused: report.windows.refused + report.windows.waiting > 0,
                },
                report.windows.collapsed > 0,
            ),
        };
        let same = self.told.as_ref() == Some(&state);

        self.told = Some(state);
        done || !same
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amount::Amount;
    use crate::collapse::{tests::aim, Limits};
    use crate::fake::{Answer, Content, Fake, ALL, START, WINDOW};
    use crate::maps::Kind;
    use Content::{Part, Small};

    const BUDGET: Duration = Duration::from_millis(50);

    fn all() -> Selection {
        Selection {
            cgroups: vec!["/group".into()],
            ..Selection::default()
        }
    }

    fn pids(pids: &[i32]) -> Selection {
        Selection {
            pids: pids.to_vec(),
            ..Selection::default()
        }
    }

    fn terms(rounds: Option<u64>) -> Watch {
        Watch {
            aim: Aim {
                min_coverage: Some(90.0),
                limits: Limits {
                    min_headroom: Amount::Bytes(0),
                    ..aim().limits
                },
                ..aim()
            },
            budget: BUDGET,
            rounds,
        }
    }

    /// Watches for some rounds. Calls `each` for events, and returns the warnings, too.
    fn run_and_listen(
        kernel: &Fake,
        mut selection: Selection,
        rounds: u64,
        mut each: impl FnMut(&Event),
    ) -> (Result<Summary, Failure>, Vec<String>) {
        let mut warnings = Vec::new();
        let stop = AtomicBool::new(false);
        let mut terms = terms(Some(rounds));
        let result = watch(kernel, &mut selection, &mut terms, &stop, |told| {
            match told {
                Told::Event(event) => each(event),
                Told::Warning(warning) => warnings.push(warning.into()),
            }
            Ok(())
        });

        (result, warnings)
    }

    fn run(kernel: &Fake, rounds: u64) -> Summary {
        run_and_listen(kernel, all(), rounds, |_| {}).0.unwrap()
    }

    /// Returns the windows of each event.
    fn collapsed(event: &Event) -> u64 {
        match &event.outcome {
            Outcome::Report(report) => report.windows.collapsed,
            Outcome::Error(_) => 0,
        }
    }

    #[test]
    fn selects_by_pid_name_and_cgroup_and_more() {
        let kernel = Fake::new();
        for (pid, name, cgroup, user) in [
            (1, "x", "/", 0),
            (2, "redis", "/", 5),
            (3, "redis2", "/a/b", 6),
            (4, "java", "/a/b/c", 5),
        ] {
            kernel.start(pid, &[Small; 2]);
            let mut listed = kernel.listed.borrow_mut();
            let one = listed.get_mut(&pid).unwrap();
            one.name = name.into();
            one.cgroup = cgroup.into();
            one.user = user;
        }
        let found = |mut selection: Selection| -> Vec<i32> {
            let found = selection.find(&kernel, |_| {}).unwrap();
            found.into_keys().collect()
        };
        let with = |pids: &[i32], names: &[&str], cgroups: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();

            Selection {
                pids: pids.to_vec(),
                names: owned(names),
                cgroups: owned(cgroups),
                ..Selection::default()
            }
        };

        assert_eq!(found(with(&[1], &["redis"], &["/a/b/c"])), [1, 2, 4]);
        assert_eq!(found(with(&[], &["redis"], &[])), [2]);
        assert_eq!(found(with(&[], &[], &["/a/b"])), [3, 4]);
        assert_eq!(found(with(&[], &[], &["/"])), [1, 2, 3, 4]);
        let excluded = vec!["java".into()];
        assert_eq!(
            found(Selection {
                excluded,
                ..with(&[], &[], &["/a"])
            }),
            [3]
        );
        let users = vec![5];
        assert_eq!(
            found(Selection {
                users,
                ..with(&[], &[], &["/"])
            }),
            [2, 4]
        );
        let min_resident = 3 * WINDOW;
        assert!(found(Selection {
            min_resident,
            ..with(&[1], &[], &["/"])
        })
        .is_empty());
    }

    #[test]
    fn brings_all_of_them_to_the_coverage() {
        let kernel = Fake::new()
            .with(1, &[Small; 60])
            .with(2, &[Small; 300])
            .with(3, &[]);
        let summary = run(&kernel, 60);

        assert_eq!((summary.processes, summary.covered), (3, 3));
        assert_eq!(summary.collapsed, 360);
        assert_eq!(summary.verdict(), Verdict::Success);
    }

    #[test]
    fn keeps_to_its_budget() {
        let kernel = Fake::new().with(1, &[Small; 2000]).with(2, &[Small; 2000]);
        // A slice that takes longer than the budget is made up for later.
        kernel.cost.set(Duration::from_millis(70));
        let summary = run(&kernel, 20);
        let used = Duration::from_millis(summary.milliseconds);

        assert!(summary.collapsed > 0);
        assert_eq!(summary.verdict(), Verdict::Partial);
        // The last round is not followed by a rest.
        let last = Duration::from_millis(140);
        assert!(used.saturating_sub(last).as_secs_f64() <= 0.0501 * kernel.now().as_secs_f64());
    }

    #[test]
    fn no_round_is_longer_than_its_budget_if_windows_are_quick() {
        let kernel = Fake::new().with(1, &[Small; 2000]);
        kernel.cost.set(Duration::from_millis(3));
        run_and_listen(&kernel, all(), 10, |event| {
            if let Outcome::Report(report) = &event.outcome {
                assert!(report.milliseconds <= 53.0, "{report:?}");
            }
        })
        .0
        .unwrap();
    }

    #[test]
    fn many_processes_that_take_long_to_find_are_no_excuse() {
        let kernel = Fake::new().with(1, &[Small; 20]).with(2, &[Small; 20]);
        kernel.listing.set(2 * BUDGET);

        assert_eq!(run(&kernel, 10).covered, 2);
    }

    #[test]
    fn what_takes_longer_to_look_at_than_the_budget_gets_on_all_the_same() {
        let kernel = std::rc::Rc::new(Fake::new().with(1, &[Small; 300]));
        let clock = std::rc::Rc::downgrade(&kernel);
        *kernel.looked_at.borrow_mut() = Box::new(move || {
            if let Some(kernel) = clock.upgrade() {
                kernel.pause(2 * BUDGET);
            }
        });

        assert!(run(&kernel, 200).collapsed >= 10);
    }

    #[test]
    fn what_takes_long_to_look_at_does_not_keep_others_from_their_turns() {
        let progress = |kernel: &Fake| {
            let mut done = 0;
            run_and_listen(kernel, all(), 60, |event| {
                if event.pid == 2 {
                    done += collapsed(event);
                }
            })
            .0
            .unwrap();
            done as f64 / kernel.now().as_secs_f64()
        };
        let alone = progress(&Fake::new().with(2, &[Small; 9000]));
        let kernel = Fake::new().with(1, &[]).with(2, &[Small; 9000]);
        kernel.slow.set(Some((1, Duration::from_millis(60))));
        // Something changes in it all the time.
        kernel.restless.set(Some(1));
        let beside = progress(&kernel);

        assert!(beside >= 0.8 * alone, "{beside} of {alone}");
        assert!(kernel.opened.get() > 0);
    }

    #[test]
    fn none_is_starved() {
        let kernel = Fake::new().with(1, &[Small; 5000]).with(2, &[Small; 5000]);
        let mut done = BTreeMap::new();
        run_and_listen(&kernel, all(), 10, |event| {
            *done.entry(event.pid).or_insert(0) += collapsed(event);
        })
        .0
        .unwrap();

        assert!(done[&1] > 200 && done[&2] > 200, "{done:?}");
    }

    #[test]
    fn windows_that_refuse_do_not_starve_those_behind_them() {
        let kernel = Fake::new().with(1, &[Small; 128]);
        kernel.script(|_, range| match range.start < START + 64 * WINDOW {
            true => Answer::Fail(Errno::AGAIN),
            false => Answer::Usual,
        });
        let summary = run(&kernel, 10);

        assert_eq!(summary.collapsed, 64);
        // And they are left alone for longer and longer.
        kernel.calls.borrow_mut().clear();
        run(&kernel, 300);
        let calls = kernel.calls.borrow().len();
        assert!(calls <= 64 * 7, "{calls}");
    }

    #[test]
    fn hopeless_ones_are_left_alone_for_longer_and_longer() {
        let kernel = Fake::new().with(1, &[Small; 4]);
        kernel.script(|_, _| Answer::Fail(Errno::INVAL));
        let mut told = 0;
        let (summary, _) = run_and_listen(&kernel, all(), 200, |_| told += 1);
        let summary = summary.unwrap();

        assert_eq!(kernel.slices().len(), 3 * 4);
        assert!(kernel.opened.get() < 20, "{}", kernel.opened.get());
        assert_eq!((summary.verdict(), told), (Verdict::Refused, 1));
    }

    #[test]
    fn what_has_grown_is_looked_at_within_5_seconds() {
        let kernel = Fake::new().with(1, &[Small; 4]);
        let grown = Duration::from_secs(63);
        kernel.later(grown, |kernel| {
            kernel.map(1, START + 100 * WINDOW, Kind::Anon, &[Small; 128]);
        });
        let mut began = Vec::new();
        run_and_listen(&kernel, all(), 100, |event| {
            if collapsed(event) > 0 {
                began.push(kernel.now());
            }
        })
        .0
        .unwrap();

        assert!(began[0] < grown && began[1] >= grown, "{began:?}");
        assert!(began[1] - grown <= Duration::from_millis(5500), "{began:?}");
    }

    #[test]
    fn a_number_that_comes_to_mean_another_process_is_not_followed() {
        let kernel = Fake::new().with(1, &[Small; 4]);
        let (result, _) = run_and_listen(&kernel, pids(&[1]), 100, |event| {
            assert!(collapsed(event) <= 4 && event.round == 1);
            kernel.exit(1);
            kernel.start(1, &[Small; 8]);
            kernel.listed.borrow_mut().get_mut(&1).unwrap().start = 12345;
        });
        let summary = result.unwrap();

        // It ends, since there will be no other.
        assert_eq!((summary.collapsed, summary.processes), (4, 0));
        assert!(summary.rounds < 10);
    }

    #[test]
    fn nothing_that_matches_is_no_success() {
        let kernel = Fake::new().with(1, &[Small; 4]);
        let named = |name: &str| Selection {
            names: vec![name.into()],
            ..Selection::default()
        };
        let missing = Selection {
            cgroups: vec!["/missing".into()],
            ..Selection::default()
        };

        for selection in [named("nosuch"), missing] {
            let (result, warnings) = run_and_listen(&kernel, selection, 20, |_| {});
            assert_eq!(result.unwrap_err(), Failure::NothingMatched);
            // It is said once.
            let said = |text: &str| warnings.iter().filter(|w| w.contains(text)).count();
            assert_eq!(said("no process matches"), 1);
            assert_eq!(said("no cgroup"), warnings.len() - 1);
        }
        let (result, _) = run_and_listen(&kernel, pids(&[400]), 20, |_| {});
        assert_eq!(result.unwrap_err(), Failure::NoProcess(400));
    }

    #[test]
    fn exits_and_newcomers_are_seen() {
        let kernel = Fake::new().with(1, &[Small; 4]).with(2, &[Small; 4]);
        kernel.script(|number, _| match number {
            0 => Answer::Exit,
            _ => Answer::Usual,
        });
        let mut exited = 0;
        let (result, _) = run_and_listen(&kernel, all(), 3, |event| {
            if matches!(&event.outcome, Outcome::Report(report) if report.ended == Ended::Exited) {
                exited += 1;
            }
        });
        let summary = result.unwrap();

        assert_eq!((exited, summary.processes, summary.covered), (1, 1, 1));
        kernel.script(|_, _| Answer::Usual);
        let (result, _) = run_and_listen(&kernel, all(), 8, |event| {
            if event.round == 1 {
                kernel.start(4, &[Small; 4]);
            }
        });
        let summary = result.unwrap();
        assert_eq!((summary.processes, summary.collapsed), (2, 4));
    }

    #[test]
    fn one_that_exits_while_it_is_left_alone_is_counted_out() {
        let kernel = Fake::new().with(1, &[Small; 4]).with(2, &[Small; 4]);
        let (result, _) = run_and_listen(&kernel, all(), 7, |event| {
            if event.pid == 1 {
                kernel.exit(1);
            }
        });
        let summary = result.unwrap();

        assert_eq!((summary.processes, summary.collapsed), (1, 8));
    }

    #[test]
    fn no_huge_page_for_one_is_none_for_others() {
        let kernel = Fake::new().with(1, &[Small; 4]).with(2, &[Small; 4]);
        kernel.script(|_, _| Answer::Fail(Errno::NOMEM));
        let summary = run(&kernel, 100);

        // After 5, 10, 20, 40, 64 seconds.
        assert!(kernel.slices().len() <= 6, "{:?}", kernel.slices());
        assert_eq!(summary.collapsed, 0);
        kernel.script(|_, _| Answer::Usual);
        assert_eq!(run(&kernel, 100).collapsed, 8);
    }

    #[test]
    fn headroom_is_kept_while_it_shrinks() {
        let part = Part {
            present: ALL - 64,
            shared: 0,
            swapped: 0,
        };
        let kernel = Fake::new().with(1, &[Small; 20]);
        kernel.map(1, START + 100 * WINDOW, Kind::Anon, &[part; 20]);
        kernel.room.set(WINDOW + 3 * 64 * 4096);
        let mut limits = Vec::new();
        let (result, _) = run_and_listen(&kernel, all(), 30, |event| {
            if let Outcome::Report(report) = &event.outcome {
                limits.extend(report.limit.clone());
            }
        });

        // Those without holes do not take more.
        assert_eq!(result.unwrap().collapsed, 20 + 4);
        assert_eq!(limits[0], "memory.max of /group");
        assert!(kernel.room.get() >= WINDOW - 64 * 4096);
    }

    #[test]
    fn growth_is_bounded_over_all_rounds() {
        let part = Part {
            present: ALL - 60,
            shared: 0,
            swapped: 0,
        };
        let kernel = Fake::new().with(1, &[part; 100]);
        let before = kernel.vital(1).unwrap().resident;
        let summary = run(&kernel, 300);
        let grown = kernel.vital(1).unwrap().resident - before;

        assert_eq!(summary.growth, grown);
        assert!(grown as f64 <= 0.055 * before as f64 && summary.collapsed >= 30);
        // A window that is not worth it is no reason to go on.
        assert_eq!(summary.covered, 1);
    }

    #[test]
    fn many_that_have_nothing_to_do_are_not_opened() {
        let kernel = Fake::new();
        for pid in 1..=300 {
            kernel.start(pid, &[Content::Huge]);
        }
        run(&kernel, 200);
        assert_eq!(kernel.opened.get(), 300);
    }

    #[test]
    fn news_are_told_once() {
        let kernel = Fake::new().with(1, &[Small; 4]).with(2, &[]);
        let mut told = Vec::new();
        run_and_listen(&kernel, all(), 100, |event| told.push(event.pid))
            .0
            .unwrap();

        told.sort_unstable();
        assert_eq!(told, [1, 2]);
    }

    #[test]
    fn lacking_permission_for_one_is_not_the_end() {
        let kernel = Fake::new().with(1, &[Small; 4]);
        kernel.no_mappings.set(Some(Errno::ACCESS));
        let mut errors = Vec::new();
        let (result, _) = run_and_listen(&kernel, all(), 3, |event| {
            if let Outcome::Error(error) = &event.outcome {
                errors.push(error.clone());
            }
        });
        let summary = result.unwrap();

        assert_eq!((errors.len(), summary.verdict()), (1, Verdict::Refused));
        assert!(errors[0].contains("PTRACE_MODE_READ"));
        // If something was done for another process, the verdict is partial success.
        let summary = Summary {
            processes: 2,
            covered: 1,
            ..summary
        };
        assert_eq!(summary.verdict(), Verdict::Partial);
    }

    #[test]
    fn a_signal_is_the_usual_end() {
        let kernel = Fake::new().with(1, &[Small; 4]);
        let stop = AtomicBool::new(true);
        let summary = watch(&kernel, &mut all(), &mut terms(None), &stop, |_| Ok(())).unwrap();

        assert_eq!((summary.rounds, summary.verdict()), (0, Verdict::Success));
    }
}
