//! `kache report`: the event log.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use kache_wrapper::cache::Event;

use super::format;
use crate::config::{self, Config};
use crate::daemon;
use crate::store::EventFilter;

#[derive(Debug, Args)]
pub struct Report {
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Only the last so long (`10m`, `2h`, `7d`)
    #[arg(long, value_parser = config::duration)]
    since: Option<std::time::Duration>,
    /// Only the newest N
    #[arg(long)]
    limit: Option<u64>,
    /// Only this crate
    #[arg(long = "crate")]
    crate_name: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub fn run(args: &Report, config: &Config) -> Result<ExitCode> {
    daemon::flush(config);
    let filter = EventFilter {
        since_ms: format::ms_ago(args.since),
        crate_name: args.crate_name.clone(),
        limit: args.limit,
    };
    let events = config.open_store()?.events(&filter)?;
    match args.format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&events)?),
        Format::Text => super::print(&events.iter().map(line).collect::<Vec<_>>().join("\n")),
    }
    Ok(ExitCode::SUCCESS)
}

fn line(e: &Event) -> String {
    let outcome = format!("{:?}", e.outcome).to_lowercase();
    let took = format!("{:.1} ms", e.wall_us as f64 / 1e3);
    format!("{outcome:<8} {:<28} {:<13} {took:>11}  {}", e.crate_name, e.kind, e.reason)
}
