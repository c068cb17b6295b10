// SPDX-License-Identifier: GPL-2.0

//! The output for people: a table, a report, a progress bar.

use crate::collapse::{Coverage, Ended, LeftOut, Progress, Report, Silent, Windows};
use crate::failure::Failure;
use crate::json::{Overview, Status};
use crate::kernel::Known;
use crate::maps::{Advice, Kind, Share};
use crate::watch::{Event, Outcome, Summary};
use console::{style, Term};
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};

const MIB: u64 = 1 << 20;
/// The number of characters of a bar that shows coverage.
const BAR: usize = 20;

/// Returns a line about the features of the kernel.
fn kernel(known: Known) -> String {
    let flags = match (known.flags.limits, known.flags.defrag) {
        (true, true) => "knows --limits and --defrag",
        (true, false) => "knows --limits, not --defrag",
        (false, true) => "knows --defrag, not --limits",
        (false, false) => "knows neither --limits nor --defrag",
    };

    match known.collapse {
        true => format!("this kernel has MADV_COLLAPSE, and {flags}\n"),
        false => "this kernel has no MADV_COLLAPSE for process_madvise(2)\n".into(),
    }
}

fn size(bytes: u64) -> String {
    match bytes {
        0 => "-".into(),
        bytes if bytes < MIB => format!("{} K", bytes >> 10),
        bytes => format!("{} M", bytes / MIB),
    }
}

/// Returns what `status` shows of a process. `failure` is why a collapse would fail.
pub fn status(status: &Status, failure: Option<&Failure>) -> String {
    let mut out = kernel(status.kernel);
    let _ = writeln!(
        out,
        "{:<29} {:<5} {:>9} {:>9} {:>8} {:>8} {:>7}  {:<8} NAME",
        "ADDRESSES", "KIND", "SIZE", "RESIDENT", "SWAPPED", "HUGE", "HUGE %", "ELIGIBLE"
    );
    // Names end where the terminal does.
    let columns = match Term::stdout().size_checked() {
        Some((_, columns)) => usize::from(columns).saturating_sub(97).max(8),
        None => usize::MAX,
    };

    for mapping in status.mappings {
        let share = Share::new(mapping.resident, mapping.huge);
        let kind = match mapping.kind {
            Kind::Anon => "anon",
            Kind::Shmem => "shmem",
            Kind::File => "file",
            Kind::Other => "other",
        };
        let eligible = match (mapping.eligible, mapping.advice) {
            (true, Advice::Huge) => "advised",
            (true, _) => "yes",
            (false, Advice::Nohuge) => "opt-out",
            (false, _) => "no",
        };
        let name: String = printable(&mapping.name).chars().take(columns).collect();
        let line = format!(
            "{:<29} {kind:<5} {:>9} {:>9} {:>8} {:>8} {:>7}  {eligible:<8} {name}",
            format!("{:x}-{:x}", mapping.range.start, mapping.range.end),
            size(mapping.size()),
            size(mapping.resident),
            size(mapping.swapped),
            size(mapping.huge),
            part(&share),
        );

        let _ = writeln!(out, "{}", line.trim_end());
    }
    let _ = writeln!(
        out,
        "{} more too small for a huge page, {} resident",
        status.small.count,
        size(status.small.resident)
    );
    out += "not ELIGIBLE: for page faults and khugepaged; collapse leaves out \"opt-out\" only\n";
    let _ = writeln!(
        out,
        "all of it: {}{} MiB in memory, {} MiB of it huge pages ({} %)",
        bar(status.coverage.percent),
        status.coverage.resident / MIB,
        status.coverage.huge / MIB,
        part(&status.coverage)
    );
    match (status.forecast, failure) {
        (Some(report), _) => {
            let _ = writeln!(out, "{} to collapse", of_windows(report.windows.untried));
            out += &more(report);
        }
        (None, Some(failure)) => {
            let _ = writeln!(out, "a collapse would fail: {failure}");
        }
        (None, None) => {}
    }
    out
}

