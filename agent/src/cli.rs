// SPDX-License-Identifier: GPL-2.0

//! The command line.

use crate::kernel::Flags;
use crate::maps::Kind;
use clap::{ArgGroup, Args, Parser, Subcommand};
use std::ops::Range;
use std::time::Duration;

/// Makes huge pages of the memory of running processes, through MADV_COLLAPSE, and says what became
/// of it.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Exit status: 0 success; 1 error; 2 wrong command line; 3 partial: some memory was refused, or not
come to; 4 refused: nothing was done, by lack of permission or since the kernel refused it all."
)]
pub struct Cli {
    /// Print JSON: one document, or with watch one a line
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the mappings of a process, and how much of them is huge pages
    Status {
        /// The process
        #[arg(value_parser = clap::value_parser!(i32).range(1..))]
        pid: i32,
    },
    /// Collapse memory of a process
    #[command(group(ArgGroup::new("whose").required(true).args(["pid", "self_test"])))]
    Collapse {
        /// The process
        #[arg(value_parser = clap::value_parser!(i32).range(1..))]
        pid: Option<i32>,
        /// Collapse memory of this program's own, and check what is in it afterwards
        #[arg(long, conflicts_with = "range")]
        self_test: bool,
        /// Addresses to keep within, in hexadecimal, as in /proc/PID/maps; also where the owner has
        /// ruled out huge pages (MADV_NOHUGEPAGE), which is left alone otherwise
        #[arg(long, value_name = "A-B", value_parser = parse_range)]
        range: Option<Range<u64>>,
        /// Do nothing where P per cent are huge pages; succeed when that many are in the end
        #[arg(long, value_name = "P", value_parser = parse_percent)]
        min_coverage: Option<f64>,
        /// Begin nothing more after so many milliseconds
        #[arg(long, value_name = "MS", value_parser = parse_ms)]
        budget: Option<Duration>,
        /// Only say what there is to do, and whether it is permitted
        #[arg(long)]
        dry_run: bool,
        /// Find out which code of the kernel serves (takes tracefs and the right to use it)
        #[arg(long)]
        engine: bool,
        #[command(flatten)]
        terms: Terms,
    },
    /// Keep processes above a coverage, within a part of the time
    #[command(group(
        ArgGroup::new("whose")
            .required(true)
            .multiple(true)
            .args(["pids", "names", "cgroups"])
    ))]
    Watch {
        /// A process; may be repeated, as may the next two
        #[arg(long = "pid", value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
        pids: Vec<i32>,
        /// All processes of this command name
        #[arg(long = "command", value_name = "NAME", value_parser = parse_command)]
        names: Vec<String>,
        /// All processes of this cgroup (v2) and the ones below it
        #[arg(long = "cgroup", value_name = "PATH", value_parser = parse_cgroup)]
        cgroups: Vec<String>,
        /// How many per cent are to be huge pages
        #[arg(long, value_name = "P", default_value = "90", value_parser = parse_percent)]
        min_coverage: f64,
        /// Work for no more than so many milliseconds of a second
        #[arg(long, value_name = "MS", default_value = "50", value_parser = parse_ms)]
        budget: Duration,
        /// End after so many rounds, of a second or longer, instead of at SIGINT or SIGTERM
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        rounds: Option<u64>,
        #[command(flatten)]
        terms: Terms,
    },
}

/// On what terms memory is collapsed.
#[derive(Args, Debug)]
pub struct Terms {
    /// Heed the limits khugepaged/max_ptes_*, by which memory does not grow much
    /// (MADV_F_COLLAPSE_LIMITS)
    #[arg(long)]
    limits: bool,
    /// Reclaim and compact memory where there is no free huge page (MADV_F_COLLAPSE_DEFRAG)
    #[arg(long)]
    defrag: bool,
    /// Which kinds of mappings
    #[arg(long, value_enum, value_delimiter = ',', default_value = "anon")]
    pub kinds: Vec<Kind>,
}

impl Terms {
    /// The flags for the kernel.
    pub fn flags(&self) -> Flags {
        Flags {
            limits: self.limits,
            defrag: self.defrag,
        }
    }
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let address = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();

    text.split_once('-')
        .and_then(|(start, end)| Some(address(start)?..address(end)?))
        .filter(|range| !range.is_empty())
        .ok_or_else(|| "give two addresses in hexadecimal, like 7f0000000000-7f0000400000".into())
}

fn parse_percent(text: &str) -> Result<f64, String> {
    text.trim_end_matches('%')
        .parse()
        .ok()
        .filter(|percent| (0.0..=100.0).contains(percent))
        .ok_or_else(|| "give a number from 0 to 100".into())
}

fn parse_ms(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .filter(|ms| *ms > 0)
        .map(Duration::from_millis)
        .ok_or_else(|| "give a number of milliseconds above 0".into())
}

/// A command name as the kernel keeps it: 15 bytes.
fn parse_command(text: &str) -> Result<String, String> {
    Ok(text.get(..15).unwrap_or(text).into())
}

/// A cgroup as /proc/PID/cgroup names it.
fn parse_cgroup(text: &str) -> Result<String, String> {
    let path = text.strip_prefix("/sys/fs/cgroup").unwrap_or(text);

    Ok(format!("/{}", path.trim_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parses(line: &str) -> bool {
        Cli::try_parse_from(line.split(' ')).is_ok()
    }

    #[test]
    fn is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn takes_what_makes_sense() {
        assert!(parses("thp-collapse status 1 --json"));
        assert!(!parses("thp-collapse status 0"));
        assert!(parses(
            "thp-collapse collapse 1 --range 0x200000-400000 --budget 5"
        ));
        assert!(!parses("thp-collapse collapse"));
        assert!(!parses("thp-collapse collapse 1 --self-test"));
        assert!(!parses("thp-collapse collapse 1 --range 4-4"));
        assert!(!parses("thp-collapse collapse 1 --min-coverage 101"));
        assert!(!parses("thp-collapse collapse 1 --min-coverage NaN"));
        assert!(parses("thp-collapse collapse 1 --kinds anon,shmem"));
        assert!(!parses("thp-collapse collapse 1 --kinds other"));
        assert!(!parses("thp-collapse watch"));
        assert!(!parses("thp-collapse watch --pid 1 --budget 0"));
        assert!(!parses("thp-collapse watch --pid 0"));
        assert!(!parses("thp-collapse watch --pid 1 --rounds 0"));
        assert!(parses("thp-collapse watch --pid 1 --command x --cgroup /y"));
    }

    #[test]
    fn commands_are_named_as_in_proc() {
        assert_eq!(parse_command("redis").as_deref(), Ok("redis"));
        assert_eq!(
            parse_command("systemd-journald").as_deref(),
            Ok("systemd-journal")
        );
    }

    #[test]
    fn cgroups_are_named_as_in_proc() {
        for text in ["/sys/fs/cgroup/a/b/", "a/b", "/a/b"] {
            assert_eq!(parse_cgroup(text).as_deref(), Ok("/a/b"));
        }
        assert_eq!(parse_cgroup("/sys/fs/cgroup").as_deref(), Ok("/"));
    }
}
