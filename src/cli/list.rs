//! `kache list`: what is in the store.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::format;
use crate::config::Config;
use crate::daemon;

#[derive(Debug, Args)]
pub struct List {
    /// Only this crate
    #[arg(value_name = "CRATE")]
    crate_name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &List, config: &Config) -> Result<ExitCode> {
    daemon::flush(config);
    // Packages have dashes where crates have underscores.
    let name = args.crate_name.as_ref().map(|n| n.replace('-', "_"));
    let entries = config.open_store()?.entries(name.as_deref())?;
    if args.json {
        super::print(&serde_json::to_string_pretty(&entries)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut text =
        format!("{:<16} {:<28} {:<13} {:>10} {:>5}  LAST USED", "ENTRY", "CRATE", "KIND", "SIZE", "HITS");
    for e in &entries {
        let (key, bytes) = (&e.key[..16], format::bytes(e.bytes));
        let used = format::since(e.used.max(0) as u64 * 1000);
        text.push_str(&format!(
            "\n{key} {:<28} {:<13} {bytes:>10} {:>5}  {used}",
            e.crate_name, e.kind, e.hits
        ));
    }
    super::print(&text);
    Ok(ExitCode::SUCCESS)
}
