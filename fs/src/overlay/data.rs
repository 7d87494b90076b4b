//! Bytes: reading, writing, and what moves or reserves them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use blake3::Hash;
use rustix::fs::{FallocateFlags, FileType, Mode, SeekFrom};
use rustix::io::Errno;

use super::attr::{check_size, without_suid};
use super::{Location, Overlay, State};
use crate::error::{FsError, Result};
use crate::fds::Key;
use crate::record::View;
use crate::tree::{Gate, Kind as NodeKind};

/// An open file to read from.
pub struct Reading {
    file: Arc<File>,
    /// The blob that it is, if it is one, and how many bytes it must have: one that has fewer is damaged.
    blob: Option<(Hash, u64)>,
}

impl Reading {
    fn upper(file: Arc<File>) -> Self {
        Reading { file, blob: None }
    }

    fn blob(file: Arc<File>, view: &View) -> Self {
        Reading { file, blob: Some((view.hash, view.size)) }
    }

    /// Reads into the beginning of `buffer`, which grows as needed and keeps its old bytes behind that. Returns how many:
    /// at most `size`, fewer at the end of the file only. A blob that has lost bytes gives `EIO`.
    fn read(&self, offset: u64, size: usize, buffer: &mut Vec<u8>) -> Result<usize> {
        let wanted = match self.blob {
            Some((_, end)) => size.min(usize::try_from(end.saturating_sub(offset)).unwrap_or(size)),
            None => size,
        };
        if buffer.len() < wanted {
            buffer.resize(wanted, 0);
        }
        let mut done = 0;
        while done < wanted {
            match self.file.read_at(&mut buffer[done..wanted], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if done < wanted && self.blob.is_some() {
            return Err(FsError::new(Errno::IO, "a blob is shorter than its view"));
        }
        Ok(done)
    }
}

/// A file that nobody may write and that has further names is a blob's hard link, restored before there was a mount
/// here (root could write it all the same). Removing it and making it anew is what its users do.
fn refuse_shared(file: &File) -> Result<()> {
    let stat = rustix::fs::fstat(file)?;
    if stat.st_nlink > 1 && stat.st_mode & 0o222 == 0 {
        return Err(FsError::new(Errno::ACCESS, "write a file that may be a blob"));
    }
    Ok(())
}

impl Overlay {
    /// A file to read from, if one is open already.
    pub fn reading(&self, ino: u64) -> Result<Option<Reading>> {
        let state = self.state.read();
        Ok(match &state.node(ino)?.kind {
            NodeKind::View(view) => {
                self.fds.get(Key::Blob(view.hash), false).map(|file| Reading::blob(file, view))
            }
            NodeKind::Upper(_) => self.fds.get(Key::Upper(ino), false).map(Reading::upper),
            NodeKind::Dir(_) => return Err(FsError::new(Errno::ISDIR, "read")),
        })
    }

    /// A file to read from. May take as long as it takes to get the blob.
    pub fn open_reading(&self, ino: u64) -> Result<Reading> {
        if let Some(reading) = self.reading(ino)? {
            return Ok(reading);
        }
        let view = {
            let state = self.state.read();
            match &state.node(ino)?.kind {
                NodeKind::View(view) => view.clone(),
                _ => return self.open_upper(&state, ino, false).map(Reading::upper),
            }
        };
        Ok(Reading::blob(self.open_blob(&view)?, &view))
    }

    /// Reads into the beginning of `buffer`, and returns how many bytes: fewer than `size` at the end of the file only.
    pub fn read(&self, reading: &Reading, offset: u64, size: usize, buffer: &mut Vec<u8>) -> Result<usize> {
        let done = reading.read(offset, size, buffer);
        if done.is_err() {
            self.distrust(reading);
        }
        done
    }

    /// A damaged blob is not kept open: the store may get a good one under the same name.
    fn distrust(&self, reading: &Reading) {
        if let Some((hash, _)) = reading.blob {
            self.fds.remove(Key::Blob(hash));
        }
    }

    pub(super) fn open_blob(&self, view: &View) -> Result<Arc<File>> {
        if let Some(file) = self.fds.get(Key::Blob(view.hash), false) {
            return Ok(file);
        }
        let file = self.blobs.open(&view.hash, view.size).map_err(|error| {
            tracing::error!(hash = %view.hash, %error, "cannot open a blob that a mount shows");
            FsError::new(Errno::IO, "open a blob")
        })?;
        let file = Arc::new(file);
        self.fds.put(Key::Blob(view.hash), file.clone(), false);
        Ok(file)
    }

    pub(super) fn open_upper(&self, state: &State, ino: u64, write: bool) -> Result<Arc<File>> {
        if let Some(file) = self.fds.get(Key::Upper(ino), write) {
            return Ok(file);
        }
        let node = state.node(ino)?;
        if node.file_type() != FileType::RegularFile {
            return Err(FsError::new(Errno::INVAL, "only regular files have bytes"));
        }
        let file = Arc::new(self.open_anew(state, ino, write)?);
        if write {
            refuse_shared(&file)?;
        }
        self.fds.put(Key::Upper(ino), file.clone(), write);
        Ok(file)
    }

    /// A descriptor that nobody else has.
    pub(super) fn open_anew(&self, state: &State, ino: u64, write: bool) -> Result<File> {
        match self.location(state, ino)? {
            Location::Path(path) => self.upper.open_file(&path, write),
            Location::Held(held) => self.upper.open_held(&held, write),
        }
    }

    /// The upper file, open for writing; `None` if the bytes are still a blob's.
    fn writable(&self, ino: u64) -> Result<Option<Arc<File>>> {
        let state = self.state.read();
        match state.node(ino)?.kind {
            NodeKind::View(_) => Ok(None),
            _ => self.open_upper(&state, ino, true).map(Some),
        }
    }

    /// Can a write go ahead without opening or copying anything?
    pub fn can_write_at_once(&self, ino: u64) -> bool {
        self.fds.get(Key::Upper(ino), true).is_some()
    }

    /// Runs `f` on a file that may be written, copied up if need be. `keep`: bytes that must survive a copy-up.
    fn modify<R>(&self, ino: u64, keep: u64, f: impl Fn(&File, &Gate) -> Result<R>) -> Result<R> {
        self.active();
        let gate = self.gate(ino)?;
        loop {
            {
                let _writing = gate.writers.read();
                if let Some(file) = self.writable(ino)? {
                    gate.version.fetch_add(1, Ordering::SeqCst);
                    gate.changed_at.store(self.age_ms(), Ordering::Relaxed);
                    return f(&file, &gate);
                }
            }
            self.copy_up(ino, keep)?;
        }
    }

    /// Writes all of `data`. `kill_suid`: the writer may not keep set-id bits.
    pub fn write(&self, ino: u64, offset: u64, data: &[u8], kill_suid: bool) -> Result<()> {
        self.modify(ino, u64::MAX, |file, _| {
            file.write_all_at(data, offset)?;
            if kill_suid { drop_suid(file) } else { Ok(()) }
        })
    }

    pub(super) fn truncate(&self, ino: u64, size: u64, kill_suid: bool) -> Result<()> {
        check_size(size)?;
        if self.state.read().node(ino)?.dir().is_some() {
            return Err(FsError::new(Errno::ISDIR, "truncate"));
        }
        self.modify(ino, size, |file, _| {
            rustix::fs::ftruncate(file, size)?;
            if kill_suid { drop_suid(file) } else { Ok(()) }
        })
    }

    /// `fallocate(2)`.
    pub fn fallocate(&self, ino: u64, mode: u32, offset: u64, length: u64) -> Result<()> {
        let mode = FallocateFlags::from_bits_retain(mode);
        self.modify(ino, u64::MAX, |file, _| Ok(rustix::fs::fallocate(file, mode, offset, length)?))
    }

    /// `lseek(2)` with `SEEK_DATA` and `SEEK_HOLE`.
    pub fn seek(&self, ino: u64, offset: u64, whence: i32) -> Result<u64> {
        // Values of <linux/fs.h>.
        let target = match whence {
            3 => SeekFrom::Data(offset),
            4 => SeekFrom::Hole(offset),
            _ => return Err(FsError::new(Errno::INVAL, "seek")),
        };
        let reading = self.open_reading(ino)?;
        Ok(rustix::fs::seek(&*reading.file, target)?)
    }

    /// `copy_file_range(2)`. May copy less than asked for.
    pub fn copy_range(&self, from: (u64, u64), to: (u64, u64), length: u64) -> Result<u64> {
        let source = self.open_reading(from.0)?;
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(1 << 30);
        self.modify(to.0, u64::MAX, |file, _| {
            let (mut at, mut into) = (from.1, to.1);
            let copied =
                rustix::fs::copy_file_range(&*source.file, Some(&mut at), file, Some(&mut into), length)?;
            if copied == 0 && source.blob.is_some_and(|(_, end)| from.1 < end) {
                self.distrust(&source);
                return Err(FsError::new(Errno::IO, "a blob is shorter than its view"));
            }
            Ok(copied as u64)
        })
    }

    /// `fsync(2)`: the bytes, and the journal, so that the file is found again.
    pub fn fsync(&self, ino: u64, data_only: bool) -> Result<()> {
        let (file, synced) = {
            let state = self.state.read();
            let node = state.node(ino)?;
            match &node.kind {
                NodeKind::Dir(_) => {
                    return self.fsync_dir(&state, ino).and_then(|()| {
                        drop(state);
                        self.sync_journal()
                    });
                }
                NodeKind::View(view) => {
                    let view = view.clone();
                    drop(state);
                    (self.open_blob(&view)?, None)
                }
                NodeKind::Upper(_) => (self.open_upper(&state, ino, false)?, Some(node.gate())),
            }
        };
        if let Some(gate) = synced {
            gate.synced.store(true, Ordering::Relaxed);
        }
        if data_only {
            rustix::fs::fdatasync(&*file)?
        } else {
            rustix::fs::fsync(&*file)?
        }
        self.sync_journal()
    }

    fn fsync_dir(&self, state: &State, ino: u64) -> Result<()> {
        if let Some(path) = state.tree.path(ino) {
            let dir = self.upper.open_file(&path, false)?;
            rustix::fs::fsync(&dir)?;
        }
        Ok(())
    }
}

fn drop_suid(file: &File) -> Result<()> {
    let mode = rustix::fs::fstat(file)?.st_mode & 0o7777;
    if without_suid(mode) != mode {
        rustix::fs::fchmod(file, Mode::from_raw_mode(without_suid(mode)))?;
    }
    Ok(())
}
