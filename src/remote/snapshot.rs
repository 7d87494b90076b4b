//! Snapshots of target directories: to a bucket, and from there.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use kache_remote::{Bucket, Error, Hash, Mode, Settings, SnapshotName, SnapshotObject};
use kache_wrapper::cache::{Cache, EntryKey, Invocation};
use kache_wrapper::machine::Machine;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::session::Session;
use super::upload::Done;
use crate::snapshot::abroad::{self, Arrived, Parcel};
use crate::snapshot::place::Place;
use crate::snapshot::take::About;
use crate::snapshot::{checkout, choose};
use crate::store::{SnapshotRow, Store};

/// Who mounts waits so long for a list of snapshots …
const LIST_PATIENCE: Duration = Duration::from_secs(10);
/// … and for one of them.
const PATIENCE: Duration = Duration::from_secs(60);
/// Snapshots that are tried: the first may be damaged, or not signed.
const ATTEMPTS: usize = 3;

/// All snapshots of one project by one compiler.
fn line(identity: &Hash, toolchain: &str) -> Hash {
    let mut hash = blake3::Hasher::new();
    hash.update(b"line\0").update(identity).update(toolchain.as_bytes());
    *hash.finalize().as_bytes()
}

/// Notes that a snapshot is to be uploaded. `inv` has the environment of whoever builds there.
pub fn taken(store: &Store, settings: Option<&Settings>, inv: &Invocation, row: &SnapshotRow) -> Result<()> {
    let Some(settings) = settings.filter(|s| s.mode == Mode::ReadWrite && !row.toolchain.is_empty()) else {
        return Ok(());
    };
    let machine = Machine::of(store, inv).map_err(|e| anyhow::anyhow!("{e}"))?;
    let noted = store.set_fact("machine", &row.root, &postcard::to_stdvec(&machine)?);
    noted.map_err(|e| anyhow::anyhow!("{e}"))?;
    store.flush()?;
    Ok(store.enqueue_upload(&settings.place(), &EntryKey(row.root))?)
}

/// Is the checkout as its commit has it? Then others may want a snapshot of it, also when nobody asked for one.
pub fn is_worth_sharing(workspace: &Path) -> bool {
    !checkout::is_modified(workspace)
}

