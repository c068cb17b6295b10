// SPDX-License-Identifier: GPL-2.0

mod actor;
mod fault;
mod model;
mod print;
mod properties;
mod protocol;
mod scope;
mod state;

use clap::Parser;
use fault::Fault;

#[derive(Parser)]
struct Args {
    #[arg(long)]
    long: bool,
    #[arg(long)]
    fault: Option<Fault>,
    scopes: Vec<String>,
}

fn main() {
    let args = Args::parse();

    for scope in scope::all() {
        if !args.scopes.is_empty() && !args.scopes.iter().any(|name| name == scope.name) {
            continue;
        }
        let name = scope.name;
        let report = model::explore(scope, args.fault);

        print::report(name, &report);
    }
}
