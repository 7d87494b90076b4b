//! Snapshots in the index: which there are, and which blobs they protect. What is in one: `crate::snapshot`.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use kache_wrapper::cache::Placement;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};

use super::blobs::RemoveOnDrop;
use super::error::{At, Result};
use super::index::insert_pins;
use super::pending::path_of;
use super::{Hash, Store, lock, now_s};

/// A snapshot as the index knows it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SnapshotRow {
    /// The first 16 hexadecimal digits of `root`.
    pub id: String,
    /// Of which workspace; see `crate::snapshot::choose`.
    pub identity: Hash,
    /// The donor's workspace and target directory.
    pub workspace: PathBuf,
    pub target: PathBuf,
    /// What was checked out, in hexadecimal; empty without git.
    pub commit: String,
    /// `rustc -vV` of the compiler that was last used.
    pub toolchain: String,
    /// Seconds since the Unix epoch.
    pub created: i64,
    pub used: i64,
    /// Neither gc nor newer snapshots remove it.
    pub pinned: bool,
    /// Names the blob that describes it.
    pub root: Hash,
    pub units: u64,
    /// Bytes of all files.
    pub bytes: u64,
}

/// A fork that was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct ForkTotals {
    pub forks: u64,
    /// Units that were fresh.
    pub fresh: u64,
    /// Milliseconds of compiling that they took once.
    pub saved_ms: u64,
    /// Bytes that were not copied.
    pub bytes: u64,
}

const COLUMNS: &str =
    "id, identity, workspace, target, commit_id, toolchain, created, used, pinned, root, units, bytes";

