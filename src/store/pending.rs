//! What has been learned and not yet written: one small transaction at the end instead of many along the way.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use kache_wrapper::cache::{Event, FileId, LinkMode, Outcome};
use rusqlite::{Transaction, TransactionBehavior, params};

use super::blobs::{BlobRow, Known};
use super::{Hash, Result, Store, gc, now_s};

/// A use is written again only when the last one noted is older, in seconds: order by last use needs no more.
const USE_GRAIN: i64 = 300;
/// Rows of the event log that are kept.
const MAX_EVENTS: i64 = 100_000;

#[derive(Default)]
pub struct Pending {
    /// By device and inode: what the file looks like, and its hash.
    pub stats: HashMap<(u64, u64), (FileId, Hash)>,
    /// New, or known again to be right.
    pub blobs: HashMap<Hash, (BlobRow, Known)>,
    /// Entries restored.
    pub hits: Vec<Hash>,
    pub facts: HashMap<(&'static str, Hash), Vec<u8>>,
    pub events: Vec<Event>,
    /// Entries that builds used, and when (nanoseconds).
    pub builds: Vec<(Hash, Hash, i64)>,
    /// What is to be protected from gc, and by whom. As long as this is not written, the collector is kept out.
    pub pins: Vec<(String, Hash)>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.stats.is_empty()
            && self.blobs.is_empty()
            && self.hits.is_empty()
            && self.facts.is_empty()
            && self.events.is_empty()
            && self.builds.is_empty()
            && self.pins.is_empty()
    }
}

impl Store {
    /// Writes what has been learned since the last time. Dropping the store does it too.
    ///
    /// What another thread is writing at this moment is written, too, when this returns.
    pub fn flush(&self) -> Result<()> {
        let _one = self.one_writer();
        let pending = std::mem::take(&mut *self.pending());
        if pending.is_empty() {
            return Ok(());
        }
        self.write_with(pending, |_| Ok(()))
    }

    /// Writes what has been learned, and `more`, in one transaction.
    pub(super) fn flush_with(&self, more: impl Fn(&Transaction) -> rusqlite::Result<()>) -> Result<()> {
        let _one = self.one_writer();
        let pending = std::mem::take(&mut *self.pending());
        self.write_with(pending, more)
    }

    fn write_with(
        &self,
        pending: Pending,
        more: impl Fn(&Transaction) -> rusqlite::Result<()>,
    ) -> Result<()> {
        let written = gc::with_reserve(&self.dir, || {
            self.with(|conn| {
                let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
                self.write(&tx, &pending)?;
                more(&tx)?;
                tx.commit()
            })
        });
        self.settle(pending, written)
    }

    /// Protects blobs from gc, by the next flush at the latest; until then nobody collects.
    pub fn pin_soon(&self, owner: &str, hashes: impl IntoIterator<Item = Hash>) -> Result<()> {
        let mut pending = self.pending();
        if pending.pins.is_empty() {
            self.gc_lock.hold()?;
        }
        pending.pins.extend(hashes.into_iter().map(|hash| (owner.to_owned(), hash)));
        if pending.pins.is_empty() {
            self.gc_lock.let_go();
        }
        Ok(())
    }

    /// After an attempt to write `pending`: lets the collector in again, or keeps the pins for the next attempt.
    fn settle(&self, pending: Pending, written: Result<()>) -> Result<()> {
        if pending.pins.is_empty() {
            return written;
        }
        if written.is_ok() {
            self.gc_lock.let_go();
            return written;
        }
        let mut now = self.pending();
        if !now.pins.is_empty() {
            // Somebody else's hold is enough for both.
            self.gc_lock.let_go();
        }
        now.pins.extend(pending.pins);
        written
    }