pub(super) async fn upload(
    store: &Arc<Store>,
    bucket: &Arc<Bucket>,
    slots: &Arc<Semaphore>,
    place: &str,
    root: &Hash,
) -> kache_remote::Result<Done> {
    let local = |error: anyhow::Error| Error::Local(format!("{error:#}"));
    let Some(row) = store.snapshot_of(root).map_err(|e| local(e.into()))? else { return Ok(Done::Dropped) };
    let (packer, of) = (Arc::clone(store), row.clone());
    let packed = tokio::task::spawn_blocking(move || pack(&packer, &of)).await;
    let packed = packed.map_err(|_| Error::Local("packing a snapshot was interrupted".into()))?;
    let Some(parcel) = packed.map_err(local)? else { return Ok(Done::Dropped) };
    let line = line(&row.identity, &row.toolchain);
    if is_known(store, place, &line, &row.commit, &parcel.digest) {
        return Ok(Done::Sent(0));
    }
    let mut sent = parcel.body.len() as u64;
    let mut tasks = JoinSet::new();
    for (hash, size) in parcel.large {
        if size > bucket.settings().max_blob {
            return Ok(Done::Dropped);
        }
        let file = store.open_sound(&hash, size).ok();
        let (bucket, slots, scratch) = (Arc::clone(bucket), Arc::clone(slots), store.scratch());
        tasks.spawn(async move {
            let _slot = slots.acquire().await;
            match file {
                Some(file) => bucket.put_blob(&hash, size, file, &scratch).await.map(Some),
                // It came from a remote, most likely this one, and was never opened.
                None => Ok(bucket.has_blob(&hash).await?.then_some(0)),
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        match done.map_err(|_| Error::Local("an upload was interrupted".into()))?? {
            Some(bytes) => sent += bytes,
            None => return Ok(Done::Dropped),
        }
    }
    let made = row.created.max(0) as u64 * 1000;
    bucket.put_snapshot(&line, made, &row.commit, &SnapshotObject { body: parcel.body }).await?;
    note_known(store, place, &line, &row.commit, &parcel.digest);
    Ok(Done::Sent(sent))
}

fn pack(store: &Store, row: &SnapshotRow) -> Result<Option<Parcel>> {
    let noted = store.fact("machine", &row.root).map_err(|e| anyhow::anyhow!("{e}"))?;
    let Some(machine) = noted.and_then(|m| postcard::from_bytes(&m).ok()) else { return Ok(None) };
    let _in_use = store.in_use()?;
    abroad::pack(store, row, &machine)
}

/// Has this remote a snapshot of this commit with the same units?
fn is_known(store: &Store, place: &str, line: &Hash, commit: &str, digest: &Hash) -> bool {
    let known = store.fact("shared snapshot", &known_name(place, line, commit)).ok().flatten();
    known.as_deref() == Some(digest)
}

fn note_known(store: &Store, place: &str, line: &Hash, commit: &str, digest: &Hash) {
    let _ = store.set_fact("shared snapshot", &known_name(place, line, commit), digest);
}

fn known_name(place: &str, line: &Hash, commit: &str) -> Hash {
    *blake3::hash(&[place.as_bytes(), line, commit.as_bytes()].concat()).as_bytes()
}

/// The best snapshot for a place, here or (which takes it in) elsewhere. `inv` has the environment of whoever is to use it.
pub fn best(
    store: &Store,
    elsewhere: Option<(&Session, &Invocation)>,
    place: &Place,
    about: &About,
    toolchain: &str,
) -> Result<Option<SnapshotRow>> {
    let here = choose::best(store, place, about, toolchain)?;
    let Some((session, inv)) = elsewhere else { return Ok(here) };
    Ok(nearer(session, place, about, toolchain, here.as_ref(), inv).or(here))
}

/// Takes in a snapshot that is nearer than the best one here, if a remote has one.
fn nearer(
    session: &Session,
    place: &Place,
    about: &About,
    toolchain: &str,
    here: Option<&SnapshotRow>,
    inv: &Invocation,
) -> Option<SnapshotRow> {
    if here.is_some_and(|row| row.commit == about.commit) || toolchain.is_empty() {
        return None;
    }
    let warn = |error: &dyn std::fmt::Display| tracing::warn!("no snapshot from elsewhere: {error:#}");
    let line = line(&about.identity, toolchain);
    let listed = session.bucket.snapshots(&line);
    let listed = session.within(Instant::now() + LIST_PATIENCE, listed).inspect_err(|e| warn(e)).ok()?;
    let mut names = choose::nearer(place, here, listed).take(ATTEMPTS).peekable();
    names.peek()?;
    let machine = Machine::of(&*session.store, inv).inspect_err(|e| warn(e)).ok()?;
    let row = names.find_map(|name| {
        let taken = session.take_in_snapshot(&name, &about.identity, toolchain, &machine);
        taken.inspect_err(|e| warn(e)).ok()
    })?;
    if let Err(error) = choose::prune(&session.store, &row) {
        warn(&error);
    }
    Some(row)
}

impl Session {
    /// Takes a snapshot in. Blobs that do not travel inside of it stay where they are.
    fn take_in_snapshot(
        &self,
        name: &SnapshotName,
        identity: &Hash,
        toolchain: &str,
        machine: &Machine,
    ) -> kache_remote::Result<SnapshotRow> {
        let gone = || Error::Gone { name: name.name.clone() };
        let object = self.within(Instant::now() + PATIENCE, self.bucket.snapshot(name))?.ok_or_else(gone)?;
        let max_blob = self.bucket.settings().max_blob;
        let arrived = abroad::unpack(&self.store, &object.body, identity, name.made, machine, max_blob);
        let bad = |error| Error::Bad { name: name.name.clone(), how: format!("{error:#}") };
        let Arrived { row, digest } = arrived.map_err(bad)?;
        if row.toolchain != toolchain || row.commit != name.commit {
            let _ = self.store.remove_snapshot(&row.id);
            return Err(bad(anyhow::anyhow!("it is another snapshot")));
        }
        note_known(&self.store, &self.place, &line(identity, toolchain), &row.commit, &digest);
        Ok(row)
    }
}
