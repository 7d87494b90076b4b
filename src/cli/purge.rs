//! `kache purge`: forget results.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::format;
use crate::config::Config;
use crate::daemon;

#[derive(Debug, Args)]
pub struct Purge {
    /// Only results of this crate; without it, everything
    #[arg(long = "crate", value_name = "NAME")]
    crate_name: Option<String>,
}

pub fn run(args: &Purge, config: &Config) -> Result<ExitCode> {
    daemon::flush(config);
    let name = args.crate_name.as_ref().map(|n| n.replace('-', "_"));
    let removed = config.open_store()?.purge(name.as_deref())?;
    println!(
        "removed {} entries and {} blobs: {}",
        removed.entries,
        removed.blobs,
        format::bytes(removed.bytes)
    );
    Ok(ExitCode::SUCCESS)
}
