//! A fork without a mount: ordinary files, by reflink, hard link where that is safe, or copy.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use kache_wrapper::cache::{Content, Invocation, Placement, Sharing};

use super::fork::{self, Plan, Planned, What};
use super::place::Place;
use super::{Answer, From, Report, checkout, choose, take};
use crate::config::Config;
use crate::remote::{self, Progress, Remotes, Session};
use crate::store::{ForkTotals, Store};

/// Below this many files a bar would only flicker.
const WORTH_A_BAR: usize = 200;

/// Forks into a directory that is not mounted. `inv` has the environment of who asks.
pub fn run(config: &Config, place: Place, from: &From, toolchain: &str, inv: &Invocation) -> Result<Answer> {
    let store = Arc::new(config.open_store()?);
    if fs::read_dir(&place.target).is_ok_and(|mut d| d.next().is_some()) {
        return Ok(Answer::NotEmpty);
    }
    let remotes = Remotes::new(Arc::clone(&store));
    let session = remotes.session_if_any(config.remote.as_ref());
    let row = match from {
        From::Named(name) => choose::named(&store, name)?,
        From::Best => {
            let elsewhere = session.as_deref().map(|session| (session, inv));
            match remote::best(&store, elsewhere, &place, &checkout::about(&place), toolchain)? {
                Some(row) => row,
                None => return Ok(Answer::Nothing),
            }
        }
    };
    let _in_use = store.in_use()?;
    let (snapshot, listing) = take::load(&store, &row)?;
    remotes.fetch(&fork::read_blobs(&snapshot, &listing, &place), None)?;
    let plan = fork::plan(&store, &snapshot, &listing, &place, &inv.env)?;
    fork::check_blobs(&store, &plan)?;
    bring(&store, session.as_deref(), &plan)?;
    let written = write(&store, &plan, &place.target);
    if written.is_err() {
        // Half a fork is no fork: cargo would build on it, we could not.
        let _ = fs::remove_dir_all(&place.target);
    }
    written?;
    let Plan { fresh, stale, saved_ms, bytes, .. } = plan;
    store.note_fork(&row.id, &place.target, &ForkTotals { forks: 1, fresh, saved_ms, bytes: 0 })?;
    Ok(Answer::Forked(Report { id: row.id, fresh, stale, saved_ms, bytes }))
}

/// Real files need all their bytes here.
fn bring(store: &Store, session: Option<&Session>, plan: &Plan) -> Result<()> {
    let mut missing = Vec::new();
    for hash in fork::blobs(plan).iter().filter(|hash| !store.is_on_disk(hash)) {
        missing.extend(store.fetchable(hash)?.map(|(size, executable)| (*hash, size, executable)));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let Some(session) = session else { bail!("files of this snapshot are in a remote that is not set") };
    match session.pull(missing, &Progress::default()).into_iter().next() {
        Some(error) => Err(error).context("files of this snapshot cannot be had"),
        None => Ok(()),
    }
}

fn write(store: &Store, plan: &Plan, target: &Path) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("cannot create {}", target.display()))?;
    for dir in plan.files.iter().filter(|f| matches!(f.what, What::Dir)) {
        let path = target.join(dir.path.as_path());
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    let (files, links) = fork::by_first_name(plan.files.iter().filter(|f| !matches!(f.what, What::Dir)));
    let bar =
        if files.len() < WORTH_A_BAR { ProgressBar::hidden() } else { ProgressBar::new(files.len() as u64) };
    if let Ok(style) = ProgressStyle::with_template("forking {bar:40} {pos}/{len} files") {
        bar.set_style(style);
    }
    in_parallel(&files, |file| {
        bar.inc(1);
        put(store, file, target)
    })?;
    bar.finish_and_clear();
    for (file, other) in links {
        let (from, to) = (target.join(other.path.as_path()), target.join(file.path.as_path()));
        if fs::hard_link(&from, &to).is_err() {
            put(store, file, target)?;
        }
    }
    Ok(())
}

fn put(store: &Store, file: &Planned, target: &Path) -> Result<()> {
    let path = target.join(file.path.as_path());
    put_at(store, file, &path).with_context(|| format!("cannot write {}", path.display()))
}

fn put_at(store: &Store, file: &Planned, path: &PathBuf) -> Result<()> {
    let executable = file.mode & 0o111 != 0;
    match &file.what {
        What::Dir => return Ok(()),
        What::Symlink(target) => {
            let target: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(target.as_slice());
            return Ok(std::os::unix::fs::symlink(target, path)?);
        }
        What::Bytes(bytes) => fs::write(path, bytes)?,
        What::Blob { size: 0, .. } => fs::write(path, b"")?,
        What::Blob { hash, size } => {
            let sharing = if fork::is_linkable(&file.path) { Sharing::Link } else { Sharing::Copy };
            let content = Content::Blob { hash: *hash, size: *size, executable, sharing };
            store.place_files(&[Placement { path: path.clone(), content }])?;
        }
    }
    let times = FileTimes::new().set_modified(file.mtime);
    match File::options().append(true).open(path) {
        Ok(open) => {
            // What was a link to a blob there is a file here.
            let writable = if fork::is_linkable(&file.path) { 0o200 } else { 0 };
            fs::set_permissions(path, fs::Permissions::from_mode(file.mode | writable))?;
            open.set_times(times)?;
        }
        // A hard link to a blob, which nobody may write.
        Err(_) => File::open(path)?.set_times(times)?,
    }
    if let What::Blob { hash, .. } = &file.what {
        store.relearn(hash)?;
    }
    Ok(())
}

/// Runs `f` on all, by as many threads as there are processors. The first error ends it.
fn in_parallel<T: Sync>(all: &[T], f: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 16);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    while let Some(item) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = f(item) {
                            next.store(all.len(), Ordering::Relaxed);
                            return Err(error);
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        for worker in workers {
            match worker.join() {
                Ok(done) => done?,
                Err(_) => bail!("a thread of the fork has panicked"),
            }
        }
        Ok(())
    })
}
