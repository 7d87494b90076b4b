//! `kache refresh [DIR]`: the same as `kache mount --refresh`, for hooks: nothing is mounted.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use super::fork::{about_trees, client_of, place};
use super::target::Target;
use crate::config::Config;
use crate::snapshot::{Answer, Request};

#[derive(Debug, Args)]
pub struct Refresh {
    #[command(flatten)]
    target: Target,
    /// Say nothing, also where there is nothing to do
    #[arg(long, short)]
    quiet: bool,
}

pub fn run(args: &Refresh, config: &Config) -> Result<ExitCode> {
    match refresh(args, config) {
        Err(error) if args.quiet => {
            tracing::debug!("{error:#}");
            Ok(ExitCode::SUCCESS)
        }
        other => other,
    }
}

fn refresh(args: &Refresh, config: &Config) -> Result<ExitCode> {
    let dir = args.target.absolute()?;
    let Some(mut client) = client_of(config, &dir)? else { bail!("{} is not mounted", dir.display()) };
    let Some(place) = place(&dir)? else { bail!("{} belongs to no cargo workspace", dir.display()) };
    match about_trees(&mut client, Request::Refresh { place })? {
        Answer::Forked(report) if !args.quiet => println!("refreshed {report}"),
        Answer::Forked(_) => {}
        other => bail!("unexpected answer from the daemon: {other:?}"),
    }
    Ok(ExitCode::SUCCESS)
}
