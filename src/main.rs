//! Decides the role from argv: compiler wrapper, build script, or command line.

mod backend;
mod bench;
mod cli;
mod config;
mod daemon;
mod doctor;
mod launcher;
mod log;
mod planner;
mod remote;
mod restore;
mod snapshot;
mod store;
mod umask;
mod wrap;

use std::ffi::OsString;
use std::process::ExitCode;

use kache_wrapper::lookup::Role;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if wrap::is_wrapper_call(&args) {
        wrap::run(args, Role::Compiler);
    }
    if args.first().is_some_and(|a| a == launcher::BRING_BACK) {
        return launcher::bring_back(&args[1..]);
    }
    if args.first().is_some_and(|a| a == launcher::ROLE) {
        wrap::run(args[1..].to_vec(), Role::BuildScript);
    }
    cli::run()
}
