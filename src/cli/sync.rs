//! `kache sync`: waits for what is to be shared. Works with a daemon and without.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use kache_remote::Mode;

use super::format;
use crate::config::Config;
use crate::daemon;
use crate::remote::{Progress, Remotes, Session};

#[derive(Debug, Args)]
pub struct Sync {
    /// Upload what waits for it (what happens when nothing is said)
    #[arg(long)]
    push: bool,
    /// Download everything that the newest builds with this project's Cargo.lock were made of
    #[arg(long, conflicts_with_all = ["push", "all"])]
    pull: bool,
    /// Upload every entry of the store, also those made before there was a remote
    #[arg(long)]
    all: bool,
    /// Say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Succeed also when something could not be transferred
    #[arg(long)]
    allow_partial: bool,
}

pub fn run(args: &Sync, config: &Config) -> Result<ExitCode> {
    let Some(settings) = &config.remote else {
        bail!("there is no remote: set KACHE_S3_BUCKET (or `remote.bucket`), and not KACHE_LOCAL_ONLY");
    };
    if !args.pull
        && !args.dry_run
        && settings.mode == Mode::ReadWrite
        && let Err(error) = super::snapshot::take_mounted_here(config)
    {
        eprintln!("kache: no snapshot was taken of what is mounted here: {error:#}");
    }
    daemon::flush(config);
    let remotes = Remotes::new(Arc::new(config.open_store()?));
    let session = remotes.session(settings)?;
    let complete = if args.pull { pull(args, &session)? } else { push(args, &session, config)? };
    Ok(if complete || args.allow_partial { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// True when nothing was left over.
fn push(args: &Sync, session: &Session, config: &Config) -> Result<bool> {
    let settings = session.bucket().settings();
    if settings.mode != Mode::ReadWrite {
        super::print("nothing to upload: the remote is read-only");
        return Ok(true);
    }
    let (store, place) = (session.store(), settings.place());
    let waiting = match args.all && !args.dry_run {
        true => store.enqueue_all(&place)?,
        false => store.uploads_waiting(&place)?,
    };
    if args.dry_run {
        let waiting = if args.all { store.totals()?.entries } else { waiting };
        super::print(&format!("would upload up to {waiting} entries to {place}"));
        return Ok(true);
    }
    let pushed = with_bar(waiting, "uploaded", |progress| session.push(progress));
    let manifests = if pushed.failed == 0 { session.push_manifests(config.planner.as_ref()) } else { Ok(0) };
    let mut text = format!("uploaded {} entries, {}", pushed.entries, format::bytes(pushed.bytes));
    if pushed.dropped > 0 {
        text.push_str(&format!("; {} are incomplete, too large or of use here only", pushed.dropped));
    }
    super::print(&text);
    if let Some(error) = &pushed.error {
        eprintln!("kache: {} entries were not uploaded: {error}", pushed.failed);
    }
    if let Err(error) = &manifests {
        eprintln!("kache: the manifest of this build was not uploaded: {error}");
    }
    Ok(pushed.failed == 0 && pushed.error.is_none() && manifests.is_ok())
}

/// True when everything is here now.
fn pull(args: &Sync, session: &Session) -> Result<bool> {
    let here = std::env::current_dir()?;
    let Some(lock) = here.ancestors().map(|d| d.join("Cargo.lock")).find(|p| p.is_file()) else {
        bail!("there is no Cargo.lock in {} or above", here.display());
    };
    let missing = session.learn_all(blake3::hash(&std::fs::read(lock)?).as_bytes())?;
    let (files, size) = (missing.len() as u64, missing.iter().map(|(_, size, _)| size).sum());
    if args.dry_run {
        super::print(&format!("would download {files} files, {}", format::bytes(size)));
        return Ok(true);
    }
    let failed = with_bar(files, "downloaded", |progress| session.pull(missing, progress));
    super::print(&format!("downloaded {} of {files} files", files - failed.len() as u64));
    if let Some(error) = failed.first() {
        eprintln!("kache: {} files were not downloaded: {error}", failed.len());
    }
    Ok(failed.is_empty())
}

/// Shows on a terminal how far it is.
fn with_bar<T>(total: u64, what: &str, work: impl FnOnce(&Progress) -> T) -> T {
    let (progress, done) = (Progress::default(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        if std::io::stderr().is_terminal() && total > 0 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let (n, bytes) =
                        (progress.entries.load(Ordering::Relaxed), progress.bytes.load(Ordering::Relaxed));
                    let filled = (n * 30 / total.max(1)).min(30) as usize;
                    let bar = format!("{}{}", "█".repeat(filled), "░".repeat(30 - filled));
                    eprint!("\r\x1b[K{bar} {what} {n}/{total}, {}", format::bytes(bytes));
                    std::thread::sleep(Duration::from_millis(100));
                }
                eprint!("\r\x1b[K");
            });
        }
        let result = work(&progress);
        done.store(true, Ordering::Relaxed);
        result
    })
}
