//! Build manifests: a machine that begins a build learns at once what others know about all of it.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kache_remote::{EntryObject, Error, Hash, Manifest};
use kache_wrapper::build::{Build, of_lock};
use kache_wrapper::cache::{Cache, Output};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::entry;
use super::session::{Session, fetch, lock};
use super::upload::Progress;
use crate::planner::{Ask, Learn, Planner, Used};
use crate::store::Store;

/// Key of an entry, and its outputs.
type Needed = (Hash, Vec<Output>);

/// A blob's hash and size, and whether it is a program.
pub type Promised = (Hash, u64, bool);

pub(super) fn promised(output: &Output) -> Promised {
    (output.blob, output.size, output.executable)
}

/// A manifest is asked for again after so long.
const FRESH: Duration = Duration::from_secs(600);
/// Blobs up to this size travel inside the manifest …
const SMALL: u64 = 4 << 10;
/// … up to so many bytes of them.
const INLINE: usize = 4 << 20;
/// Builds (profiles, toolchains, targets) of one `Cargo.lock` that are downloaded on request.
const MANIFESTS: usize = 4;
/// Entries of one manifest.
const MAX_ENTRIES: usize = 20_000;
/// Manifests are made of builds that did something in the last so many seconds.
const RECENT: i64 = 24 * 3600;

impl Session {
    /// Takes in what others know about a build, if that was not done a short time ago. Without `lazy`, blobs begin to
    /// come in the background, in the order in which the build will want them.
    pub fn learn(self: &Arc<Self>, build: &Build, lazy: bool, planner: Option<&Planner>) {
        let one = Arc::clone(lock(&self.learned).entry(build.exact).or_default());
        let mut learned = lock(&one);
        if learned.is_some_and(|at: Instant| at.elapsed() < FRESH) {
            return;
        }
        let Some(patience) = self.patience() else { return };
        *learned = Some(Instant::now());
        let began = Instant::now();
        let found = self.within(began + patience, async {
            match self.bucket.manifest(&build.exact).await? {
                Some(manifest) => Ok(Some(manifest)),
                None => self.bucket.manifest(&build.workspace).await,
            }
        });
        let found = found.map(|manifest| manifest.map(|m| self.take_in(m)));
        match found {
            Ok(found) => {
                let saved = if found.is_some() { Duration::MAX } else { Duration::ZERO };
                self.judge(Ok(saved), began);
                if !lazy {
                    let ask = Ask {
                        builds: build.names().map(|n| kache_remote::hex(&n)).into(),
                        intent: "build".into(),
                    };
                    self.prefetch(found.unwrap_or_default(), planner.map(|p| (p.clone(), ask)));
                }
            }
            Err(error) => self.judge(Err(error), began),
        }
    }

    /// Takes in the newest manifests of all builds with a `Cargo.lock`. Returns the blobs that are not here.
    pub fn learn_all(&self, lock: &Hash) -> kache_remote::Result<Vec<Promised>> {
        let manifests = self.block_on(self.bucket.manifests(&of_lock(lock), MANIFESTS))?;
        let mut seen = HashSet::new();
        let mut outputs: Vec<Output> =
            manifests.into_iter().flat_map(|m| self.take_in(m)).flat_map(|(_, outputs)| outputs).collect();
        outputs.retain(|o| seen.insert(o.blob) && !self.store.is_on_disk(&o.blob));
        Ok(outputs.iter().map(promised).collect())
    }

    /// Downloads blobs. Returns what failed.
    pub fn pull(&self, wanted: Vec<Promised>, progress: &Progress) -> Vec<Error> {
        self.block_on(async {
            let slots = Arc::new(Semaphore::new(self.bucket.settings().concurrency));
            let mut tasks = JoinSet::new();
            for blob in wanted {
                let (store, bucket) = (Arc::clone(&self.store), Arc::clone(&self.bucket));
                let (one, slots) = (self.one_fetch(&blob.0), Arc::clone(&slots));
                tasks.spawn(async move {
                    let _slot = slots.acquire().await;
                    fetch(&store, &bucket, &one, &blob).await.map(|()| blob.1)
                });
            }
            let mut failed = Vec::new();
            while let Some(done) = tasks.join_next().await {
                progress.entries.fetch_add(1, Ordering::Relaxed);
                match done {
                    Ok(Ok(size)) => drop(progress.bytes.fetch_add(size, Ordering::Relaxed)),
                    Ok(Err(error)) => failed.push(error),
                    Err(_) => failed.push(Error::Local("a download was interrupted".into())),
                }
            }
            failed
        })
    }

