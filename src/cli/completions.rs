//! `kache completions SHELL`.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

#[derive(Debug, Args)]
pub struct Completions {
    shell: Shell,
}

pub fn run(args: &Completions) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "kache", &mut text);
    super::print(String::from_utf8_lossy(&text).trim_end());
    ExitCode::SUCCESS
}
