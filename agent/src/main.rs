// SPDX-License-Identifier: GPL-2.0

//! Makes huge pages of the memory of running processes: see `thp-collapse --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    thp_collapse::main()
}
