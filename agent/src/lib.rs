// SPDX-License-Identifier: GPL-2.0

//! Makes huge pages of the memory of running processes: see `thp-collapse --help`.
//!
//! | module | |
//! |---|---|
//! | [`cli`], [`amount`] | the command line |
//! | [`kernel`], [`linux`], [`proc`] | what is asked of the kernel, behind a trait |
//! | [`maps`] | mappings, from /proc/PID/maps and smaps |
//! | [`collapse`], [`pace`] | collapsing one process, in slices and within bounds |
//! | [`watch`], [`back`] | keeping processes above a coverage |
//! | [`engine`] | which code of the kernel served |
//! | [`selftest`] | memory of our own |
//! | [`failure`] | what stands in the way, in sentences; exit statuses |
//! | [`json`] | what programs read |
//! | [`output`] | what people read |

// The documentation is built with private items.
#![allow(rustdoc::private_intra_doc_links)]
// A test may panic: that is how it fails.
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::unwrap_used))]

mod amount;
mod back;
pub mod cli;
mod collapse;
mod engine;
mod failure;
#[cfg(test)]
mod fake;
pub mod json;
mod kernel;
mod linux;
mod maps;
mod output;
mod pace;
mod proc;
mod selftest;
mod watch;

use clap::Parser;
use cli::{Cli, Command, Select, Terms};
use collapse::{Aim, Progress, Silent};
use engine::Trace;
use failure::{Failure, Verdict};
use json::{Collapsed, Document, Overview, Shown, Status};
use kernel::Kernel;
use linux::Linux;
use maps::Share;
use output::Output;
use rustix::io::Errno;
use std::io::Write;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use watch::{Selection, Told, Watch};

/// Every address.
const ALL: Range<u64> = 0..u64::MAX;

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => {
            // clap's own exit does not tell that nothing could be written.
            let written = message.print().and_then(|()| std::io::stdout().flush());
            let status = u8::try_from(message.exit_code()).unwrap_or(2);

            return match written {
                Ok(()) => status.into(),
                Err(_) => Verdict::Error.into(),
            };
        }
    };
    let json = cli.json;

    match run(cli) {
        Ok(verdict) => verdict.into(),
        // A reader that closes the pipe, such as head(1), wants no error message.
        Err(Failure::System(_, Errno::PIPE)) => Verdict::Error.into(),
        Err(failure) => {
            let verdict = failure.verdict();
            let error = failure.to_string();
            // There is nobody left to tell when this fails, too.
            let _ = match json {
                true => put_json(Document::Error { verdict, error }),
                false => {
                    let _ = writeln!(std::io::stderr(), "error: {error}");
                    Ok(())
                }
            };
            verdict.into()
        }
    }
}

fn run(cli: Cli) -> Result<Verdict, Failure> {
    Linux::proc_is_ours()?;
    let kernel = Linux::new();
    let json = cli.json;

    if !kernel.known().scan && !cli.quiet {
        let _ = writeln!(
            std::io::stderr(),
            "this kernel has no PAGEMAP_SCAN (Linux has it from 6.7 on): looking takes longer"
        );
    }
    match cli.command {
        Command::Status {
            pids,
            select,
            terms,
        } => {
            let aim = Aim {
                dry_run: true,
                ..Aim::new(&terms)
            };

            match pids.as_slice() {
                [pid] if select.names.is_empty() && select.cgroups.is_empty() => {
                    status(&kernel, *pid, &aim, json)
                }
                _ => overview(&kernel, selection(&kernel, pids, select)?, &aim, json),
            }
        }
        Command::Collapse {
            pid,
            self_test: _,
            range,
            min_coverage,
            budget,
            dry_run,
            engine,
            terms,
        } => {
            let mut aim = Aim {
                opted_out_too: range.is_some(),
                bounds: range.unwrap_or(ALL),
                budget,
                min_coverage,
                dry_run,
                ..Aim::new(&terms)
            };
            let output = Output {
                json,
                quiet: cli.quiet,
            };
            match pid {
                Some(pid) => collapse_one(&kernel, pid, &aim, engine, output, None),
                None => {
                    let mut memory = selftest::Memory::new(kernel.window() as usize)?;
                    let pid = std::process::id() as i32;

                    aim.bounds = memory.range();
                    collapse_one(&kernel, pid, &aim, engine, output, Some(&mut memory))
                }
            }
        }
        Command::Watch {
            pids,
            select,
            min_coverage,
            budget,
            rounds,
            terms,
        } => {
            let mut selection = selection(&kernel, pids, select)?;
            let mut watch = Watch {
                aim: Aim {
                    min_coverage: Some(min_coverage),
                    ..Aim::new(&terms)
                },
                budget,
                rounds,
            };
            let stop = stop_at_signals()?;
            let tell = |told: Told| match (told, json) {
                (Told::Warning(warning), true) => put_json(Document::Warning { warning }),
                (Told::Warning(warning), false) => {
                    let _ = writeln!(std::io::stderr(), "warning: {warning}");
                    Ok(())
                }
                (Told::Event(_), _) if cli.quiet => Ok(()),
                (Told::Event(event), true) => put_json(Document::Event(event)),
                (Told::Event(event), false) => put(&output::event(event)),
            };
            let summary = watch::watch(&kernel, &mut selection, &mut watch, &stop, tell)?;
            let verdict = summary.verdict();

            match json {
                true => put_json(Document::Summary {
                    verdict,
                    summary: &summary,
                })?,
                false => put(&output::summary(&summary))?,
            }
            Ok(verdict)
        }
    }
}

