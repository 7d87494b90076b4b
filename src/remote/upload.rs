//! From the queue to the bucket: blobs first, then the entry that names them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kache_remote::{Bucket, Error, Mode};
use kache_wrapper::cache::EntryKey;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::session::Session;
use super::{entry, snapshot};
use crate::store::Store;

/// What an upload of the queue did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pushed {
    pub entries: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// Entries that are no longer complete here, or of no use elsewhere.
    pub dropped: u64,
    pub failed: u64,
    /// The first failure.
    pub error: Option<String>,
}

/// How far it is, for a person who waits.
#[derive(Debug, Default)]
pub struct Progress {
    pub entries: AtomicU64,
    pub bytes: AtomicU64,
}

pub(super) enum Done {
    Sent(u64),
    Dropped,
}

impl Session {
    pub(super) fn has_due(&self) -> bool {
        self.bucket.settings().mode == Mode::ReadWrite
            && self.store.uploads(&self.place, false).is_ok_and(|due| !due.is_empty())
    }

    /// Uploads what is waiting, in the background; at most one such worker at a time.
    pub fn upload_soon(self: &Arc<Self>) {
        if self.bucket.settings().mode != Mode::ReadWrite || self.uploading.swap(true, Ordering::SeqCst) {
            return;
        }
        let worker = Worker(Arc::clone(self));
        self.handle.spawn(async move {
            loop {
                let pushed = worker.0.push_due(false, &Progress::default()).await;
                if let Some(error) = &pushed.error {
                    tracing::warn!("uploads failed and will be tried again: {error}");
                }
                if pushed.error.is_some() || pushed.entries + pushed.dropped == 0 {
                    break;
                }
            }
        });
    }

    /// Uploads everything that is waiting, also what failed a moment ago.
    pub fn push(&self, progress: &Progress) -> Pushed {
        self.block_on(self.push_due(true, progress))
    }

    async fn push_due(&self, all: bool, progress: &Progress) -> Pushed {
        let mut pushed = Pushed::default();
        let keys = match self.store.uploads(&self.place, all) {
            Ok(keys) => keys,
            Err(error) => return Pushed { failed: 1, error: Some(error.to_string()), ..pushed },
        };
        let slots = Arc::new(Semaphore::new(self.bucket.settings().concurrency));
        let mut tasks = JoinSet::new();
        let mut keys = keys.into_iter();
        let mut lasting = false;
        loop {
            // Some more than there are slots: an entry that waits for its blobs holds none.
            while tasks.len() < self.bucket.settings().concurrency && !lasting {
                let Some(key) = keys.next() else { break };
                let (store, bucket, slots) =
                    (Arc::clone(&self.store), Arc::clone(&self.bucket), Arc::clone(&slots));
                let place = self.place.clone();
                tasks.spawn(async move { (key, upload(&store, &bucket, &slots, &place, &key).await) });
            }
            let Some(joined) = tasks.join_next().await else { break };
            let Ok((key, done)) = joined else {
                pushed.failed += 1;
                continue;
            };
            progress.entries.fetch_add(1, Ordering::Relaxed);
            let noted = match done {
                Ok(Done::Sent(bytes)) => {
                    pushed.entries += 1;
                    pushed.bytes += bytes;
                    progress.bytes.fetch_add(bytes, Ordering::Relaxed);
                    self.store.upload_ended(&self.place, &key)
                }
                Ok(Done::Dropped) => {
                    pushed.dropped += 1;
                    self.store.upload_ended(&self.place, &key)
                }
                Err(error) => {
                    pushed.failed += 1;
                    lasting |= error.is_lasting();
                    pushed.error.get_or_insert_with(|| error.to_string());
                    self.store.upload_failed(&self.place, &key)
                }
            };
            if let Err(error) = noted {
                pushed.error.get_or_insert_with(|| error.to_string());
            }
        }
        // Those that were not tried because it is of no use.
        pushed.failed += keys.len() as u64;
        pushed
    }
}

/// The right to upload in the background, given back however that ends.
struct Worker(Arc<Session>);

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.uploading.store(false, Ordering::SeqCst);
    }
}

async fn upload(
    store: &Arc<Store>,
    bucket: &Arc<Bucket>,
    slots: &Arc<Semaphore>,
    place: &str,
    key: &EntryKey,
) -> kache_remote::Result<Done> {
    let local = |error: crate::store::error::Error| Error::Local(error.to_string());
    let Some(shared) = store.shared(key).map_err(local)? else {
        return snapshot::upload(store, bucket, slots, place, &key.0).await;
    };
    if !entry::is_for_others(&shared, bucket.settings().max_blob) {
        return Ok(Done::Dropped);
    }
    if bucket.has_entry(&key.0).await? {
        return Ok(Done::Sent(0));
    }
    let mut sent = 0;
    let mut tasks = JoinSet::new();
    for output in &shared.publication.entry.outputs {
        // An entry that came from a remote and was never opened here has nothing to give.
        let Ok(file) = store.open_sound(&output.blob, output.size) else { return Ok(Done::Dropped) };
        let (bucket, slots, scratch) = (Arc::clone(bucket), Arc::clone(slots), store.scratch());
        let (hash, size) = (output.blob, output.size);
        tasks.spawn(async move {
            let _slot = slots.acquire().await;
            bucket.put_blob(&hash, size, file, &scratch).await
        });
    }
    while let Some(done) = tasks.join_next().await {
        sent += done.map_err(|_| Error::Local("an upload was interrupted".into()))??;
    }
    let object = entry::pack(&shared)?;
    bucket.put_entry(&object).await?;
    Ok(Done::Sent(sent))
}
