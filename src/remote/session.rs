//! One remote, as the daemon uses it: looks up what is not here, fetches blobs, uploads in the background.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use kache_remote::gate::Gate;
use kache_remote::{Bucket, EntryObject, Error, Hash, Settings};
use kache_wrapper::cache::{Cache, Invocation, Output};
use kache_wrapper::lookup::Miss;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::entry;
use super::manifest::{Promised, promised};
use crate::store::{Shared, Store};

/// What a remote does not have is not asked for again for so long.
const ABSENT: Duration = Duration::from_secs(60);
/// Names that are remembered for it.
const MAX_ABSENT: usize = 50_000;

pub struct Session {
    pub(super) store: Arc<Store>,
    pub(super) bucket: Arc<Bucket>,
    pub(super) handle: Handle,
    pub(super) place: String,
    pub(super) uploading: AtomicBool,
    gate: Gate,
    /// One lookup of the same thing (as a claim names it) at a time: who comes second finds what the first one brought.
    asking: Mutex<HashMap<Hash, Arc<Mutex<()>>>>,
    /// The same for blobs.
    fetching: Mutex<HashMap<Hash, Arc<tokio::sync::Mutex<()>>>>,
    absent: Mutex<HashMap<Hash, Instant>>,
    /// When a build's manifest was last taken in.
    pub(super) learned: Mutex<HashMap<Hash, Arc<Mutex<Option<Instant>>>>>,
    /// Where warnings for people go.
    log: PathBuf,
}

