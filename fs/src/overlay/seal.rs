//! Sealing: an upper file that is finished becomes a blob by rename, and its names become a view, unnoticed.
//!
//! ```text
//! begin_seal   the reader, and the version of the bytes that it reads
//!   (hash the bytes, no lock held)
//! commit       gate.writers (exclusive): no write is under way, and none was since begin
//!              a read lease: nobody has the file open for writing past the mount
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
use crate::lease::Lease;
use crate::path::RelPath;
use crate::record::{Op, Redo, View};
use crate::tree::{Gate, Kind as NodeKind};
use crate::upper::FOREIGN;

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
    /// Somebody has it open for writing: since before the mount, or past it.
    #[error("the file is open for writing")]
    InUse,
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
    /// It was on the disk before the mount, or was promised to be there.
    is_durable: bool,
}

/// A file that may become a blob.
struct Hashed {
    ticket: SealTicket,
    hash: Hash,
    size: u64,
    link_ok: bool,
}

/// One that nobody writes.
struct Prepared<'a> {
    hashed: &'a Hashed,
    /// The store has these bytes already.
    present: bool,
    lease: Lease,
}

/// One that the journal calls a blob.
struct Staged<'a> {
    prepared: Prepared<'a>,
    view: View,
    names: Vec<RelPath>,
}

/// A file that was a blob and was written so often does not become one in the background again.
const COPIES: u32 = 2;

