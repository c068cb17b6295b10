// SPDX-License-Identifier: GPL-2.0

//! JSON documents for programs, in a format that has a version.

use crate::collapse::Report;
use crate::failure::{Failure, Verdict};
use crate::kernel::Known;
use crate::maps::{windows, Mapping, Share};
use crate::watch::{Event, Summary};
use rustix::io::Errno;
use serde::Serialize;

/// The version of the format. It changes when a member is removed, or comes to mean something else.
/// There may be more members in the same version.
pub const VERSION: u32 = 1;

/// A line of output with --json.
#[derive(Serialize)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
pub struct Line<'a> {
    /// The version of the format.
    schema: u32,
    #[serde(flatten)]
    document: Document<'a>,
}

/// The contents of a line.
#[derive(Serialize)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "generate", schemars(rename = "Document"))]
#[serde(untagged)]
pub(crate) enum Document<'a> {
    /// From `status` of a process.
    Status(Status<'a>),
    /// From `status` of several processes.
    Processes {
        kernel: Known,
        processes: &'a [Overview],
    },
    /// From `collapse`.
    Collapsed(Collapsed<'a>),
    /// From `watch`, for a process.
    Event(&'a Event),
    /// From `watch`, if something is not as it was probably meant.
    Warning { warning: &'a str },
    /// From `watch`, at its end.
    Summary {
        verdict: Verdict,
        summary: &'a Summary,
    },
    /// From any command that fails.
    Error { verdict: Verdict, error: String },
}

/// Returns the schema of a line.
#[cfg(feature = "generate")]
pub fn schema() -> serde_json::Result<String> {
    let schema = schemars::schema_for!(Line);

    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

impl Document<'_> {
    /// Returns the text of a line.
    pub(crate) fn line(self) -> Result<String, Failure> {
        let line = Line {
            schema: VERSION,
            document: self,
        };

        serde_json::to_string(&line)
            .map(|text| text + "\n")
            .map_err(|_| Failure::System("cannot make JSON", Errno::INVAL))
    }
}

/// The mappings of a process.
#[derive(Serialize)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
pub(crate) struct Status<'a> {
    /// The process.
    pub pid: i32,
    /// The features of the kernel.
    pub kernel: Known,
    /// The share of huge pages in all of its memory.
    pub coverage: Share,
    /// Set if the process has ruled out huge pages (PR_SET_THP_DISABLE).
    pub opted_out: bool,
    /// The work that `collapse` would do, unless it would fail.
    pub forecast: Option<&'a Report>,
    /// The mappings that are large enough for a huge page.
    pub mappings: &'a [Mapping],
    /// The other ones.
    pub small: Small,
}

/// Mappings that are too small for a huge page.
#[derive(Clone, Copy, Default, Serialize)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
pub(crate) struct Small {
    /// How many there are.
    pub count: u64,
    /// Bytes of them in memory.
    pub resident: u64,
}

/// The mappings of a process, as they are read.
pub(crate) struct Shown {
    window: u64,
    pub count: u64,
    pub resident: u64,
    pub huge: u64,
    pub large: Vec<Mapping>,
    pub small: Small,
}

impl Shown {
    /// Returns none, for windows of this size.
    pub fn new(window: u64) -> Self {
        Self {
            window,
            count: 0,
            resident: 0,
            huge: 0,
            large: Vec::new(),
            small: Small::default(),
        }
    }

    /// Adds a mapping.
    pub fn add(&mut self, mapping: Mapping) {
        self.count += 1;
        self.resident += mapping.resident;
        self.huge += mapping.huge;
        if windows(&mapping.range, self.window, &(0..u64::MAX)).is_empty() {
            self.small.count += 1;
            self.small.resident += mapping.resident;
        } else {
            self.large.push(mapping);
        }
    }
}

/// A process among several.
#[derive(Serialize)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
pub(crate) struct Overview {
    /// The process.
    pub pid: i32,
    /// Its command name.
    pub name: String,
    /// Its path in the unified cgroup hierarchy, or an empty string.
    pub cgroup: String,
    /// The work that `collapse` would do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forecast: Option<Report>,
    /// Why it would fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Overview {
    /// Returns the overview of a process.
    pub fn new(pid: i32, name: String, cgroup: String, report: Result<Report, Failure>) -> Self {
        let (forecast, error) = match report {
            Ok(report) => (Some(report), None),
            Err(failure) => (None, Some(failure.to_string())),
        };

        Self {
            pid,
            name,
            cgroup,
            forecast,
            error,
        }
    }
}

/// The result of a collapse.
#[derive(Serialize)]
#[cfg_attr(feature = "generate", derive(schemars::JsonSchema))]
pub(crate) struct Collapsed<'a> {
    /// The process.
    pub pid: i32,
    /// The features of the kernel.
    pub kernel: Known,
    /// The result.
    #[serde(flatten)]
    pub report: &'a Report,
    /// Set with --self-test, to whether the memory has kept its content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intact: Option<bool>,
}
