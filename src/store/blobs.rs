//! Blobs on disk: `store/blobs/<2 hex>/<hash>`, mode 0444 (0555 for programs).
//!
//! A blob that is a hard link in a target has the mode that a compiler's output has there: rustc refuses to replace a
//! file that is not writable, also when it runs without kache. Whoever writes into it in place is noticed by its ctime,
//! which nobody can set back as they can its mtime.
//!
//! A blob is written under a temporary name, hashed, and published by rename (or link): it is whole or it is not
//! there. It is not synced; instead its identity (inode, size, mtime, ctime) and the machine start are kept in the index. One
//! that looks different, or that was published shortly before an unclean end of the machine, is read again before it
//! is handed out.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kache_wrapper::cache::{Content, FileId, Ingested, LinkMode, Placement, Sharing};

use super::error::{At, Error, Result};
use super::{Hash, Store, Verify, now_ns, now_s, scan, sys};
use crate::restore::{self, LinkMemory, Source};

/// Blobs published within so many seconds before a machine's unclean end may be torn.
const UNSYNCED: i64 = 120;
/// Bytes, roughly, that one remembered file state takes.
const STAT_WEIGHT: usize = 160;
/// Timestamps this close to the present may not tell the next change, in nanoseconds.
const RACY_NS: i64 = 50_000_000;

/// Is it in the index already?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    New,
    Already,
}

/// What the index knows of a blob's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobRow {
    pub size: u64,
    /// Bytes that it takes on disk.
    pub disk: u64,
    pub ino: u64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub links: u64,
    /// The machine start in which its bytes were known to be right.
    pub boot: i64,
    /// Seconds since the Unix epoch.
    pub published: i64,
}

impl BlobRow {
    /// Is this the file as it was when its bytes were right?
    ///
    /// The ctime moves when a link is made or removed, too. Links that kache makes are noted. One that is gone is enough of
    /// an explanation, else a build after `rm -rf target` would read everything again, which takes as long as all the rest
    /// of it. So what stays unnoticed is a write in place, whose mtime was set back, to a file that was removed afterwards.
    fn looks_like(&self, meta: &fs::Metadata) -> bool {
        let id = FileId::of(meta);
        (self.ino, self.size, self.mtime_ns) == (id.ino, id.size, id.mtime_ns)
            && (self.ctime_ns == id.ctime_ns || meta.nlink() < self.links)
    }
}

impl Store {
    pub(super) fn blob_path(&self, hash: &Hash) -> PathBuf {
        let hex = blake3::Hash::from_bytes(*hash).to_hex();
        self.dir.join("store/blobs").join(&hex[..2]).join(hex.as_str())
    }

    fn row(&self, meta: &fs::Metadata) -> BlobRow {
        let id = FileId::of(meta);
        BlobRow {
            size: id.size,
            disk: meta.blocks() * 512,
            ino: id.ino,
            mtime_ns: id.mtime_ns,
            ctime_ns: id.ctime_ns,
            links: meta.nlink(),
            boot: self.boot,
            published: now_s(),
        }
    }

    // ---- stat cache

