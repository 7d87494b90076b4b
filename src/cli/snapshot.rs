//! `kache snapshot`: whole target directories, kept for forks.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use super::fork::{PATIENCE, about_trees, here, place};
use super::format;
use super::target::Target;
use crate::config::Config;
use crate::daemon::protocol::{Body, Response};
use crate::daemon::start;
use crate::snapshot::place::Place;
use crate::snapshot::{Answer, Request, checkout, choose, take};
use crate::store::SnapshotRow;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Snapshot {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Snapshots, newest first
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Keep a snapshot until it is unpinned
    Pin { id: String },
    /// Let a snapshot go when newer ones have replaced it
    Unpin { id: String },
    /// Forget snapshots
    Rm {
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

pub fn run(args: &Snapshot, config: &Config) -> Result<ExitCode> {
    match &args.command {
        None => take_one(&args.target.absolute()?, config)?,
        Some(Command::List { json }) => list(*json, config)?,
        Some(Command::Pin { id }) => pin(id, true, config)?,
        Some(Command::Unpin { id }) => pin(id, false, config)?,
        Some(Command::Rm { ids }) => {
            let store = config.open_store()?;
            for id in ids {
                let row = choose::named(&store, id)?;
                store.remove_snapshot(&row.id)?;
                println!("removed {}", row.id);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn take_one(dir: &Path, config: &Config) -> Result<()> {
    let row = match mounted(dir, config)? {
        Some(row) => row,
        None => plain(dir, config)?,
    };
    println!("snapshot {} of {}: {} units, {}", row.id, dir.display(), row.units, format::bytes(row.bytes));
    Ok(())
}

/// `None`: the daemon does not host it.
fn mounted(dir: &Path, config: &Config) -> Result<Option<SnapshotRow>> {
    let Some(mut client) = start::running(config)? else { return Ok(None) };
    if let Some(place) = place(dir)?
        && about_trees(&mut client, Request::Know { place }).is_err()
    {
        return Ok(None);
    }
    match about_trees(&mut client, Request::Take { dir: dir.to_owned() })? {
        Answer::Taken(row) => Ok(Some(*row)),
        other => bail!("unexpected answer from the daemon: {other:?}"),
    }
}

fn plain(dir: &Path, config: &Config) -> Result<SnapshotRow> {
    let place = place(dir)?.with_context(|| format!("{} belongs to no cargo workspace", dir.display()))?;
    let store = config.open_store()?;
    let _in_use = store.in_use()?;
    let listing = take::list_dir(&store, dir)?;
    let row = take::take(&store, &listing, &place, &checkout::about(&place))?;
    choose::prune(&store, &row)?;
    crate::remote::taken(&store, config.remote.as_ref(), &here()?, &row)?;
    Ok(row)
}

/// Takes snapshots of what is mounted in the workspace around the working directory, so that they can be shared.
pub fn take_mounted_here(config: &Config) -> Result<()> {
    let Some(mut client) = start::running(config)? else { return Ok(()) };
    let Response::Mounts(mounts) = client.ask(Body::Mounts, PATIENCE)? else { return Ok(()) };
    let cwd = std::env::current_dir()?;
    for mount in mounts {
        let place = Place::of(&mount.dir, None).filter(|place| cwd.starts_with(&place.workspace));
        let Some(place) = place else { continue };
        about_trees(&mut client, Request::Know { place })?;
        if let Err(error) = about_trees(&mut client, Request::Take { dir: mount.dir.clone() }) {
            tracing::info!(dir = %mount.dir.display(), "no snapshot: {error:#}");
        }
    }
    Ok(())
}

fn pin(id: &str, pinned: bool, config: &Config) -> Result<()> {
    let store = config.open_store()?;
    let row = choose::named(&store, id)?;
    store.pin_snapshot(&row.id, pinned)?;
    println!("{} {}", if pinned { "pinned" } else { "unpinned" }, row.id);
    Ok(())
}

fn list(json: bool, config: &Config) -> Result<()> {
    let rows = config.open_store()?.snapshots(None)?;
    if json {
        super::print(&serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    if rows.is_empty() {
        println!("there are no snapshots");
        return Ok(());
    }
    println!("{:<16} {:>6} {:>10}  {:<14} {:<10} TARGET", "ID", "UNITS", "SIZE", "TAKEN", "COMMIT");
    for row in rows {
        println!(
            "{:<16} {:>6} {:>10}  {:<14} {:<10} {}{}",
            row.id,
            row.units,
            format::bytes(row.bytes),
            format::since((row.created.max(0) as u64) * 1000),
            row.commit.get(..8).unwrap_or("-"),
            row.target.display(),
            if row.pinned { " (pinned)" } else { "" },
        );
    }
    Ok(())
}
