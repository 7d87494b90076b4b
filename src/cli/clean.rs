//! `kache clean [DIR]`: what `cargo clean` does, also on a mount point.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::target::Target;
use crate::config::Config;
use crate::daemon::protocol::{Body, Response};
use crate::daemon::{mounts, start};

#[derive(Debug, Args)]
pub struct Clean {
    #[command(flatten)]
    target: Target,
}

pub fn run(args: &Clean, config: &Config) -> Result<ExitCode> {
    let dir = args.target.absolute()?;
    if let Some(mut client) = start::hosting(config)? {
        match client
            .ask(Body::Clean { dir: dir.clone() }, Duration::from_secs(600))
            .context("the daemon does not answer")?
        {
            Response::Done => {
                println!("emptied {}", dir.display());
                return Ok(ExitCode::SUCCESS);
            }
            Response::NotMounted => {}
            Response::Failed(why) => bail!("cannot empty {}: {why}", dir.display()),
            other => bail!("unexpected answer from the daemon: {other:?}"),
        }
    }
    if mounts::is_stale(&dir) {
        bail!("{} is a dead mount; `kache mount` brings it back, `kache umount` removes it", dir.display());
    }
    if !dir.join("CACHEDIR.TAG").exists() && !dir.join(".rustc_info.json").exists() && dir.exists() {
        bail!("{} does not look like a target directory of cargo", dir.display());
    }
    match std::fs::remove_dir_all(&dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        other => other.with_context(|| format!("cannot remove {}", dir.display()))?,
    }
    println!("removed {}", dir.display());
    Ok(ExitCode::SUCCESS)
}
