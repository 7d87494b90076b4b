//! Where blobs are. The program implements [`Blobs`]; [`DirBlobs`] is a plain directory of them.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blake3::Hash;

/// The final place of a blob: a name in an open directory.
#[derive(Debug, Clone)]
pub struct Slot {
    /// The directory, open (`O_PATH` is enough).
    pub dir: Arc<OwnedFd>,
    /// The name in it.
    pub name: OsString,
}

/// A place that keeps blobs as read-only files. Methods are called from many threads at once; `open` and
/// `insert_copy` may block (download, copy), the others must be quick: they run under locks.
pub trait Blobs: Send + Sync + 'static {
    /// Opens a blob for reading, fetching it first if need be. Its bytes are what its hash says: what looks different from
    /// what it was has been read again. `NotFound` when there is no such blob, other errors for one that is damaged.
    fn open(&self, hash: &Hash, size: u64) -> io::Result<File>;

    /// Is this blob here (on this machine) with this size, so that it can take the place of a file?
    fn contains(&self, hash: &Hash, size: u64) -> bool;

    /// Where this blob belongs. Its directory must exist. A file of mode 0444 (0555 if `executable`), that holds
    /// exactly the blob's bytes and that nobody can write any more, will be renamed to it: that publishes it.
    fn slot(&self, hash: &Hash, executable: bool) -> io::Result<Slot>;

    /// Publishes a blob by reflink or copy from an open file. Used when a rename is not possible.
    fn insert_copy(&self, hash: &Hash, size: u64, executable: bool, source: &File) -> io::Result<()>;
}

/// Blobs in a directory: `<dir>/<2 hex>/<64 hex>`, mode 0444 or 0555.
#[derive(Debug)]
pub struct DirBlobs {
    dir: PathBuf,
    serial: AtomicU64,
}

impl DirBlobs {
    /// Uses (and creates) a directory.
    pub fn new(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = dir.into();
        fs::create_dir_all(&dir)?;
        Ok(DirBlobs { dir, serial: AtomicU64::new(0) })
    }

    /// The file that holds a blob, whether it exists or not.
    pub fn path(&self, hash: &Hash) -> PathBuf {
        let hex = hash.to_hex();
        self.dir.join(&hex[..2]).join(hex.as_str())
    }

    /// Stores bytes and returns their hash.
    pub fn insert(&self, bytes: &[u8]) -> io::Result<Hash> {
        let hash = blake3::hash(bytes);
        if !self.contains(&hash, bytes.len() as u64) {
            self.publish(&hash, false, |temporary| fs::write(temporary, bytes))?;
        }
        Ok(hash)
    }

    fn publish(
        &self,
        hash: &Hash,
        executable: bool,
        fill: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let path = self.path(hash);
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let temporary = self.dir.join(format!("tmp-{}-{serial}", std::process::id()));
        let done = fill(&temporary)
            .and_then(|()| {
                fs::set_permissions(
                    &temporary,
                    Permissions::from_mode(if executable { 0o555 } else { 0o444 }),
                )
            })
            .and_then(|()| create_parent(&path))
            .and_then(|()| fs::rename(&temporary, &path));
        if done.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        done
    }
}

fn create_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)
}

impl Blobs for DirBlobs {
    fn open(&self, hash: &Hash, size: u64) -> io::Result<File> {
        let file = File::open(self.path(hash))?;
        if file.metadata()?.len() == size {
            Ok(file)
        } else {
            Err(io::Error::other("the blob is not as long as it was"))
        }
    }

    fn contains(&self, hash: &Hash, size: u64) -> bool {
        fs::metadata(self.path(hash)).is_ok_and(|m| m.is_file() && m.len() == size)
    }

    fn slot(&self, hash: &Hash, _executable: bool) -> io::Result<Slot> {
        let path = self.path(hash);
        create_parent(&path)?;
        let dir = path.parent().unwrap_or(&self.dir);
        let name = path.file_name().unwrap_or_default().to_owned();
        Ok(Slot { dir: Arc::new(File::open(dir)?.into()), name })
    }

    fn insert_copy(&self, hash: &Hash, size: u64, executable: bool, source: &File) -> io::Result<()> {
        if self.contains(hash, size) {
            return Ok(());
        }
        self.publish(hash, executable, |temporary| {
            let mut target = File::create(temporary)?;
            if rustix::fs::ioctl_ficlone(target.as_fd(), source.as_fd()).is_ok() {
                return Ok(());
            }
            let mut source = source.try_clone()?;
            source.seek(SeekFrom::Start(0))?;
            let copied = io::copy(&mut source.take(size), &mut target)?;
            if copied == size { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
        })
    }
}
