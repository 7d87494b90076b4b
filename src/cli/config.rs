//! `kache config`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::config::{Config, SETTINGS, markdown};

#[derive(Debug, Args)]
pub struct ConfigCommand {
    /// Print JSON
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print the reference documentation
    #[arg(long)]
    markdown: bool,
}

pub fn run(args: &ConfigCommand, config: &Config) -> Result<ExitCode> {
    let value = |at: usize| match (SETTINGS[at].key, config.origins[at].0.as_str()) {
        (_, text) if SETTINGS[at].secret && !text.is_empty() => "(set)".to_owned(),
        ("cache_dir", _) => config.cache_dir.display().to_string(),
        (_, text) => text.to_owned(),
    };
    if args.markdown {
        print!("{}", markdown());
    } else if args.json {
        let all: serde_json::Map<_, _> = SETTINGS
            .iter()
            .enumerate()
            .map(|(at, s)| {
                let origin = config.origins[at].1.to_string();
                (s.key.to_owned(), serde_json::json!({ "value": value(at), "origin": origin, "env": s.env }))
            })
            .collect();
        super::print(&serde_json::to_string_pretty(&all)?);
    } else {
        for (at, s) in SETTINGS.iter().enumerate() {
            println!("{:<22} {:<40} {}", s.key, value(at), config.origins[at].1);
        }
    }
    if !args.markdown {
        for what in &config.ignored {
            eprintln!("ignored: {what}");
        }
    }
    Ok(ExitCode::SUCCESS)
}
