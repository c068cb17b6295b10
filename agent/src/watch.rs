// SPDX-License-Identifier: GPL-2.0

//! Keeping processes above a coverage.

use crate::collapse::{collapse, Aim, Ended, Report, Silent};
use crate::failure::{Failure, Verdict};
use crate::kernel::{Kernel, Listed};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The length of a round. A round that has used more than its budget is longer.
const ROUND: Duration = Duration::from_secs(1);
/// The most rounds for which a process is left alone after nothing could be done for it.
const LONGEST_REST: u64 = 64;
/// The longest time until a signal is noticed.
const NAP: Duration = Duration::from_millis(100);

/// The processes to watch.
#[derive(Default)]
pub struct Selection {
    /// Processes with these numbers.
    pub pids: Vec<i32>,
    /// Processes with these command names.
    pub names: Vec<String>,
    /// Processes in these cgroups, or below them.
    pub cgroups: Vec<String>,
}

impl Selection {
    fn has(&self, listed: &Listed) -> bool {
        let within = |cgroup: &String| {
            listed
                .cgroup
                .strip_prefix(cgroup.trim_end_matches('/'))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };

        self.pids.contains(&listed.pid)
            || self.names.contains(&listed.name)
            || self.cgroups.iter().any(within)
    }
}

/// The result for a process in a round.
#[derive(Debug, Serialize)]
pub struct Event {
    /// The number of the round.
    pub round: u64,
    /// The process ID.
    pub pid: i32,
    /// The command name of the process.
    pub name: String,
    /// The result.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The result of one turn of a process.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The report of a collapse, as far as there was time for it.
    Report(Report),
    /// The reason that nothing could be done for.
    Error(String),
}

/// The result of all rounds.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// How many rounds there were.
    pub rounds: u64,
    /// How many processes there are at the end.
    pub processes: u64,
    /// How many of these processes had the coverage in their last turn.
    pub covered: u64,
    /// How many of these processes the kernel refused to collapse anything for.
    pub refused: u64,
    /// How many windows were collapsed.
    pub collapsed: u64,
    /// How long the work took, in milliseconds.
    pub milliseconds: u64,
}

impl Summary {
    /// Returns the verdict that decides the exit status.
    pub fn verdict(&self) -> Verdict {
        match self.processes {
            all if all == self.covered => Verdict::Success,
            all if all == self.refused && self.collapsed == 0 => Verdict::Refused,
            _ => Verdict::Partial,
        }
    }
}

/// A process that is watched.
struct Kept<P> {
    process: P,
    name: String,
    covered: bool,
    refused: bool,
    /// The last round in which the process is left alone.
    rests_until: u64,
    /// The number of rounds to leave it alone for, the next time that nothing can be done.
    rest: u64,
}