    /// Returns what its entries need, in order.
    fn take_in(&self, manifest: Manifest) -> Vec<Needed> {
        for (hash, bytes) in &manifest.blobs {
            if let Err(error) = self.take_in_blob(hash, bytes) {
                tracing::warn!(%error, "a blob in a manifest was not used");
            }
        }
        let entries = manifest.entries.into_iter().take(MAX_ENTRIES);
        entries.filter_map(|object| self.take_in_entry(object)).collect()
    }

    fn take_in_entry(&self, object: EntryObject) -> Option<Needed> {
        let taken = entry::unpack(object, self.bucket.settings().max_blob).and_then(|shared| {
            self.store.import(&shared).map_err(|e| Error::Local(e.to_string()))?;
            Ok((shared.publication.key.0, shared.publication.entry.outputs))
        });
        taken.inspect_err(|error| tracing::warn!(%error, "an entry from elsewhere was not used")).ok()
    }

    /// What the planner says to fetch first, and then the rest. What it names beyond the manifest is taken in.
    async fn ordered(&self, mut known: Vec<Needed>, planner: Option<(Planner, Ask)>) -> Vec<Needed> {
        let Some((planner, ask)) = planner else { return known };
        let keys = match planner.ask(&ask).await {
            Ok(answer) => answer.keys,
            Err(error) => {
                tracing::warn!("the planner did not help: {error:#}");
                return known;
            }
        };
        let keys = keys.iter().take(MAX_ENTRIES).filter_map(|k| blake3::Hash::from_hex(k).ok());
        let mut rank: HashMap<Hash, usize> = HashMap::new();
        for (at, key) in keys.enumerate() {
            rank.entry(*key.as_bytes()).or_insert(at);
        }
        let here: HashSet<Hash> = known.iter().map(|(key, _)| *key).collect();
        let mut tasks = JoinSet::new();
        let slots = Arc::new(Semaphore::new(self.bucket.settings().concurrency));
        for key in rank.keys().filter(|k| !here.contains(*k)) {
            let key = *key;
            let (bucket, slots) = (Arc::clone(&self.bucket), Arc::clone(&slots));
            tasks.spawn(async move {
                let _slot = slots.acquire().await;
                bucket.entry(&key).await
            });
        }
        while let Some(done) = tasks.join_next().await {
            if let Ok(Ok(Some(object))) = done {
                known.extend(self.take_in_entry(object));
            }
        }
        known.sort_by_key(|(key, _)| rank.get(key).copied().unwrap_or(usize::MAX));
        known
    }

    fn take_in_blob(&self, hash: &Hash, bytes: &[u8]) -> anyhow::Result<()> {
        if self.store.is_on_disk(hash) {
            return Ok(());
        }
        anyhow::ensure!(blake3::hash(bytes).as_bytes() == hash, "its bytes have another hash");
        let mut incoming = self.store.incoming()?;
        incoming.file()?.write_all(bytes)?;
        Ok(self.store.publish_incoming(incoming, hash, false)?)
    }

    fn prefetch(self: &Arc<Self>, needed: Vec<Needed>, planner: Option<(Planner, Ask)>) {
        let session = Arc::clone(self);
        self.handle.spawn(async move {
            let needed = session.ordered(needed, planner).await;
            let outputs = needed.into_iter().flat_map(|(_, outputs)| outputs);
            session.bring(outputs.map(|o| promised(&o)).collect()).await;
        });
    }

