//! `kache stats`: what the cache did, in numbers.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use kache_wrapper::cache::{LinkMode, Outcome};
use serde::Serialize;

use super::format;
use crate::config::{self, Config};
use crate::daemon;
use crate::store::{EventFilter, ForkTotals, Totals};

#[derive(Debug, Args)]
pub struct Stats {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Only the last so long (`10m`, `2h`, `7d`)
    #[arg(long, value_parser = config::duration)]
    since: Option<Duration>,
}

#[derive(Debug, Serialize)]
struct Numbers {
    hits: u64,
    misses: u64,
    edits: u64,
    failed: u64,
    unstored: u64,
    passed: u64,
    /// Reason -> how often.
    pass_reasons: BTreeMap<String, u64>,
    /// Milliseconds of compiling that hits saved.
    saved_ms: u64,
    /// Bytes of outputs that hits restored, and those of them that were not copied.
    restored_bytes: u64,
    shared_bytes: u64,
    /// Forks of whole target directories, and what they saved.
    forks: ForkTotals,
    store: Totals,
    max_size: u64,
}

pub fn run(args: &Stats, config: &Config) -> Result<ExitCode> {
    daemon::flush(config);
    let store = config.open_store()?;
    let events =
        store.events(&EventFilter { since_ms: format::ms_ago(args.since), ..EventFilter::default() })?;
    let count = |outcome| events.iter().filter(|e| e.outcome == outcome).count() as u64;
    let hits = || events.iter().filter(|e| e.outcome == Outcome::Hit);
    let mut pass_reasons = BTreeMap::new();
    for event in events.iter().filter(|e| e.outcome == Outcome::Pass) {
        *pass_reasons.entry(event.reason.clone()).or_insert(0) += 1;
    }
    let numbers = Numbers {
        hits: count(Outcome::Hit),
        misses: count(Outcome::Miss),
        edits: count(Outcome::Edit),
        failed: count(Outcome::Failed),
        unstored: count(Outcome::Unstored),
        passed: count(Outcome::Pass),
        pass_reasons,
        saved_ms: hits().map(|e| e.saved_ms).sum(),
        restored_bytes: hits().map(|e| e.bytes).sum(),
        shared_bytes: hits().filter(|e| e.link_mode != Some(LinkMode::Copy)).map(|e| e.bytes).sum(),
        forks: store.fork_totals((format::ms_ago(args.since) / 1000) as i64)?,
        store: store.totals()?,
        max_size: store.max_size(),
    };
    if args.json {
        super::print(&serde_json::to_string_pretty(&numbers)?);
    } else {
        print(&numbers);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(n: &Numbers) {
    let asked = n.hits + n.misses + n.edits + n.unstored;
    let rate =
        (n.hits * 100).checked_div(asked).map_or_else(String::new, |percent| format!("  ({percent} %)"));
    println!("hits        {:>8}{rate}", n.hits);
    println!("misses      {:>8}", n.misses);
    println!("edits       {:>8}  (compiled incrementally, not stored)", n.edits);
    println!("failed      {:>8}", n.failed);
    println!("not stored  {:>8}", n.unstored);
    println!("passed      {:>8}", n.passed);
    for (reason, times) in &n.pass_reasons {
        println!("            {times:>8}  {reason}");
    }
    println!("time saved  {:>12}", format::span_ms(n.saved_ms));
    println!(
        "restored    {:>12}  ({} without copying)",
        format::bytes(n.restored_bytes),
        format::bytes(n.shared_bytes)
    );
    if n.forks.forks > 0 {
        println!(
            "forks       {:>8}  ({} units fresh, {} of compiling saved, {} not copied)",
            n.forks.forks,
            n.forks.fresh,
            format::span_ms(n.forks.saved_ms),
            format::bytes(n.forks.bytes)
        );
    }
    let (bytes, max) = (format::bytes(n.store.bytes), format::bytes(n.max_size));
    println!("store       {bytes:>12}  of {max}, {} entries, {} blobs", n.store.entries, n.store.blobs);
}
