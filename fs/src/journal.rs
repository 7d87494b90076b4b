//! The journal: an append-only, checksummed log of everything about a tree that is not in its upper.
//!
//! Layout: the magic, then frames of `length: u32`, `checksum: 8 bytes of blake3`, payload. A frame is applied whole or
//! not at all. What is written survives the death of the process; [`Journal::sync`] makes it survive the machine's.
//! Appends happen under the tree's lock, so that their order is the order of the changes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::record::{self, Op};

const MAGIC: &[u8; 8] = b"kachej1\n";
const HEAD: usize = 12;
const NAME: &str = "journal";
/// Takes room on the disk that nobody uses: when there is none left, files can still be removed.
const RESERVE: &str = "reserve";
const RESERVED: u64 = 1 << 19;
/// A journal is rewritten when it is this much longer than what it says, in bytes, …
const SLACK: u64 = 1 << 20;

pub(crate) struct Journal {
    dir: PathBuf,
    file: Arc<File>,
    /// Bytes of valid frames, the magic included.
    end: u64,
    /// Length right after the last rewrite.
    base: u64,
    /// Everything before this offset is on the disk.
    synced: u64,
    buffer: Vec<u8>,
}

impl Journal {
    /// Opens (or creates) the journal in a directory and reads its frames. A torn tail is cut off.
    pub fn open(dir: &Path) -> io::Result<(Self, Vec<Vec<Op>>)> {
        let path = dir.join(NAME);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (frames, end) = match bytes.strip_prefix(MAGIC) {
            Some(body) => {
                let (frames, used) = parse(body);
                (frames, (MAGIC.len() + used) as u64)
            }
            None if bytes.is_empty() || MAGIC.starts_with(&bytes) => {
                file.write_all_at(MAGIC, 0)?;
                // A journal that is there says that there may have been files: one without a beginning is damaged.
                file.sync_data()?;
                File::open(dir)?.sync_all()?;
                (Vec::new(), MAGIC.len() as u64)
            }
            None => {
                let message = format!("{} is not a journal that this version understands", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
        };
        if end < bytes.len() as u64 {
            tracing::warn!(path = %path.display(), cut = bytes.len() as u64 - end, "journal had a torn tail");
        }
        file.set_len(end)?;
        keep_reserve(dir);
        let journal = Journal {
            dir: dir.to_owned(),
            file: Arc::new(file),
            end,
            base: end,
            synced: 0,
            buffer: Vec::new(),
        };
        Ok((journal, frames))
    }

    /// Reads the frames again from the file.
    pub fn read_back(&self) -> io::Result<Vec<Vec<Op>>> {
        let mut bytes = vec![0; self.end as usize];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(parse(&bytes[MAGIC.len()..]).0)
    }

    /// Is there a journal with anything in it?
    pub fn exists(dir: &Path) -> bool {
        fs::metadata(dir.join(NAME)).is_ok_and(|m| m.len() > MAGIC.len() as u64)
    }

    /// Appends one frame. On an error nothing has been appended.
    pub fn append(&mut self, ops: &[Op]) -> io::Result<()> {
        if ops.is_empty() {
            return Ok(());
        }
        self.buffer.clear();
        frame(ops, &mut self.buffer);
        if let Err(error) = self.file.write_all_at(&self.buffer, self.end) {
            self.file.set_len(self.end)?;
            let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            if is_full && fs::remove_file(self.dir.join(RESERVE)).is_ok() {
                return self.append(ops);
            }
            return Err(error);
        }
        self.end += self.buffer.len() as u64;
        if self.buffer.capacity() > 1 << 18 {
            self.buffer = Vec::new();
        }
        Ok(())
    }

    /// The file and the offset up to which syncing it makes the present state durable; `None` if it is already.
    pub fn unsynced(&self) -> Option<(Arc<File>, u64)> {
        (self.synced < self.end).then(|| (self.file.clone(), self.end))
    }

    /// Notes that everything before `offset` of `file` is on the disk.
    pub fn set_synced(&mut self, file: &Arc<File>, offset: u64) {
        if Arc::ptr_eq(file, &self.file) {
            self.synced = self.synced.max(offset);
        }
    }

    /// Makes everything durable, now.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.synced < self.end {
            self.file.sync_data()?;
            self.synced = self.end;
        }
        Ok(())
    }

