//! What the tests of mounts share. Every mount is undone when its owner is dropped, also when a test fails.
#![allow(dead_code, reason = "each test uses a part of it")]

pub mod ops;
pub mod process;
pub mod rng;
pub mod same;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use blake3::Hash;
use kache_fs::{Content, DirBlobs, FsError, Leave, Materialized, Mount, Options, Placement, RelPath};
use rustix::mm::{MapFlags, ProtFlags};
use tempfile::TempDir;

/// A mounted directory with its state and its blobs, all in a directory of its own.
pub struct Rig {
    // Before the directory it is in: dropped first.
    mount: Option<Mount>,
    pub blobs: Arc<DirBlobs>,
    base: Base,
}

enum Base {
    Own(TempDir),
    Of(PathBuf),
}

impl Rig {
    pub fn new() -> Rig {
        let mut rig = Rig::unmounted();
        rig.start();
        rig
    }

    pub fn unmounted() -> Rig {
        Rig::unmounted_in(&std::env::temp_dir())
    }

    pub fn unmounted_in(dir: &Path) -> Rig {
        let base = tempfile::Builder::new().prefix("kache-fs-").tempdir_in(dir).unwrap();
        let blobs = Arc::new(DirBlobs::new(base.path().join("blobs")).unwrap());
        fs::create_dir(base.path().join("target")).unwrap();
        Rig { mount: None, blobs, base: Base::Own(base) }
    }

    /// What another one has left in a directory.
    pub fn at(base: &Path) -> Rig {
        let blobs = Arc::new(DirBlobs::new(base.join("blobs")).unwrap());
        Rig { mount: None, blobs, base: Base::Of(base.to_owned()) }
    }

    pub fn start(&mut self) {
        let mount = Mount::start(&self.root(), &Options::new(self.state()), self.blobs.clone());
        self.mount = Some(mount.unwrap_or_else(|error| panic!("cannot mount: {error}")));
    }

    pub fn stop(&mut self, leave: Leave<'_>) -> Materialized {
        let mut mount = self.mount.take().unwrap();
        mount.unmount(leave, false).unwrap()
    }

    /// Drops the mount, as a program that forgets to unmount does.
    pub fn forget(&mut self) {
        self.mount = None;
    }

    pub fn mount(&self) -> &Mount {
        self.mount.as_ref().unwrap()
    }

    pub fn mount_mut(&mut self) -> &mut Mount {
        self.mount.as_mut().unwrap()
    }

    pub fn base(&self) -> &Path {
        match &self.base {
            Base::Own(dir) => dir.path(),
            Base::Of(dir) => dir,
        }
    }

    pub fn root(&self) -> PathBuf {
        self.base().join("target")
    }

    pub fn state(&self) -> PathBuf {
        self.base().join("state")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Puts a view of these bytes at a path.
    pub fn view(&self, name: &str, bytes: &[u8]) -> Hash {
        self.view_with(name, bytes, 0o644, None)
    }

    pub fn view_with(&self, name: &str, bytes: &[u8], mode: u32, mtime: Option<SystemTime>) -> Hash {
        let hash = self.blobs.insert(bytes).unwrap();
        place_view(self.mount(), name, hash, bytes.len() as u64, mode, mtime).unwrap();
        hash
    }

    /// The blob that the mount shows at a path, as a program sees it.
    pub fn blob_of(&self, name: &str) -> Option<Hash> {
        blob_of(&self.path(name))
    }

    /// Writes a file and seals it.
    pub fn sealed(&self, name: &str, bytes: &[u8]) -> Hash {
        fs::write(self.path(name), bytes).unwrap();
        self.mount().seal(&rel(name), true).unwrap().0
    }
}

pub fn place_view(
    mount: &Mount,
    name: &str,
    hash: Hash,
    size: u64,
    mode: u32,
    mtime: Option<SystemTime>,
) -> Result<(), FsError> {
    let content = Content::View { hash, size, link_ok: true };
    mount.place(&[Placement { path: rel(name), content, mode, mtime }])
}

pub fn rel(name: &str) -> RelPath {
    RelPath::new(name).unwrap()
}

/// `user.kache.blob` of a file, through the mount.
pub fn blob_of(path: &Path) -> Option<Hash> {
    let mut hex = [0u8; 64];
    match rustix::fs::lgetxattr(path, "user.kache.blob", &mut hex[..]) {
        Ok(64) => Some(Hash::from_hex(hex).unwrap()),
        Ok(n) => panic!("a hash of {n} digits"),
        Err(_) => None,
    }
}

/// Bytes that look like nothing else, the same for the same seed.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

pub fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().map(|error| error.raw_os_error().unwrap_or_else(|| panic!("no errno: {error}")))
}

pub fn errno_of(errno: rustix::io::Errno) -> Option<i32> {
    Some(errno.raw_os_error())
}

/// Checks that every blob holds what its name says.
pub fn check_blobs(dir: &Path) {
    for shard in fs::read_dir(dir).unwrap().map(Result::unwrap).filter(|e| e.path().is_dir()) {
        for blob in fs::read_dir(shard.path()).unwrap().map(Result::unwrap) {
            let actual = blake3::hash(&fs::read(blob.path()).unwrap());
            assert_eq!(blob.file_name().to_str().unwrap(), actual.to_hex().as_str(), "a blob has changed");
        }
    }
}

/// The beginning of a file, mapped. A process that serves the mount itself (as most of these tests do) must not have dirty
/// pages written back by munmap(2): that waits for the server with the process's address space locked.
pub struct Map {
    at: *mut u8,
    length: usize,
}

impl Map {
    pub fn shared(file: &File, length: usize) -> io::Result<Map> {
        Map::new(file, length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED)
    }

    pub fn private(file: &File, length: usize) -> io::Result<Map> {
        Map::new(file, length, ProtFlags::READ, MapFlags::PRIVATE)
    }

    fn new(file: &File, length: usize, protection: ProtFlags, flags: MapFlags) -> io::Result<Map> {
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, protection, flags, file, 0) }?;
        Ok(Map { at: at.cast(), length })
    }

    pub fn read(&self) -> Vec<u8> {
        // SAFETY: the mapping is readable and lives as long as `self`. Others may write: a volatile read for each byte.
        (0..self.length).map(|i| unsafe { self.at.add(i).read_volatile() }).collect()
    }

    pub fn write(&mut self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= self.length);
        // SAFETY: inside of the mapping, which only shared maps call this on, and those are writable.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.at.add(offset), data.len()) };
    }

    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: exactly the mapping.
        Ok(unsafe { rustix::mm::msync(self.at.cast(), self.length, rustix::mm::MsyncFlags::SYNC) }?)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        let _ = self.sync();
        // SAFETY: exactly the mapping, which nobody uses any more.
        let _ = unsafe { rustix::mm::munmap(self.at.cast(), self.length) };
    }
}

/// Reads all that is at `offset`, at most `length`.
pub fn read_at(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut out = vec![0; length];
    let mut done = 0;
    while done < length {
        match file.read_at(&mut out[done..], offset + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    out.truncate(done);
    Ok(out)
}
