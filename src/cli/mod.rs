//! The command line: parse, call, print.

mod clean;
mod completions;
mod config;
mod daemon;
mod doctor;
mod fork;
pub mod format;
mod gc;
mod hook;
mod init;
mod list;
mod mount;
mod mounts;
mod planner;
mod purge;
mod refresh;
mod report;
mod signing_key;
mod snapshot;
mod stats;
mod sync;
mod target;
mod umount;
mod why_miss;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use crate::config::Config;

/// Makes Rust's target/ a content-addressed file system: never compile the same thing twice
#[derive(Debug, Parser)]
#[command(name = "kache", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make cargo use kache
    Init(init::Init),
    /// Hits, misses and what they saved
    Stats(stats::Stats),
    /// What became of each action
    Report(report::Report),
    /// Why things were compiled
    WhyMiss(why_miss::WhyMiss),
    /// What is in the store
    List(list::List),
    /// Remove what was used longest ago until the store fits
    Gc(gc::Gc),
    /// Forget results
    Purge(purge::Purge),
    /// Is everything well, and if not, what to do
    Doctor(doctor::Doctor),
    /// Effective settings and where they come from
    Config(config::ConfigCommand),
    /// Mount an overlay over a target directory
    Mount(mount::Mount),
    /// Unmount, leaving a complete real directory
    Umount(umount::Umount),
    /// Fill an empty target directory from a snapshot, so that there is nothing to build
    Fork(fork::Fork),
    /// Keep a whole target directory for forks
    Snapshot(snapshot::Snapshot),
    /// Judge a mounted target directory again, by content instead of times
    Refresh(refresh::Refresh),
    /// What is mounted
    Mounts(mounts::Mounts),
    /// Empty a target directory, mounted or not
    Clean(clean::Clean),
    /// Upload what waits to be shared, or download what this project needs
    Sync(sync::Sync),
    /// Serve as planner: tells builds what to fetch first
    Planner(planner::Planner),
    /// Make a key that signs what this machine shares
    SigningKey(signing_key::SigningKey),
    /// The background process
    Daemon(daemon::Daemon),
    /// Completions for a shell
    Completions(completions::Completions),
}

impl Command {
    fn is_about_the_cache(&self) -> bool {
        !matches!(
            self,
            Command::Init(_) | Command::Config(_) | Command::Completions(_) | Command::SigningKey(_)
        )
    }
}

/// What a shell says of a program that SIGPIPE has ended.
const BROKEN_PIPE: i32 = 128 + libc::SIGPIPE;

/// `kache list | head` ends without a word, as other programs do.
fn end_with_the_reader() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let said = info.payload_as_str().unwrap_or_default();
        if said.starts_with("failed printing to std") && said.contains("Broken pipe") {
            std::process::exit(BROKEN_PIPE);
        }
        report(info);
    }));
}

pub fn run() -> ExitCode {
    end_with_the_reader();
    let cli = Cli::parse();
    crate::log::to_stderr();
    match load().and_then(|config| dispatch(&cli.command, &config)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kache: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: &Command, config: &Config) -> Result<ExitCode> {
    if command.is_about_the_cache()
        && let Some(uid) = crate::daemon::client::Client::stranger(&config.cache_dir)
    {
        // It would not answer, and files of ours in its cache would be in its way.
        bail!(
            "{} is used by a daemon of user {uid}: run this as that user, or name a cache of your own (KACHE_CACHE_DIR)",
            config.cache_dir.display()
        );
    }
    match command {
        Command::Init(args) => init::run(args),
        Command::WhyMiss(args) => why_miss::run(args, config),
        Command::List(args) => list::run(args, config),
        Command::Purge(args) => purge::run(args, config),
        Command::Doctor(args) => doctor::run(args, config),
        Command::Clean(args) => clean::run(args, config),
        Command::Completions(args) => Ok(completions::run(args)),
        Command::Stats(args) => stats::run(args, config),
        Command::Report(args) => report::run(args, config),
        Command::Gc(args) => gc::run(args, config),
        Command::Config(args) => config::run(args, config),
        Command::Mount(args) => mount::run(args, config),
        Command::Umount(args) => umount::run(args, config),
        Command::Refresh(args) => refresh::run(args, config),
        Command::Fork(args) => fork::run(args, config),
        Command::Snapshot(args) => snapshot::run(args, config),
        Command::Mounts(args) => mounts::run(args, config),
        Command::Sync(args) => sync::run(args, config),
        Command::Planner(args) => planner::run(args, config),
        Command::SigningKey(args) => signing_key::run(args, config),
        Command::Daemon(args) => daemon::run(args, config),
    }
}

fn load() -> Result<Config> {
    let cwd = std::env::current_dir().context("the current directory is gone")?;
    Config::load(&|name: &str| -> Option<OsString> { std::env::var_os(name) }, &cwd)
}

/// Prints to a standard output that may be closed early (`kache list | head`).
fn print(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}