/// Returns a table of processes.
pub fn overview(processes: &[Overview]) -> String {
    let mut out = format!(
        "{:>8} {:>9} {:>9} {:>9} {:>9} {:>8} {:<15} CGROUP\n",
        "PID", "RESIDENT", "HUGE", "TO DO", "GROWTH", "LEFT", "NAME"
    );

    for process in processes {
        let name = printable(&process.name);
        let cgroup = printable(&process.cgroup);
        let _ = match (&process.forecast, &process.error) {
            (Some(report), _) => writeln!(
                out,
                "{:>8} {:>9} {:>9} {:>9} {:>9} {:>8} {name:<15} {cgroup}",
                process.pid,
                size(report.before.resident),
                size(report.before.huge),
                size(report.before.worth),
                size(report.growth),
                left_alone(&report.windows)
                    .iter()
                    .map(|(count, _)| count)
                    .sum::<u64>(),
            ),
            (None, error) => writeln!(
                out,
                "{:>8} {name}: {}",
                process.pid,
                error.as_deref().unwrap_or_default()
            ),
        };
    }
    out += "RESIDENT: in whole windows. TO DO: what collapse would make huge. GROWTH: by which memory\n\
            would grow. LEFT: windows that it would leave alone, see status of one process.\n";
    out
}