impl Store {
    /// While this is held, gc removes nothing.
    pub fn in_use(&self) -> Result<lock::SharedGuard<'_>> {
        self.gc_lock.lock()
    }

    /// Makes a blob of bytes.
    pub fn add_bytes(&self, bytes: &[u8]) -> Result<Hash> {
        let hash = *blake3::hash(bytes).as_bytes();
        if !self.has_blob(&hash, bytes.len() as u64)? {
            let temp = self.temp_path();
            let guard = RemoveOnDrop(&temp);
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temp)
                .and_then(|mut f| f.write_all(bytes))
                .at("write", &temp)?;
            self.publish_temp(&guard, &hash, 0o444)?;
        }
        Ok(hash)
    }

    /// All bytes of a small blob, checked.
    pub fn read_blob(&self, hash: &Hash) -> Result<Vec<u8>> {
        let path = self.blob_path(hash);
        let mut bytes = Vec::new();
        let missing = || super::error::Error::Missing { hash: blake3::Hash::from_bytes(*hash) };
        match self.open_blob(hash).and_then(|mut f| f.read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
            Err(e) => return Err(e).at("read", &path),
        }
        if blake3::hash(&bytes).as_bytes() != hash {
            return Err(self.quarantine(hash, "its bytes have another hash")?);
        }
        Ok(bytes)
    }

    /// Puts blobs at their paths, which are free.
    pub fn place_files(&self, files: &[Placement]) -> Result<()> {
        self.restore_files(&[0; 32], files).map(drop)
    }

    /// Takes blobs that were sealed by rename, and that the index does not know yet, into the index: gc would take
    /// them for litter.
    pub fn register_blobs(&self, hashes: &[Hash]) -> Result<()> {
        for hash in hashes {
            if !self.pending().blobs.contains_key(hash) && self.find_blob(hash)?.is_none() {
                match fs::symlink_metadata(self.blob_path(hash)) {
                    Ok(meta) => self.note_blob(hash, &meta),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e).at("read", &self.blob_path(hash)),
                }
            }
        }
        Ok(())
    }

    /// Remembers a snapshot and protects its blobs.
    pub fn add_snapshot(&self, row: &SnapshotRow, blobs: &[Hash]) -> Result<()> {
        self.flush()?;
        self.with(|conn| {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let pinned: bool = tx
                .query_row("SELECT pinned FROM snapshots WHERE id = ?", [&row.id], |r| r.get(0))
                .optional()?
                .unwrap_or(row.pinned);
            tx.execute(
                &format!("INSERT OR REPLACE INTO snapshots ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)"),
                params![
                    row.id,
                    row.identity,
                    row.workspace.as_os_str().as_bytes(),
                    row.target.as_os_str().as_bytes(),
                    row.commit,
                    row.toolchain,
                    row.created,
                    row.used,
                    pinned,
                    row.root,
                    row.units as i64,
                    row.bytes as i64
                ],
            )?;
            tx.execute("DELETE FROM pins WHERE owner = ?", [owner(&row.id)])?;
            insert_pins(&tx, &owner(&row.id), blobs)?;
            tx.commit()
        })
    }

    /// Snapshots, newest first: of one workspace, or all.
    pub fn snapshots(&self, identity: Option<&Hash>) -> Result<Vec<SnapshotRow>> {
        self.with(|conn| {
            conn.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM snapshots WHERE ?1 IS NULL OR identity = ?1 ORDER BY created DESC, rowid DESC"
            ))?
            .query_map([identity], row_of)?
            .collect()
        })
    }

    /// The snapshot with this root.
    pub fn snapshot_of(&self, root: &Hash) -> Result<Option<SnapshotRow>> {
        self.with(|conn| {
            conn.prepare_cached(&format!("SELECT {COLUMNS} FROM snapshots WHERE root = ?"))?
                .query_row([root], row_of)
                .optional()
        })
    }

    pub fn remove_snapshot(&self, id: &str) -> Result<()> {
        self.with(|conn| {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            forget_snapshot(&tx, id)?;
            tx.commit()
        })
    }

    pub fn pin_snapshot(&self, id: &str, pinned: bool) -> Result<()> {
        self.with(|conn| conn.execute("UPDATE snapshots SET pinned = ? WHERE id = ?", (pinned, id)).map(drop))
    }

    /// A snapshot has been forked.
    pub fn note_fork(&self, id: &str, dir: &std::path::Path, fork: &ForkTotals) -> Result<()> {
        let now = now_s();
        self.with(|conn| {
            conn.execute("UPDATE snapshots SET used = ? WHERE id = ?", (now, id))?;
            conn.execute(
                "INSERT INTO forks (time, snapshot, dir, fresh, saved_ms, bytes) VALUES (?,?,?,?,?,?)",
                params![
                    now,
                    id,
                    dir.as_os_str().as_bytes(),
                    fork.fresh as i64,
                    fork.saved_ms as i64,
                    fork.bytes as i64
                ],
            )
            .map(drop)
        })
    }

    /// What forks saved since a time, in seconds since the Unix epoch.
    pub fn fork_totals(&self, since: i64) -> Result<ForkTotals> {
        self.with(|conn| {
            conn.query_row(
                "SELECT count(*), ifnull(sum(fresh), 0), ifnull(sum(saved_ms), 0), ifnull(sum(bytes), 0)
                 FROM forks WHERE time >= ?",
                [since],
                |r| {
                    let n = |i| r.get::<_, i64>(i).map(|n| n as u64);
                    Ok(ForkTotals { forks: n(0)?, fresh: n(1)?, saved_ms: n(2)?, bytes: n(3)? })
                },
            )
        })
    }

    /// How long making a blob took, if an entry knows, in milliseconds.
    pub fn took_ms(&self, blob: &Hash) -> Result<Option<u64>> {
        let key: Option<Hash> = self.with(|conn| {
            conn.prepare_cached(
                "SELECT key FROM entries JOIN entry_blobs ON entry_blobs.entry = entries.id WHERE hash = ? LIMIT 1",
            )?
            .query_row([blob], |row| row.get(0))
            .optional()
        })?;
        match key {
            Some(key) => Ok(self.find_entry(&key)?.map(|e| e.took_ms)),
            None => Ok(None),
        }
    }

    /// The snapshot that was used longest ago and may go, and when that was.
    pub(super) fn oldest_snapshot(&self) -> Result<Option<(String, i64)>> {
        self.with(|conn| {
            conn.query_row(
                "SELECT id, used FROM snapshots WHERE NOT pinned ORDER BY used LIMIT 1",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()
        })
    }
}

fn forget_snapshot(conn: &Connection, id: &str) -> rusqlite::Result<()> {
    conn.execute("DELETE FROM snapshots WHERE id = ?", [id])?;
    conn.execute("DELETE FROM pins WHERE owner = ?", [owner(id)])?;
    Ok(())
}

fn owner(id: &str) -> String {
    format!("snapshot {id}")
}

fn row_of(row: &Row) -> rusqlite::Result<SnapshotRow> {
    Ok(SnapshotRow {
        id: row.get(0)?,
        identity: row.get(1)?,
        workspace: path_of(row.get(2)?),
        target: path_of(row.get(3)?),
        commit: row.get(4)?,
        toolchain: row.get(5)?,
        created: row.get(6)?,
        used: row.get(7)?,
        pinned: row.get(8)?,
        root: row.get(9)?,
        units: row.get::<_, i64>(10)? as u64,
        bytes: row.get::<_, i64>(11)? as u64,
    })
}
