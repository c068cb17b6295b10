// SPDX-License-Identifier: GPL-2.0

//! The command line.

use crate::amount::{parse_bytes, parse_time, Amount};
use crate::collapse::Limits;
use crate::kernel::Flags;
use crate::maps::Kind;
use clap::{ArgGroup, Args, Parser, Subcommand};
use std::ops::Range;
use std::time::Duration;

/// Makes huge pages of the memory of running processes, through MADV_COLLAPSE, and says what became
/// of it.
#[derive(Debug, Parser)]
#[command(
    name = "thp-collapse",
    version,
    after_help = "\
Exit status: 0 success; 1 error, or no process matches; 2 wrong command line; 3 partial: some memory
was refused, or not come to; 4 refused: nothing was done, by lack of permission or since the kernel
refused it all. When a signal stops it, watch succeeds."
)]
pub struct Cli {
    /// Print JSON: one document, or with watch one a line. Each has the version of its schema
    #[arg(long, global = true)]
    pub json: bool,
    /// Show no progress, and with watch no lines about processes
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show how much of a process is huge pages, or of many, and what collapse would do
    #[command(group(
        ArgGroup::new("whose")
            .required(true)
            .multiple(true)
            .args(["pids", "names", "cgroups"])
    ))]
    Status {
        /// A process, of which all mappings are shown; or several, of which there is a line each
        #[arg(value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
        pids: Vec<i32>,
        /// Which processes.
        #[command(flatten)]
        select: Select,
        /// On what terms.
        #[command(flatten)]
        terms: Terms,
    },
    /// Collapse memory of a process
    #[command(group(ArgGroup::new("whose").required(true).args(["pid", "self_test"])))]
    Collapse {
        /// The process
        #[arg(value_parser = clap::value_parser!(i32).range(1..))]
        pid: Option<i32>,
        /// Collapse memory of this program's own, and check what is in it afterwards
        #[arg(long, conflicts_with_all = ["range", "kinds", "min_coverage", "dry_run", "budget"])]
        self_test: bool,
        /// Addresses to keep within, in hexadecimal, as in /proc/PID/maps; also where the owner has
        /// ruled out huge pages (MADV_NOHUGEPAGE), which is left alone otherwise
        #[arg(long, value_name = "A-B", value_parser = parse_range)]
        range: Option<Range<u64>>,
        /// Do nothing where P per cent of what is worth it are huge pages; succeed when that many
        /// are in the end
        #[arg(long, value_name = "P", value_parser = parse_percent)]
        min_coverage: Option<f64>,
        /// Begin nothing more after this time, like 500ms or 2s; a number alone is in milliseconds
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        budget: Option<Duration>,
        /// Only say what there is to do, by how much memory would grow, and whether it is permitted
        #[arg(long)]
        dry_run: bool,
        /// Find out which code of the kernel serves (takes tracefs and the right to use it)
        #[arg(long)]
        engine: bool,
        /// On what terms.
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
        /// A process; may be repeated. When all that were given so have exited, this ends
        #[arg(long = "pid", value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
        pids: Vec<i32>,
        /// Which processes.
        #[command(flatten)]
        select: Select,
        /// How many per cent of what is worth it are to be huge pages
        #[arg(long, value_name = "P", default_value = "90", value_parser = parse_percent)]
        min_coverage: f64,
        /// Work for no more than this time of a second
        #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = parse_part)]
        budget: Duration,
        /// End after so many rounds, of a second or longer, instead of at SIGINT, SIGTERM or SIGHUP
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        rounds: Option<u64>,
        /// On what terms.
        #[command(flatten)]
        terms: Terms,
    },
}

/// Which processes.
#[derive(Args, Debug)]
pub struct Select {
    /// All processes of this command name; may be repeated, as may the next three
    #[arg(long = "command", value_name = "NAME", value_parser = parse_command)]
    pub names: Vec<String>,
    /// All processes of this cgroup (v2) and the ones below it; / for all processes
    #[arg(long = "cgroup", value_name = "PATH", value_parser = parse_cgroup)]
    pub cgroups: Vec<String>,
    /// But no process of this command name
    #[arg(long = "exclude", value_name = "NAME", value_parser = parse_command)]
    pub excluded: Vec<String>,
    /// Only processes of this user ID
    #[arg(long = "uid", value_name = "UID")]
    pub users: Vec<u32>,
    /// Only processes that have so much in memory, like 100M
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_bytes)]
    pub min_rss: u64,
}

