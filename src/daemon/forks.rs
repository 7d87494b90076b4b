//! Snapshots of mounts, and mounts that show one.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kache_fs::Kind;
use kache_wrapper::cache::Invocation;

use super::engine::{Engine, Hosted, is_worth_sealing, pin_owner};
use super::mounts;
use super::protocol::Response;
use crate::remote;
use crate::snapshot::place::Place;
use crate::snapshot::take::{self, About};
use crate::snapshot::{Answer, From, Report, Request, checkout, choose, fork, refresh, tree};
use crate::store::{ForkTotals, SnapshotRow};

/// Sealing everything for a snapshot that somebody waits for.
const PATIENCE: Duration = Duration::from_secs(600);
/// What cargo (or somebody who looked) may leave in a target directory that is empty all the same.
const NOTHING: &[&str] = &["CACHEDIR.TAG", ".rustc_info.json", ".cargo-lock", ".cargo-build-lock"];

/// Why a snapshot is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    Asked,
    Passing,
}

impl Engine {
    pub fn tree(&self, request: Request, inv: &Invocation) -> Response {
        match self.try_tree(request, inv) {
            Ok(answer) => Response::Tree(answer),
            Err(error) => Response::Failed(format!("{error:#}")),
        }
    }

    fn try_tree(&self, request: Request, inv: &Invocation) -> Result<Answer> {
        self.own(&*self.hosted(request.target())?, inv);
        match request {
            Request::Know { place } => {
                self.know(&*self.hosted(&place.target)?, place)?;
                Ok(Answer::Known)
            }
            Request::Take { dir } => {
                let hosted = self.hosted(&dir)?;
                Ok(Answer::Taken(Box::new(self.take(&hosted, Occasion::Asked)?)))
            }
            Request::Fork { place, from, toolchain } => self.fork(place, &from, &toolchain, inv),
            Request::Refresh { place } => {
                let hosted = self.hosted(&place.target)?;
                self.know(&hosted, place)?;
                Ok(Answer::Forked(self.refresh(&hosted)?))
            }
        }
    }

    fn hosted(&self, dir: &Path) -> Result<Arc<Hosted>> {
        self.find(dir).with_context(|| format!("{} is not mounted", dir.display()))
    }

