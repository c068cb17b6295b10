// SPDX-License-Identifier: GPL-2.0

//! Which code of the kernel serves, seen by its tracepoints.

use serde::{Serialize, Serializer};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const TRACING: &str = "/sys/kernel/tracing";

/// Code of the kernel that collapses anonymous memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// mm/collapse
    Rust,
    /// mm/khugepaged.c
    C,
}

impl Engine {
    /// All engines, in the order in which a trace is searched for their events. Only Rust has the
    /// event of a batch. The other event is common to both.
    const ALL: [Self; 2] = [Self::Rust, Self::C];

    /// Returns the name of the engine for users.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rust => "the engine in Rust (mm/collapse)",
            Self::C => "Linux's C code (mm/khugepaged.c)",
        }
    }

    fn event(self) -> &'static str {
        match self {
            Self::Rust => "mm_collapse_batch",
            Self::C => "mm_collapse_huge_page",
        }
    }

    /// Returns whether a line of a trace has the event of this engine.
    fn worked_in(self, line: &str) -> bool {
        line.contains(&format!(" {}: ", self.event()))
    }
}

impl Serialize for Engine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The code of the kernel that served, as a trace shows it.
#[derive(Debug, PartialEq, Eq)]
pub struct Served {
    /// The engine that served.
    pub engine: Engine,
    /// The number of huge pages that were mapped as such again, in place and without a copy. The C
    /// code always copies.
    pub remapped: u64,
}

impl Served {
    /// Returns the engine whose events a trace has, or `None` if it has none.
    fn seen_in(trace: &str) -> Option<Self> {
        let engine = Engine::ALL
            .into_iter()
            .find(|engine| trace.lines().any(|line| engine.worked_in(line)))?;
        let remapped = trace
            .lines()
            .filter(|line| engine.worked_in(line))
            .filter_map(|line| line.split_once(" remapped="))
            .filter_map(|(_, count)| count.trim().parse::<u64>().ok())
            .sum();

        Some(Self { engine, remapped })
    }
}

/// A trace of this thread's collapses, apart from what others trace.
pub struct Trace(PathBuf);

impl Trace {
    /// Begins a trace. This needs tracefs, and the permission to use it.
    pub fn begin() -> io::Result<Self> {
        let name = format!("thp-collapse-{}", std::process::id());
        let instance = Path::new(TRACING).join("instances").join(name);

        fs::create_dir(&instance)?;
        let trace = Self(instance);
        let thread = rustix::thread::gettid().as_raw_nonzero().to_string();

        fs::write(trace.0.join("set_event_pid"), thread)?;
        for engine in Engine::ALL {
            let enable = trace
                .0
                .join(format!("events/huge_memory/{}/enable", engine.event()));
            // A kernel may have one only.
            if enable.exists() {
                fs::write(enable, "1")?;
            }
        }
        Ok(trace)
    }

    /// Ends the trace, and returns the engine that has served since it began.
    pub fn end(self) -> Option<Served> {
        Served::seen_in(&fs::read_to_string(self.0.join("trace")).ok()?)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // This removes all files of the instance. If it fails, what is left does no harm.
        let _ = fs::remove_dir(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rust_works_in_batches() {
        let c = "thp-collapse-7 [000] ..... 1.5: mm_collapse_huge_page: mm=0, status=succeeded\n";
        let rust =
            "thp-collapse-7 [000] ..... 1.6: mm_collapse_batch: mm=0, windows=16, remapped=2\n";
        let served = |engine, remapped| Some(Served { engine, remapped });

        assert_eq!(Served::seen_in(c), served(Engine::C, 0));
        assert_eq!(Served::seen_in(rust), served(Engine::Rust, 2));
        assert_eq!(
            Served::seen_in(&format!("{c}{rust}{rust}")),
            served(Engine::Rust, 4)
        );
        assert_eq!(Served::seen_in("# tracer: nop\n"), None);
    }
}
