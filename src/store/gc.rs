//! Making room: the entries that were used longest ago go first, then blobs that nobody needs.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::Flock;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::error::Result;
use super::index::forget_entry;
use super::{Hash, Store, db, lock, now_s, sys};

/// In the cache directory.
const RESERVE: &str = "reserve";
/// Bytes. What one batch writes to the index is less.
const RESERVED: u64 = 4 << 20;
/// Entries or blobs removed while others wait.
const BATCH: usize = 64;
/// A blob without an entry may be on its way to one, in seconds.
const ORPHAN_AGE: i64 = 3600;
/// gc goes down to this share of the limit, in percent.
const TARGET_PERCENT: u64 = 90;
/// Files that a dead process left behind.
const LITTER_AGE: Duration = Duration::from_secs(24 * 3600);
/// At most one background gc is started in so many seconds.
const SPAWN_INTERVAL: i64 = 60;
/// Files without a row in the index are looked for so often, in seconds.
const SCAN_INTERVAL: i64 = 24 * 3600;
/// Facts and file states that nobody has renewed for so long, in seconds.
const FACT_AGE: i64 = 180 * 24 * 3600;

/// Entries that are gone, and the blobs that they had, with what these take on disk.
struct Forgotten {
    entries: u64,
    blobs: Vec<(Hash, i64)>,
}

impl Forgotten {
    fn of(tx: &Transaction, entries: &[i64]) -> rusqlite::Result<Forgotten> {
        let mut blobs = Vec::new();
        for id in entries {
            let mut all = tx.prepare_cached(
                "SELECT hash, disk FROM entry_blobs JOIN blobs USING (hash) WHERE entry = ?",
            )?;
            for blob in all.query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))? {
                blobs.push(blob?);
            }
            forget_entry(tx, *id)?;
        }
        Ok(Forgotten { entries: entries.len() as u64, blobs })
    }
}

/// What a collection did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct GcReport {
    pub entries: u64,
    pub blobs: u64,
    /// Bytes on disk given back.
    pub bytes: u64,
}

impl Store {
    /// Makes the blobs take at most `TARGET_PERCENT` of `max_size` bytes, if they take more than `max_size`.
    /// `None`: another process is at it.
    pub fn gc(&self, max_size: u64) -> Result<Option<GcReport>> {
        self.with_room(|| self.collect(max_size))
    }

    /// Takes room on the disk that nobody uses, so that there is always some to make more.
    pub fn keep_reserve(&self) {
        let path = self.dir.join(RESERVE);
        if path.exists() {
            return;
        }
        let reserved = File::create(&path).and_then(|file| sys::reserve(&file, RESERVED));
        if reserved.is_err() {
            let _ = fs::remove_file(path);
        }
    }

    fn with_room<T>(&self, work: impl Fn() -> Result<T>) -> Result<T> {
        let done = with_reserve(&self.dir, work);
        self.keep_reserve();
        done
    }

    fn collect(&self, max_size: u64) -> Result<Option<GcReport>> {
        let Some(_only_one) = lock::try_exclusive(&self.dir.join("locks/gc-run.lock"))? else {
            return Ok(None);
        };
        self.flush()?;
        let mut report = GcReport::default();
        self.remove_unneeded(&mut report, now_s() - ORPHAN_AGE)?;
        if self.blob_bytes()? > max_size {
            let target = max_size / 100 * TARGET_PERCENT;
            let mut oldest = i64::MIN;
            while self.blob_bytes()? > target {
                // What is forgotten had its time, and so had its blobs.
                let forgotten = self.forget_old_snapshot()?;
                if forgotten {
                    oldest = i64::MIN;
                    self.remove_unneeded(&mut report, i64::MAX)?;
                }
                let evicted = self.evict_oldest(&mut oldest)?;
                report.entries += evicted.entries;
                self.remove(&mut report, &evicted.blobs)?;
                if evicted.entries == 0 && !forgotten {
                    break;
                }
            }
        }
        self.remove_litter();
        self.remove_strays(&mut report)?;
        self.with(|conn| {
            conn.execute("DELETE FROM stats WHERE seen < ?", [now_s() - FACT_AGE])?;
            // What neither an entry names nor a mount shows will not be fetched.
            conn.execute(
                "DELETE FROM remote_blobs WHERE hash NOT IN (SELECT hash FROM entry_blobs)
                 AND hash NOT IN (SELECT hash FROM pins)",
                [],
            )?;
            conn.execute("DELETE FROM facts WHERE seen < ?", [now_s() - FACT_AGE])
        })?;
        Ok(Some(report))
    }

    /// Removes those of these blobs that nobody needs, young as they may be. False when somebody works with the store, who is
    /// not waited for: they may wait for us.
    pub fn remove_superseded(&self, hashes: &[Hash]) -> Result<bool> {
        self.flush()?;
        let Some(alone) = lock::try_exclusive(&self.dir.join("locks/gc.lock"))? else { return Ok(false) };
        let found = |hash: &Hash| Ok(self.find_blob(hash)?.map(|row| (*hash, row.disk as i64)));
        let blobs: Vec<_> =
            hashes.iter().filter_map(|hash| found(hash).transpose()).collect::<Result<_>>()?;
        let removed = self.set_aside_unneeded(&blobs, &alone)?;
        drop(alone);
        removed.iter().for_each(|(path, _)| _ = fs::remove_file(path));
        Ok(true)
    }