/// Returns a name without control characters. Another program chooses it, and could otherwise move
/// the cursor.
fn printable(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

fn part(share: &Share) -> String {
    match share.resident {
        0 => "-".into(),
        _ => format!("{:.1}", share.percent),
    }
}

/// Returns a percentage as a bar, on a terminal. The bar is full only if it is 100.
fn bar(percent: f64) -> String {
    let full = (percent * BAR as f64 / 100.0) as usize;
    let rest = BAR.saturating_sub(full);

    match io::stdout().is_terminal() {
        true => format!(
            "{}{} ",
            style("█".repeat(full)).green(),
            style("░".repeat(rest)).dim()
        ),
        false => String::new(),
    }
}

fn coverage(label: &str, coverage: &Coverage) -> String {
    format!(
        "{label}: {}{} MiB in memory, {} MiB of it huge pages ({:.1} % of what is worth it)\n",
        bar(coverage.percent),
        coverage.resident / MIB,
        coverage.huge / MIB,
        coverage.percent
    )
}

/// Returns the windows that are left alone, and why.
fn left_alone(windows: &Windows) -> Vec<(u64, &'static str)> {
    [
        (windows.sparse, "more holes than --max-holes"),
        (windows.swapped, "more swapped out than --max-swapped"),
        (windows.shared, "shared with forked processes, see --share"),
        (
            windows.beyond_growth,
            "beyond --max-growth or --min-headroom",
        ),
        (windows.opted_out, "MADV_NOHUGEPAGE"),
        (windows.waiting, "refused lately"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .collect()
}

fn of_windows(count: u64) -> String {
    format!("{count} window{}", if count == 1 { "" } else { "s" })
}

/// Returns lines about growth, and about what was left alone, refused or left out.
fn more(report: &Report) -> String {
    let mut out = String::new();

    if report.growth > 0 {
        let _ = writeln!(
            out,
            "memory {} by {}",
            match report.ended {
                Ended::DryRun => "would grow",
                _ => "has grown",
            },
            size(report.growth)
        );
    }
    for (count, why) in left_alone(&report.windows) {
        let _ = writeln!(out, "{} left alone: they {why}", of_windows(count));
    }
    for refusal in &report.refusals {
        let _ = writeln!(
            out,
            "{} refused, {}: {}",
            of_windows(refusal.windows),
            refusal.errno,
            refusal.why
        );
    }
    let LeftOut { anon, shmem, file } = report.left_out;
    for (bytes, kind) in [(anon, "anon"), (shmem, "shmem"), (file, "file")] {
        // Every process has some libraries.
        if bytes >= 64 * MIB || bytes >= MIB && bytes > report.before.resident {
            let _ = writeln!(out, "{} left out: --kinds {kind}", size(bytes));
        }
    }
    out
}

/// Returns the text of the report of a collapse.
pub fn report(report: &Report) -> String {
    let windows = &report.windows;
    let is_forecast = matches!(report.ended, Ended::DryRun);
    let mut out = coverage("before", &report.before);

    if let (false, Some(after)) = (is_forecast, &report.after) {
        out += &coverage("after ", after);
    }
    let _ = match is_forecast {
        true => write!(out, "{} to collapse", of_windows(windows.untried)),
        false => write!(
            out,
            "{} collapsed in {:.0} ms",
            of_windows(windows.collapsed),
            report.milliseconds
        ),
    };
    if let Some(engine) = report.engine {
        let _ = write!(out, ", served by {}", engine.name());
    }
    if let Some(remapped @ 1..) = report.remapped {
        let _ = write!(out, ", {remapped} without a copy");
    }
    let untried = match is_forecast {
        true => 0,
        false => windows.untried,
    };
    for (count, what) in [
        (windows.already_huge, "huge before"),
        (windows.empty, "with nothing in them"),
        (windows.gone, "unmapped meanwhile"),
        (untried, "not come to"),
    ] {
        if count > 0 {
            let _ = write!(out, "; {count} {what}");
        }
    }
    if report.retries + report.pauses > 0 {
        let _ = write!(
            out,
            " ({} calls, {} of them repeated, {} pauses)",
            report.slices, report.retries, report.pauses
        );
    }
    out.push('\n');
    out += &more(report);
    match report.ended {
        Ended::Done => {}
        Ended::Covered => out += "nothing to do: there is as much coverage as was asked for\n",
        Ended::DryRun => out += "a dry run: nothing was done; it is permitted\n",
        Ended::Budget => out += "the time was used up\n",
        Ended::Headroom => {
            let limit = report.limit.as_deref().unwrap_or("a limit");
            let _ = writeln!(
                out,
                "ended early: there would not be --min-headroom left below {limit}"
            );
        }
        Ended::CgroupFull => out += "ended early: the memory cgroup is full\n",
        Ended::NoMemory => out += "ended early: there is no memory for more huge pages\n",
        Ended::Interrupted => out += "interrupted\n",
        Ended::Exited => out += "the process has exited\n",
    }
    out
}

/// Returns a line about a process that is watched.
pub fn event(event: &Event) -> String {
    let name = format!("{} {}", event.pid, printable(&event.name));
    let cgroup = match event.cgroup.as_str() {
        "" | "/" => String::new(),
        cgroup => format!(" in {}", printable(cgroup)),
    };

    match &event.outcome {
        Outcome::Error(error) => format!("{name}{cgroup}: {error}\n"),
        Outcome::Report(report) => {
            let windows = &report.windows;
            let after = report.after.unwrap_or(report.before);
            let mut out = format!(
                "{name}{cgroup}: {:.1} % huge pages of what is worth it; {} collapsed",
                after.percent,
                of_windows(windows.collapsed)
            );

            if report.growth > 0 {
                let _ = write!(out, ", grown by {}", size(report.growth));
            }
            if windows.refused > 0 {
                let _ = write!(out, ", {} refused", windows.refused);
            }
            for (count, why) in left_alone(windows) {
                let _ = write!(out, "; {count} left alone: {why}");
            }
            out += match report.ended {
                Ended::Exited => "; it has exited",
                Ended::Budget => "; to be continued",
                Ended::NoMemory => "; there is no memory for more",
                Ended::CgroupFull => "; its memory cgroup is full",
                _ => "",
            };
            if let Some(limit) = &report.limit {
                let _ = write!(out, "; not enough headroom below {limit}");
            }
            out.push('\n');
            out
        }
    }
}

/// Returns the summary after processes have been watched.
pub fn summary(summary: &Summary) -> String {
    format!(
        "{} of {} processes covered, {} collapsed in {} ms, grown by {} KiB; rounds: {}\n",
        summary.covered,
        summary.processes,
        of_windows(summary.collapsed),
        summary.milliseconds,
        summary.growth >> 10,
        summary.rounds
    )
}

/// How results are shown.
#[derive(Clone, Copy)]
pub struct Output {
    /// As JSON.
    pub json: bool,
    /// Without progress.
    pub quiet: bool,
}

impl Output {
    /// Returns a display of progress for standard error: a bar on a terminal, lines in a log.
    pub fn progress(self) -> Box<dyn Progress> {
        match io::stderr().is_terminal() {
            _ if self.json || self.quiet => Box::new(Silent),
            true => Box::new(Bar(None)),
            false => Box::new(Lines { tenths: 0 }),
        }
    }
}

struct Bar(Option<ProgressBar>);

impl Progress for Bar {
    fn at(&mut self, done: u64, of: u64) {
        let bar = self.0.get_or_insert_with(|| {
            let bar = ProgressBar::new(of);
            let style = "{bar:40.green/dim} {percent:>3} %  {pos} of {len} windows  {eta} left";

            match ProgressStyle::with_template(style) {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });

        bar.set_position(done);
    }

    fn end(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}

struct Lines {
    tenths: u64,
}

impl Progress for Lines {
    fn at(&mut self, done: u64, of: u64) {
        let tenths = 10 * done / of.max(1);

        // Some lines for what takes long, none for what does not.
        if tenths >= self.tenths + 2 && done < of {
            self.tenths = tenths;
            let _ = writeln!(io::stderr(), "  {done} of {of} windows");
        }
    }

    fn end(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_move_the_cursor() {
        assert_eq!(printable("/tmp/\x1b[2J\nx"), "/tmp/?[2J?x");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!([size(0), size(4096), size(3 * MIB)], ["-", "4 K", "3 M"]);
    }
}
