// SPDX-License-Identifier: GPL-2.0

//! Explores scopes, and prints a line "pass" or "fail" for each. How much was explored, and the way
//! to what was found, goes to standard error.

use clap::Parser;
use collapse_model::{
    fault::Fault,
    model::explore,
    print,
    scope::{long, short, Scope},
};
use std::process::ExitCode;

#[derive(Parser)]
#[command(about)]
struct Args {
    /// Explore the larger scopes: two CPUs, and each adversary next to each other one
    #[arg(long)]
    long: bool,
    /// Take this out of the protocol
    #[arg(long)]
    fault: Option<Fault>,
    /// The scopes to explore: all, unless some are named
    scopes: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let is_asked_for = |scope: &Scope| args.scopes.is_empty() || args.scopes.contains(&scope.name);
    let scopes = if args.long { long() } else { short() };
    let (mut nr, mut failed) = (0, false);

    for scope in scopes.into_iter().filter(is_asked_for) {
        let name = scope.name.clone();
        let report = explore(scope, args.fault);

        nr += 1;
        failed |= report.trace.is_some();
        eprintln!("{name}: {report}");
        if let Some(trace) = &report.trace {
            eprint!("{}", print::trace(trace));
        }
        let result = if report.trace.is_none() {
            "pass"
        } else {
            "fail"
        };
        println!("{result} model: {name}");
    }
    if failed || nr == 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
