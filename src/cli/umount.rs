//! `kache umount [DIR|--all]`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::target::Target;
use crate::config::Config;
use crate::daemon::client::{Client, is_hung_up};
use crate::daemon::protocol::{Body, Response};
use crate::daemon::{mounts, start};

/// Materializing a large target by copies takes its time.
const PATIENCE: Duration = Duration::from_secs(3600);

#[derive(Debug, Args)]
pub struct Umount {
    #[command(flatten)]
    target: Target,
    /// Unmount everything
    #[arg(long, conflicts_with = "dir")]
    all: bool,
    /// Drop what is in the cache anyway instead of leaving a complete real directory; the next build restores it
    #[arg(long)]
    discard: bool,
}

pub fn run(args: &Umount, config: &Config) -> Result<ExitCode> {
    let Some(mut client) = start::running(config)? else {
        return without_daemon(args, config);
    };
    match with_daemon(args, &mut client) {
        // It died between our call and its answer.
        Err(error) if error.downcast_ref().is_some_and(is_hung_up) => {
            start::wait_until_gone(config, Instant::now() + Duration::from_secs(10))?;
            without_daemon(args, config)
        }
        other => other,
    }
}

fn with_daemon(args: &Umount, client: &mut Client) -> Result<ExitCode> {
    let dirs = if args.all {
        match client.ask(Body::Mounts, PATIENCE).context("the daemon does not answer")? {
            Response::Mounts(mounts) => mounts.into_iter().map(|m| m.dir).collect(),
            other => bail!("unexpected answer from the daemon: {other:?}"),
        }
    } else {
        vec![args.target.absolute()?]
    };
    for dir in dirs {
        let request = Body::Umount { dir: dir.clone(), discard: args.discard };
        match client.ask(request, PATIENCE).context("the daemon does not answer")? {
            Response::Done => println!("unmounted {}", dir.display()),
            Response::DoneBut(word) => println!("unmounted {}; {word}", dir.display()),
            Response::Failed(why) => bail!("cannot unmount {}: {why}", dir.display()),
            other => bail!("unexpected answer from the daemon: {other:?}"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The daemon is gone, its mounts may be there still, dead.
fn without_daemon(args: &Umount, config: &Config) -> Result<ExitCode> {
    let dirs = if args.all { mounts::known(config) } else { vec![args.target.absolute()?] };
    let mut found = false;
    for dir in dirs {
        if mounts::recover_without_daemon(config, &dir, args.discard)? {
            println!("unmounted {}", dir.display());
            found = true;
        }
    }
    if !found && !args.all {
        bail!("{} is not mounted", args.target.dir()?.display());
    }
    Ok(ExitCode::SUCCESS)
}
