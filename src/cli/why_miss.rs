//! `kache why-miss [CRATE]`: what was different when something was compiled.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use kache_wrapper::cache::{Event, Outcome};

use super::format;
use crate::config::Config;
use crate::daemon;
use crate::store::EventFilter;

#[derive(Debug, Args)]
pub struct WhyMiss {
    /// Only this crate
    #[arg(value_name = "CRATE")]
    crate_name: Option<String>,
    /// How many, newest last
    #[arg(long, short = 'n', default_value_t = 20)]
    limit: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &WhyMiss, config: &Config) -> Result<ExitCode> {
    daemon::flush(config);
    let crate_name = args.crate_name.as_ref().map(|n| n.replace('-', "_"));
    let events = config.open_store()?.events(&EventFilter { crate_name, ..EventFilter::default() })?;
    let compiled = |e: &&Event| matches!(e.outcome, Outcome::Miss | Outcome::Edit | Outcome::Unstored);
    let all: Vec<&Event> = events.iter().filter(compiled).collect();
    let newest = &all[all.len().saturating_sub(args.limit)..];
    if args.json {
        super::print(&serde_json::to_string_pretty(newest)?);
    } else if newest.is_empty() {
        println!("nothing was compiled");
    } else {
        let line = |e: &&Event| {
            let (when, outcome) = (format::since(e.time_ms), format!("{:?}", e.outcome).to_lowercase());
            format!("{when:<12} {outcome:<8} {} ({}): {}", e.crate_name, e.kind, e.reason)
        };
        super::print(&newest.iter().map(line).collect::<Vec<_>>().join("\n"));
    }
    Ok(ExitCode::SUCCESS)
}
