//! `kache fork [--from …] [DIR]`: a whole target directory from a snapshot, in a mount or without one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use kache_wrapper::cache::Invocation;

use super::target::Target;
use crate::config::Config;
use crate::daemon::client::Client;
use crate::daemon::protocol::{Body, Response};
use crate::daemon::start;
use crate::snapshot::place::Place;
use crate::snapshot::{Answer, From, Report, Request, checkout};

/// Looking at the sources of a large workspace for the first time takes its time.
pub const PATIENCE: Duration = Duration::from_secs(600);

#[derive(Debug, Args)]
pub struct Fork {
    #[command(flatten)]
    target: Target,
    /// Fork this snapshot (its id, or the directory that it was taken of) instead of the best one
    #[arg(long, value_name = "SNAPSHOT|PATH")]
    from: Option<String>,
    /// Say which units are not fresh, and why
    #[arg(long, short)]
    verbose: bool,
}

pub fn run(args: &Fork, config: &Config) -> Result<ExitCode> {
    let dir = args.target.absolute()?;
    let from_name = args.from.as_deref();
    let from = from(from_name);
    let Some(place) = place(&dir)? else {
        bail!("{} belongs to no cargo workspace", dir.display());
    };
    let answer = match client_of(config, &dir)? {
        Some(mut client) => ask(&mut client, place, from, toolchain(from_name)?)?,
        None => {
            let toolchain = wait(toolchain(from_name)?);
            crate::snapshot::materialize::run(config, place, &from, &toolchain, &here()?)?
        }
    };
    match answer {
        Answer::Forked(report) => tell(&report, args.verbose),
        Answer::Nothing => {
            bail!("there is no snapshot of this project; build it somewhere, then `kache snapshot`")
        }
        Answer::NotEmpty => bail!("{} is not empty", dir.display()),
        other => bail!("unexpected answer: {other:?}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The daemon, if it hosts a mount of this directory.
pub fn client_of(config: &Config, dir: &Path) -> Result<Option<Client>> {
    let Some(mut client) = start::running(config)? else { return Ok(None) };
    match client.ask(Body::Mounts, PATIENCE).context("the daemon does not answer")? {
        Response::Mounts(mounts) => Ok(mounts.iter().any(|m| m.dir == dir).then_some(client)),
        other => bail!("unexpected answer from the daemon: {other:?}"),
    }
}

/// What a person named: paths are made absolute, for the daemon is elsewhere.
pub fn from(name: Option<&str>) -> From {
    match name {
        None => From::Best,
        Some(name) => match std::fs::canonicalize(name) {
            Ok(path) => From::Named(path.to_string_lossy().into_owned()),
            Err(_) => From::Named(name.to_owned()),
        },
    }
}

/// The checkout of a target directory.
pub fn place(dir: &Path) -> Result<Option<Place>> {
    Ok(Place::of(dir, Some(&cwd()?)))
}

/// Who asks: directory and environment.
pub fn here() -> Result<Invocation> {
    crate::wrap::invocation(&[]).context("the current directory is gone")
}

fn cwd() -> Result<PathBuf> {
    std::env::current_dir().context("the current directory is gone")
}

/// What the compiler says that it is, asked for while other things happen.
pub type Toolchain = Option<std::thread::JoinHandle<String>>;

/// Begins to ask, if somebody who has not named a snapshot needs to know.
pub fn toolchain(from: Option<&str>) -> Result<Toolchain> {
    let dir = cwd()?;
    Ok(from.is_none().then(|| std::thread::spawn(move || checkout::toolchain(&dir))))
}

fn wait(toolchain: Toolchain) -> String {
    toolchain.and_then(|t| t.join().ok()).unwrap_or_default()
}

/// Has the daemon fork into a mount.
pub fn ask(client: &mut Client, place: Place, from: From, toolchain: Toolchain) -> Result<Answer> {
    about_trees(client, Request::Fork { place, from, toolchain: wait(toolchain) })
}

pub fn about_trees(client: &mut Client, request: Request) -> Result<Answer> {
    let body = Body::Tree(request, Box::new(here()?));
    match client.ask(body, PATIENCE).context("the daemon does not answer")? {
        Response::Tree(answer) => Ok(answer),
        Response::Failed(why) => bail!("{why}"),
        other => bail!("unexpected answer from the daemon: {other:?}"),
    }
}

pub fn tell(report: &Report, verbose: bool) {
    println!("forked {report}");
    if verbose {
        for (unit, reason) in &report.stale {
            println!("  {unit}: {reason}");
        }
    }
}
