//! Questions to the index, and what is written to it at once (the rest is in [`super::pending`]).

use kache_wrapper::cache::{Entry, Event, FileId, LinkMode, Outcome, Publication};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

use super::blobs::BlobRow;
use super::pending::{mode_name, outcome_name, path_of};
use super::{Hash, Result, Store, now_s};

/// Records of one invocation that a lookup tries.
const MAX_RECORDS: i64 = 32;

/// An entry, for people.
#[derive(Debug, Clone, serde::Serialize)]
pub struct EntryInfo {
    pub key: String,
    pub crate_name: String,
    pub kind: String,
    /// Bytes of its outputs.
    pub bytes: u64,
    /// Seconds since the Unix epoch.
    pub created: i64,
    pub used: i64,
    pub hits: u64,
}

/// Which events to read.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Milliseconds since the Unix epoch.
    pub since_ms: u64,
    pub crate_name: Option<String>,
    /// The newest so many.
    pub limit: Option<u64>,
}

/// Size of the store.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Totals {
    pub entries: u64,
    pub blobs: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

impl Store {
    pub(super) fn find_stat(&self, id: &FileId) -> Result<Option<Hash>> {
        self.with(|conn| {
            conn.prepare_cached(
                "SELECT hash FROM stats WHERE dev = ? AND ino = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ?",
            )?
            .query_row(
                params![id.dev as i64, id.ino as i64, id.size as i64, id.mtime_ns, id.ctime_ns],
                |row| row.get(0),
            )
            .optional()
        })
    }

    pub(super) fn find_fact(&self, space: &'static str, key: &Hash) -> Result<Option<Vec<u8>>> {
        if let Some(value) = self.memory().facts.get(&(space, *key)) {
            return Ok(Some(value));
        }
        let found: Option<Vec<u8>> = self.with(|conn| {
            conn.prepare_cached("SELECT value FROM facts WHERE space = ? AND key = ?")?
                .query_row((space, key), |row| row.get(0))
                .optional()
        })?;
        if let Some(value) = &found {
            self.memory().facts.put((space, *key), value.clone(), value.len() + 64);
        }
        Ok(found)
    }

    /// Written with the next flush, and found from now on.
    pub(super) fn keep_fact(&self, space: &'static str, key: &Hash, value: &[u8]) {
        self.memory().facts.put((space, *key), value.to_vec(), value.len() + 64);
        self.pending().facts.insert((space, *key), value.to_vec());
    }

    pub(super) fn find_records(&self, invocation: &Hash) -> Result<Vec<Vec<u8>>> {
        self.with(|conn| {
            conn.prepare_cached(
                "SELECT body FROM records JOIN record_bodies USING (id) WHERE invocation = ? ORDER BY used DESC LIMIT ?",
            )?
            .query_map((invocation, MAX_RECORDS), |row| row.get(0))?
            .collect()
        })
    }

    /// `None` also for an entry whose bytes in the index are not what was written.
    pub(super) fn find_entry(&self, key: &Hash) -> Result<Option<Entry>> {
        if let Some(entry) = self.memory().entries.get(key) {
            return Ok(Some(entry));
        }
        let body: Option<Vec<u8>> = self.with(|conn| {
            conn.prepare_cached("SELECT body FROM entries WHERE key = ?")?
                .query_row([key], |row| row.get(0))
                .optional()
        })?;
        let weight = body.as_ref().map_or(0, |b| 2 * b.len() + 200);
        let found: Option<Entry> = body.and_then(|body| {
            let (sum, rest) = body.split_at_checked(8)?;
            (sum == checksum(key, rest)).then(|| postcard::from_bytes(rest).ok()).flatten()
        });
        if let Some(entry) = &found {
            self.memory().entries.put(*key, entry.clone(), weight);
        }
        Ok(found)
    }

    pub(super) fn publish_entry(&self, publication: &Publication) -> Result<()> {
        self.memory().entries.remove(&publication.key.0);
        self.flush_with(|tx| insert_entry(tx, publication, now_s()))
    }

    pub(super) fn find_blob(&self, hash: &Hash) -> Result<Option<BlobRow>> {
        self.with(|conn| {
            conn.prepare_cached(
                "SELECT size, disk, ino, mtime_ns, boot, published, ctime_ns, links FROM blobs WHERE hash = ?",
            )?
            .query_row([hash], |row| {
                Ok(BlobRow {
                    size: row.get::<_, i64>(0)? as u64,
                    disk: row.get::<_, i64>(1)? as u64,
                    ino: row.get::<_, i64>(2)? as u64,
                    mtime_ns: row.get(3)?,
                    boot: row.get(4)?,
                    published: row.get(5)?,
                    ctime_ns: row.get(6)?,
                    links: row.get::<_, i64>(7)? as u64,
                })
            })
            .optional()
        })
    }

    pub(super) fn blobs_with_inode(&self, ino: u64) -> Result<Vec<Hash>> {
        self.with(|conn| {
            conn.prepare_cached("SELECT hash FROM blobs WHERE ino = ?")?
                .query_map([ino as i64], |row| row.get(0))?
                .collect()
        })
    }

