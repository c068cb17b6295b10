// SPDX-License-Identifier: GPL-2.0

//! Makes huge pages of the memory of running processes: see `thp-collapse --help`.
//!
//! | module | |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`kernel`] | what is asked of the kernel, behind a trait |
//! | [`maps`] | mappings and their coverage, from /proc/PID/smaps |
//! | [`collapse`], [`pace`] | collapsing one process, in slices |
//! | [`watch`] | keeping processes above a coverage |
//! | [`engine`] | which code of the kernel served |
//! | [`selftest`] | memory of our own |
//! | [`failure`] | what stands in the way, in sentences; exit statuses |
//! | [`output`] | what people read |

// A test may panic: that is how it fails.
#![cfg_attr(test, allow(clippy::indexing_slicing, clippy::unwrap_used))]

mod cli;
mod collapse;
mod engine;
mod failure;
#[cfg(test)]
mod fake;
mod kernel;
mod maps;
mod output;
mod pace;
mod selftest;
mod watch;

use clap::Parser;
use cli::{Cli, Command};
use collapse::{Aim, Progress, Report, Silent};
use engine::Trace;
use failure::{Failure, Verdict};
use kernel::{Kernel, Known, Linux};
use maps::{Coverage, Mapping};
use rustix::io::Errno;
use serde::Serialize;
use std::io::Write;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

/// Every address.
const ALL: Range<u64> = 0..u64::MAX;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json;

    match run(cli) {
        Ok(verdict) => verdict.into(),
        // A reader that closes the pipe, such as head(1), wants no error message.
        Err(Failure::System(_, Errno::PIPE)) => Verdict::Error.into(),
        Err(failure) => {
            let verdict = failure.verdict();
            // There is nobody left to tell when this fails, too.
            let _ = match json {
                true => put_json(&serde_json::json!({
                    "verdict": verdict,
                    "error": failure.to_string(),
                })),
                false => {
                    let _ = writeln!(std::io::stderr(), "error: {failure}");
                    Ok(())
                }
            };
            verdict.into()
        }
    }
}

fn run(cli: Cli) -> Result<Verdict, Failure> {
    let kernel = Linux::new();
    let json = cli.json;

    match cli.command {
        Command::Status { pid } => status(&kernel, pid, json),
        Command::Collapse {
            pid,
            self_test,
            range,
            min_coverage,
            budget,
            dry_run,
            engine,
            terms,
        } => {
            let mut aim = Aim {
                flags: terms.flags(),
                kinds: terms.kinds,
                opted_out_too: range.is_some(),
                bounds: range.unwrap_or(ALL),
                budget,
                min_coverage,
                dry_run,
            };
            match pid {
                Some(pid) if !self_test => collapse_one(&kernel, pid, &aim, engine, json, None),
                _ => {
                    let mut memory = selftest::Memory::new(kernel.window() as usize)?;
                    let pid = std::process::id() as i32;

                    aim.bounds = memory.range();
                    collapse_one(&kernel, pid, &aim, engine, json, Some(&mut memory))
                }
            }
        }
        Command::Watch {
            pids,
            names,
            cgroups,
            min_coverage,
            budget,
            rounds,
            terms,
        } => {
            let selection = watch::Selection {
                pids,
                names,
                cgroups,
            };
            let mut aim = Aim {
                flags: terms.flags(),
                kinds: terms.kinds,
                bounds: ALL,
                opted_out_too: false,
                budget: None,
                min_coverage: Some(min_coverage),
                dry_run: false,
            };
            let stop = stop_at_signals()?;
            let tell = |event: &watch::Event| match json {
                true => put_json(event),
                false => put(&output::event(event)),
            };
            let summary = watch::watch(&kernel, &selection, &mut aim, budget, rounds, &stop, tell)?;

            match json {
                true => put_json(&serde_json::json!({
                    "verdict": summary.verdict(),
                    "summary": summary,
                }))?,
                false => put(&output::summary(&summary))?,
            }
            Ok(summary.verdict())
        }
    }
}

/// The JSON that `status` prints.
#[derive(Serialize)]
struct Status<'a> {
    pid: i32,
    kernel: Known,
    coverage: Coverage,
    mappings: &'a [Mapping],
}

fn status(kernel: &Linux, pid: i32, json: bool) -> Result<Verdict, Failure> {
    let of_reading = |errno| Failure::of_reading(pid, errno, kernel.capabilities());
    let process = kernel.open(pid).map_err(of_reading)?;
    let mappings = kernel.mappings(&process).map_err(of_reading)?;
    let coverage = Coverage::of(mappings.iter());

    match json {
        true => put_json(&Status {
            pid,
            kernel: kernel.known(),
            coverage,
            mappings: &mappings,
        })?,
        false => put(&format!(
            "{}{}",
            output::kernel(kernel.known()),
            output::table(&mappings, kernel.window(), coverage)
        ))?,
    }
    Ok(Verdict::Success)
}

/// The JSON that `collapse` prints.
#[derive(Serialize)]
struct Collapsed<'a> {
    pid: i32,
    kernel: Known,
    #[serde(flatten)]
    report: &'a Report,
    /// Set with --self-test, to whether the memory has kept its content.
    #[serde(skip_serializing_if = "Option::is_none")]
    intact: Option<bool>,
}

fn collapse_one(
    kernel: &Linux,
    pid: i32,
    aim: &Aim,
    engine: bool,
    json: bool,
    memory: Option<&mut selftest::Memory>,
) -> Result<Verdict, Failure> {
    let process = kernel
        .open(pid)
        .map_err(|errno| Failure::of_reading(pid, errno, kernel.capabilities()))?;
    let stop = stop_at_signals()?;
    let mut progress: Box<dyn Progress> = match json {
        true => Box::new(Silent),
        false => output::progress(),
    };
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
    match json {
        true => put_json(&Collapsed {
            pid,
            kernel: kernel.known(),
            report: &report,
            intact,
        })?,
        false => put(&output::report(&report))?,
    }
    match intact {
        Some(false) => Err(Failure::SelfTest("the memory has changed")),
        Some(true) if !json => {
            put("the memory is intact\n")?;
            Ok(report.verdict)
        }
        _ => Ok(report.verdict),
    }
}

/// Returns a flag that SIGINT and SIGTERM set.
fn stop_at_signals() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));

    for signal in [libc::SIGINT, libc::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).map_err(|err| {
            let errno = Errno::from_io_error(&err).unwrap_or(Errno::IO);
            Failure::System("cannot handle signals", errno)
        })?;
    }
    Ok(stop)
}

fn put_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value)
        .map_err(|_| Failure::System("cannot make JSON", Errno::INVAL))?;

    put(&format!("{text}\n"))
}

fn put(text: &str) -> Result<(), Failure> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|err| {
        let errno = Errno::from_io_error(&err).unwrap_or(Errno::IO);
        Failure::System("cannot write the output", errno)
    })
}
