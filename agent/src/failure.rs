// SPDX-License-Identifier: GPL-2.0

//! Failures, their messages, and the exit status that a script sees.

use crate::kernel::{Capabilities, Flags, Known};
use crate::maps::Kind;
use rustix::io::Errno;
use serde::Serialize;
use std::process::ExitCode;
use thiserror::Error;

/// The result of a run. clap uses the exit status 2 for a wrong command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The run did all that it was asked for.
    Success,
    /// The run did some of it.
    Partial,
    /// The run did nothing of it: the kernel refused.
    Refused,
    /// The run failed for another reason.
    Error,
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        Self::from(match verdict {
            Verdict::Success => 0,
            Verdict::Error => 1,
            Verdict::Partial => 3,
            Verdict::Refused => 4,
        })
    }
}

/// Why nothing can be done at all.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Failure {
    #[error("there is no process {0}, or it has exited")]
    NoProcess(i32),
    #[error("process {0} has no memory: it is one of the kernel's own, or has exited")]
    NoMemory(i32),
    #[error("{0} is a thread of process {1}")]
    Thread(i32, u64),
    #[error("/proc is not mounted")]
    NoProc,
    #[error("/proc is that of another PID namespace: process IDs mean other processes there")]
    ForeignProc,
    #[error(
        "process {0} has ruled out huge pages for itself, by prctl(PR_SET_THP_DISABLE): it has \
         \"THP_enabled: 0\" in /proc/{0}/status"
    )]
    OptedOut(i32),
    #[error("no process matches")]
    NothingMatched,
    #[error("{0}")]
    WrongCgroup(String),
    #[error(
        "this kernel has no PAGEMAP_SCAN, which Linux has from 6.7 on: without it, to see which \
         memory has holes takes CAP_SYS_ADMIN"
    )]
    CannotScan,
    #[error(
        "this kernel has no MADV_COLLAPSE for process_madvise(2): Linux has it from 6.1 on, where \
         CONFIG_TRANSPARENT_HUGEPAGE is set"
    )]
    NoCollapse,
    #[error("this kernel does not know the flag behind {0}")]
    UnknownFlag(&'static str),
    #[error("reading the memory map of process {0} takes PTRACE_MODE_READ: {1}")]
    MayNotRead(i32, &'static str),
    #[error("collapsing memory of process {0} takes {1}")]
    MayNotCollapse(i32, &'static str),
    #[error(
        "--engine takes the right to use tracefs: CAP_DAC_OVERRIDE, unless this user was given it"
    )]
    MayNotTrace,
    #[error("{0}: {1}")]
    System(&'static str, Errno),
    #[error("self-test: {0}")]
    SelfTest(&'static str),
}

impl Failure {
    /// Returns the verdict that decides the exit status.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::MayNotRead(..)
            | Self::MayNotCollapse(..)
            | Self::MayNotTrace
            | Self::OptedOut(_)
            | Self::CannotScan => Verdict::Refused,
            _ => Verdict::Error,
        }
    }

    /// Returns the failure for an errno of reading about process `pid`.
    pub fn of_reading(pid: i32, errno: Errno, caps: Capabilities) -> Self {
        match errno {
            Errno::SRCH => Self::NoProcess(pid),
            Errno::ACCESS | Errno::PERM if caps.ptrace => Self::MayNotRead(
                pid,
                "CAP_SYS_PTRACE is there, but not in the process's user namespace, or a security \
                 module forbids it",
            ),
            Errno::ACCESS | Errno::PERM => Self::MayNotRead(
                pid,
                "CAP_SYS_PTRACE is missing, and it is another user's process, or not dumpable",
            ),
            errno => Self::System("cannot read the memory map of the process", errno),
        }
    }

    /// Returns the failure for an errno of collapsing memory of process `pid`.
    pub fn of_collapsing(
        pid: i32,
        errno: Errno,
        caps: Capabilities,
        known: Known,
        flags: Flags,
    ) -> Self {
        match errno {
            Errno::ACCESS | Errno::SRCH => Self::of_reading(pid, errno, caps),
            Errno::PERM if !caps.nice => {
                let missing = "CAP_SYS_NICE, which is missing";
                Self::MayNotCollapse(pid, missing)
            }
            Errno::PERM if known.flags.limits && !flags.limits && !caps.admin => {
                Self::MayNotCollapse(pid, "CAP_SYS_ADMIN, which is missing, or --limits")
            }
            Errno::PERM => Self::MayNotCollapse(
                pid,
                "CAP_SYS_NICE and, without --limits, CAP_SYS_ADMIN in the initial user namespace; \
                 or a security module forbids it",
            ),
            errno => Self::System("process_madvise", errno),
        }
    }
}