/// Files that become blobs with one write to the journal.
const BATCH: usize = 128;

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
            NodeKind::Upper(upper) if upper.file_type == FileType::RegularFile && upper.real != FOREIGN => {
                upper.real
            }
            _ => return Err(SealError::NotAFile),
        };
        // One that cannot write: nobody may, when the file becomes a blob.
        let file = self.open_anew(&state, ino, false)?;
        let stat = rustix::fs::fstat(&file)?;
        drop(state);
        Ok(SealTicket {
            ino,
            real,
            version,
            is_durable: gate.synced.load(Ordering::Relaxed) || changed(&stat) < self.since,
            gate,
            file: Arc::new(file),
            size: stat.st_size as u64,
            executable: stat.st_mode & 0o111 != 0,
        })
    }

    /// Makes the file a blob and a view of it, unless anything has happened to it since the beginning.
    pub fn commit_seal(
        &self,
        ticket: SealTicket,
        hash: Hash,
        size: u64,
        link_ok: bool,
    ) -> Result<(), SealError> {
        let mut hashed = [Hashed { ticket, hash, size, link_ok }];
        loop {
            // A file that was promised to be on the disk, or was there before the mount, is not to be lost.
            let durable = hashed[0].ticket.is_durable;
            match self.commit(&mut hashed, durable).pop() {
                Some(Err(SealError::Fs(error)))
                    if error.is(Errno::XDEV) && !self.cross_device.swap(true, Ordering::Relaxed) => {}
                other => return other.unwrap_or(Ok(())),
            }
        }
    }

    /// Commits many seals with one frame of the journal. If `durable`, the frame is on the disk before the first file
    /// goes: a file that was there stays there, whenever the power fails.
    fn commit(&self, hashed: &mut [Hashed], durable: bool) -> Vec<Result<(), SealError>> {
        hashed.sort_by_key(|h| h.ticket.ino);
        let gates: Vec<Arc<Gate>> = hashed.iter().map(|h| h.ticket.gate.clone()).collect();
        // One waits for its writers. With several, nobody is to wait for a writer of another file.
        let is_one = gates.len() == 1;
        let no_writers: Vec<_> = gates
            .iter()
            .map(|gate| if is_one { Some(gate.writers.write()) } else { gate.writers.try_write() })
            .collect();
        let prepared: Vec<Result<Prepared<'_>, SealError>> = hashed
            .iter()
            .zip(&no_writers)
            .map(|(h, quiet)| match quiet {
                Some(_) => self.prepare(h, durable),
                None => Err(SealError::Changed),
            })
            .collect();
        // What is written before the state is locked need not be written while it is.
        let before = if durable { self.sync_journal() } else { Ok(()) };
        let mut state = self.state.write();
        let mut ops = Vec::new();
        let staged: Vec<Result<Staged<'_>, SealError>> =
            prepared.into_iter().map(|p| p?.stage(&state, &mut ops)).collect();
        let written = before.and_then(|()| {
            state.journal.append(&ops)?;
            if durable { Ok(state.journal.sync()?) } else { Ok(()) }
        });
        let mut undo = Vec::new();
        let done = staged
            .into_iter()
            .map(|seal| {
                let seal = seal?;
                let taken = match &written {
                    Ok(()) => self.take_away(&seal),
                    Err(error) => Err(SealError::Fs(error.clone())),
                };
                if let Err(error) = taken {
                    undo.extend(seal.names.iter().map(|path| Op::Unlink { path: path.clone() }));
                    let file = &seal.prepared.hashed.ticket.file;
                    let _ = rustix::fs::fchmod(&**file, Mode::from_raw_mode(seal.view.mode));
                    return Err(error);
                }
                let ino = seal.prepared.hashed.ticket.ino;
                self.fds.remove(Key::Upper(ino));
                state.tree.replace_kind(ino, NodeKind::View(Box::new(seal.view)));
                Ok(())
            })
            .collect();
        // Last, since recovery finishes what the last frame says.
        if let Err(error) = state.journal.append(&undo) {
            tracing::error!(%error, "the journal has views that are none");
        }
        done
    }

    /// What can take its time and needs no lock but the file's own.
    fn prepare<'a>(&self, hashed: &'a Hashed, durable: bool) -> Result<Prepared<'a>, SealError> {
        let Hashed { ticket, hash, size, .. } = hashed;
        if ticket.is_outdated() {
            return Err(SealError::Changed);
        }
        let mut present = self.blobs.contains(hash, *size);
        if !present && self.cross_device.load(Ordering::Relaxed) {
            self.blobs.insert_copy(hash, *size, ticket.executable, &ticket.file)?;
            present = true;
        }
        if present && durable {
            // It takes the place of a file that was on the disk.
            self.blobs.open(hash, *size)?.sync_data()?;
        }
        // Where writers of this mount were, a descriptor of its own may still be open.
        self.fds.remove(Key::Upper(ticket.ino));
        let lease = Lease::take_patiently(&ticket.file).map_err(in_use)?;
        Ok(Prepared { hashed, present, lease })
    }

    /// Moves the file into the store (or, if its bytes are there already, removes it), name by name. The directories keep
    /// their times.
    fn take_away(&self, seal: &Staged<'_>) -> Result<(), SealError> {
        let Staged { prepared: Prepared { hashed, present, lease }, view, names } = seal;
        let ticket = &hashed.ticket;
        let Some((first, rest)) = names.split_first() else { return Err(SealError::Changed) };
        if *present {
            self.keeping_mtime(first, || self.upper.unlink(first.as_bytes()))?;
        } else {
            let slot = self.blobs.slot(&view.hash, ticket.executable)?;
            let mode = if ticket.executable { 0o555 } else { 0o444 };
            rustix::fs::fchmod(&*ticket.file, Mode::from_raw_mode(mode))?;
            let moved = self.keeping_mtime(first, || {
                match self.upper.rename_out(first.as_bytes(), slot.dir.as_fd(), &slot.name) {
                    Err(error) if error.is(Errno::EXIST) && self.blobs.contains(&view.hash, view.size) => {
                        self.upper.unlink(first.as_bytes()).map(|()| false)
                    }
                    Err(error) if error.is(Errno::EXIST) => {
                        Err(FsError::new(Errno::EXIST, "a damaged blob is in the way of a seal"))
                    }
                    other => other.map(|()| true),
                }
            })?;
            if moved && !lease.holds() {
                // Somebody who has found the file before opens it for writing.
                self.keeping_mtime(first, || {
                    self.upper.rename_back(slot.dir.as_fd(), &slot.name, first.as_bytes())
                })?;
                return Err(SealError::InUse);
            }
        }
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
        let mut hashed = Vec::new();
        let (quiet, later) = self.candidates(older_than);
        report.complete = !later;
        for (ino, path) in quiet {
            if start.elapsed() > budget {
                report.complete = false;
                break;
            }
            if !wanted(&path) {
                continue;
            }
            match self.hash_quiet(ino, older_than) {
                Ok(one) => hashed.extend(one),
                Err(error) => {
                    tracing::debug!(%path, %error, "not sealed");
                    report.skipped += 1;
                }
            }
            if hashed.len() == BATCH {
                self.commit_quiet(std::mem::take(&mut hashed), &mut report);
            }
        }
        self.commit_quiet(hashed, &mut report);
        Ok(report)
    }

    fn hash_quiet(&self, ino: u64, older_than: Duration) -> Result<Option<Hashed>, SealError> {
        let ticket = self.begin_seal_of(ino)?;
        let stat = rustix::fs::fstat(ticket.file())?;
        let is_awkward = has_holes(&stat) && !older_than.is_zero();
        if ticket.size == 0 || !is_older(&stat, older_than) || is_awkward {
            return Ok(None);
        }
        // Reading what cannot become a blob would be for nothing.
        self.fds.remove(Key::Upper(ino));
        Lease::take(&ticket.file).map_err(in_use)?;
        let (hash, size) = (ticket.hash()?, ticket.size);
        Ok(Some(Hashed { ticket, hash, size, link_ok: false }))
    }

    fn commit_quiet(&self, mut hashed: Vec<Hashed>, report: &mut Sealed) {
        if hashed.is_empty() {
            return;
        }
        let done = self.commit(&mut hashed, true);
        for (one, result) in hashed.iter().zip(done) {
            match result {
                Ok(()) => {
                    report.files += 1;
                    report.bytes += one.size;
                }
                Err(error) => {
                    if let SealError::Fs(error) = &error
                        && error.is(Errno::XDEV)
                    {
                        self.cross_device.store(true, Ordering::Relaxed);
                    }
                    tracing::debug!(ino = one.ticket.ino, %error, "not sealed");
                    report.skipped += 1;
                }
            }
        }
    }

    /// Files that are quiet; and whether others will be, if nothing happens to them.
    fn candidates(&self, older_than: Duration) -> (Vec<(u64, RelPath)>, bool) {
        let state = self.state.read();
        let now = self.age_ms();
        let mut found: HashMap<u64, RelPath> = HashMap::new();
        let mut later = false;
        let files = state.tree.nodes().filter(|(_, node)| {
            node.upper().is_some_and(|u| u.file_type == FileType::RegularFile && u.real != FOREIGN)
        });
        for (ino, node) in files {
            let (at, copies) = node.gate_if_used().map_or((0, 0), |gate| {
                (gate.changed_at.load(Ordering::Relaxed), gate.copies.load(Ordering::Relaxed))
            });
            // For a snapshot they do, whatever it costs.
            if copies > COPIES && !older_than.is_zero() {
                continue;
            }
            // One that is written again and again is copied and hashed each time.
            let pause = (older_than.as_millis() as u64) << copies.min(COPIES);
            if at > 0 && at + pause > now {
                later |= copies > 0;
                continue;
            }
            if let Some(path) = state.tree.path(ino) {
                found.insert(ino, RelPath::from_bytes(path));
            }
        }
        (found.into_iter().collect(), later)
    }
}

