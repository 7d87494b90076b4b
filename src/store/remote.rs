//! What the store keeps for a remote: which entries wait for upload, which blobs can be fetched, what builds used.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use kache_wrapper::cache::{Entry, EntryKey, InvocationKey, Publication};
use kache_wrapper::machine;
use rusqlite::{OptionalExtension, TransactionBehavior, params};

use super::blobs::RemoveOnDrop;
use super::error::At;
use super::{Hash, Result, Store, now_ns, now_s};

/// An upload that failed is tried again after so many seconds, and twice as many each further time.
const RETRY: i64 = 5;
const LONGEST_RETRY: i64 = 3600;
/// What a build used is forgotten after so long.
const BUILD_AGE_NS: i64 = 30 * 24 * 3600 * 1_000_000_000;
/// Facts that go along with an entry: about the content of its outputs, and true on every machine.
const PORTABLE_FACTS: [&str; 4] = ["crate-2", machine::WORDS, machine::NATIVE, machine::PROVEN];

/// An entry with all that belongs to it.
#[derive(Debug, Clone)]
pub struct Shared {
    pub publication: Publication,
    pub facts: Vec<PortableFact>,
}

/// Space, hash of an output, value.
pub type PortableFact = (String, Hash, Vec<u8>);

/// A blob that is being written; gone when dropped before it is published.
pub struct Incoming {
    path: PathBuf,
    file: Option<File>,
}