/// Returns the name of an errno that windows of a kind were refused with, and its meaning.
pub fn why(errno: Errno, kind: Kind, known: Known, flags: Flags) -> (String, &'static str) {
    let (name, sentence) = match errno {
        Errno::INVAL => (
            "EINVAL",
            match kind {
                Kind::Shmem => {
                    "the kernel will not collapse these: transparent_hugepage/shmem_enabled is \
                     deny, or the mapping does not begin at a multiple of a huge page in its file, \
                     or huge pages are ruled out for the mapping, or there is nothing in them"
                }
                Kind::File => {
                    "the kernel will not collapse these: the file system has no large folios (or \
                     the kernel no CONFIG_READ_ONLY_THP_FOR_FS), or the file is open for writing, \
                     or the mapping does not begin at a multiple of a huge page in it"
                }
                Kind::Anon | Kind::Other => {
                    "the kernel will not collapse these: there is nothing in them, or userfaultfd, \
                     or a guard region, or huge pages are ruled out for the mapping"
                }
            },
        ),
        Errno::AGAIN => (
            "EAGAIN",
            "pages were in use just then, also when tried again; it may work later",
        ),
        Errno::BUSY if flags.limits => (
            "EBUSY",
            "more holes, swapped or shared pages than khugepaged/max_ptes_* allow, or holes that \
             userfaultfd watches, or no room in the memory cgroup",
        ),
        Errno::BUSY => (
            "EBUSY",
            "no room for a huge page in the memory cgroup, or holes that userfaultfd watches",
        ),
        Errno::NOMEM if known.flags.defrag && !flags.defrag => (
            "ENOMEM",
            "there is no huge page to be had; --defrag may make one",
        ),
        Errno::NOMEM => ("ENOMEM", "there is no huge page to be had"),
        _ => return (errno.to_string(), "not expected of MADV_COLLAPSE"),
    };

    (name.into(), sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Capabilities = Capabilities {
        nice: false,
        ptrace: false,
        admin: false,
    };
    const OLD: Known = Known {
        collapse: true,
        scan: true,
        flags: Flags {
            limits: false,
            defrag: false,
        },
    };
    const NEW: Known = Known {
        collapse: true,
        scan: true,
        flags: Flags {
            limits: true,
            defrag: true,
        },
    };

    fn permission(caps: Capabilities, known: Known, limits: bool) -> String {
        let flags = Flags {
            limits,
            defrag: false,
        };
        let failure = Failure::of_collapsing(7, Errno::PERM, caps, known, flags);

        assert_eq!(failure.verdict(), Verdict::Refused);
        failure.to_string()
    }

    #[test]
    fn says_which_capability_is_missing() {
        let nice = Capabilities {
            nice: true,
            ..NOTHING
        };

        assert!(permission(NOTHING, NEW, false).contains("CAP_SYS_NICE, which is missing"));
        assert!(permission(NOTHING, NEW, true).contains("CAP_SYS_NICE, which is missing"));
        assert!(
            permission(nice, NEW, false).contains("CAP_SYS_ADMIN, which is missing, or --limits")
        );
        // A capability that is not missing is not blamed.
        assert!(permission(nice, OLD, false).contains("security module"));
        assert!(permission(nice, NEW, true).contains("security module"));
        for errno in [Errno::ACCESS, Errno::PERM] {
            let failure = Failure::of_reading(7, errno, NOTHING);
            assert!(failure.to_string().contains("CAP_SYS_PTRACE is missing"));
            assert_eq!(failure.verdict(), Verdict::Refused);
        }
        let failure = Failure::of_collapsing(7, Errno::ACCESS, NOTHING, NEW, Flags::default());
        assert!(matches!(failure, Failure::MayNotRead(7, _)));
    }

    #[test]
    fn says_what_would_help() {
        let defrag = Flags {
            limits: false,
            defrag: true,
        };

        let why = |errno, known, flags| super::why(errno, Kind::Anon, known, flags);

        assert!(why(Errno::NOMEM, NEW, Flags::default())
            .1
            .contains("--defrag"));
        assert!(!why(Errno::NOMEM, NEW, defrag).1.contains("--defrag"));
        assert!(!why(Errno::NOMEM, OLD, Flags::default())
            .1
            .contains("--defrag"));
        assert_eq!(why(Errno::AGAIN, NEW, defrag).0, "EAGAIN");
        assert!(why(Errno::XDEV, NEW, defrag).1.contains("not expected"));
        let shmem = super::why(Errno::INVAL, Kind::Shmem, NEW, defrag).1;
        assert!(shmem.contains("shmem_enabled"));
    }
}
