// SPDX-License-Identifier: GPL-2.0

//! Telling what came of an exploration.

use crate::{
    model::{Action, Report, Trace},
    state::{huge_page, State, Tlb},
};
use std::fmt;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.time.as_secs_f64();

        write!(
            f,
            "{} states, depth {}, {seconds:.1} s",
            self.states, self.depth
        )
    }
}

/// The steps of a trace, each with what it has changed.
pub fn trace(trace: &Trace) -> String {
    let mut lines = vec![format!(
        "  in the beginning: {}",
        join(&describe(&trace.start))
    )];
    let mut before = &trace.start;

    for (nr, (action, state)) in trace.steps.iter().enumerate() {
        let old = describe(before);
        let changes: Vec<_> = describe(state)
            .into_iter()
            .filter(|part| !old.contains(part))
            .collect();

        lines.push(
            format!(
                "{:4}  {:44} {}",
                nr + 1,
                name(*action, before),
                join(&changes)
            )
            .trim_end()
            .to_string(),
        );
        before = state;
    }
    lines.push(match trace.violation {
        Some(violation) => format!("{violation:?} after {} steps", trace.steps.len()),
        None => format!("after {} steps nothing can go on", trace.steps.len()),
    });
    lines.join("\n") + "\n"
}

/// The effect of an action, by the state before it.
fn name(action: Action, before: &State) -> String {
    match action {
        Action::Collapse(nr) => format!("collapse {nr}: {}", before.engine[nr].next()),
        Action::Cpu(action) => format!("{action:?}"),
        Action::Device(action) => format!("{action:?}"),
        Action::Reclaim(action) => format!("{action:?}"),
        Action::Syscall(action) => format!("{action:?}"),
    }
}

fn join(parts: &[(String, String)]) -> String {
    let parts: Vec<_> = parts
        .iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();

    parts.join("; ")
}

/// The parts of a state that are of interest, by name.
fn describe(state: &State) -> Vec<(String, String)> {
    let mut parts = vec![
        ("pmd".to_string(), format!("{:?}", state.pmd)),
        ("ptes".to_string(), format!("{:?}", state.pte)),
    ];

    for (nr, cpu) in state.cpu.iter().enumerate().filter(|(_, cpu)| cpu.runs) {
        let tlb = cpu
            .tlb
            .map(|entry| entry.map(Tlb::as_pte).unwrap_or_default());

        parts.push((format!("tlb {nr}"), format!("{tlb:?}")));
    }
    for (nr, folio) in state.folio.iter().enumerate() {
        let value = if folio.is_alive() {
            let owner = match folio.lock {
                Some(owner) => format!(", locked by {owner:?}"),
                None => String::new(),
            };
            let pages = usize::from(state.folio_pages(nr));
            let content = state.page[nr..nr + pages].iter().map(|page| page.content);

            format!(
                "{:?}, {} references, {} pins, {} mappings{owner}",
                content.collect::<Vec<_>>(),
                folio.refs,
                folio.pins,
                folio.maps,
            )
        } else {
            "free".to_string()
        };

        parts.push((format!("page {nr}"), value));
    }
    for (nr, engine) in (0u8..).zip(&state.engine) {
        if engine.runs() {
            let content = [0, 1].map(|slot| state.page[usize::from(huge_page(nr, slot))].content);

            parts.push((format!("huge page {nr}"), format!("{content:?}")));
            if let Some(verdict) = engine.verdict {
                parts.push((format!("collapse {nr}"), format!("{verdict:?}")));
            }
        }
    }
    parts.push(("secondary".to_string(), format!("{:?}", state.secondary)));
    parts.push(("last written".to_string(), format!("{:?}", state.truth)));
    parts
}
