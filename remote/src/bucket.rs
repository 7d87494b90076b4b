//! The objects that kache shares: asked for by what they mean, checked before they are believed.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_s3::primitives::ByteStream;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::message::{EntryObject, Manifest, RecordObject, SnapshotName, SnapshotObject};
use crate::object::{self, Kind};
use crate::parts::{PART, Parts};
use crate::s3::{BodyFuture, Put, S3};
use crate::sign::{Signer, Trust};
use crate::{Error, Hash, Result, Settings, blob, hex};

/// Input records of one invocation that are looked at.
const MAX_RECORDS: i32 = 32;
/// Manifests of one build that are looked at, the newest first.
const MAX_MANIFESTS: i32 = 8;
/// Snapshots of one line that are looked at, the newest first.
const MAX_SNAPSHOTS: i32 = 200;
/// Blobs from this size on are asked for before they are packed and sent.
const WORTH_ASKING: u64 = 16 << 10;
/// An envelope is longer than its content by at most so many bytes.
const ENVELOPE: usize = 1024;

pub struct Bucket {
    s3: Arc<S3>,
    parts: Parts,
    settings: Settings,
    signer: Option<Signer>,
    trust: Trust,
}

/// One thing that was tried to see whether a remote works.
#[derive(Debug, Clone)]
pub struct Probe {
    pub what: &'static str,
    pub result: Result<()>,
    pub took: Duration,
}

/// Of several objects those that are what they should be, and what is wrong with another one.
struct Usable<T> {
    found: Vec<T>,
    bad: Option<Error>,
}

impl<T> Default for Usable<T> {
    fn default() -> Self {
        Usable { found: Vec::new(), bad: None }
    }
}