    /// Forgets entries: of one crate, or all. Their blobs go unless something else needs them.
    pub fn purge(&self, crate_name: Option<&str>) -> Result<GcReport> {
        self.with_room(|| self.forget_entries(crate_name))
    }

    fn forget_entries(&self, crate_name: Option<&str>) -> Result<GcReport> {
        self.flush()?;
        *self.memory() = Default::default();
        let mut report = GcReport::default();
        loop {
            let removed = self.with(|conn| {
                let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let ids: Vec<i64> = tx
                    .prepare("SELECT id FROM entries WHERE ?1 IS NULL OR crate = ?1 LIMIT ?2")?
                    .query_map(params![crate_name, BATCH as i64], |row| row.get(0))?
                    .collect::<rusqlite::Result<_>>()?;
                let forgotten = Forgotten::of(&tx, &ids)?;
                tx.commit()?;
                Ok(forgotten)
            })?;
            report.entries += removed.entries;
            self.remove(&mut report, &removed.blobs)?;
            if removed.entries == 0 {
                break;
            }
        }
        self.remove_unneeded(&mut report, i64::MAX)?;
        Ok(report)
    }

    /// Forgets the snapshot that was used longest ago if no entry is older, or if none can go: what a snapshot holds,
    /// evicting entries does not give back.
    fn forget_old_snapshot(&self) -> Result<bool> {
        let Some((id, used)) = self.oldest_snapshot()? else { return Ok(false) };
        let oldest_entry: Option<i64> = self.with(|conn| {
            conn.query_row(
                "SELECT min(used) FROM uses WHERE EXISTS (
                     SELECT 1 FROM entry_blobs b WHERE b.entry = uses.entry
                     AND NOT EXISTS (SELECT 1 FROM pins WHERE pins.hash = b.hash))",
                [],
                |row| row.get(0),
            )
        })?;
        if oldest_entry.is_some_and(|entry| entry < used) {
            return Ok(false);
        }
        self.remove_snapshot(&id)?;
        Ok(true)
    }

    /// Forgets some of the entries that were used longest ago, but not before `oldest`, among those whose blobs nothing
    /// else holds: others would give no room.
    fn evict_oldest(&self, oldest: &mut i64) -> Result<Forgotten> {
        self.with(|conn| {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let found: Vec<(i64, i64)> = tx
                .prepare_cached(
                    "SELECT entry, used FROM uses WHERE used >= ? AND EXISTS (
                         SELECT 1 FROM entry_blobs b WHERE b.entry = uses.entry
                         AND NOT EXISTS (SELECT 1 FROM pins WHERE pins.hash = b.hash))
                     ORDER BY used LIMIT ?",
                )?
                .query_map([*oldest, BATCH as i64], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<_>>()?;
            let ids: Vec<i64> = found.iter().map(|(id, _)| *id).collect();
            let forgotten = Forgotten::of(&tx, &ids)?;
            tx.commit()?;
            *oldest = found.last().map_or(*oldest, |(_, used)| *used);
            Ok(forgotten)
        })
    }

    /// Removes blobs that no entry, mount or snapshot needs and that were published before `before`.
    fn remove_unneeded(&self, report: &mut GcReport, before: i64) -> Result<()> {
        loop {
            let found: Vec<(Hash, i64)> = self.with(|conn| {
                conn.prepare_cached(
                    "SELECT hash, disk FROM blobs WHERE published < ?1
                     AND NOT EXISTS (SELECT 1 FROM entry_blobs WHERE entry_blobs.hash = blobs.hash)
                     AND NOT EXISTS (SELECT 1 FROM pins WHERE pins.hash = blobs.hash) LIMIT ?2",
                )?
                .query_map(params![before, BATCH as i64], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
            })?;
            if !self.remove_some(report, &found)? {
                return Ok(());
            }
        }
    }

    /// Removes those of these blobs that nobody needs.
    fn remove(&self, report: &mut GcReport, blobs: &[(Hash, i64)]) -> Result<()> {
        for some in blobs.chunks(BATCH) {
            self.remove_some(report, some)?;
        }
        Ok(())
    }

    /// True if any was removed.
    fn remove_some(&self, report: &mut GcReport, found: &[(Hash, i64)]) -> Result<bool> {
        if found.is_empty() {
            return Ok(false);
        }
        let removed = {
            let alone = lock::exclusive(&self.dir.join("locks/gc.lock"))?;
            self.set_aside_unneeded(found, &alone)?
        };
        // A checkpoint waits for the disk, and so does the first commit after it. Nobody else has to.
        self.with(|conn| {
            conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
            conn.execute("UPDATE meta SET value = value WHERE name = 'scanned'", [])
        })?;
        for (path, disk) in &removed {
            let _ = fs::remove_file(path);
            report.blobs += 1;
            report.bytes += *disk as u64;
        }
        Ok(!removed.is_empty())
    }

    /// Takes blobs out of the index and out of their places. Nobody restores or publishes meanwhile, so this must be
    /// short: giving back their space is for later. Returns where they are now, and what they take on disk.
    fn set_aside_unneeded(&self, found: &[(Hash, i64)], _alone: &Flock<File>) -> Result<Vec<(PathBuf, i64)>> {
        let removed = self.with(|conn| {
            conn.pragma_update(None, "wal_autocheckpoint", 0)?;
            let removed = take_out(conn, found);
            conn.pragma_update(None, "wal_autocheckpoint", db::CHECKPOINT_PAGES)?;
            removed
        })?;
        let aside = |(hash, disk): (Hash, i64)| {
            let temp = self.temp_path();
            fs::rename(self.blob_path(&hash), &temp).is_ok().then_some((temp, disk))
        };
        Ok(removed.into_iter().filter_map(aside).collect())
    }

    /// Blob files that the index does not know: their publisher died before it could say so. Looked for once a day.
    fn remove_strays(&self, report: &mut GcReport) -> Result<()> {
        let scanned: i64 = self.with(|conn| {
            conn.query_row("SELECT value FROM meta WHERE name = 'scanned'", [], |row| row.get(0))
        })?;
        if scanned + SCAN_INTERVAL > now_s() {
            return Ok(());
        }
        for (hash, path) in self.blob_files() {
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            let recent = meta.ctime() + ORPHAN_AGE > now_s();
            if !recent && self.find_blob(&hash)?.is_none() && fs::remove_file(&path).is_ok() {
                report.blobs += 1;
                report.bytes += meta.blocks() * 512;
            }
        }
        self.with(|conn| conn.execute("UPDATE meta SET value = ? WHERE name = 'scanned'", [now_s()]))?;
        Ok(())
    }

    /// Bytes that all blobs take on disk.
    fn blob_bytes(&self) -> Result<u64> {
        let bytes: i64 = self.with(|conn| {
            conn.prepare_cached("SELECT value FROM meta WHERE name = 'bytes'")?
                .query_row([], |row| row.get(0))
        })?;
        Ok(bytes.max(0) as u64)
    }

    fn remove_litter(&self) {
        for dir in ["store/tmp", "locks"] {
            let Ok(entries) = fs::read_dir(self.dir.join(dir)) else { continue };
            for entry in entries.flatten() {
                let name = entry.file_name();
                // Claims are named by 64 hex digits; the others stay.
                let ours = dir == "store/tmp" || name.len() == 64 + ".lock".len();
                let old = entry.metadata().and_then(|m| m.modified()).is_ok_and(|t| is_older(t, LITTER_AGE));
                if ours && old {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }

    /// Starts a gc in the background when there is too much, unless one was started just now.
    pub(super) fn notice_size(&self) {
        let Some(program) = &self.options.program else { return };
        let max = self.max_size() as i64;
        let due = self.with(|conn| {
            let read = |conn: &rusqlite::Connection, name: &str| {
                conn.prepare_cached("SELECT value FROM meta WHERE name = ?")?
                    .query_row([name], |r| r.get::<_, i64>(0))
            };
            if read(conn, "bytes")? <= max || read(conn, "gc_spawned")? + SPAWN_INTERVAL > now_s() {
                return Ok(false);
            }
            conn.execute("UPDATE meta SET value = ? WHERE name = 'gc_spawned'", [now_s()])?;
            Ok(true)
        });
        if matches!(due, Ok(true)) {
            spawn(program, &self.dir, self.max_size());
        }
    }
}

/// Where the disk is full, gives up the reserve and tries once more.
pub(super) fn with_reserve<T>(dir: &Path, work: impl Fn() -> Result<T>) -> Result<T> {
    match work() {
        Err(error) if error.is_full() && fs::remove_file(dir.join(RESERVE)).is_ok() => work(),
        done => done,
    }
}

/// Takes those of these blobs that nobody needs out of the index.
fn take_out(conn: &mut Connection, found: &[(Hash, i64)]) -> rusqlite::Result<Vec<(Hash, i64)>> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut removed = Vec::new();
    for (hash, disk) in found {
        let needed: Option<i64> = tx
            .prepare_cached(
                "SELECT 1 WHERE EXISTS (SELECT 1 FROM entry_blobs WHERE hash = ?1)
                 OR EXISTS (SELECT 1 FROM pins WHERE hash = ?1)",
            )?
            .query_row([hash], |row| row.get(0))
            .optional()?;
        if needed.is_none() {
            tx.execute("DELETE FROM blobs WHERE hash = ?", [hash])?;
            removed.push((*hash, *disk));
        }
    }
    tx.commit()?;
    Ok(removed)
}

fn spawn(program: &Path, dir: &Path, max_size: u64) {
    let mut command = super::sys::detached(program);
    command.args(["gc", "--background", "--max-size", &max_size.to_string()]).env("KACHE_CACHE_DIR", dir);
    if let Err(error) = command.spawn() {
        tracing::warn!(%error, "cannot start gc");
    }
}

fn is_older(time: SystemTime, age: Duration) -> bool {
    time.elapsed().is_ok_and(|e| e > age)
}
