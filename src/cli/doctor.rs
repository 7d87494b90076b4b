//! `kache doctor`: is everything well, and if not, what to do.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::target::Target;
use crate::config::Config;
use crate::doctor::{self, Check, Options, State};

#[derive(Debug, Args)]
pub struct Doctor {
    #[command(flatten)]
    target: Target,
    /// Read every blob and compare it with its hash
    #[arg(long)]
    verify: bool,
    /// Remove what is damaged, take in or remove what the index does not know
    #[arg(long)]
    repair: bool,
    /// Unmount dead mounts, forget those whose directories are gone; implies --repair
    #[arg(long)]
    fix: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Doctor, config: &Config) -> Result<ExitCode> {
    let options = Options {
        target: args.target.dir()?,
        verify: args.verify,
        repair: args.repair || args.fix,
        fix_mounts: args.fix,
    };
    let mut checks = Vec::new();
    doctor::examine(config, &options, &mut |check| {
        if !args.json {
            super::print(&line(&check));
        }
        checks.push(check);
    });
    let healthy = checks.iter().all(|c| c.state != State::Fail);
    if args.json {
        let report = serde_json::json!({ "healthy": healthy, "checks": checks });
        super::print(&serde_json::to_string_pretty(&report)?);
    }
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line(check: &Check) -> String {
    let sign = match check.state {
        State::Ok => "ok  ",
        State::Warn => "note",
        State::Fail => "FAIL",
    };
    let remedy = check.remedy.as_ref().map(|r| format!("\n                    -> {r}")).unwrap_or_default();
    format!("{sign} {:<14} {}{remedy}", check.name, check.detail)
}