impl Aim {
    /// Returns the aim of all memory, on some terms.
    fn new(terms: &Terms) -> Self {
        Self {
            kinds: terms.kinds.clone(),
            bounds: ALL,
            opted_out_too: false,
            flags: terms.flags(),
            budget: None,
            max_wait: terms.max_wait,
            min_coverage: None,
            dry_run: false,
            limits: terms.limits(),
        }
    }
}

fn selection(kernel: &Linux, pids: Vec<i32>, select: Select) -> Result<Selection, Failure> {
    Ok(Selection {
        pids,
        names: select.names,
        cgroups: select
            .cgroups
            .iter()
            .map(|text| kernel.cgroup_path(text).map_err(Failure::WrongCgroup))
            .collect::<Result<_, _>>()?,
        excluded: select.excluded,
        users: select.users,
        min_resident: select.min_rss,
        ..Selection::default()
    })
}

fn status(kernel: &Linux, pid: i32, aim: &Aim, json: bool) -> Result<Verdict, Failure> {
    let of_reading = |errno| Failure::of_reading(pid, errno, kernel.capabilities());
    let process = kernel.open(pid, None)?;
    let mut shown = Shown::new(kernel.window());
    let said = kernel.status(&process).map_err(of_reading)?;

    kernel
        .mappings(&process, &mut |mapping| shown.add(mapping))
        .map_err(of_reading)?;
    if shown.count == 0 {
        return Err(Failure::NoMemory(pid));
    }
    let forecast = forecast(kernel, pid, aim);
    let status = Status {
        pid,
        kernel: kernel.known(),
        coverage: Share::new(shown.resident, shown.huge),
        opted_out: said.opted_out,
        forecast: forecast.as_ref().ok(),
        mappings: &shown.large,
        small: shown.small,
    };

    match json {
        true => put_json(Document::Status(status))?,
        false => put(&output::status(&status, forecast.as_ref().err()))?,
    }
    Ok(Verdict::Success)
}

/// Returns what a collapse would do.
fn forecast(kernel: &Linux, pid: i32, aim: &Aim) -> Result<collapse::Report, Failure> {
    let process = kernel.open(pid, None)?;
    let stop = AtomicBool::new(false);

    collapse::collapse(kernel, pid, &process, aim, &stop, &mut Silent)
}

fn overview(
    kernel: &Linux,
    mut selection: Selection,
    aim: &Aim,
    json: bool,
) -> Result<Verdict, Failure> {
    let mut warnings = Vec::new();
    let found = selection.find(kernel, |warning| warnings.push(warning))?;

    for warning in warnings {
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    }
    if found.is_empty() {
        return Err(Failure::NothingMatched);
    }
    let processes = found
        .into_iter()
        .filter_map(|(pid, vital)| {
            let forecast = match forecast(kernel, pid, aim) {
                // It has exited meanwhile.
                Err(Failure::NoProcess(_) | Failure::NoMemory(_)) => return None,
                forecast => forecast,
            };
            Some(Overview::new(pid, vital.name, kernel.cgroup(pid), forecast))
        })
        .collect::<Vec<_>>();

    match json {
        true => put_json(Document::Processes {
            kernel: kernel.known(),
            processes: &processes,
        })?,
        false => put(&output::overview(&processes))?,
    }
    Ok(Verdict::Success)
}

fn collapse_one(
    kernel: &Linux,
    pid: i32,
    aim: &Aim,
    engine: bool,
    output: Output,
    memory: Option<&mut selftest::Memory>,
) -> Result<Verdict, Failure> {
    let process = kernel.open(pid, None)?;
    let stop = stop_at_signals()?;
    let mut progress: Box<dyn Progress> = output.progress();
    let trace =
        match engine {
            true => Some(Trace::begin().map_err(|err| {
                match Errno::from_io_error(&err).unwrap_or(Errno::IO) {
                    Errno::ACCESS | Errno::PERM => Failure::MayNotTrace,
                    errno => Failure::System("cannot use tracefs at /sys/kernel/tracing", errno),
                }
            })?),
            false => None,
        };
    let mut report = collapse::collapse(kernel, pid, &process, aim, &stop, progress.as_mut())?;
    let intact = memory.map(selftest::Memory::is_intact);

    if let Some(served) = trace.and_then(Trace::end) {
        report.engine = Some(served.engine);
        report.remapped = Some(served.remapped);
    }
    match output.json {
        true => put_json(Document::Collapsed(Collapsed {
            pid,
            kernel: kernel.known(),
            report: &report,
            intact,
        }))?,
        false => put(&output::report(&report))?,
    }
    match intact {
        Some(false) => Err(Failure::SelfTest("the memory has changed")),
        Some(true) if report.windows.collapsed == 0 && report.verdict == Verdict::Success => {
            Err(Failure::SelfTest("there was nothing to collapse"))
        }
        Some(true) if !output.json => {
            put("the memory is intact\n")?;
            Ok(report.verdict)
        }
        _ => Ok(report.verdict),
    }
}

/// Returns a flag that SIGINT, SIGTERM and SIGHUP set.
fn stop_at_signals() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));

    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        signal_hook::flag::register(signal, stop.clone()).map_err(|err| {
            let errno = Errno::from_io_error(&err).unwrap_or(Errno::IO);
            Failure::System("cannot handle signals", errno)
        })?;
    }
    Ok(stop)
}

fn put_json(document: Document) -> Result<(), Failure> {
    put(&document.line()?)
}

fn put(text: &str) -> Result<(), Failure> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|err| {
        let errno = Errno::from_io_error(&err).unwrap_or(Errno::IO);
        Failure::System("cannot write the output", errno)
    })
}
