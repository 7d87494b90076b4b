//! Blobs on disk and the index over them.
//!
//! [`Store`] implements [`Cache`], what the wrapper asks for. It is made for two lives: a process per compiler call,
//! where opening must cost next to nothing and everything learned is written in one transaction at the end
//! ([`Store::flush`]); and a daemon with many threads, which share its connections.

mod blobs;
mod db;
pub mod error;
mod gc;
mod index;
mod lock;
mod memory;
mod pending;
mod remote;
#[cfg(test)]
mod remote_tests;
#[cfg(test)]
mod scale;
mod scan;
mod snapshots;
pub mod sys;
#[cfg(test)]
mod tests;
mod verify;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use kache_wrapper::cache::{
    self, Cache, EntryKey, Event, Ingested, InvocationKey, LinkMode, Placement, Publication,
};
use rusqlite::Connection;

pub use error::Result;
pub use index::{EventFilter, Totals};
pub use remote::{PortableFact, Shared};
pub use scan::scan_at;
pub use snapshots::{ForkTotals, SnapshotRow};

/// 32 raw bytes: a blob's hash, or a key.
pub type Hash = [u8; 32];

/// When the bytes of a blob are read again before they are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// When its inode, size or mtime are not what they were, or a power failure may have torn it.
    #[default]
    Stat,
    /// Every time.
    Always,
}

#[derive(Debug, Clone, Default)]
pub struct Options {
    pub verify: Verify,
    /// Bytes on disk that blobs may take; `None` means a quarter of the disk or 50 GiB, whichever is less.
    pub max_size: Option<u64>,
    /// The kache program, to run `gc --background` when the store is too big. `None`: nobody is started.
    pub program: Option<PathBuf>,
}

pub struct Store {
    dir: PathBuf,
    options: Options,
    boot: i64,
    /// Connections that nobody uses right now.
    idle: Mutex<Vec<Connection>>,
    pending: Mutex<pending::Pending>,
    /// Held from the taking of what is pending until it is in the index.
    writing: Mutex<()>,
    memory: Mutex<memory::Memory>,
    /// Held shared while blobs are used, exclusively while some are removed.
    gc_lock: lock::Shared,
    /// Whether one device can reflink into another.
    reflinks: Mutex<HashMap<(u64, u64), bool>>,
}

impl Store {
    /// Opens the store in `dir`, making it when there is none.
    ///
    /// # Errors
    /// The directory cannot be made or written, belongs to somebody else, or holds an index of a newer kache. A
    /// corrupt index is no error: it is set aside and a new one begun.
    pub fn open(dir: &Path, options: Options) -> Result<Store> {
        let conn = gc::with_reserve(dir, || db::open(dir))?;
        Ok(Store {
            dir: dir.to_owned(),
            options,
            boot: sys::boot_id(),
            idle: Mutex::new(vec![conn]),
            pending: Mutex::default(),
            writing: Mutex::default(),
            memory: Mutex::default(),
            gc_lock: lock::Shared::new(dir.join("locks/gc.lock")),
            reflinks: Mutex::default(),
        })
    }

    /// The cache directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the cache directory and what belongs in it. It is ours, and nobody else can write there.
    pub fn create_dirs_in(dir: &Path) -> Result<()> {
        db::create_dirs(dir)
    }

    /// Where lock files of the store in `dir` are.
    pub fn locks_dir_in(dir: &Path) -> PathBuf {
        dir.join("locks")
    }

    /// Bytes that blobs may take on disk.
    pub fn max_size(&self) -> u64 {
        const DEFAULT: u64 = 50 << 30;
        self.options.max_size.unwrap_or_else(|| match nix::sys::statvfs::statvfs(&self.dir) {
            #[allow(clippy::unnecessary_cast)] // The types differ between systems.
            Ok(fs) => DEFAULT.min(fs.blocks() as u64 * fs.fragment_size() as u64 / 4),
            Err(_) => DEFAULT,
        })
    }

    /// Runs `work` on a connection of its own.
    fn with<T>(&self, work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T> {
        let idle = lock(&self.idle).pop();
        let mut conn = match idle {
            Some(conn) => conn,
            None => db::open(&self.dir)?,
        };
        let result = work(&mut conn);
        match result {
            Ok(value) => {
                lock(&self.idle).push(conn);
                Ok(value)
            }
            Err(source) => {
                let error = db::err(&self.dir.join("index.db"))(source);
                if error.is_corruption() {
                    drop(conn);
                    lock(&self.idle).clear();
                    if let Err(e) = db::replace_corrupt(&self.dir) {
                        tracing::warn!("{e}");
                    }
                } else {
                    lock(&self.idle).push(conn);
                }
                Err(error)
            }
        }
    }

    fn memory(&self) -> MutexGuard<'_, memory::Memory> {
        lock(&self.memory)
    }

    fn pending(&self) -> MutexGuard<'_, pending::Pending> {
        lock(&self.pending)
    }

    fn one_writer(&self) -> MutexGuard<'_, ()> {
        lock(&self.writing)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(e) = self.flush() {
            tracing::warn!("what this run learned is lost: {e}");
        }
    }
}

impl Cache for Store {
    fn hash_file(&self, path: &Path) -> cache::Result<Option<Hash>> {
        Ok(self.hash_path(path)?)
    }

    fn fact(&self, space: &'static str, key: &Hash) -> cache::Result<Option<Vec<u8>>> {
        Ok(self.find_fact(space, key)?)
    }

    fn set_fact(&self, space: &'static str, key: &Hash, value: &[u8]) -> cache::Result<()> {
        self.keep_fact(space, key, value);
        Ok(())
    }

    fn flush(&self) -> cache::Result<()> {
        Ok(Store::flush(self)?)
    }

    fn records(&self, invocation: &InvocationKey) -> cache::Result<Vec<Vec<u8>>> {
        Ok(self.find_records(&invocation.0)?)
    }

    fn entry(&self, key: &EntryKey) -> cache::Result<Option<cache::Entry>> {
        Ok(self.find_entry(&key.0)?)
    }

    fn restore(&self, key: &EntryKey, files: &[Placement]) -> cache::Result<LinkMode> {
        Ok(self.restore_files(&key.0, files)?)
    }

    fn ingest(
        &self,
        path: &Path,
        executable: bool,
        sharing: cache::Sharing,
        needles: &[&[u8]],
    ) -> cache::Result<Ingested> {
        Ok(self.ingest_file(path, executable, sharing, needles)?)
    }

    fn publish(&self, publication: &Publication) -> cache::Result<()> {
        self.publish_entry(publication)?;
        self.notice_size();
        Ok(())
    }

    fn event(&self, event: &Event) {
        let mut event = event.clone();
        if event.time_ms == 0 {
            event.time_ms = now_ms();
        }
        self.pending().events.push(event);
    }

    fn locks_dir(&self) -> PathBuf {
        Store::locks_dir_in(&self.dir)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking thread left behind is a cache entry or a connection at rest; both are whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn since_epoch() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Seconds since the Unix epoch.
fn now_s() -> i64 {
    since_epoch().as_secs() as i64
}

/// Milliseconds since the Unix epoch.
fn now_ms() -> u64 {
    since_epoch().as_millis() as u64
}

/// Nanoseconds since the Unix epoch.
fn now_ns() -> i64 {
    since_epoch().as_nanos() as i64
}
