// SPDX-License-Identifier: GPL-2.0

//! The output for people: a table, a report, a progress bar.

use crate::collapse::{Ended, Progress, Report};
use crate::kernel::Known;
use crate::maps::{Advice, Coverage, Kind, Mapping};
use crate::watch::{Event, Outcome, Summary};
use console::style;
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};

const MIB: u64 = 1 << 20;
/// The number of characters of a bar that shows coverage.
const BAR: usize = 20;

/// Returns a line about the features of the kernel.
pub fn kernel(known: Known) -> String {
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

/// Returns a table of the mappings of a process. Mappings that are too small for a huge page share
/// a line.
pub fn table(mappings: &[Mapping], window: u64, total: Coverage) -> String {
    let mut out = format!(
        "{:<29} {:<5} {:>9} {:>9} {:>8} {:>8} {:>7}  {:<8} {}\n",
        "ADDRESSES", "KIND", "SIZE", "RESIDENT", "SWAPPED", "HUGE", "HUGE %", "ELIGIBLE", "NAME"
    );
    let mut small = Vec::new();

    for mapping in mappings {
        if mapping.windows(window, &(0..u64::MAX)).is_empty() {
            small.push(mapping);
            continue;
        }
        let coverage = Coverage::of(std::iter::once(mapping));
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

        let _ = writeln!(
            out,
            "{:<29} {kind:<5} {:>9} {:>9} {:>8} {:>8} {:>7}  {eligible:<8} {}",
            format!("{:x}-{:x}", mapping.range.start, mapping.range.end),
            size(mapping.size()),
            size(mapping.resident),
            size(mapping.swapped),
            size(mapping.huge),
            percent(&coverage),
            printable(&mapping.name),
        );
    }
    let _ = writeln!(
        out,
        "{} more too small for a huge page, {} resident",
        small.len(),
        size(small.iter().map(|mapping| mapping.resident).sum())
    );
    out += "not ELIGIBLE: for page faults and khugepaged; collapse leaves out \"opt-out\" only\n";
    out + &coverage("all of it", &total)
}

/// Returns a name without control characters. Another program chooses it, and could otherwise move
/// the cursor.
fn printable(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

fn percent(coverage: &Coverage) -> String {
    match coverage.resident {
        0 => "-".into(),
        _ => format!("{:.1}", coverage.percent),
    }
}

/// Returns coverage as a bar, on a terminal. The bar is full only if the coverage is complete.
fn bar(coverage: &Coverage) -> String {
    let full = (coverage.percent * BAR as f64 / 100.0) as usize;
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
        "{label}: {}{} MiB in memory, {} MiB of it huge pages ({} %)\n",
        bar(coverage),
        coverage.resident / MIB,
        coverage.huge / MIB,
        percent(coverage)
    )
}

fn of_windows(count: u64) -> String {
    format!("{count} window{}", if count == 1 { "" } else { "s" })
}

/// Returns the text of the report of a collapse.
pub fn report(report: &Report) -> String {
    let windows = &report.windows;
    let mut out = coverage("before", &report.before);

    if let Some(after) = &report.after {
        out += &coverage("after ", after);
    }
    let _ = match report.ended {
        Ended::DryRun => write!(out, "{} to collapse", of_windows(windows.untried)),
        _ => write!(
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
    let untried = match report.ended {
        Ended::DryRun => 0,
        _ => windows.untried,
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
    for refusal in &report.refusals {
        let _ = writeln!(
            out,
            "{} refused, {}: {}",
            of_windows(refusal.windows),
            refusal.errno,
            refusal.why
        );
    }
    out += match report.ended {
        Ended::Done => "",
        Ended::Covered => "nothing to do: there is as much coverage as was asked for\n",
        Ended::DryRun => "a dry run: nothing was done; it is permitted\n",
        Ended::Budget => "the time was used up\n",
        Ended::NoMemory => "ended early: there is no memory for more huge pages\n",
        Ended::Interrupted => "interrupted\n",
        Ended::Exited if report.before.resident == 0 => {
            "the process has no memory: it has exited, or is one of the kernel's own\n"
        }
        Ended::Exited => "the process has exited\n",
    };
    out
}

/// Returns a line about a process that is watched.
pub fn event(event: &Event) -> String {
    let name = format!("{} {}", event.pid, printable(&event.name));

    match &event.outcome {
        Outcome::Error(error) => format!("{name}: {error}\n"),
        Outcome::Report(report) => {
            let after = report.after.unwrap_or(report.before);

            format!(
                "{name}: {} % huge pages, was {} %; {} collapsed, {} refused{}\n",
                percent(&after),
                percent(&report.before),
                of_windows(report.windows.collapsed),
                report.windows.refused,
                match report.ended {
                    Ended::Exited => "; it has exited",
                    Ended::Budget => "; to be continued",
                    Ended::NoMemory => "; there is no memory for more",
                    _ => "",
                }
            )
        }
    }
}

/// Returns the summary after processes have been watched.
pub fn summary(summary: &Summary) -> String {
    format!(
        "{} of {} processes covered, {} collapsed in {} ms; rounds: {}\n",
        summary.covered,
        summary.processes,
        of_windows(summary.collapsed),
        summary.milliseconds,
        summary.rounds
    )
}

/// Returns a display of progress for standard error: a bar on a terminal, lines in a log.
pub fn progress() -> Box<dyn Progress> {
    match io::stderr().is_terminal() {
        true => Box::new(Bar(None)),
        false => Box::new(Lines { tenths: 0 }),
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
