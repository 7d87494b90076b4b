//! A few open files, so that reads and writes need no open of their own: the kernel sends none (see the stateless
//! protocol in the crate's docs).

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use blake3::Hash;
use parking_lot::Mutex;

/// Open files kept per mount.
const CAPACITY: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Upper(u64),
    Blob(Hash),
}

struct Open {
    file: Arc<File>,
    writable: bool,
    /// A blob's file as it was when its bytes were known to be right. Whoever writes into it is noticed.
    seen: Option<Seen>,
}

/// Identity of a file's content.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    size: i64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Seen {
    fn of(file: &File) -> Option<Seen> {
        let stat = rustix::fs::fstat(file).ok()?;
        Some(Seen {
            size: stat.st_size,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime: (stat.st_ctime, stat.st_ctime_nsec as i64),
        })
    }
}

#[derive(Default)]
pub(crate) struct Fds {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    open: HashMap<Key, (Open, u64)>,
    tick: u64,
}

impl Fds {
    pub fn get(&self, key: Key, writable: bool) -> Option<Arc<File>> {
        let mut inner = self.inner.lock();
        inner.tick += 1;
        let tick = inner.tick;
        let (open, used) = inner.open.get_mut(&key)?;
        if writable && !open.writable {
            return None;
        }
        *used = tick;
        let (file, seen) = (open.file.clone(), open.seen);
        drop(inner);
        if seen.is_some() && seen != Seen::of(&file) {
            self.remove(key);
            return None;
        }
        Some(file)
    }

    pub fn put(&self, key: Key, file: Arc<File>, writable: bool) {
        let seen = match key {
            Key::Blob(_) => Seen::of(&file),
            Key::Upper(_) => None,
        };
        let mut inner = self.inner.lock();
        inner.tick += 1;
        let tick = inner.tick;
        // Dropped after the lock is: closing a file can take its time.
        let mut evicted = None;
        if inner.open.len() >= CAPACITY
            && !inner.open.contains_key(&key)
            && let Some(oldest) = inner.open.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key)
        {
            evicted = inner.open.remove(&oldest);
        }
        let replaced = inner.open.insert(key, (Open { file, writable, seen }, tick));
        drop(inner);
        drop((evicted, replaced));
    }

    pub fn remove(&self, key: Key) {
        let removed = self.inner.lock().open.remove(&key);
        drop(removed);
    }
}
