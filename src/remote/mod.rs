//! Sharing with other machines: brings `kache_remote`'s bucket and the store together.
//!
//! Nothing in here is touched before a lookup has missed, and the network only ever by the daemon and by commands:
//! a wrapper that works alone only notes what is to be uploaded.

mod entry;
mod manifest;
mod session;
mod snapshot;
mod upload;

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kache_remote::{Error, Hash, Mode, Settings};
use kache_wrapper::build::Build;
use kache_wrapper::cache::EntryKey;
use tokio::runtime::Runtime;

pub use manifest::Promised;
pub use session::Session;
pub use snapshot::{best, is_worth_sharing, taken};
pub use upload::Progress;

use crate::planner::Planner;
use crate::store::Store;

/// What a build shares with other machines through.
pub struct Sharing {
    pub remote: Settings,
    pub planner: Option<Planner>,
}

/// Different remotes (or credentials) that a daemon keeps a connection to.
const MAX_SESSIONS: usize = 8;
/// A remote that nobody has named yet is waited for so long.
const INTRODUCTION: Duration = Duration::from_secs(5);
/// Uploads that wait are looked for so often.
const LOOK: Duration = Duration::from_secs(5);

/// The remotes that builds have used, each with its connections. Made when first needed.
pub struct Remotes {
    store: Arc<Store>,
    inner: Mutex<Inner>,
    /// Blobs that were promised and are not to be had.
    gone: Mutex<Vec<Hash>>,
}

#[derive(Default)]
struct Inner {
    runtime: Option<Runtime>,
    sessions: VecDeque<(Settings, Arc<Session>)>,
    /// When uploads were last looked for.
    looked: Option<Instant>,
}

impl Remotes {
    pub fn new(store: Arc<Store>) -> Remotes {
        Remotes { store, inner: Mutex::default(), gone: Mutex::default() }
    }

    pub fn session(&self, settings: &Settings) -> Result<Arc<Session>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = inner.sessions.iter().position(|(known, _)| known == settings)
            && let Some(known) = inner.sessions.remove(at)
        {
            let session = Arc::clone(&known.1);
            inner.sessions.push_back(known);
            return Ok(session);
        }
        let runtime = match inner.runtime.take() {
            Some(runtime) => runtime,
            None => runtime()?,
        };
        let session = Session::open(Arc::clone(&self.store), settings, runtime.handle().clone());
        inner.runtime = Some(runtime);
        let session = Arc::new(session?);
        if inner.sessions.len() >= MAX_SESSIONS {
            inner.sessions.pop_front();
        }
        inner.sessions.push_back((settings.clone(), Arc::clone(&session)));
        Ok(session)
    }

    /// The same for whoever can do without: `None` when there is no remote, or it cannot be used.
    pub fn session_if_any(&self, settings: Option<&Settings>) -> Option<Arc<Session>> {
        let session = self.session(settings?);
        session.inspect_err(|error| tracing::warn!("the remote cannot be used: {error:#}")).ok()
    }

    /// Brings blobs here that some remote has. Nothing to do, and no time lost, when they are all here. With `until` it is
    /// better to do without them than to wait longer.
    ///
    /// # Errors
    /// One of them is not here and cannot be had.
    pub fn fetch(&self, wanted: &[Hash], until: Option<Instant>) -> kache_remote::Result<()> {
        let missing: Vec<&Hash> = wanted.iter().filter(|h| !self.store.is_on_disk(h)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        for hash in missing {
            let known = self.store.fetchable(hash).map_err(|e| Error::Local(e.to_string()))?;
            let gone = || Error::Gone { name: format!("blob {}", kache_remote::hex(hash)) };
            let Some((size, executable)) = known else {
                if self.store.is_on_disk(hash) {
                    // It came meanwhile, and nobody needs to know any more where from.
                    continue;
                }
                self.give_up(hash);
                return Err(gone());
            };
            self.fetch_from_any(&(*hash, size, executable), until)?;
        }
        Ok(())
    }

    fn fetch_from_any(&self, wanted: &Promised, until: Option<Instant>) -> kache_remote::Result<()> {
        let mut errors = Vec::new();
        for session in self.known()? {
            match session.fetch_blob(wanted, until) {
                Ok(()) => return Ok(()),
                Err(error) => errors.push(error),
            }
        }
        match errors.iter().find(|e| !e.is_about_one_object()) {
            Some(trouble) => Err(trouble.clone()),
            // Nobody has it.
            None => {
                if let Err(error) = self.store.unfetchable(&wanted.0) {
                    tracing::warn!(%error, "cannot forget a blob");
                }
                self.give_up(&wanted.0);
                Err(errors.swap_remove(0))
            }
        }
    }

    /// A session for each place, the one that was used last first. A daemon that has just begun does not know yet whose remotes it will use, and is
    /// told within moments by whoever made it begin.
    fn known(&self) -> kache_remote::Result<Vec<Arc<Session>>> {
        let began = Instant::now();
        loop {
            let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let mut places = HashSet::new();
            let newest = inner.sessions.iter().rev().filter(|(settings, _)| places.insert(settings.place()));
            let sessions: Vec<_> = newest.map(|(_, s)| Arc::clone(s)).collect();
            drop(inner);
            if !sessions.is_empty() {
                return Ok(sessions);
            }
            if began.elapsed() > INTRODUCTION {
                let why = "its remote is not known yet: the credentials were those of a build's environment \
                           (build, or run `kache mount`, to bring them)";
                return Err(Error::Local(why.into()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Uploads what is waiting and due, to every remote in use; looks for it every few seconds at most.
    pub fn upload_soon(&self) {
        let sessions: Vec<Arc<Session>> = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            if inner.looked.is_some_and(|at| at.elapsed() < LOOK) {
                return;
            }
            inner.looked = Some(Instant::now());
            inner.sessions.iter().map(|(_, s)| Arc::clone(s)).collect()
        };
        for session in sessions {
            if session.has_due() {
                session.upload_soon();
            }
        }
    }

    /// Nobody has this blob.
    pub fn give_up(&self, hash: &Hash) {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).push(*hash);
    }

    /// Blobs that turned out not to be had since the last call: whatever shows them must not go on doing so.
    pub fn take_gone(&self) -> Vec<Hash> {
        std::mem::take(&mut *self.gone.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn is_idle(&self) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.sessions.iter().all(|(_, s)| s.is_idle())
    }
}

impl Drop for Remotes {
    fn drop(&mut self) {
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        inner.sessions.clear();
        if let Some(runtime) = inner.runtime.take() {
            // What is on its way is in the queue still.
            runtime.shutdown_background();
        }
    }
}

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("kache-remote")
        .enable_all()
        .build()
        .context("cannot start threads for the remote")
}

/// Notes that a new entry is to be uploaded.
pub fn stored(store: &Store, remote: Option<&Settings>, key: &EntryKey) {
    let Some(settings) = remote.filter(|s| s.mode == Mode::ReadWrite) else { return };
    if let Err(error) = store.enqueue_upload(&settings.place(), key) {
        tracing::warn!(%error, "cannot note an upload");
    }
}

/// Notes that a build used an entry, for its manifest.
pub fn used(store: &Store, build: Option<&Build>, key: &EntryKey) {
    if let Some(build) = build {
        for name in build.names() {
            store.note_build(&name, key);
        }
    }
}
