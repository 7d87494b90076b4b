//! `kache mount [DIR]`: an overlay over a target directory.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::fork;
use super::target::{Target, absolute};
use crate::config::Config;
use crate::daemon::client::Client;
use crate::daemon::protocol::{Body, Response};
use crate::daemon::server::{self, AtEnd};
use crate::daemon::{self, link};
use crate::snapshot::{Answer, Request};

/// Mounting may have to recover a journal and materialize nothing; it is quick, but disks are not always.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
pub struct Mount {
    #[command(flatten)]
    target: Target,
    /// Put the mount into the cache directory and make DIR a symbolic link to it, so that `cargo clean` works
    #[arg(long)]
    link: bool,
    /// Stay in the foreground and serve until interrupted
    #[arg(long)]
    foreground: bool,
    /// Succeed (and say so) where mounting is impossible; builds then go on by reflink, hardlink or copy
    #[arg(long)]
    if_available: bool,
    /// What an empty target shows: this snapshot (its id, or the directory that it was taken of) instead of the best one
    #[arg(long, value_name = "SNAPSHOT|PATH")]
    from: Option<String>,
    /// Show nothing in an empty target
    #[arg(long, conflicts_with = "from")]
    empty: bool,
    /// Judge what is there again, by content: after a checkout and back, files whose times alone have changed are fresh
    #[arg(long, conflicts_with_all = ["from", "empty"])]
    refresh: bool,
}

pub fn run(args: &Mount, config: &Config) -> Result<ExitCode> {
    let named = args.target.dir()?;
    let dir = if args.link { link::prepare(config, &named)? } else { absolute(&named)? };
    if args.foreground {
        return foreground(config, &dir, args.if_available);
    }
    let toolchain = match args.empty || args.refresh {
        true => None,
        false => fork::toolchain(args.from.as_deref())?,
    };
    let mut client = daemon::start::ensure_current(config)?;
    let answer =
        client.ask(Body::Mount { dir: dir.clone() }, PATIENCE).context("the daemon does not answer")?;
    let code = report(&answer, &named, args.if_available)?;
    if matches!(answer, Response::Mounted { .. }) {
        fill(args, &mut client, &dir, toolchain)?;
    }
    Ok(code)
}

/// Forks into an empty mount, or judges a full one again.
fn fill(args: &Mount, client: &mut Client, dir: &Path, toolchain: fork::Toolchain) -> Result<()> {
    let Some(place) = fork::place(dir)? else {
        if args.from.is_some() || args.refresh {
            bail!("{} belongs to no cargo workspace", dir.display());
        }
        return Ok(());
    };
    if args.refresh {
        if let Answer::Forked(report) = fork::about_trees(client, Request::Refresh { place })? {
            println!("refreshed {report}");
        }
        return Ok(());
    }
    if args.empty {
        return fork::about_trees(client, Request::Know { place }).map(drop);
    }
    match fork::ask(client, place, fork::from(args.from.as_deref()), toolchain) {
        Ok(Answer::Forked(report)) => fork::tell(&report, false),
        Ok(Answer::NotEmpty) if args.from.is_some() => bail!("{} is not empty", dir.display()),
        Ok(_) => {}
        Err(error) if args.from.is_some() => return Err(error),
        // The mount is there and works, only empty.
        Err(error) => eprintln!("kache: nothing was forked: {error:#}"),
    }
    Ok(())
}

fn report(answer: &Response, dir: &Path, if_available: bool) -> Result<ExitCode> {
    match answer {
        Response::Mounted { already: true, .. } => println!("{} is mounted already", dir.display()),
        Response::Mounted { files, .. } => println!("mounted {} ({files} files)", dir.display()),
        Response::Unavailable(why) => {
            eprintln!(
                "kache: cannot mount: {why}\nBuilds go on without a mount, by reflink, hardlink or copy."
            );
            return Ok(if if_available { ExitCode::SUCCESS } else { ExitCode::from(2) });
        }
        Response::Failed(why) => bail!("cannot mount {}: {why}", dir.display()),
        other => bail!("unexpected answer from the daemon: {other:?}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// This process is the daemon, for as long as it lives.
fn foreground(config: &Config, dir: &Path, if_available: bool) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    server::run(config, AtEnd::Files, |engine| {
        let answer = engine.mount(dir);
        match report(&answer, dir, if_available) {
            Ok(c) if matches!(answer, Response::Mounted { .. }) => {
                code = c;
                Ok(true)
            }
            Ok(c) => {
                code = c;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    })?;
    Ok(code)
}
