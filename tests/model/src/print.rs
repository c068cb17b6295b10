// SPDX-License-Identifier: GPL-2.0

//! Telling what came of an exploration.

use crate::model::{Report, Trace};

pub fn report(name: &str, report: &Report) {
    println!(
        "{name}: {} states, depth {}, {:.1} s",
        report.states,
        report.depth,
        report.time.as_secs_f64()
    );
    if let Some(found) = &report.trace {
        trace(found);
    }
}

fn trace(trace: &Trace) {
    println!("   0 {:?}", trace.start);
    for (nr, (action, state)) in trace.steps.iter().enumerate() {
        println!("{:4} {action:?}\n     {state:?}", nr + 1);
    }
    println!("{:?} after {} steps", trace.violation, trace.steps.len());
}