impl<'a> Prepared<'a> {
    /// Looks at the file for the last time, and says what will be true of it.
    fn stage(self, state: &State, ops: &mut Vec<Op>) -> Result<Staged<'a>, SealError> {
        let Hashed { ticket, hash, size, link_ok } = self.hashed;
        if ticket.is_outdated() {
            return Err(SealError::Changed);
        }
        let ino = ticket.ino;
        let node = state.tree.node(ino).ok_or(SealError::Changed)?;
        if node.upper().is_none_or(|u| u.real != ticket.real || u.held.is_some()) {
            return Err(SealError::Changed);
        }
        let names = state.tree.paths(ino);
        let stat = rustix::fs::fstat(&*ticket.file)?;
        if names.is_empty() || stat.st_size as u64 != *size {
            return Err(SealError::Changed);
        }
        if stat.st_nlink as u64 != names.len() as u64 {
            return Err(SealError::ForeignLinks);
        }
        if rustix::fs::flistxattr_query(&*ticket.file).is_ok_and(|n| n > 0) {
            return Err(SealError::ExtendedAttributes);
        }
        if !self.lease.holds() {
            return Err(SealError::InUse);
        }
        let view = view_of(&stat, *hash, *link_ok);
        ops.push(Op::File { id: ino, view: view.clone() });
        ops.extend(names.iter().map(|path| Op::Link { path: path.clone(), id: ino }));
        ops.push(Op::Redo(Redo::Seal { id: ino, real: ticket.real, mode: view.mode, names: names.clone() }));
        Ok(Staged { prepared: self, view, names })
    }
}

fn in_use(error: std::io::Error) -> SealError {
    match error.kind() {
        std::io::ErrorKind::WouldBlock => SealError::InUse,
        _ => error.into(),
    }
}

fn changed(stat: &Stat) -> Timespec {
    Timespec { tv_sec: stat.st_ctime, tv_nsec: stat.st_ctime_nsec as i64 }
}

/// A disk image, say: its copies would be larger, and reading it takes for ever.
fn has_holes(stat: &Stat) -> bool {
    const TOLERANCE: i64 = 1 << 20;
    stat.st_blocks * 512 + TOLERANCE < stat.st_size
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