    pub(super) fn hash_path(&self, path: &Path) -> Result<Option<Hash>> {
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(e) => return Err(e).at("read", path),
        };
        // It has no bytes.
        if meta.is_dir() {
            return Ok(None);
        }
        if !meta.is_file() {
            return Err(Error::NotAFile { path: path.to_owned() });
        }
        if let Some(hash) = self.known_hash(&FileId::of(&meta))? {
            return Ok(Some(hash));
        }
        match File::open(path) {
            Ok(file) => self.hash_file_at(&file, path).map(Some),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).at("read", path),
        }
    }

    /// blake3 of an open regular file, through the stat cache.
    pub fn hash_open(&self, file: &File) -> Result<Hash> {
        let path = Path::new("(open file)");
        if let Some(hash) = self.known_hash(&FileId::of(&file.metadata().at("read", path)?))? {
            return Ok(hash);
        }
        self.hash_file_at(file, path)
    }

    fn known_hash(&self, id: &FileId) -> Result<Option<Hash>> {
        if let Some((known, hash)) = self.memory().stats.get(&(id.dev, id.ino))
            && known == *id
        {
            return Ok(Some(hash));
        }
        let found = self.find_stat(id)?;
        if let Some(hash) = found {
            self.memory().stats.put((id.dev, id.ino), (*id, hash), STAT_WEIGHT);
        }
        Ok(found)
    }

    fn hash_file_at(&self, file: &File, path: &Path) -> Result<Hash> {
        let mut tries = 0;
        let (scanned, after) = loop {
            let before = FileId::of(&file.metadata().at("read", path)?);
            let scanned = scan::scan_at(file, &[]).at("read", path)?;
            let after = FileId::of(&file.metadata().at("read", path)?);
            if before == after && scanned.size == after.size {
                break (scanned, after);
            }
            // Somebody may have linked it to the store meanwhile, which says nothing of its bytes: once more.
            tries += 1;
            if !before.same_content(&after) || tries > 10 {
                return Err(Error::Changed { path: path.to_owned() });
            }
        };
        let hash = *scanned.hash.as_bytes();
        if after.mtime_ns.max(after.ctime_ns) + RACY_NS < now_ns() {
            self.note_stat(after, hash);
        }
        Ok(hash)
    }

    pub(super) fn note_stat(&self, id: FileId, hash: Hash) {
        self.memory().stats.put((id.dev, id.ino), (id, hash), STAT_WEIGHT);
        self.pending().stats.insert((id.dev, id.ino), (id, hash));
    }

    // ---- ingest

    pub(super) fn ingest_file(
        &self,
        path: &Path,
        executable: bool,
        sharing: Sharing,
        needles: &[&[u8]],
    ) -> Result<Ingested> {
        let _in_use = self.gc_lock.lock()?;
        let file =
            OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path).at("read", path)?;
        let meta = file.metadata().at("read", path)?;
        if !meta.is_file() {
            return Err(Error::NotAFile { path: path.to_owned() });
        }
        let before = FileId::of(&meta);
        let scanned = scan::scan_at(&file, needles).at("read", path)?;
        let hash = *scanned.hash.as_bytes();
        if !self.has_blob(&hash, scanned.size)? {
            self.add_blob(&file, path, &meta, &hash, executable, sharing)?;
        }
        let now = FileId::of(&file.metadata().at("read", path)?);
        if !now.same_content(&before) || scanned.size != now.size {
            return Err(Error::Changed { path: path.to_owned() });
        }
        // We know these bytes: the compiler has ended, and this is what it left.
        self.note_stat(now, hash);
        Ok(Ingested { hash, size: scanned.size, contains: scanned.contains })
    }

    fn add_blob(
        &self,
        file: &File,
        path: &Path,
        meta: &fs::Metadata,
        hash: &Hash,
        executable: bool,
        sharing: Sharing,
    ) -> Result<()> {
        let temp = self.temp_path();
        let mode = if executable { 0o555 } else { 0o444 };
        let mut to =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temp).at("create", &temp)?;
        let guard = RemoveOnDrop(&temp);
        match sys::reflink(file, &to) {
            Ok(()) => {}
            Err(error) if !restore::is_cannot_reflink(&error) => return Err(error).at("write", &temp),
            Err(_) => {
                let may_link = sharing == Sharing::Link && meta.nlink() == 1;
                if may_link && self.link_blob(path, meta, hash)? {
                    return Ok(());
                }
                let mut from = File::open(path).at("read", path)?;
                if io::copy(&mut from, &mut to).at("write", &temp)? != meta.len() {
                    return Err(Error::Changed { path: path.to_owned() });
                }
            }
        }
        self.publish_temp(&guard, hash, mode)
    }

    /// Makes the compiler's own file the blob. False when the file system will not.
    fn link_blob(&self, path: &Path, meta: &fs::Metadata, hash: &Hash) -> Result<bool> {
        let temp = self.temp_path();
        match fs::hard_link(path, &temp) {
            Ok(()) => {}
            Err(_) => return Ok(false),
        }
        let guard = RemoveOnDrop(&temp);
        if fs::symlink_metadata(&temp).at("read", &temp)?.ino() != meta.ino() {
            return Err(Error::Changed { path: path.to_owned() });
        }
        // The mode stays: this file is the target's, too.
        self.publish_temp(&guard, hash, meta.mode() & 0o777)?;
        Ok(true)
    }

    pub(super) fn publish_temp(&self, temp: &RemoveOnDrop, hash: &Hash, mode: u32) -> Result<()> {
        fs::set_permissions(temp.0, fs::Permissions::from_mode(mode)).at("set the mode of", temp.0)?;
        let path = self.blob_path(hash);
        match fs::rename(temp.0, &path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if let Some(dir) = path.parent() {
                    fs::DirBuilder::new()
                        .recursive(true)
                        .mode(0o700)
                        .create(dir)
                        .at("create directory", dir)?;
                }
                fs::rename(temp.0, &path).at("publish", &path)?;
            }
            other => other.at("publish", &path)?,
        }
        self.note_blob(hash, &fs::symlink_metadata(&path).at("read", &path)?);
        Ok(())
    }

    /// A blob that has just come.
    pub(super) fn note_blob(&self, hash: &Hash, meta: &fs::Metadata) {
        let row = self.row(meta);
        self.memory().blobs.put(*hash, row, 160);
        self.pending().blobs.insert(*hash, (row, Known::New));
    }

    /// One that the index has, and that looks different now. If it is collected meanwhile, it does not come back.
    fn note_again(&self, hash: &Hash, meta: &fs::Metadata) {
        let row = self.row(meta);
        self.memory().blobs.put(*hash, row, 160);
        let mut pending = self.pending();
        let known = pending.blobs.get(hash).map_or(Known::Already, |(_, known)| *known);
        pending.blobs.insert(*hash, (row, known));
    }

    pub(super) fn temp_path(&self) -> PathBuf {
        use std::sync::atomic::{AtomicU64, Ordering};
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        self.dir.join("store/tmp").join(format!("{}-{:x}-{n}", std::process::id(), now_ns()))
    }

    // ---- use

    pub(super) fn restore_files(&self, key: &Hash, files: &[Placement]) -> Result<LinkMode> {
        let _in_use = self.gc_lock.lock()?;
        let mut dearest = LinkMode::View;
        for file in files {
            match &file.content {
                Content::Blob { hash, size, executable, sharing } => {
                    let (path, meta) = self.sound_blob(hash, *size)?;
                    let source = Source { path: &path, meta: &meta };
                    let placed = restore::place(&source, &file.path, *executable, *sharing, self)
                        .at("restore", &file.path)?;
                    if placed.mode == LinkMode::Hardlink {
                        // The inode is the blob's own: its mtime is now the target's.
                        self.note_again(hash, &fs::symlink_metadata(&path).at("read", &path)?);
                    }
                    self.note_stat(placed.id, *hash);
                    dearest = dearest.max(placed.mode);
                }
                Content::Bytes(bytes) => {
                    restore::place_bytes(&file.path, bytes, false).at("restore", &file.path)?;
                }
            }
        }
        self.pending().hits.push(*key);
        if dearest == LinkMode::View {
            dearest = LinkMode::Copy;
        }
        Ok(dearest)
    }

    /// A blob that can be trusted, as it is on disk.
    fn sound_blob(&self, hash: &Hash, size: u64) -> Result<(PathBuf, fs::Metadata)> {
        let path = self.blob_path(hash);
        let missing = || Error::Missing { hash: blake3::Hash::from_bytes(*hash) };
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.drop_blob(hash)?;
                return Err(missing());
            }
            Err(e) => return Err(e).at("read", &path),
        };
        if !meta.is_file() || meta.len() != size {
            return Err(self.quarantine(hash, &format!("{} bytes instead of {size}", meta.len()))?);
        }
        let as_known = |row: BlobRow| row.looks_like(&meta) && !self.may_be_torn(&row);
        let remembered = self.memory().blobs.get(hash);
        let mut is_new = false;
        let looks_right = remembered.is_some_and(as_known) || {
            let found = self.find_blob(hash)?;
            is_new = found.is_none();
            found.is_some_and(as_known)
        };
        if self.options.verify == Verify::Always || !looks_right {
            let file = File::open(&path).at("read", &path)?;
            let scanned = scan::scan_at(&file, &[]).at("read", &path)?;
            if scanned.hash.as_bytes() != hash {
                return Err(self.quarantine(hash, "its bytes have another hash")?);
            }
            if is_new {
                self.note_blob(hash, &meta);
            } else {
                self.note_again(hash, &meta);
            }
        }
        Ok((path, meta))
    }

    fn may_be_torn(&self, row: &BlobRow) -> bool {
        row.boot != self.boot
            && self.last_active(row.boot).is_none_or(|active| row.published + UNSYNCED > active)
    }

    /// Is this blob here and to be trusted?
    pub fn has_blob(&self, hash: &Hash, size: u64) -> Result<bool> {
        match self.sound_blob(hash, size) {
            Ok(_) => Ok(true),
            Err(Error::Missing { .. } | Error::Damaged { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Moves a damaged blob away and forgets all that needs it. Returns the error to give.
    pub(super) fn quarantine(&self, hash: &Hash, how: &str) -> Result<Error> {
        let path = self.blob_path(hash);
        let away = self.dir.join("store/quarantine").join(path.file_name().unwrap_or_default());
        match fs::rename(&path, &away) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).at("quarantine", &path),
            _ => {}
        }
        self.drop_blob(hash)?;
        let error = Error::Damaged { hash: blake3::Hash::from_bytes(*hash), how: how.to_owned() };
        tracing::warn!("{error}");
        Ok(error)
    }

    // ---- for mounts

    /// Does the blob's file look as it did when its bytes were known to be right?
    pub fn looks_sound(&self, hash: &Hash) -> bool {
        let Ok(meta) = fs::symlink_metadata(self.blob_path(hash)) else { return false };
        let known = self.memory().blobs.get(hash).or_else(|| self.find_blob(hash).ok().flatten());
        known.is_some_and(|row| row.looks_like(&meta))
    }

    /// The blob that a file is, if it is the very file of one.
    pub fn blob_of(&self, id: &FileId) -> Result<Option<Hash>> {
        let found = self.blobs_with_inode(id.ino)?;
        Ok(found.into_iter().find(|hash| {
            fs::symlink_metadata(self.blob_path(hash)).is_ok_and(|m| (m.dev(), m.ino()) == (id.dev, id.ino))
        }))
    }

    /// Is it an output of an entry?
    pub fn is_output(&self, hash: &Hash) -> Result<bool> {
        self.with(|conn| conn.prepare_cached("SELECT 1 FROM entry_blobs WHERE hash = ?")?.exists([hash]))
    }

    /// Is there a file of this name, whatever is in it?
    pub fn is_on_disk(&self, hash: &Hash) -> bool {
        self.blob_path(hash).exists()
    }

    /// Bytes of a blob that is here.
    pub fn blob_size(&self, hash: &Hash) -> Option<u64> {
        fs::symlink_metadata(self.blob_path(hash)).ok().map(|m| m.len())
    }

    /// Opens a blob for reading.
    pub fn open_blob(&self, hash: &Hash) -> io::Result<File> {
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(self.blob_path(hash))
    }

    /// Opens a blob whose bytes are what its hash says.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Damaged`], and what the file system says.
    pub fn open_sound(&self, hash: &Hash, size: u64) -> Result<File> {
        let (path, meta) = self.sound_blob(hash, size)?;
        let file = self.open_blob(hash).at("read", &path)?;
        let now = file.metadata().at("read", &path)?;
        // Another one has taken its place meanwhile, which came whole.
        if now.ino() == meta.ino() && !FileId::of(&now).same_content(&FileId::of(&meta)) {
            return Err(Error::Changed { path });
        }
        Ok(file)
    }

    /// Gives a blob one more name, on the same file system.
    pub fn name_blob(&self, hash: &Hash, to: &Path) -> io::Result<()> {
        fs::hard_link(self.blob_path(hash), to)
    }

    /// Directory (open) and name of a blob that is about to be published by rename.
    pub fn blob_slot(&self, hash: &Hash) -> io::Result<(OwnedFd, std::ffi::OsString)> {
        let path = self.blob_path(hash);
        let dir = path.parent().unwrap_or(&self.dir);
        let opened = match File::open(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
                File::open(dir)?
            }
            other => other?,
        };
        Ok((opened.into(), path.file_name().unwrap_or_default().to_owned()))
    }

    /// Publishes a blob from an open file by reflink or copy.
    pub fn insert_blob_copy(
        &self,
        hash: &Hash,
        size: u64,
        executable: bool,
        source: &File,
    ) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let temp = self.temp_path();
        let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temp)?;
        let guard = RemoveOnDrop(&temp);
        if sys::reflink(source, &to).is_err() {
            use io::Write;
            let mut buffer = vec![0; 1 << 20];
            let mut at = 0;
            loop {
                match source.read_at(&mut buffer, at)? {
                    0 => break,
                    n => {
                        to.write_all(&buffer[..n])?;
                        at += n as u64;
                    }
                }
            }
        }
        if to.metadata()?.len() != size {
            return Err(io::Error::other("the file changed while it was copied"));
        }
        let mode = if executable { 0o555 } else { 0o444 };
        self.publish_temp(&guard, hash, mode).map_err(io::Error::other)
    }

    /// Takes a blob that was renamed into the store into the index.
    pub fn register_blob(&self, hash: &Hash) -> Result<()> {
        let path = self.blob_path(hash);
        self.note_blob(hash, &fs::symlink_metadata(&path).at("read", &path)?);
        Ok(())
    }

    /// After the times of a file that may be a blob itself were set.
    pub fn relearn(&self, hash: &Hash) -> Result<()> {
        let path = self.blob_path(hash);
        self.note_again(hash, &fs::symlink_metadata(&path).at("read", &path)?);
        Ok(())
    }

    /// An entry was used without [`kache_wrapper::cache::Cache::restore`].
    pub fn used(&self, key: &Hash) {
        self.pending().hits.push(*key);
    }
}

impl LinkMemory for Store {
    fn can_reflink(&self, from_dev: u64, to_dev: u64) -> Option<bool> {
        if let Some(known) = super::lock(&self.reflinks).get(&(from_dev, to_dev)) {
            return Some(*known);
        }
        let fact = self.find_fact("reflink", &devices(from_dev, to_dev)).ok().flatten()?;
        let known = fact == [1];
        super::lock(&self.reflinks).insert((from_dev, to_dev), known);
        Some(known)
    }

    fn learn_reflink(&self, from_dev: u64, to_dev: u64, can: bool) {
        super::lock(&self.reflinks).insert((from_dev, to_dev), can);
        self.keep_fact("reflink", &devices(from_dev, to_dev), &[u8::from(can)]);
    }
}

fn devices(from: u64, to: u64) -> Hash {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&from.to_le_bytes());
    key[8..16].copy_from_slice(&to.to_le_bytes());
    key
}

pub(super) struct RemoveOnDrop<'a>(pub(super) &'a Path);

impl Drop for RemoveOnDrop<'_> {
    fn drop(&mut self) {
        // Not there any more when it was published.
        let _ = fs::remove_file(self.0);
    }
}