/// On what terms memory is collapsed.
#[derive(Args, Debug)]
pub struct Terms {
    /// Leave alone windows, of the size of a huge page, with more missing base pages than this:
    /// they are filled, and memory grows by them
    #[arg(
        long,
        value_name = "PAGES",
        default_value = "64",
        help_heading = "Bounds"
    )]
    max_holes: u64,
    /// Leave alone windows of which more base pages than this are swapped out: they are read in
    #[arg(
        long,
        value_name = "PAGES",
        default_value = "0",
        help_heading = "Bounds"
    )]
    max_swapped: u64,
    /// Whether to collapse private windows of which a forked process shares base pages:
    /// they are copied for each of the two
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        default_value = "never",
        help_heading = "Bounds"
    )]
    share: Share,
    /// Let no process grow by more than this, like 64M, or 5% of what it has in memory
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "5%",
        help_heading = "Bounds"
    )]
    max_growth: Amount,
    /// Leave this much, like 64M or 10%, below memory.max and memory.high of the process's cgroup
    /// and of all above it, page cache included, and of the machine's memory
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "10%",
        help_heading = "Bounds"
    )]
    min_headroom: Amount,
    /// Make calls so short that a thread of the process, if it needs what a call has locked, waits
    /// no longer than this. A single window may take longer
    #[arg(
        long,
        value_name = "TIME",
        default_value = "4ms",
        value_parser = parse_time,
        help_heading = "Bounds"
    )]
    pub max_wait: Duration,
    /// Heed the limits khugepaged/max_ptes_* of sysfs as well (MADV_F_COLLAPSE_LIMITS). By default
    /// max_ptes_none is 511, which lets a single page become a huge page
    #[arg(long)]
    limits: bool,
    /// Reclaim and compact memory where there is no free huge page (MADV_F_COLLAPSE_DEFRAG)
    #[arg(long)]
    defrag: bool,
    /// Which kinds of mappings
    #[arg(long, value_enum, value_delimiter = ',', default_value = "anon")]
    pub kinds: Vec<Kind>,
}

/// Whether to collapse what is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Share {
    /// Never.
    Never,
    /// Always.
    Always,
}

impl Terms {
    /// The flags for the kernel.
    pub fn flags(&self) -> Flags {
        Flags {
            limits: self.limits,
            defrag: self.defrag,
        }
    }

    /// The bounds.
    pub fn limits(&self) -> Limits {
        Limits {
            max_holes: self.max_holes,
            max_swapped: self.max_swapped,
            shared: self.share == Share::Always,
            max_growth: self.max_growth,
            min_headroom: self.min_headroom,
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

fn parse_part(text: &str) -> Result<Duration, String> {
    match parse_time(text)? {
        time if time <= Duration::from_secs(1) => Ok(time),
        _ => Err("give a time up to 1s: it is a part of each second".into()),
    }
}

/// A command name as the kernel keeps it: 15 bytes.
fn parse_command(text: &str) -> Result<String, String> {
    match text {
        "" => Err("give a name".into()),
        text => Ok(text.get(..15).unwrap_or(text).into()),
    }
}

fn parse_cgroup(text: &str) -> Result<String, String> {
    match text {
        "" => Err("give a path, or / for all processes".into()),
        text => Ok(text.into()),
    }
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
        assert!(parses("thp-collapse status 1 2"));
        assert!(parses("thp-collapse status --cgroup /"));
        assert!(!parses("thp-collapse status"));
        assert!(!parses("thp-collapse status 0"));
        assert!(parses(
            "thp-collapse collapse 1 --range 0x200000-400000 --budget 5"
        ));
        assert!(!parses("thp-collapse collapse"));
        assert!(!parses("thp-collapse collapse 1 --self-test"));
        assert!(!parses("thp-collapse collapse --self-test --kinds shmem"));
        assert!(!parses("thp-collapse collapse 1 --range 4-4"));
        assert!(!parses("thp-collapse collapse 1 --min-coverage 101"));
        assert!(!parses("thp-collapse collapse 1 --min-coverage NaN"));
        assert!(parses("thp-collapse collapse 1 --kinds anon,shmem"));
        assert!(!parses("thp-collapse collapse 1 --kinds other"));
        assert!(parses(
            "thp-collapse collapse 1 --max-growth 5% --share always"
        ));
        assert!(!parses("thp-collapse collapse 1 --max-growth x"));
        assert!(!parses("thp-collapse watch"));
        assert!(!parses("thp-collapse watch --exclude x"));
        assert!(!parses("thp-collapse watch --pid 1 --budget 0"));
        assert!(!parses("thp-collapse watch --pid 1 --budget 1001"));
        assert!(!parses("thp-collapse watch --pid 0"));
        assert!(!parses("thp-collapse watch --pid 1 --rounds 0"));
        assert!(parses("thp-collapse watch --pid 1 --command x --cgroup /y"));
    }

    #[test]
    fn what_a_script_has_left_empty_is_refused() {
        for option in ["--cgroup", "--command", "--pid", "--exclude"] {
            let line = ["thp-collapse", "watch", "--pid", "1", option, ""];

            assert!(Cli::try_parse_from(line).is_err(), "{option}");
        }
    }

    #[test]
    fn commands_are_named_as_in_proc() {
        assert_eq!(parse_command("redis").as_deref(), Ok("redis"));
        assert_eq!(
            parse_command("systemd-journald").as_deref(),
            Ok("systemd-journal")
        );
    }
}
