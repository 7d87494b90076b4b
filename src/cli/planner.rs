//! `kache planner`: the reference planner.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::config::Config;
use crate::planner;

#[derive(Debug, Args)]
pub struct Planner {
    /// Address and port to listen on
    #[arg(long, default_value = "127.0.0.1:7117")]
    listen: String,
    /// Where it remembers what builds used [default: planner.db in the cache directory]
    #[arg(long)]
    database: Option<PathBuf>,
}

pub fn run(args: &Planner, config: &Config) -> Result<ExitCode> {
    let database = args.database.clone().unwrap_or_else(|| config.cache_dir.join("planner.db"));
    if let Some(dir) = database.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let listener = std::net::TcpListener::bind(&args.listen)
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    super::print(&format!("listening on http://{}", listener.local_addr()?));
    let token = config.planner_token.as_ref().map(|t| t.0.as_str());
    planner::serve(&listener, &database, token)?;
    Ok(ExitCode::SUCCESS)
}
