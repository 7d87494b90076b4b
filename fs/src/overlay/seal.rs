//! Sealing: an upper file that is finished becomes a blob by rename, and its names become a view, unnoticed.
//!
//! ```text
//! begin_seal   the reader, and the version of the bytes that it reads
//!   (hash the bytes, no lock held)
//! commit       gate.writers (exclusive): no write is under way, and none was since begin
//!                state: journal { File, Link…, Redo::Seal }, rename into the store, the node becomes a view
//! ```
//! A write that comes later finds a view and copies up. If the process dies in between, recovery finds either the blob
//! (and drops the upper's names) or the upper file (and drops the views).

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use blake3::Hash;
use rustix::fs::{FileType, Mode, Stat, Timespec};
use rustix::io::Errno;

use super::{Overlay, State};
use crate::error::{FsError, not_found};
use crate::fds::Key;
use crate::path::RelPath;
use crate::record::{Op, Redo, View};
use crate::tree::{Gate, Kind as NodeKind};

/// Why a file did not become a blob.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// It is one already.
    #[error("the file is a view already")]
    AlreadyView,
    /// Only regular files are sealed.
    #[error("not a regular file")]
    NotAFile,
    /// Somebody wrote, truncated, replaced or removed it since the seal began.
    #[error("the file changed while it was being sealed")]
    Changed,
    /// It has hard links that this mount does not see, so that it can still be written from outside.
    #[error("the file has hard links outside of the mount")]
    ForeignLinks,
    /// It has extended attributes, which a view cannot show.
    #[error("the file has extended attributes")]
    ExtendedAttributes,
    /// The file system or the store failed.
    #[error(transparent)]
    Fs(#[from] FsError),
}

impl From<std::io::Error> for SealError {
    fn from(error: std::io::Error) -> Self {
        SealError::Fs(error.into())
    }
}

impl From<Errno> for SealError {
    fn from(error: Errno) -> Self {
        SealError::Fs(error.into())
    }
}

/// A seal that has begun. Dropping it abandons the seal.
pub struct SealTicket {
    ino: u64,
    real: u64,
    version: u64,
    gate: Arc<Gate>,
    file: Arc<File>,
    /// Bytes at the time of the beginning.
    pub size: u64,
    /// Any execute bit.
    pub executable: bool,
}

impl std::fmt::Debug for SealTicket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealTicket").field("ino", &self.ino).field("size", &self.size).finish_non_exhaustive()
    }
}

/// What [`Overlay::seal_quiet`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sealed {
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
    /// Files that could not be sealed this time.
    pub skipped: u64,
    /// Nothing is left that is quiet enough.
    pub complete: bool,
}

impl SealTicket {
    /// The file, for reading with `read_at` (its offset is shared).
    pub fn file(&self) -> &File {
        &self.file
    }