    /// Is it worth rewriting?
    pub fn is_stale(&self) -> bool {
        self.end > 2 * self.base + SLACK
    }

    /// Replaces everything by these operations.
    pub fn rewrite(&mut self, ops: &[Op]) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        for chunk in ops.chunks(1024) {
            frame(chunk, &mut bytes);
        }
        let temporary = self.dir.join("journal.new");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&temporary)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_data()?;
        fs::rename(&temporary, self.dir.join(NAME))?;
        if let Ok(dir) = File::open(&self.dir) {
            dir.sync_all()?;
        }
        self.file = Arc::new(file);
        self.end = bytes.len() as u64;
        self.base = self.end;
        self.synced = self.end;
        keep_reserve(&self.dir);
        Ok(())
    }
}

/// Where there is no room for it there is none.
fn keep_reserve(dir: &Path) {
    let path = dir.join(RESERVE);
    if path.exists() {
        return;
    }
    let reserved = File::create(&path)
        .and_then(|file| Ok(rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, RESERVED)?));
    if reserved.is_err() {
        let _ = fs::remove_file(path);
    }
}

/// Removes the journal of a mount that has been dissolved.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn frame(ops: &[Op], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    for op in ops {
        record::encode(op, out);
    }
    let length = (out.len() - start - HEAD) as u32;
    let sum = checksum(&out[start + HEAD..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + HEAD].copy_from_slice(&sum);
}

fn checksum(payload: &[u8]) -> [u8; 8] {
    let hash = blake3::hash(payload);
    let mut sum = [0; 8];
    sum.copy_from_slice(&hash.as_bytes()[..8]);
    sum
}

/// All valid frames from the start, and how many bytes they take.
fn parse(mut bytes: &[u8]) -> (Vec<Vec<Op>>, usize) {
    let mut frames = Vec::new();
    let mut used = 0;
    while let Some((head, rest)) = bytes.split_at_checked(HEAD) {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        if checksum(payload) != head[4..] {
            break;
        }
        let Some(ops) = record::decode(payload) else { break };
        frames.push(ops);
        used += HEAD + length;
        bytes = rest;
    }
    (frames, used)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::RelPath;

    fn unlink(name: &str) -> Vec<Op> {
        vec![Op::Unlink { path: RelPath::new(name).unwrap() }]
    }

    #[test]
    fn every_cut_leaves_whole_frames() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, frames) = Journal::open(dir.path()).unwrap();
        assert!(frames.is_empty());
        let all: Vec<_> = (0..5).map(|i| unlink(&format!("file-{i}"))).collect();
        let mut ends = vec![journal.end];
        for ops in &all {
            journal.append(ops).unwrap();
            ends.push(journal.end);
        }
        let bytes = fs::read(dir.path().join(NAME)).unwrap();
        for cut in 0..=bytes.len() {
            fs::write(dir.path().join(NAME), &bytes[..cut]).unwrap();
            let (mut journal, frames) = Journal::open(dir.path()).unwrap();
            let whole = ends.iter().filter(|e| **e <= cut as u64).count().saturating_sub(1);
            assert_eq!(frames, all[..whole], "cut at {cut}");
            journal.append(&unlink("after")).unwrap();
            let (_, frames) = Journal::open(dir.path()).unwrap();
            assert_eq!(frames.last().unwrap(), &unlink("after"));
        }
    }

    #[test]
    fn rewriting_replaces_everything() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(dir.path()).unwrap();
        journal.append(&unlink("a")).unwrap();
        journal.rewrite(&unlink("b")).unwrap();
        journal.append(&unlink("c")).unwrap();
        let (_, frames) = Journal::open(dir.path()).unwrap();
        assert_eq!(frames, [unlink("b"), unlink("c")]);
    }

    #[test]
    fn a_foreign_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(NAME), "something else").unwrap();
        assert_eq!(Journal::open(dir.path()).err().unwrap().kind(), io::ErrorKind::InvalidData);
    }
}