    fn write(&self, tx: &Transaction, pending: &Pending) -> rusqlite::Result<()> {
        let now = now_s();
        if !pending.stats.is_empty() {
            let mut put = tx.prepare_cached(
                "INSERT OR REPLACE INTO stats (dev, ino, size, mtime_ns, ctime_ns, hash, seen) VALUES (?,?,?,?,?,?,?)",
            )?;
            for (id, hash) in pending.stats.values() {
                let (dev, ino, size) = (id.dev as i64, id.ino as i64, id.size as i64);
                put.execute(params![dev, ino, size, id.mtime_ns, id.ctime_ns, hash, now])?;
            }
        }
        if !pending.blobs.is_empty() {
            let mut put = tx.prepare_cached(
                "INSERT INTO blobs (hash, size, disk, ino, mtime_ns, ctime_ns, links, boot, published)
                 VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9)
                 ON CONFLICT (hash) DO UPDATE SET size = excluded.size, disk = excluded.disk, ino = excluded.ino,
                 mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns, links = excluded.links,
                 boot = excluded.boot, published = excluded.published",
            )?;
            let mut change = tx.prepare_cached(
                "UPDATE blobs SET size = ?2, disk = ?3, ino = ?4, mtime_ns = ?5, ctime_ns = ?6, links = ?7, boot = ?8,
                 published = ?9 WHERE hash = ?1",
            )?;
            for (hash, (b, known)) in &pending.blobs {
                let put = if *known == Known::New { &mut put } else { &mut change };
                put.execute(params![
                    hash,
                    b.size as i64,
                    b.disk as i64,
                    b.ino as i64,
                    b.mtime_ns,
                    b.ctime_ns,
                    b.links as i64,
                    b.boot,
                    b.published
                ])?;
            }
            tx.prepare_cached(
                "INSERT INTO boots (boot, active) VALUES (?, ?)
                 ON CONFLICT (boot) DO UPDATE SET active = max(active, excluded.active)",
            )?
            .execute((self.boot, now))?;
        }
        for key in &pending.hits {
            tx.prepare_cached(
                "UPDATE uses SET used = ?, hits = hits + 1 WHERE entry = (SELECT id FROM entries WHERE key = ?)",
            )?
            .execute((now, key))?;
            tx.prepare_cached(
                "UPDATE records SET used = ?1 WHERE id = (SELECT record FROM entries WHERE key = ?2) AND used < ?3",
            )?
            .execute((now, key, now - USE_GRAIN))?;
        }
        for ((space, key), value) in &pending.facts {
            tx.prepare_cached("INSERT OR REPLACE INTO facts (space, key, value, seen) VALUES (?,?,?,?)")?
                .execute((space, key, value, now))?;
        }
        for build in &pending.builds {
            tx.prepare_cached("INSERT OR REPLACE INTO builds (build, key, seen) VALUES (?, ?, ?)")?
                .execute(*build)?;
        }
        for (owner, hash) in &pending.pins {
            tx.prepare_cached("INSERT OR IGNORE INTO pins (hash, owner) VALUES (?, ?)")?
                .execute((hash, owner))?;
        }
        for event in &pending.events {
            add_event(tx, event)?;
        }
        Ok(())
    }
}

fn add_event(tx: &Transaction, e: &Event) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO events (time_ms, outcome, crate, kind, reason, key, wall_us, saved_ms, bytes, link_mode, cwd)
         VALUES (?,?,?,?,?,?,?,?,?,?,?)",
    )?
    .execute(params![
        e.time_ms as i64,
        outcome_name(e.outcome),
        e.crate_name,
        e.kind,
        e.reason,
        e.key,
        e.wall_us as i64,
        e.saved_ms as i64,
        e.bytes as i64,
        e.link_mode.map(mode_name),
        e.cwd.as_os_str().as_bytes(),
    ])?;
    let id = tx.last_insert_rowid();
    if id % 1024 == 0 {
        tx.execute("DELETE FROM events WHERE id <= ?", [id - MAX_EVENTS])?;
    }
    Ok(())
}

pub(super) fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Hit => "hit",
        Outcome::Miss => "miss",
        Outcome::Edit => "edit",
        Outcome::Pass => "pass",
        Outcome::Failed => "failed",
        Outcome::Unstored => "unstored",
    }
}

pub(super) fn mode_name(mode: LinkMode) -> &'static str {
    match mode {
        LinkMode::View => "view",
        LinkMode::Reflink => "reflink",
        LinkMode::Hardlink => "hardlink",
        LinkMode::Copy => "copy",
    }
}

/// A path as stored: raw bytes.
pub(super) fn path_of(bytes: Vec<u8>) -> std::path::PathBuf {
    OsStr::from_bytes(&bytes).into()
}