    /// blake3 of the bytes. Ends early with `Changed` if somebody writes meanwhile.
    pub fn hash(&self) -> Result<Hash, SealError> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; usize::try_from(self.size.clamp(1, 1 << 18)).unwrap_or(1 << 18)];
        let mut at = 0;
        while at < self.size {
            if self.is_outdated() {
                return Err(SealError::Changed);
            }
            let step = buffer.len().min(usize::try_from(self.size - at).unwrap_or(usize::MAX));
            match self.file.read_at(&mut buffer[..step], at) {
                Ok(0) => return Err(SealError::Changed),
                Ok(n) => {
                    hasher.update(&buffer[..n]);
                    at += n as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(hasher.finalize())
    }

    /// Has somebody written since the beginning?
    pub fn is_outdated(&self) -> bool {
        self.gate.version.load(Ordering::SeqCst) != self.version
    }
}

impl Overlay {
    /// Opens a finished upper file to be hashed.
    pub fn begin_seal(&self, path: &RelPath) -> Result<SealTicket, SealError> {
        let ino = self.resolve(path)?;
        self.begin_seal_of(ino)
    }

    fn begin_seal_of(&self, ino: u64) -> Result<SealTicket, SealError> {
        let gate = self.gate(ino)?;
        // Before the file is looked at: whatever comes later counts.
        let version = gate.version.load(Ordering::SeqCst);
        let state = self.state.read();
        let node = state.node(ino)?;
        let real = match &node.kind {
            NodeKind::View(_) => return Err(SealError::AlreadyView),
            NodeKind::Upper(upper) if upper.file_type == FileType::RegularFile => upper.real,
            _ => return Err(SealError::NotAFile),
        };
        let file = self.open_upper(&state, ino, false)?;
        let stat = rustix::fs::fstat(&*file)?;
        let executable = stat.st_mode & 0o111 != 0;
        drop(state);
        Ok(SealTicket { ino, real, version, gate, file, size: stat.st_size as u64, executable })
    }

    /// Makes the file a blob and a view of it, unless anything has happened to it since the beginning.
    pub fn commit_seal(
        &self,
        ticket: SealTicket,
        hash: Hash,
        size: u64,
        link_ok: bool,
    ) -> Result<(), SealError> {
        let _no_writers = ticket.gate.writers.write();
        let mut present = self.blobs.contains(&hash, size);
        loop {
            if ticket.is_outdated() {
                return Err(SealError::Changed);
            }
            if !present && self.cross_device.load(Ordering::Relaxed) {
                self.blobs.insert_copy(&hash, size, ticket.executable, &ticket.file)?;
                present = true;
            }
            let mut state = self.state.write();
            match self.commit_locked(&mut state, &ticket, hash, size, link_ok, present) {
                Err(SealError::Fs(error)) if error.is(Errno::XDEV) && !present => {
                    self.cross_device.store(true, Ordering::Relaxed);
                }
                other => return other,
            }
        }
    }

    fn commit_locked(
        &self,
        state: &mut State,
        ticket: &SealTicket,
        hash: Hash,
        size: u64,
        link_ok: bool,
        present: bool,
    ) -> Result<(), SealError> {
        let ino = ticket.ino;
        let node = state.tree.node(ino).ok_or(SealError::Changed)?;
        if node.upper().is_none_or(|u| u.real != ticket.real || u.held.is_some()) {
            return Err(SealError::Changed);
        }
        let names = state.tree.paths(ino);
        let stat = rustix::fs::fstat(&*ticket.file)?;
        if names.is_empty() || stat.st_size as u64 != size {
            return Err(SealError::Changed);
        }
        if stat.st_nlink as u64 != names.len() as u64 {
            return Err(SealError::ForeignLinks);
        }
        if rustix::fs::flistxattr_query(&*ticket.file).is_ok_and(|n| n > 0) {
            return Err(SealError::ExtendedAttributes);
        }
        let view = view_of(&stat, hash, link_ok);
        let redo = Redo::Seal { id: ino, real: ticket.real, mode: view.mode, names: names.clone() };
        let mut ops = vec![Op::File { id: ino, view: view.clone() }];
        ops.extend(names.iter().map(|path| Op::Link { path: path.clone(), id: ino }));
        ops.push(Op::Redo(redo));
        if ticket.gate.synced.load(Ordering::Relaxed) {
            // It was promised to be on the disk: its new place must be there before the old one goes.
            state.journal.append(&ops)?;
            state.journal.sync()?;
        } else {
            state.journal.append(&ops)?;
        }
        if let Err(error) = self.take_away(&names, ticket, &view, present) {
            let undo: Vec<Op> = names.into_iter().map(|path| Op::Unlink { path }).collect();
            state.journal.append(&undo)?;
            let _ = rustix::fs::fchmod(&*ticket.file, Mode::from_raw_mode(view.mode));
            return Err(error);
        }
        self.fds.remove(Key::Upper(ino));
        state.tree.replace_kind(ino, NodeKind::View(Box::new(view)));
        Ok(())
    }

    /// Moves the file into the store (or, if its bytes are there already, removes it), name by name. The directories keep
    /// their times.
    fn take_away(
        &self,
        names: &[RelPath],
        ticket: &SealTicket,
        view: &View,
        present: bool,
    ) -> Result<(), SealError> {
        let Some((first, rest)) = names.split_first() else { return Err(SealError::Changed) };
        self.keeping_mtime(first, || {
            if present {
                return self.upper.unlink(first.as_bytes());
            }
            let executable = ticket.executable;
            let slot = self.blobs.slot(&view.hash, executable)?;
            let mode = if executable { 0o555 } else { 0o444 };
            rustix::fs::fchmod(&*ticket.file, Mode::from_raw_mode(mode))?;
            match self.upper.rename_out(first.as_bytes(), slot.dir.as_fd(), &slot.name) {
                Err(error) if error.is(Errno::EXIST) && self.blobs.contains(&view.hash, view.size) => {
                    self.upper.unlink(first.as_bytes())
                }
                Err(error) if error.is(Errno::EXIST) => {
                    Err(FsError::new(Errno::EXIST, "a damaged blob is in the way of a seal"))
                }
                other => other,
            }
        })?;
        for name in rest {
            // The first name is gone: the others must follow, or the blob could be written through them.
            if let Err(error) = self.keeping_mtime(name, || self.upper.unlink(name.as_bytes())) {
                tracing::error!(%name, %error, "a sealed file has kept a name in the upper");
            }
        }
        Ok(())
    }

    fn keeping_mtime<R>(
        &self,
        path: &RelPath,
        f: impl FnOnce() -> crate::error::Result<R>,
    ) -> crate::error::Result<R> {
        let (dir, _) = path.split().ok_or_else(not_found)?;
        self.upper.keep_mtime(dir, f)
    }

    /// Seals files that nobody has changed for a while, until `budget` is used up. `wanted` may leave files out.
    pub fn seal_quiet(
        &self,
        older_than: Duration,
        budget: Duration,
        wanted: &dyn Fn(&RelPath) -> bool,
    ) -> Result<Sealed, SealError> {
        let start = Instant::now();
        let mut report = Sealed { complete: true, ..Sealed::default() };
        self.load_all()?;
        for (ino, path) in self.candidates(older_than) {
            if start.elapsed() > budget {
                report.complete = false;
                break;
            }
            if !wanted(&path) {
                continue;
            }
            match self.seal_one(ino, older_than) {
                Ok(Some(bytes)) => {
                    report.files += 1;
                    report.bytes += bytes;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%path, %error, "not sealed");
                    report.skipped += 1;
                }
            }
        }
        Ok(report)
    }

    fn seal_one(&self, ino: u64, older_than: Duration) -> Result<Option<u64>, SealError> {
        let ticket = self.begin_seal_of(ino)?;
        let stat = rustix::fs::fstat(ticket.file())?;
        if ticket.size == 0 || !is_older(&stat, older_than) {
            return Ok(None);
        }
        let hash = ticket.hash()?;
        let size = ticket.size;
        self.commit_seal(ticket, hash, size, false)?;
        // A file kept open for hashing only.
        self.fds.remove(Key::Upper(ino));
        Ok(Some(size))
    }

    fn candidates(&self, older_than: Duration) -> Vec<(u64, RelPath)> {
        let state = self.state.read();
        let limit = self.age_ms().saturating_sub(older_than.as_millis() as u64);
        let mut found: HashMap<u64, RelPath> = HashMap::new();
        for (ino, node) in state.tree.nodes() {
            let quiet = node.gate_if_used().is_none_or(|g| {
                let at = g.changed_at.load(Ordering::Relaxed);
                at == 0 || at <= limit
            });
            if node.upper().is_some_and(|u| u.file_type == FileType::RegularFile)
                && quiet
                && let Some(path) = state.tree.path(ino)
            {
                found.insert(ino, RelPath::from_bytes(path));
            }
        }
        found.into_iter().collect()
    }
}

fn is_older(stat: &Stat, than: Duration) -> bool {
    let changed = SystemTime::UNIX_EPOCH
        + Duration::new(u64::try_from(stat.st_ctime).unwrap_or(0), stat.st_ctime_nsec as u32);
    SystemTime::now().duration_since(changed).is_ok_and(|age| age >= than)
}

fn view_of(stat: &Stat, hash: Hash, link_ok: bool) -> View {
    View {
        hash,
        size: stat.st_size as u64,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        atime: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as i64 },
        mtime: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 },
        ctime: Timespec { tv_sec: stat.st_ctime, tv_nsec: stat.st_ctime_nsec as i64 },
        link_ok,
    }
}