impl Incoming {
    pub fn file(&mut self) -> io::Result<&mut File> {
        self.file.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Not there any more when it was published.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Store {
    // ---- uploads

    /// What waits is the key of an entry, or the root of a snapshot.
    pub fn enqueue_upload(&self, place: &str, key: &EntryKey) -> Result<()> {
        self.with(|conn| {
            conn.prepare_cached("INSERT OR IGNORE INTO uploads (place, key) VALUES (?, ?)")?
                .execute((place, key.0))
                .map(drop)
        })
    }

    /// Every entry and snapshot, for a remote that was not there when they were made. Returns how many are waiting.
    pub fn enqueue_all(&self, place: &str) -> Result<u64> {
        self.with(|conn| {
            conn.execute(
                "INSERT OR IGNORE INTO uploads (place, key)
                 SELECT ?1, key FROM entries UNION ALL SELECT ?1, root FROM snapshots",
                [place],
            )
        })?;
        self.uploads_waiting(place)
    }

    pub fn uploads_waiting(&self, place: &str) -> Result<u64> {
        self.with(|conn| {
            conn.query_row("SELECT count(*) FROM uploads WHERE place = ?", [place], |row| {
                row.get::<_, i64>(0)
            })
        })
        .map(|n| n as u64)
    }

    /// Some that may be tried now; with `all` also those that failed a moment ago.
    pub fn uploads(&self, place: &str, all: bool) -> Result<Vec<EntryKey>> {
        let now = if all { i64::MAX } else { now_s() };
        self.with(|conn| {
            conn.prepare_cached(
                "SELECT key FROM uploads WHERE place = ? AND due <= ? ORDER BY due LIMIT 10000",
            )?
            .query_map((place, now), |row| row.get(0).map(EntryKey))?
            .collect()
        })
    }

    /// Uploaded, or impossible.
    pub fn upload_ended(&self, place: &str, key: &EntryKey) -> Result<()> {
        self.with(|conn| {
            conn.prepare_cached("DELETE FROM uploads WHERE place = ? AND key = ?")?
                .execute((place, key.0))
                .map(drop)
        })
    }

    pub fn upload_failed(&self, place: &str, key: &EntryKey) -> Result<()> {
        self.with(|conn| {
            conn.prepare_cached(
                "UPDATE uploads SET tries = tries + 1, due = ?3 + min(?4 << min(tries, 20), ?5)
                 WHERE place = ?1 AND key = ?2",
            )?
            .execute(params![place, key.0, now_s(), RETRY, LONGEST_RETRY])
            .map(drop)
        })
    }

    // ---- entries from here to there, and back

    /// `None` when there is no such entry.
    pub fn shared(&self, key: &EntryKey) -> Result<Option<Shared>> {
        let Some(entry) = self.find_entry(&key.0)? else { return Ok(None) };
        let found: Option<(Hash, Vec<u8>)> = self.with(|conn| {
            conn.prepare_cached(
                "SELECT invocation, record_bodies.body FROM entries JOIN records ON records.id = entries.record
                 JOIN record_bodies ON record_bodies.id = records.id WHERE key = ?",
            )?
            .query_row([key.0], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
        })?;
        let Some((invocation, record)) = found else { return Ok(None) };
        let mut facts = Vec::new();
        for output in &entry.outputs {
            // Whoever takes a whole target directory asks what macros and build scripts may read.
            if matches!(entry.kind.as_str(), "proc-macro" | "build-script") && self.is_on_disk(&output.blob) {
                self.words(&output.blob)?;
            }
            facts.extend(self.facts_of(&output.blob)?);
        }
        let publication = Publication { invocation: InvocationKey(invocation), record, key: *key, entry };
        Ok(Some(Shared { publication, facts }))
    }

    /// Takes an entry in. Those of its blobs that are not here are known to be fetchable from now on. What is known
    /// here about the content of its outputs stays as it is.
    pub fn import(&self, shared: &Shared) -> Result<()> {
        let outputs = &shared.publication.entry.outputs;
        let of_outputs = shared.facts.iter().filter(|(_, hash, _)| outputs.iter().any(|o| &o.blob == hash));
        self.import_facts(of_outputs)?;
        if !self.has_entry(&shared.publication.key)? {
            self.publish_entry(&shared.publication)?;
        }
        self.promise(outputs.iter().map(|o| (o.blob, o.size, o.executable)))
    }

    /// These blobs (hash, size, whether executable) are here or can be fetched.
    pub fn promise(&self, blobs: impl Iterator<Item = (Hash, u64, bool)>) -> Result<()> {
        let absent: Vec<_> = blobs.filter(|(hash, ..)| !self.is_on_disk(hash)).collect();
        if absent.is_empty() {
            return Ok(());
        }
        self.with(|conn| {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for (hash, size, executable) in &absent {
                tx.prepare_cached(
                    "INSERT OR REPLACE INTO remote_blobs (hash, size, executable) VALUES (?,?,?)",
                )?
                .execute(params![hash, *size as i64, executable])?;
            }
            tx.commit()
        })
    }

    /// Words of a program or macro that may be variables.
    pub fn words(&self, blob: &Hash) -> Result<Vec<u8>> {
        if let Some(known) = self.find_fact(machine::WORDS, blob)? {
            return Ok(known);
        }
        let words = machine::words_of(&self.read_blob(blob)?);
        self.keep_fact(machine::WORDS, blob, &words);
        Ok(words)
    }

    /// What is known of an output's content and true on every machine.
    pub fn facts_of(&self, blob: &Hash) -> Result<Vec<PortableFact>> {
        let mut facts = Vec::new();
        for space in PORTABLE_FACTS {
            if let Some(value) = self.find_fact(space, blob)? {
                facts.push((space.to_owned(), *blob, value));
            }
        }
        Ok(facts)
    }

    /// Takes in what is not known here.
    pub fn import_facts<'a>(&self, facts: impl Iterator<Item = &'a PortableFact>) -> Result<()> {
        for (space, hash, value) in facts {
            let Some(space) = PORTABLE_FACTS.into_iter().find(|s| s == space) else { continue };
            if self.find_fact(space, hash)?.is_none() {
                self.keep_fact(space, hash, value);
            }
        }
        Ok(())
    }

    /// Input records of all entries that have this blob as an output.
    pub fn records_behind(&self, blob: &Hash) -> Result<Vec<Vec<u8>>> {
        self.with(|conn| {
            conn.prepare_cached(
                "SELECT record_bodies.body FROM entry_blobs JOIN entries ON entries.id = entry_blobs.entry
                 JOIN record_bodies ON record_bodies.id = entries.record WHERE hash = ?",
            )?
            .query_map([blob], |row| row.get(0))?
            .collect()
        })
    }

    pub fn has_entry(&self, key: &EntryKey) -> Result<bool> {
        self.find_entry(&key.0).map(|e: Option<Entry>| e.is_some())
    }

    // ---- blobs

    /// Size and mode of a blob that is not here, but can be fetched.
    pub fn fetchable(&self, hash: &Hash) -> Result<Option<(u64, bool)>> {
        self.with(|conn| {
            conn.prepare_cached("SELECT size, executable FROM remote_blobs WHERE hash = ?")?
                .query_row([hash], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?)))
                .optional()
        })
    }