    /// Begins to fetch blobs in the background, the first ones first. Whoever opens one meanwhile waits for it.
    pub fn bring_soon(self: &Arc<Self>, wanted: Vec<Promised>) {
        if !wanted.is_empty() {
            self.handle.spawn(Arc::clone(self).bring(wanted));
        }
    }

    async fn bring(self: Arc<Self>, wanted: Vec<Promised>) {
        let slots = Arc::new(Semaphore::new(self.bucket.settings().concurrency));
        let mut seen = HashSet::new();
        let mut tasks = JoinSet::new();
        for blob in wanted.into_iter().filter(|(hash, ..)| seen.insert(*hash)) {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            if self.patience().is_none() {
                return;
            }
            let session = Arc::clone(&self);
            tasks.spawn(async move {
                let one = session.one_fetch(&blob.0);
                // Whoever needs it will meet the same error and deal with it.
                let _ = fetch(&session.store, &session.bucket, &one, &blob).await;
                drop(slot);
            });
            while tasks.try_join_next().is_some() {}
        }
        while tasks.join_next().await.is_some() {}
        self.forget_fetches(&seen);
    }

    /// Uploads a manifest for every recent build of this machine that has changed. Returns how many.
    pub fn push_manifests(&self, planner: Option<&Planner>) -> kache_remote::Result<u64> {
        let local = |error: crate::store::error::Error| Error::Local(error.to_string());
        let mut pushed = 0;
        for build in self.store.recent_builds(RECENT).map_err(local)? {
            let keys = self.store.build_entries(&build).map_err(local)?;
            let mut digest = blake3::Hasher::new();
            for key in &keys {
                digest.update(&key.0);
            }
            let digest = *digest.finalize().as_bytes();
            let name = *blake3::hash(&[self.place.as_bytes(), &build].concat()).as_bytes();
            let known = self.store.fact("manifest", &name).map_err(|e| Error::Local(e.to_string()))?;
            if keys.is_empty() || known.as_deref() == Some(&digest) {
                continue;
            }
            let mut manifest = Manifest { made: now_ms(), ..Manifest::default() };
            let mut room = INLINE;
            let mut learn = Learn { build: kache_remote::hex(&build), entries: Vec::new() };
            for key in keys.iter().take(MAX_ENTRIES) {
                let Some(shared) = self.store.shared(key).map_err(local)? else { continue };
                let outputs = &shared.publication.entry.outputs;
                let is_for_others = entry::is_for_others(&shared, self.bucket.settings().max_blob);
                if !is_for_others || !outputs.iter().all(|o| self.is_somewhere(o)) {
                    continue;
                }
                for output in outputs.iter().filter(|o| o.size <= SMALL && !o.executable) {
                    inline(&self.store, output, &mut room, &mut manifest);
                }
                let took_ms = shared.publication.entry.took_ms;
                learn.entries.push(Used { key: kache_remote::hex(&key.0), took_ms });
                manifest.entries.push(entry::pack(&shared)?);
            }
            self.block_on(self.bucket.put_manifest(&build, &manifest))?;
            if let Some(Err(error)) = planner.map(|p| self.block_on(p.learn(&learn))) {
                tracing::warn!("the planner was not told: {error:#}");
            }
            self.store.set_fact("manifest", &name, &digest).map_err(|e| Error::Local(e.to_string()))?;
            pushed += 1;
        }
        Ok(pushed)
    }

    fn is_somewhere(&self, output: &Output) -> bool {
        self.store.is_on_disk(&output.blob) || self.store.fetchable(&output.blob).is_ok_and(|f| f.is_some())
    }
}

fn inline(store: &Store, output: &Output, room: &mut usize, manifest: &mut Manifest) {
    use std::io::Read;
    let size = output.size as usize;
    if size > *room || manifest.blobs.iter().any(|(hash, _)| hash == &output.blob) {
        return;
    }
    let mut bytes = Vec::with_capacity(size);
    let Ok(file) = store.open_sound(&output.blob, output.size) else { return };
    if file.take(SMALL + 1).read_to_end(&mut bytes).is_ok() && blake3::hash(&bytes).as_bytes() == &output.blob
    {
        *room -= size;
        manifest.blobs.push((output.blob, bytes));
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