/// Watches processes until `stop` is set, or for `rounds` rounds. `aim` has the coverage that is
/// wanted. On average no more than `budget` is used in a second.
pub fn watch<K: Kernel>(
    kernel: &K,
    selection: &Selection,
    aim: &mut Aim,
    budget: Duration,
    rounds: Option<u64>,
    stop: &AtomicBool,
    mut tell: impl FnMut(&Event) -> Result<(), Failure>,
) -> Result<Summary, Failure> {
    let mut kept: BTreeMap<i32, Kept<K::Process>> = BTreeMap::new();
    let mut summary = Summary::default();
    let mut busy = Duration::ZERO;

    while rounds.is_none_or(|rounds| summary.rounds < rounds) && !stop.load(Ordering::Relaxed) {
        let begin = kernel.now();

        summary.rounds += 1;
        take_hold(kernel, selection, &mut kept);
        let mut due: Vec<i32> = kept
            .iter()
            .filter(|(_, kept)| kept.rests_until < summary.rounds)
            .map(|(pid, _)| *pid)
            .collect();
        // The first turn rotates, since the budget of a round may not suffice for all processes.
        if let Some(first) = usize::try_from(summary.rounds)
            .ok()
            .filter(|_| !due.is_empty())
        {
            let first = first % due.len();
            due.rotate_left(first);
        }

        for (turn, pid) in due.into_iter().enumerate() {
            let left = budget.saturating_sub(kernel.now().saturating_sub(begin));
            let Some(one) = kept.get_mut(&pid) else {
                continue;
            };
            // The first process has its turn even if finding the processes took all of the budget.
            if turn > 0 && left.is_zero() || stop.load(Ordering::Relaxed) {
                break;
            }
            aim.budget = Some(left);
            let result = collapse(kernel, pid, &one.process, aim, stop, &mut Silent);
            let (outcome, exited) = match result {
                Ok(report) => {
                    let exited = report.ended == Ended::Exited;

                    summary.collapsed += report.windows.collapsed;
                    one.learn(&report, aim, summary.rounds);
                    (Outcome::Report(report), exited)
                }
                // A feature that this kernel does not have is missing for all processes.
                Err(err @ (Failure::NoCollapse | Failure::UnknownFlag(_))) => return Err(err),
                Err(err) => {
                    one.refused = err.verdict() == Verdict::Refused;
                    one.give_rest(summary.rounds);
                    (Outcome::Error(err.to_string()), false)
                }
            };
            tell(&Event {
                round: summary.rounds,
                pid,
                name: one.name.clone(),
                outcome,
            })?;
            if exited {
                kept.remove(&pid);
            }
        }
        let used = kernel.now().saturating_sub(begin);

        busy += used;
        if rounds != Some(summary.rounds) {
            rest(kernel, stop, used, budget);
        }
    }
    summary.processes = kept.len() as u64;
    summary.covered = kept.values().filter(|kept| kept.covered).count() as u64;
    summary.refused = kept.values().filter(|kept| kept.refused).count() as u64;
    summary.milliseconds = u64::try_from(busy.as_millis()).unwrap_or(u64::MAX);
    Ok(summary)
}

