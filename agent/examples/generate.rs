// SPDX-License-Identifier: GPL-2.0

//! Writes what is made of the command line and of the types of JSON: the man pages, completions for
//! shells, and the schema.
//!
//! usage: cargo run --features generate --example generate FOLDER

use clap::{Command, CommandFactory};
use clap_complete::{generate_to, Shell};
use clap_mangen::Man;
use std::path::{Path, PathBuf};
use std::{env, fs, io};
use thp_collapse::cli::Cli;
use thp_collapse::json;

fn main() -> io::Result<()> {
    let folder = env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| io::Error::other("usage: generate FOLDER"))?;
    let mut command = Cli::command().disable_help_subcommand(true);

    fs::create_dir_all(&folder)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, "thp-collapse", &folder)?;
    }
    command.build();
    pages(&command, "thp-collapse", &folder)?;
    fs::write(
        folder.join(format!("thp-collapse-{}.json", json::VERSION)),
        json::schema().map_err(io::Error::other)?,
    )
}

/// Writes the page of a command, and those of its subcommands.
fn pages(command: &Command, name: &str, folder: &Path) -> io::Result<()> {
    let mut page = Vec::new();

    Man::new(command.clone())
        .title(name.to_uppercase())
        .section("8")
        .date("")
        .manual("System Administration")
        .render(&mut page)?;
    fs::write(folder.join(format!("{name}.8")), page)?;
    for subcommand in command.get_subcommands() {
        pages(
            subcommand,
            &format!("{name}-{}", subcommand.get_name()),
            folder,
        )?;
    }
    Ok(())
}
