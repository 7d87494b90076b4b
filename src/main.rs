//! Decides the role from argv: compiler wrapper, or command line.

mod backend;
mod cli;
mod config;
mod daemon;
mod doctor;
mod log;
mod restore;
mod store;
mod wrap;

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if wrap::is_wrapper_call(&args) {
        wrap::run(args);
    }
    cli::run()
}