    /// Forgets a blob and every entry that needs it.
    pub(super) fn drop_blob(&self, hash: &Hash) -> Result<()> {
        // A row that is on its way to the index would come back after it was deleted.
        let _one = self.one_writer();
        self.pending().blobs.remove(hash);
        self.memory().blobs.remove(hash);
        let keys: Vec<Hash> = self.with(|conn| {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut keys = Vec::new();
            for entry in entries_with(&tx, hash)? {
                keys.push(tx.query_row("SELECT key FROM entries WHERE id = ?", [entry], |row| row.get(0))?);
                forget_entry(&tx, entry)?;
            }
            tx.execute("DELETE FROM blobs WHERE hash = ?", [hash])?;
            tx.commit()?;
            Ok(keys)
        })?;
        let mut memory = self.memory();
        keys.iter().for_each(|key| memory.entries.remove(key));
        Ok(())
    }

    /// Until when kache is known to have worked in a machine start.
    pub(super) fn last_active(&self, boot: i64) -> Option<i64> {
        self.with(|conn| {
            conn.query_row("SELECT active FROM boots WHERE boot = ?", [boot], |row| row.get(0)).optional()
        })
        .ok()
        .flatten()
    }

    /// Replaces what `owner` protects from gc.
    pub fn set_pins(&self, owner: &str, hashes: &[Hash]) -> Result<()> {
        // What is pending would come on top later.
        self.flush_with(|tx| {
            tx.execute("DELETE FROM pins WHERE owner = ?", [owner])?;
            insert_pins(tx, owner, hashes)
        })
    }

    /// Protects what `from` protects for `to` as well.
    pub fn copy_pins(&self, from: &str, to: &str) -> Result<()> {
        self.flush_with(|tx| {
            let copy = "INSERT OR IGNORE INTO pins (hash, owner) SELECT hash, ?2 FROM pins WHERE owner = ?1";
            tx.execute(copy, (from, to)).map(drop)
        })
    }

    /// Adds to what `owner` protects from gc.
    pub fn add_pins(&self, owner: &str, hashes: &[Hash]) -> Result<()> {
        self.with(|conn| {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            insert_pins(&tx, owner, hashes)?;
            tx.commit()
        })
    }

    /// Events in the order they happened.
    pub fn events(&self, filter: &EventFilter) -> Result<Vec<Event>> {
        self.flush()?;
        self.with(|conn| {
            let mut found: Vec<Event> = conn
                .prepare(
                    "SELECT time_ms, outcome, crate, kind, reason, key, wall_us, saved_ms, bytes, link_mode, cwd
                     FROM events WHERE time_ms >= ?1 AND (?2 IS NULL OR crate = ?2) ORDER BY id DESC LIMIT ?3",
                )?
                .query_map(
                    params![
                        filter.since_ms as i64,
                        filter.crate_name,
                        filter.limit.map_or(i64::MAX, |l| l as i64)
                    ],
                    event_of,
                )?
                .collect::<rusqlite::Result<_>>()?;
            found.reverse();
            Ok(found)
        })
    }

    /// Entries, most recently used first.
    pub fn entries(&self, crate_name: Option<&str>) -> Result<Vec<EntryInfo>> {
        self.flush()?;
        self.with(|conn| {
            conn.prepare(
                "SELECT key, crate, kind, bytes, created, used, hits FROM entries JOIN uses ON uses.entry = entries.id
                 WHERE ?1 IS NULL OR crate = ?1 ORDER BY used DESC, entries.id DESC",
            )?
            .query_map([crate_name], |row| {
                Ok(EntryInfo {
                    key: blake3::Hash::from_bytes(row.get(0)?).to_hex().to_string(),
                    crate_name: row.get(1)?,
                    kind: row.get(2)?,
                    bytes: row.get::<_, i64>(3)? as u64,
                    created: row.get(4)?,
                    used: row.get(5)?,
                    hits: row.get::<_, i64>(6)? as u64,
                })
            })?
            .collect()
        })
    }

    pub fn totals(&self) -> Result<Totals> {
        self.flush()?;
        self.with(|conn| {
            conn.query_row(
                "SELECT (SELECT count(*) FROM entries), (SELECT count(*) FROM blobs),
                 (SELECT value FROM meta WHERE name = 'bytes')",
                [],
                |row| {
                    Ok(Totals {
                        entries: row.get::<_, i64>(0)? as u64,
                        blobs: row.get::<_, i64>(1)? as u64,
                        bytes: row.get::<_, i64>(2)?.max(0) as u64,
                    })
                },
            )
        })
    }
}