    /// Remembers, also for the next daemon, which checkout a mount belongs to.
    fn know(&self, hosted: &Hosted, place: Place) -> Result<()> {
        let path = place_file(self.cache_dir(), &hosted.dir);
        kache_wrapper::atomic::write(&path, &postcard::to_stdvec(&place)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        *hosted.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
        Ok(())
    }

    /// Takes snapshots of mounts in which a build has ended.
    pub fn snapshot_quiet(&self) {
        for hosted in self.all() {
            if hosted.sealed.load(Ordering::Relaxed)
                && hosted.is_due()
                && let Err(error) = self.take(&hosted, Occasion::Passing)
            {
                tracing::debug!(dir = %hosted.dir.display(), %error, "no snapshot");
            }
        }
    }

    /// Takes a snapshot of what a mount shows right now.
    pub(super) fn take(&self, hosted: &Hosted, occasion: Occasion) -> Result<SnapshotRow> {
        let mut last = hosted.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let moment = hosted.mount().names();
        let outcome = self.take_now(hosted);
        // Also after a failure: it would be the same again.
        *last = Some(moment);
        drop(last);
        if let Ok(row) = &outcome
            && let Err(error) = self.share_snapshot(hosted, row, occasion)
        {
            tracing::warn!(dir = %hosted.dir.display(), "a snapshot will not be shared: {error:#}");
        }
        outcome
    }

    /// Notes a snapshot for upload.
    fn share_snapshot(&self, hosted: &Hosted, row: &SnapshotRow, occasion: Occasion) -> Result<()> {
        let Some(owner) = hosted.owner().filter(|o| o.remote.is_some()) else { return Ok(()) };
        if occasion == Occasion::Asked || remote::is_worth_sharing(&row.workspace) {
            remote::taken(&self.store, owner.remote.as_ref(), &owner.inv, row)?;
        }
        Ok(())
    }

    fn take_now(&self, hosted: &Hosted) -> Result<SnapshotRow> {
        let place = hosted.place(self.cache_dir()).context("it is not known which workspace this is of")?;
        let _in_use = self.store.in_use()?;
        hosted.mount().seal_quiet(Duration::ZERO, PATIENCE, &|path| is_worth_sealing(path))?;
        self.pin(hosted);
        let listing = take::list_mount(&hosted.mount())?;
        if !listing.keys().any(|p| p.as_bytes().ends_with(b".fingerprint")) {
            bail!("nothing has been built there");
        }
        let about: About = checkout::about(&place);
        let row = take::take(&self.store, &listing, &place, &about)?;
        choose::prune(&self.store, &row)?;
        Ok(row)
    }

    fn fork(&self, place: Place, from: &From, toolchain: &str, inv: &Invocation) -> Result<Answer> {
        let hosted = self.hosted(&place.target)?;
        self.know(&hosted, place.clone())?;
        if !is_empty(&hosted)? {
            return Ok(Answer::NotEmpty);
        }
        let Some(row) = self.donor(&hosted, &place, from, toolchain)? else { return Ok(Answer::Nothing) };
        let _in_use = self.store.in_use()?;
        let (snapshot, listing) = take::load(&self.store, &row)?;
        self.remotes.fetch(&fork::read_blobs(&snapshot, &listing, &place), None)?;
        let plan = fork::plan(&self.store, &snapshot, &listing, &place, &inv.env)?;
        fork::check_blobs(&self.store, &plan)?;
        self.store.add_pins(&pin_owner(&hosted.dir), &fork::blobs(&plan))?;
        let placed = hosted.mount().place(&fork::placements(&plan));
        if placed.is_err()
            && let Err(error) = hosted.clear()
        {
            tracing::warn!(dir = %hosted.dir.display(), %error, "half a fork stays");
        }
        placed?;
        hosted.sealed.store(false, Ordering::Relaxed);
        // Until something is built there, its snapshot is the one that it shows.
        *hosted.taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(hosted.mount().names());
        self.note(&hosted.dir, &row.id, plan.fresh, plan.saved_ms, plan.bytes)?;
        let fork::Plan { fresh, stale, saved_ms, bytes, .. } = plan;
        Ok(Answer::Forked(Report { id: row.id, fresh, stale, saved_ms, bytes }))
    }

    fn note(&self, dir: &Path, id: &str, fresh: u64, saved_ms: u64, bytes: u64) -> Result<()> {
        Ok(self.store.note_fork(id, dir, &ForkTotals { forks: 1, fresh, saved_ms, bytes })?)
    }

    /// The snapshot to fork. Mounts that may be the donor are looked at as they are right now.
    fn donor(
        &self,
        hosted: &Hosted,
        place: &Place,
        from: &From,
        toolchain: &str,
    ) -> Result<Option<SnapshotRow>> {
        let others = || self.all().into_iter().filter(|m| m.dir != place.target);
        match from {
            From::Named(name) => {
                let path = std::fs::canonicalize(name).unwrap_or_else(|_| name.into());
                let live = others().find(|m| m.dir == path || m.dir == path.join("target"));
                match live {
                    Some(hosted) => self.take(&hosted, Occasion::Passing).map(Some),
                    None => choose::named(&self.store, name).map(Some),
                }
            }
            From::Best => {
                let about = checkout::about(place);
                for hosted in others().filter(|m| m.is_due()) {
                    let identity = hosted.place(self.cache_dir()).map(|p| checkout::about(&p).identity);
                    if identity == Some(about.identity)
                        && let Err(error) = self.take(&hosted, Occasion::Passing)
                    {
                        tracing::debug!(dir = %hosted.dir.display(), %error, "no snapshot");
                    }
                }
                let owner = hosted.owner();
                let session = self.remotes.session_if_any(owner.as_ref().and_then(|o| o.remote.as_ref()));
                let elsewhere = session.as_deref().zip(owner.as_ref().map(|o| &o.inv));
                remote::best(&self.store, elsewhere, place, &about, toolchain)
            }
        }
    }

    /// Judges the units of a mount again, by content, as they were when its last snapshot was taken.
    fn refresh(&self, hosted: &Hosted) -> Result<Report> {
        let place = hosted.place(self.cache_dir()).context("it is not known which workspace this is of")?;
        let rows = self.store.snapshots(None)?;
        let row = rows.iter().find(|r| r.target == hosted.dir).context("there is no snapshot of it yet")?;
        let (snapshot, _) = take::load(&self.store, row)?;
        let _in_use = self.store.in_use()?;
        hosted.mount().seal_quiet(Duration::ZERO, PATIENCE, &|path| is_worth_sealing(path))?;
        self.pin(hosted);
        let listing = take::list_mount(&hosted.mount())?;
        let plan = refresh::plan(&self.store, &snapshot, &listing, &place)?;
        for path in &plan.remove {
            hosted.mount().remove(path)?;
        }
        hosted.mount().set_mtimes(&plan.times)?;
        self.note(&hosted.dir, &row.id, plan.revived, plan.saved_ms, 0)?;
        let refresh::Plan { fresh, stale, saved_ms, .. } = plan;
        Ok(Report { id: row.id.clone(), fresh, stale, saved_ms, bytes: 0 })
    }
}

impl Hosted {
    /// Has anything changed since the last snapshot?
    fn is_due(&self) -> bool {
        let last = *self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        last != Some(self.mount().names())
    }

    /// Which checkout this is of.
    pub fn place(&self, cache_dir: &Path) -> Option<Place> {
        let mut known = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            let bytes = std::fs::read(place_file(cache_dir, &self.dir)).ok();
            *known = bytes.and_then(|b| postcard::from_bytes(&b).ok()).or_else(|| Place::of(&self.dir, None));
        }
        known.clone()
    }
}

fn place_file(cache_dir: &Path, dir: &Path) -> PathBuf {
    mounts::state_dir(cache_dir, dir).join("place")
}

fn is_empty(hosted: &Hosted) -> Result<bool> {
    let all = hosted.mount().walk()?;
    Ok(all.iter().all(|entry| {
        let (_, name) = tree::split(&entry.path);
        entry.stat.kind == Kind::Directory || NOTHING.iter().any(|n| n.as_bytes() == name)
    }))
}