impl<T> Usable<T> {
    fn add(&mut self, object: Result<Option<T>>) -> Result<()> {
        match object {
            Ok(object) => self.found.extend(object),
            Err(error) if error.is_about_one_object() => {
                tracing::warn!("{error}");
                self.bad.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn all(self) -> Result<Vec<T>> {
        match self.bad {
            Some(error) if self.found.is_empty() => Err(error),
            _ => Ok(self.found),
        }
    }
}

impl Bucket {
    /// Prepares to talk to a bucket; nothing is sent yet.
    pub async fn connect(settings: &Settings) -> Result<Bucket> {
        let signer = settings.signing_key.as_ref().map(|key| Signer::new(&key.0)).transpose()?;
        let mut trusted = settings.trusted_keys.clone();
        trusted.extend(signer.as_ref().map(Signer::public));
        let trust = Trust::new(&trusted, settings.require_signed)?;
        let s3 = Arc::new(S3::connect(settings).await?);
        let parts = Parts::new(Arc::clone(&s3), settings.concurrency);
        Ok(Bucket { s3, parts, settings: settings.clone(), signer, trust })
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    // ---- small objects

    async fn get<T: DeserializeOwned>(&self, kind: Kind, name: &str) -> Result<Option<T>> {
        let Some(bytes) = self.s3.get(name, kind.limit() + ENVELOPE).await? else { return Ok(None) };
        let content = object::open(kind, name, &bytes, &self.trust)?;
        let value = postcard::from_bytes(&content).map_err(|_| Error::bad(name, "it cannot be read"))?;
        Ok(Some(value))
    }

    async fn put<T: Serialize>(&self, kind: Kind, name: &str, value: &T) -> Result<Put> {
        let content = postcard::to_stdvec(value).map_err(|e| Error::bad(name, e.to_string()))?;
        let sealed = bytes::Bytes::from(object::seal(kind, name, &content, self.signer.as_ref())?);
        self.s3
            .put_new(name, &|| {
                let body = ByteStream::from(sealed.clone());
                Box::pin(async move { Ok(body) }) as BodyFuture
            })
            .await
    }

    /// Input records of an invocation, except those whose blake3 is in `known`. Records that are not what they
    /// should be are left out; an error when there are no others.
    pub async fn records(&self, invocation: &Hash, known: &HashSet<Hash>) -> Result<Vec<Vec<u8>>> {
        let directory = object::records(invocation);
        let listed = self.s3.list(&directory, MAX_RECORDS).await?;
        let mut records = Usable::default();
        for object in listed {
            let Some(digest) = object::hash_in(&directory, &object.name) else { continue };
            if known.contains(&digest) {
                continue;
            }
            let record = self.get::<RecordObject>(Kind::Record, &object.name).await;
            records.add(match record {
                Ok(Some(r)) if blake3::hash(&r.body).as_bytes() != &digest => {
                    Err(Error::bad(&object.name, "it is another record"))
                }
                record => record.map(|r| r.map(|r| r.body)),
            })?;
        }
        records.all()
    }

    pub async fn entry(&self, key: &Hash) -> Result<Option<EntryObject>> {
        let name = object::entry(key);
        let found: Option<EntryObject> = self.get(Kind::Entry, &name).await?;
        match found {
            Some(entry) if &entry.key != key => Err(Error::bad(&name, "it is another entry")),
            found => Ok(found),
        }
    }

    pub async fn has_entry(&self, key: &Hash) -> Result<bool> {
        self.s3.exists(&object::entry(key)).await
    }

    /// Makes an entry findable. Its blobs have been uploaded before.
    pub async fn put_entry(&self, entry: &EntryObject) -> Result<Put> {
        let done = self.put(Kind::Entry, &object::entry(&entry.key), entry).await?;
        let digest = *blake3::hash(&entry.record).as_bytes();
        let record = RecordObject { body: entry.record.clone() };
        self.put(Kind::Record, &object::record(&entry.invocation, &digest), &record).await?;
        Ok(done)
    }

    /// The newest manifest of a build that can be read and is trusted, among the newest few.
    pub async fn manifest(&self, build: &Hash) -> Result<Option<Manifest>> {
        Ok(self.manifests(build, 1).await?.pop())
    }

    /// The newest `max` manifests of a build that can be read and are trusted; an error when there are only others.
    pub async fn manifests(&self, build: &Hash, max: usize) -> Result<Vec<Manifest>> {
        let mut manifests = Usable::default();
        for object in self.s3.list(&object::manifests(build), MAX_MANIFESTS).await? {
            manifests.add(self.get(Kind::Manifest, &object.name).await)?;
            if manifests.found.len() == max {
                break;
            }
        }
        manifests.all()
    }

    pub async fn put_manifest(&self, build: &Hash, manifest: &Manifest) -> Result<Put> {
        let content = postcard::to_stdvec(manifest).map_err(|e| Error::bad("manifest", e.to_string()))?;
        let name = object::manifest(build, manifest.made, blake3::hash(&content).as_bytes());
        self.put(Kind::Manifest, &name, manifest).await
    }

    /// The newest snapshots of a line, by name: the newest first.
    pub async fn snapshots(&self, line: &Hash) -> Result<Vec<SnapshotName>> {
        let directory = object::snapshots(line);
        let listed = self.s3.list(&directory, MAX_SNAPSHOTS).await?;
        let named = listed.into_iter().filter_map(|object| {
            let (made, commit) = object::time_and_commit(&directory, &object.name)?;
            Some(SnapshotName { name: object.name, made, commit })
        });
        Ok(named.collect())
    }

    pub async fn snapshot(&self, name: &SnapshotName) -> Result<Option<SnapshotObject>> {
        self.get(Kind::Snapshot, &name.name).await
    }

    /// Makes a snapshot findable. What it needs has been uploaded before.
    pub async fn put_snapshot(
        &self,
        line: &Hash,
        made: u64,
        commit: &str,
        snapshot: &SnapshotObject,
    ) -> Result<Put> {
        let name = object::snapshot(line, made, commit, blake3::hash(&snapshot.body).as_bytes());
        self.put(Kind::Snapshot, &name, snapshot).await
    }

    // ---- blobs

    /// Writes the bytes of a blob. After an error, what was written is worth nothing.
    pub async fn fetch_blob(&self, hash: &Hash, size: u64, to: &mut (dyn Write + Send)) -> Result<()> {
        let name = object::blob(hash);
        if size > self.settings.max_blob {
            return Err(Error::bad(&name, format!("{size} bytes are too many")));
        }
        let mut unpacker = blob::Unpacker::new(&name, hash, size, to);
        let mut take = |bytes: &[u8]| unpacker.feed(bytes);
        let found = if size > PART {
            self.parts.get_into(&name, blob::longest(size), &mut take).await?
        } else {
            self.s3.get_into(&name, &mut take).await?
        };
        if !found {
            return Err(Error::Gone { name });
        }
        unpacker.finish()
    }

    pub async fn has_blob(&self, hash: &Hash) -> Result<bool> {
        self.s3.exists(&object::blob(hash)).await
    }

    /// Uploads a blob unless it is there. Returns the bytes sent. `scratch` is a directory for a temporary file.
    pub async fn put_blob(&self, hash: &Hash, size: u64, from: File, scratch: &Path) -> Result<u64> {
        let name = object::blob(hash);
        if size > self.settings.max_blob {
            return Err(Error::bad(&name, format!("{size} bytes are too many")));
        }
        if size >= WORTH_ASKING && self.s3.exists(&name).await? {
            return Ok(0);
        }
        let (hash, level, scratch) = (*hash, self.settings.compression, scratch.to_owned());
        let pack = move || {
            let packed = tempfile::Builder::new().prefix("upload-").tempfile_in(&scratch);
            let mut packed = packed.map_err(|e| Error::local("cannot pack a blob", e))?;
            let mut from = from;
            blob::pack(&hash, size, &mut from, packed.as_file_mut(), level)?;
            Ok(packed)
        };
        let packed: tempfile::NamedTempFile = tokio::task::spawn_blocking(pack)
            .await
            .map_err(|_| Error::Local("packing a blob was interrupted".into()))??;
        let length = packed.as_file().metadata().map_err(|e| Error::local("cannot pack a blob", e))?.len();
        let path = packed.path().to_owned();
        let put = self
            .s3
            .put_new(&name, &|| {
                let path = path.clone();
                Box::pin(async move {
                    let body = ByteStream::from_path(&path).await;
                    body.map_err(|e| Error::Local(format!("cannot read {}: {e}", path.display())))
                }) as BodyFuture
            })
            .await?;
        Ok(if put == Put::Done { length } else { 0 })
    }

    // ---- is it well?

    /// Stores, lists, reads and deletes an object of its own. Ends at the first failure, except that what was
    /// stored is removed.
    pub async fn probe(&self) -> Vec<Probe> {
        let mut probes = Vec::new();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let id = blake3::hash(format!("{now:?} {}", std::process::id()).as_bytes());
        let directory = format!("{}/probes/", object::VERSION);
        let name = format!("{directory}{}", hex(id.as_bytes()));
        macro_rules! step {
            ($what:literal, $future:expr) => {{
                let started = Instant::now();
                let result = $future;
                let failed = result.is_err();
                probes.push(Probe { what: $what, result, took: started.elapsed() });
                failed
            }};
        }
        if step!("list", self.s3.list(&directory, 1).await.map(drop))
            || self.settings.mode != crate::Mode::ReadWrite
        {
            return probes;
        }
        let body = || Box::pin(async { Ok(ByteStream::from_static(b"probe")) }) as BodyFuture;
        if step!("put", self.s3.put_new(&name, &body).await.map(drop)) {
            return probes;
        }
        step!(
            "get",
            match self.s3.get(&name, 5).await {
                Ok(Some(bytes)) if bytes == b"probe" => Ok(()),
                Ok(_) => Err(Error::bad(&name, "what was stored did not come back")),
                Err(error) => Err(error),
            }
        );
        step!("delete", self.s3.delete(&name).await);
        probes
    }
}