/// Puts an entry in place of one with the same key. `now`: when it was used last.
pub(super) fn insert_entry(tx: &Transaction, publication: &Publication, now: i64) -> rusqlite::Result<()> {
    let entry = &publication.entry;
    let key = &publication.key.0;
    // An entry is plain data: encoding it does not fail.
    let rest = postcard::to_stdvec(entry).unwrap_or_default();
    let mut body = checksum(key, &rest).to_vec();
    body.extend_from_slice(&rest);
    let digest = *blake3::hash(&publication.record).as_bytes();
    if let Some(old) = entry_id(tx, key)? {
        forget_entry(tx, old)?;
    }
    let record = record_id(tx, &publication.invocation.0, &digest, &publication.record, now)?;
    tx.prepare_cached(
        "INSERT INTO entries (key, record, crate, kind, bytes, created, body) VALUES (?,?,?,?,?,?,?)",
    )?
    .execute(params![key, record, entry.crate_name, entry.kind, entry.bytes() as i64, now, body])?;
    let id = tx.last_insert_rowid();
    tx.prepare_cached("INSERT INTO uses (entry, used, hits) VALUES (?, ?, 0)")?.execute((id, now))?;
    for output in &entry.outputs {
        tx.prepare_cached("INSERT OR IGNORE INTO entry_blobs (hash, entry) VALUES (?, ?)")?
            .execute((output.blob, id))?;
    }
    Ok(())
}

pub(super) fn insert_pins(conn: &Connection, owner: &str, hashes: &[Hash]) -> rusqlite::Result<()> {
    let mut put = conn.prepare_cached("INSERT OR IGNORE INTO pins (hash, owner) VALUES (?, ?)")?;
    for hash in hashes {
        put.execute((hash, owner))?;
    }
    Ok(())
}

fn checksum(key: &Hash, rest: &[u8]) -> [u8; 8] {
    let mut h = blake3::Hasher::new();
    h.update(key).update(rest);
    let mut sum = [0; 8];
    sum.copy_from_slice(&h.finalize().as_bytes()[..8]);
    sum
}

fn record_id(
    tx: &Transaction,
    invocation: &Hash,
    digest: &Hash,
    body: &[u8],
    now: i64,
) -> rusqlite::Result<i64> {
    let known: Option<i64> = tx
        .prepare_cached("SELECT id FROM records WHERE invocation = ? AND digest = ?")?
        .query_row((invocation, digest), |row| row.get(0))
        .optional()?;
    if let Some(id) = known {
        tx.prepare_cached("UPDATE records SET used = ? WHERE id = ?")?.execute((now, id))?;
        return Ok(id);
    }
    tx.prepare_cached("INSERT INTO records (invocation, digest, used) VALUES (?, ?, ?)")?
        .execute((invocation, digest, now))?;
    let id = tx.last_insert_rowid();
    tx.prepare_cached("INSERT INTO record_bodies (id, body) VALUES (?, ?)")?.execute((id, body))?;
    Ok(id)
}

fn entry_id(tx: &Transaction, key: &Hash) -> rusqlite::Result<Option<i64>> {
    tx.prepare_cached("SELECT id FROM entries WHERE key = ?")?.query_row([key], |row| row.get(0)).optional()
}

fn entries_with(tx: &Transaction, hash: &Hash) -> rusqlite::Result<Vec<i64>> {
    tx.prepare_cached("SELECT entry FROM entry_blobs WHERE hash = ?")?
        .query_map([hash], |row| row.get(0))?
        .collect()
}

/// Removes an entry, and its input record when no other entry has it; its blobs stay until gc finds that nobody
/// needs them.
pub(super) fn forget_entry(tx: &Transaction, id: i64) -> rusqlite::Result<()> {
    let record: Option<i64> = tx
        .prepare_cached("SELECT record FROM entries WHERE id = ?")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    tx.prepare_cached("DELETE FROM entry_blobs WHERE entry = ?")?.execute([id])?;
    tx.prepare_cached("DELETE FROM uses WHERE entry = ?")?.execute([id])?;
    tx.prepare_cached("DELETE FROM entries WHERE id = ?")?.execute([id])?;
    if let Some(record) = record {
        let gone = tx
            .prepare_cached(
                "DELETE FROM records WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM entries WHERE record = ?1)",
            )?
            .execute([record])?;
        if gone > 0 {
            tx.prepare_cached("DELETE FROM record_bodies WHERE id = ?")?.execute([record])?;
        }
    }
    Ok(())
}

fn event_of(row: &Row) -> rusqlite::Result<Event> {
    use Outcome::{Edit, Failed, Hit, Miss, Pass, Unstored};
    let outcome: String = row.get(1)?;
    let mode: Option<String> = row.get(9)?;
    let modes = [LinkMode::View, LinkMode::Reflink, LinkMode::Hardlink, LinkMode::Copy];
    Ok(Event {
        time_ms: row.get::<_, i64>(0)? as u64,
        outcome: [Hit, Miss, Edit, Pass, Failed]
            .into_iter()
            .find(|o| outcome_name(*o) == outcome)
            .unwrap_or(Unstored),
        crate_name: row.get(2)?,
        kind: row.get(3)?,
        reason: row.get(4)?,
        key: row.get(5)?,
        wall_us: row.get::<_, i64>(6)? as u64,
        saved_ms: row.get::<_, i64>(7)? as u64,
        bytes: row.get::<_, i64>(8)? as u64,
        link_mode: mode.and_then(|m| modes.into_iter().find(|known| mode_name(*known) == m)),
        cwd: path_of(row.get(10)?),
    })
}