/// Opens processes that are new, and closes processes that are no longer selected.
fn take_hold<K: Kernel>(
    kernel: &K,
    selection: &Selection,
    kept: &mut BTreeMap<i32, Kept<K::Process>>,
) {
    let listed: BTreeMap<i32, Listed> = kernel
        .processes()
        .into_iter()
        .filter(|listed| selection.has(listed))
        .map(|listed| (listed.pid, listed))
        .collect();

    kept.retain(|pid, _| listed.contains_key(pid));
    for (pid, listed) in listed {
        if kept.contains_key(&pid) {
            continue;
        }
        // A process that cannot be opened has exited, and will not be listed again.
        if let Ok(process) = kernel.open(pid) {
            kept.insert(
                pid,
                Kept {
                    process,
                    name: listed.name,
                    covered: false,
                    refused: false,
                    rests_until: 0,
                    rest: 1,
                },
            );
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

impl<P> Kept<P> {
    /// Decides from a report when the process has its next turn.
    fn learn(&mut self, report: &Report, aim: &Aim, round: u64) {
        let wanted = aim.min_coverage.unwrap_or(0.0);

        self.refused = report.verdict == Verdict::Refused;
        self.covered = report.after.is_some_and(|after| after.reaches(wanted));
        if report.windows.collapsed > 0 {
            self.rest = 1;
        }
        if !self.covered && report.ended == Ended::Budget && report.windows.collapsed > 0 {
            return;
        }
        self.give_rest(round);
    }

    fn give_rest(&mut self, round: u64) {
        self.rests_until = round + self.rest;
        self.rest = (self.rest * 2).min(LONGEST_REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Answer, Fake};
    use crate::kernel::{Content, Flags};
    use crate::maps::Kind;
    use rustix::io::Errno;
    use Content::Small;

    const BUDGET: Duration = Duration::from_millis(50);

    fn all() -> Selection {
        Selection {
            cgroups: vec!["/group".into()],
            ..Selection::default()
        }
    }

    fn run(
        kernel: &Fake,
        selection: &Selection,
        rounds: u64,
        mut each: impl FnMut(&Event),
    ) -> Result<Summary, Failure> {
        let mut aim = Aim {
            kinds: vec![Kind::Anon],
            bounds: 0..u64::MAX,
            opted_out_too: false,
            flags: Flags::default(),
            budget: None,
            min_coverage: Some(90.0),
            dry_run: false,
        };
        let stop = AtomicBool::new(false);

        watch(
            kernel,
            selection,
            &mut aim,
            BUDGET,
            Some(rounds),
            &stop,
            |event| {
                each(event);
                Ok(())
            },
        )
    }

    #[test]
    fn selects_by_pid_name_and_cgroup() {
        let listed = |pid: i32, name: &str, cgroup: &str| Listed {
            pid,
            name: name.into(),
            cgroup: cgroup.into(),
        };
        let selection = Selection {
            pids: vec![1],
            names: vec!["redis".into()],
            cgroups: vec!["/a/b".into()],
        };

        assert!(selection.has(&listed(1, "x", "/")));
        assert!(selection.has(&listed(2, "redis", "/")));
        assert!(!selection.has(&listed(2, "redis2", "/a/bc")));
        assert!(selection.has(&listed(2, "x", "/a/b")));
        assert!(selection.has(&listed(2, "x", "/a/b/c")));
        assert!(!selection.has(&listed(2, "x", "/a")));
        let everything = Selection {
            cgroups: vec!["/".into()],
            ..Selection::default()
        };
        assert!(everything.has(&listed(2, "x", "/")) && everything.has(&listed(2, "x", "/a")));
    }

    #[test]
    fn brings_all_of_them_to_the_coverage() {
        let kernel = Fake::new()
            .with(1, &[Small; 60])
            .with(2, &[Small; 300])
            .with(3, &[]);
        let summary = run(&kernel, &all(), 60, |_| {}).unwrap();

        assert_eq!((summary.processes, summary.covered), (3, 3));
        // At least the coverage that was asked for. The budget may end a round before more is done.
        assert!(summary.collapsed >= 324, "{summary:?}");
        assert_eq!(summary.verdict(), Verdict::Success);
    }

    #[test]
    fn keeps_to_its_budget() {
        let kernel = Fake::new().with(1, &[Small; 2000]).with(2, &[Small; 2000]);
        // A slice that takes far longer than the budget is made up for later.
        kernel.cost.set(Duration::from_millis(7));
        let summary = run(&kernel, &all(), 20, |_| {}).unwrap();
        let used = Duration::from_millis(summary.milliseconds);

        assert!(summary.collapsed > 0);
        assert_eq!(summary.verdict(), Verdict::Partial);
        // The last round is not followed by a rest.
        let last = Duration::from_millis(7 * 64);
        assert!(used.saturating_sub(last).as_secs_f64() <= 0.0501 * kernel.now().as_secs_f64());
    }

    #[test]
    fn many_processes_that_take_long_to_find_are_no_excuse() {
        let kernel = Fake::new().with(1, &[Small; 20]).with(2, &[Small; 20]);
        kernel.listing.set(2 * BUDGET);

        assert_eq!(run(&kernel, &all(), 10, |_| {}).unwrap().covered, 2);
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

        assert_eq!(run(&kernel, &all(), 40, |_| {}).unwrap().covered, 1);
    }

    #[test]
    fn none_is_starved() {
        let kernel = Fake::new().with(1, &[Small; 5000]).with(2, &[Small; 5000]);
        let mut collapsed = BTreeMap::new();
        run(&kernel, &all(), 10, |event| {
            if let Outcome::Report(report) = &event.outcome {
                *collapsed.entry(event.pid).or_insert(0) += report.windows.collapsed;
            }
        })
        .unwrap();

        assert!(collapsed[&1] > 200 && collapsed[&2] > 200, "{collapsed:?}");
    }

    #[test]
    fn hopeless_ones_are_left_alone_for_longer_and_longer() {
        let kernel = Fake::new().with(1, &[Small; 4]);
        kernel.script(|_, _| Answer::Fail(Errno::INVAL));
        let mut rounds = Vec::new();
        let summary = run(&kernel, &all(), 40, |event| rounds.push(event.round)).unwrap();

        assert_eq!(rounds, [1, 3, 6, 11, 20, 37]);
        assert_eq!(summary.verdict(), Verdict::Refused);
    }

    #[test]
    fn exits_and_newcomers_are_seen() {
        let kernel = Fake::new().with(1, &[Small; 4]).with(2, &[Small; 4]);
        kernel.script(|number, _| match number {
            0 => Answer::Exit,
            _ => Answer::Usual,
        });
        let mut exited = 0;
        let summary = run(&kernel, &all(), 3, |event| {
            if matches!(&event.outcome, Outcome::Report(report) if report.ended == Ended::Exited) {
                exited += 1;
            }
        })
        .unwrap();

        assert_eq!((exited, summary.processes, summary.covered), (1, 1, 1));
        // A process is not counted any more in the round in which it turns out to have exited.
        kernel.script(|_, _| Answer::Exit);
        let kernel = kernel.with(3, &[Small; 4]);
        assert_eq!(run(&kernel, &all(), 1, |_| {}).unwrap().processes, 1);
        kernel.script(|_, _| Answer::Usual);
        let kernel = kernel.with(4, &[Small; 4]);
        let summary = run(&kernel, &all(), 3, |_| {}).unwrap();
        assert_eq!((summary.processes, summary.collapsed), (2, 4));
    }

    #[test]
    fn one_that_exits_while_it_is_left_alone_is_counted_out() {
        let kernel = Fake::new().with(1, &[Small; 4]).with(2, &[Small; 4]);
        let summary = run(&kernel, &all(), 2, |event| {
            if event.pid == 1 {
                kernel.exit(1);
            }
        })
        .unwrap();

        assert_eq!((summary.processes, summary.collapsed), (1, 8));
    }

    #[test]
    fn one_that_gets_on_again_is_looked_after_sooner() {
        let kernel = Fake::new().with(1, &[Small; 4]);
        kernel.script(|number, _| match number < 20 {
            true => Answer::Fail(Errno::INVAL),
            false => Answer::Usual,
        });
        let mut rounds = Vec::new();
        run(&kernel, &all(), 40, |event| rounds.push(event.round)).unwrap();

        // Four times nothing, then all of it.
        assert_eq!(rounds[..6], [1, 3, 6, 11, 20, 22]);
    }

    #[test]
    fn lacking_permission_for_one_is_not_the_end() {
        let kernel = Fake::new().with(1, &[Small; 4]);
        kernel.no_mappings.set(Some(Errno::ACCESS));
        let mut errors = Vec::new();
        let summary = run(&kernel, &all(), 3, |event| {
            if let Outcome::Error(error) = &event.outcome {
                errors.push(error.clone());
            }
        })
        .unwrap();

        assert_eq!((errors.len(), summary.verdict()), (2, Verdict::Refused));
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
    fn a_signal_ends_it() {
        let kernel = Fake::new().with(1, &[Small; 4]);
        let stop = AtomicBool::new(true);
        let mut aim = Aim {
            kinds: vec![],
            bounds: 0..1,
            opted_out_too: false,
            flags: Flags::default(),
            budget: None,
            min_coverage: None,
            dry_run: false,
        };
        let summary = watch(&kernel, &all(), &mut aim, BUDGET, None, &stop, |_| Ok(())).unwrap();

        assert_eq!(summary.rounds, 0);
    }
}