impl Session {
    pub(super) fn open(store: Arc<Store>, settings: &Settings, handle: Handle) -> Result<Session> {
        let bucket = handle.block_on(Bucket::connect(settings))?;
        let lanes = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Session {
            log: store.dir().join("kache.log"),
            store,
            bucket: Arc::new(bucket),
            handle,
            place: settings.place(),
            uploading: AtomicBool::new(false),
            gate: Gate::new(lanes),
            asking: Mutex::default(),
            fetching: Mutex::default(),
            absent: Mutex::default(),
            learned: Mutex::default(),
        })
    }

    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.handle.block_on(future)
    }

    pub fn is_idle(&self) -> bool {
        !self.uploading.load(std::sync::atomic::Ordering::SeqCst)
    }

    /// Looks for a result and takes it in. True: look again, it is here now. With `lazy` its blobs are
    /// left where they are.
    pub fn find(&self, cache: &dyn Cache, inv: &Invocation, wanted: &Miss, lazy: bool) -> bool {
        let name = wanted.claim;
        let one = Arc::clone(lock(&self.asking).entry(name).or_default());
        let waited = one.try_lock().is_err();
        let _mine = one.lock().unwrap_or_else(PoisonError::into_inner);
        if waited && wanted.news().is_any(cache).unwrap_or(false) {
            return true;
        }
        let began = Instant::now();
        let found = self.find_now(cache, inv, wanted, lazy);
        lock(&self.asking).remove(&name);
        let brought = matches!(found, Ok(Some(_)));
        if found.as_ref().is_err_and(Error::is_about_one_object) {
            self.note_absent(name);
        }
        self.judge(found.map(Option::unwrap_or_default), began);
        brought
    }

    pub(super) fn patience(&self) -> Option<Duration> {
        self.gate.patience()
    }

    /// Tells the gate how a question went that was asked at `began`: `Ok` is the time that the answer saves.
    pub(super) fn judge(&self, answer: kache_remote::Result<Duration>, began: Instant) {
        let saved = match &answer {
            Ok(saved) => {
                if !saved.is_zero() {
                    self.gate.helped();
                }
                *saved
            }
            Err(error) => {
                tracing::info!(%error, "the remote did not help");
                self.warn(self.gate.failed(error));
                Duration::ZERO
            }
        };
        self.warn(self.gate.lost(began.elapsed().saturating_sub(saved)));
    }

    /// `Some` is the time that the compile would have taken.
    fn find_now(
        &self,
        cache: &dyn Cache,
        inv: &Invocation,
        wanted: &Miss,
        lazy: bool,
    ) -> kache_remote::Result<Option<Duration>> {
        let invocation = wanted.invocation;
        if self.is_absent(&wanted.claim) {
            return Ok(None);
        }
        let Some(patience) = self.gate.patience() else { return Ok(None) };
        let until = Instant::now() + patience;
        let local = |error: kache_wrapper::cache::Error| Error::Local(error.to_string());
        let known = cache.records(&invocation).map_err(local)?;
        let known: HashSet<Hash> = known.iter().map(|r| *blake3::hash(r).as_bytes()).collect();
        let mut keys = wanted.missing.clone();
        for record in self.within(until, self.bucket.records(&invocation.0, &known))? {
            keys.extend(wanted.entry_key(cache, inv, &record).map_err(local)?);
        }
        for key in keys {
            let Some(object) = self.within(until, self.bucket.entry(&key.0))? else { continue };
            let Some(shared) = self.check(cache, inv, wanted, object)? else { continue };
            let took = Duration::from_millis(shared.publication.entry.took_ms);
            if !lazy {
                let until = (Instant::now() + took).max(until);
                self.within(until, self.fetch_all(&shared.publication.entry.outputs))?;
            }
            self.store.import(&shared).map_err(|e| Error::Local(e.to_string()))?;
            return Ok(Some(took));
        }
        self.note_absent(wanted.claim);
        Ok(None)
    }

    /// Does this entry belong to what is to be compiled here? Its key is made again from its record.
    fn check(
        &self,
        cache: &dyn Cache,
        inv: &Invocation,
        wanted: &Miss,
        object: EntryObject,
    ) -> kache_remote::Result<Option<Shared>> {
        let key = wanted.entry_key(cache, inv, &object.record).map_err(|e| Error::Local(e.to_string()))?;
        let same = key.is_some_and(|k| k.0 == object.key) && wanted.invocation.0 == object.invocation;
        if !same {
            let name = format!("entry {}", kache_remote::hex(&object.key));
            return Err(Error::Bad { name, how: "its key does not follow from its record".into() });
        }
        let shared = entry::unpack(object, self.bucket.settings().max_blob)?;
        Ok(Some(shared))
    }

    pub(super) fn within<T>(
        &self,
        until: Instant,
        future: impl Future<Output = kache_remote::Result<T>>,
    ) -> kache_remote::Result<T> {
        let waited = until.saturating_duration_since(Instant::now());
        self.handle.block_on(async {
            tokio::time::timeout(waited, future).await.unwrap_or_else(|_| {
                let endpoint = self.bucket.settings().shown_endpoint();
                Err(Error::TimedOut { endpoint, waited })
            })
        })
    }

    // ---- blobs

    /// All blobs that are not here yet, at the same time.
    async fn fetch_all(&self, outputs: &[Output]) -> kache_remote::Result<()> {
        let wanted: Vec<&Output> = outputs.iter().filter(|o| !self.store.is_on_disk(&o.blob)).collect();
        let mut seen = HashSet::new();
        let mut tasks = JoinSet::new();
        for output in wanted.into_iter().filter(|o| seen.insert(o.blob)) {
            let (store, bucket, one) =
                (Arc::clone(&self.store), Arc::clone(&self.bucket), self.one_fetch(&output.blob));
            let blob = promised(output);
            tasks.spawn(async move { fetch(&store, &bucket, &one, &blob).await });
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(|_| Error::Local("a download was interrupted".into()))??;
        }
        self.forget_fetches(&seen);
        Ok(())
    }

    pub(super) fn one_fetch(&self, hash: &Hash) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(lock(&self.fetching).entry(*hash).or_default())
    }

    pub(super) fn forget_fetches(&self, hashes: &HashSet<Hash>) {
        lock(&self.fetching).retain(|hash, _| !hashes.contains(hash));
    }

    /// Fetches one blob, for whoever opens it. One that is gone or wrong makes everything that needs it stale.
    ///
    /// With `until` the blob is to save time that ends then: a remote that is left alone is not asked, and one that is
    /// slow is not waited for longer.
    pub fn fetch_blob(&self, wanted: &Promised, until: Option<Instant>) -> kache_remote::Result<()> {
        let began = Instant::now();
        let until = match (until, self.gate.patience()) {
            (Some(_), None) => return Err(Error::Local("the remote is left alone for this build".into())),
            (Some(until), Some(patience)) => Some(until.max(began + patience)),
            (None, _) => None,
        };
        let one = self.one_fetch(&wanted.0);
        let (store, bucket, blob) = (Arc::clone(&self.store), Arc::clone(&self.bucket), *wanted);
        // On a thread of the runtime: those of a mount have stacks that are too small for it.
        let task = self.handle.spawn(async move { fetch(&store, &bucket, &one, &blob).await });
        let task =
            async { task.await.unwrap_or_else(|_| Err(Error::Local("a download was interrupted".into()))) };
        let fetched = match until {
            Some(until) => self.within(until, task),
            None => self.handle.block_on(task),
        };
        lock(&self.fetching).remove(&wanted.0);
        self.judge(fetched.clone().map(|()| Duration::MAX), began);
        fetched
    }

    // ---- what is known not to be there

    fn is_absent(&self, name: &Hash) -> bool {
        lock(&self.absent).get(name).is_some_and(|since| since.elapsed() < ABSENT)
    }

    fn note_absent(&self, name: Hash) {
        let mut absent = lock(&self.absent);
        if absent.len() >= MAX_ABSENT {
            absent.clear();
        }
        absent.insert(name, Instant::now());
    }

    /// Once for each build, to the log of kache, where a person looks.
    fn warn(&self, why: Option<String>) {
        if let Some(why) = why {
            tracing::warn!("{why}");
            crate::log::append(&self.log, &why);
        }
    }
}

pub(super) async fn fetch(
    store: &Store,
    bucket: &Bucket,
    one: &tokio::sync::Mutex<()>,
    (hash, size, executable): &Promised,
) -> kache_remote::Result<()> {
    let _mine = one.lock().await;
    if store.is_on_disk(hash) {
        return Ok(());
    }
    let local = |error: crate::store::error::Error| Error::Local(error.to_string());
    let mut incoming = store.incoming().map_err(local)?;
    let file = incoming.file().map_err(|e| Error::Local(e.to_string()))?;
    bucket.fetch_blob(hash, *size, file).await?;
    store.publish_incoming(incoming, hash, *executable).map_err(local)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Maps of things at rest: a panic elsewhere leaves them whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