    /// Is this blob here, or will it come when somebody opens it?
    pub fn can_show(&self, hash: &Hash, size: u64) -> Result<bool> {
        if !self.is_on_disk(hash) && self.fetchable(hash)?.is_some_and(|(s, _)| s == size) {
            return Ok(true);
        }
        self.has_blob(hash, size)
    }

    /// It is here now.
    pub fn fetched(&self, hash: &Hash) -> Result<()> {
        self.with(|conn| {
            conn.prepare_cached("DELETE FROM remote_blobs WHERE hash = ?")?.execute([hash]).map(drop)
        })
    }

    /// It is neither here nor there: nothing that needs it can be restored.
    pub fn unfetchable(&self, hash: &Hash) -> Result<()> {
        self.fetched(hash)?;
        self.drop_blob(hash)
    }

    /// A place for a blob's bytes.
    pub fn incoming(&self) -> Result<Incoming> {
        let path = self.temp_path();
        let file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).at("create", &path)?;
        Ok(Incoming { path, file: Some(file) })
    }

    /// Publishes a blob whose bytes have been checked while they were written.
    pub fn publish_incoming(&self, mut incoming: Incoming, hash: &Hash, executable: bool) -> Result<()> {
        let _in_use = self.gc_lock.lock()?;
        drop(incoming.file.take());
        self.publish_temp(&RemoveOnDrop(&incoming.path), hash, if executable { 0o555 } else { 0o444 })?;
        self.fetched(hash)
    }

    /// Where temporary files of transfers may lie.
    pub fn scratch(&self) -> PathBuf {
        self.dir.join("store/tmp")
    }

    // ---- builds

    /// A build used an entry.
    pub fn note_build(&self, build: &Hash, key: &EntryKey) {
        self.pending().builds.push((*build, key.0, now_ns()));
    }

    /// Builds that used something in the last so many seconds.
    pub fn recent_builds(&self, seconds: i64) -> Result<Vec<Hash>> {
        self.flush()?;
        self.with(|conn| {
            conn.execute("DELETE FROM builds WHERE seen < ?", [now_ns() - BUILD_AGE_NS])?;
            conn.prepare_cached("SELECT DISTINCT build FROM builds WHERE seen > ?")?
                .query_map([now_ns() - seconds * 1_000_000_000], |row| row.get(0))?
                .collect()
        })
    }

    /// Entries that a build used, in the order in which it did: of each invocation the last one.
    pub fn build_entries(&self, build: &Hash) -> Result<Vec<EntryKey>> {
        self.with(|conn| {
            conn.prepare_cached(
                "SELECT key FROM (SELECT builds.key AS key, max(builds.seen) AS seen FROM builds
                 JOIN entries ON entries.key = builds.key JOIN records ON records.id = entries.record
                 WHERE build = ? GROUP BY records.invocation) ORDER BY seen",
            )?
            .query_map([build], |row| row.get(0).map(EntryKey))?
            .collect()
        })
    }
}
