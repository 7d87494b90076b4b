//! `kache report`: the event log.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use kache_wrapper::cache::{Event, Outcome};

use super::format;
use crate::config::{self, Config};
use crate::daemon;
use crate::store::{EventFilter, ForkTotals};

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
    /// Markdown for the summary of a job
    Github,
}

pub fn run(args: &Report, config: &Config) -> Result<ExitCode> {
    daemon::flush(config);
    let filter = EventFilter {
        since_ms: format::ms_ago(args.since),
        crate_name: args.crate_name.clone(),
        limit: args.limit,
    };
    let store = config.open_store()?;
    let events = store.events(&filter)?;
    match args.format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&events)?),
        Format::Github => {
            let since = filter.since_ms as i64 / 1000;
            super::print(&summary(&events, &store.fork_totals(since)?));
        }
        Format::Text => super::print(&events.iter().map(line).collect::<Vec<_>>().join("\n")),
    }
    Ok(ExitCode::SUCCESS)
}

fn line(e: &Event) -> String {
    let outcome = format!("{:?}", e.outcome).to_lowercase();
    let took = format!("{:.1} ms", e.wall_us as f64 / 1e3);
    format!("{outcome:<8} {:<28} {:<13} {took:>11}  {}", e.crate_name, e.kind, e.reason)
}

/// Rows of the table of what was compiled.
const MAX_ROWS: usize = 50;

fn summary(events: &[Event], forks: &ForkTotals) -> String {
    let of = |outcome: Outcome| events.iter().filter(move |e| e.outcome == outcome);
    let (hits, misses) = (of(Outcome::Hit).count(), of(Outcome::Miss).count());
    let percent = hits * 100 / (hits + misses).max(1);
    let saved: u64 = of(Outcome::Hit).map(|e| e.saved_ms).sum();
    let mut text = format!(
        "### kache\n\n**{hits}** of {} units restored ({percent} %), {:.1} s of compiling saved, {} restored.\n",
        hits + misses,
        saved as f64 / 1e3,
        format::bytes(of(Outcome::Hit).map(|e| e.bytes).sum()),
    );
    if forks.fresh > 0 {
        let (fresh, saved) = (forks.fresh, forks.saved_ms as f64 / 1e3);
        text.push_str(&format!(
            "\n**{fresh}** units were fresh in a fork, {saved:.1} s of compiling saved.\n"
        ));
    }
    let mut compiled: Vec<&Event> = of(Outcome::Miss).chain(of(Outcome::Unstored)).collect();
    compiled.sort_by_key(|e| std::cmp::Reverse(e.wall_us));
    if !compiled.is_empty() {
        text.push_str("\n| compiled | kind | ms | why |\n| --- | --- | ---: | --- |\n");
    }
    for e in compiled.iter().take(MAX_ROWS) {
        let reason = e.reason.replace('|', "\\|").replace(['\n', '`', '<', '>'], " ");
        text.push_str(&format!("| {} | {} | {} | {reason} |\n", e.crate_name, e.kind, e.wall_us / 1000));
    }
    if let more @ 1.. = compiled.len().saturating_sub(MAX_ROWS) {
        text.push_str(&format!("\n… and {more} more.\n"));
    }
    text
}
