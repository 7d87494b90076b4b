//! `kache mounts`: what is mounted, and what it costs.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::config::Config;
use crate::daemon::protocol::{Body, MountInfo, Response};
use crate::daemon::{mounts, start};

#[derive(Debug, Args)]
pub struct Mounts {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Mounts, config: &Config) -> Result<ExitCode> {
    let mut mounts = match start::present(config) {
        None => Vec::new(),
        Some(mut client) => {
            match client.ask(Body::Mounts, Duration::from_secs(10)).context("the daemon does not answer")? {
                Response::Mounts(mounts) => mounts,
                Response::OtherVersion(version) => {
                    bail!("the daemon is {version}; `kache daemon restart` replaces it")
                }
                other => bail!("unexpected answer from the daemon: {other:?}"),
            }
        }
    };
    // What a dead daemon left behind.
    for dir in mounts::known(config) {
        if mounts.iter().all(|m| m.dir != dir) && mounts::is_stale(&dir) {
            mounts.push(MountInfo { dir, alive: false, ..MountInfo::default() });
        }
    }
    if args.json {
        super::print(&serde_json::to_string_pretty(&mounts)?);
    } else if mounts.is_empty() {
        println!("nothing is mounted");
    } else {
        print(&mounts);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(mounts: &[MountInfo]) {
    use super::format::{bytes, since};
    println!("{:>8} {:>8} {:>10} {:>10}  {:<14} PATH", "FILES", "VIEWS", "SHOWN", "OWN", "SINCE");
    for m in mounts {
        println!(
            "{:>8} {:>8} {:>10} {:>10}  {:<14} {}{}",
            m.files,
            m.views,
            bytes(m.shown_bytes),
            bytes(m.own_bytes),
            since(m.since_ms),
            m.dir.display(),
            if m.alive { "" } else { " (dead)" },
        );
    }
}
