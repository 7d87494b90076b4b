//! `kache gc`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::format;
use crate::config::{self, Config};
use crate::daemon;

#[derive(Debug, Args)]
pub struct Gc {
    /// Instead of the configured `max_size`
    #[arg(long, value_parser = config::size)]
    max_size: Option<u64>,
    /// Say nothing, and leave it to another gc if one is running
    #[arg(long)]
    background: bool,
}

pub fn run(args: &Gc, config: &Config) -> Result<ExitCode> {
    daemon::flush(config);
    let store = config.open_store()?;
    let max = args.max_size.unwrap_or_else(|| store.max_size());
    match store.gc(max)? {
        _ if args.background => {}
        None => println!("another gc is running"),
        Some(r) => {
            println!("removed {} entries and {} blobs: {}", r.entries, r.blobs, format::bytes(r.bytes))
        }
    }
    Ok(ExitCode::SUCCESS)
}
