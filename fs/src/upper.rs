//! The upper: the real directory underneath a mount, reached through a file descriptor that was opened before the mount
//! covered it. Every path is relative to that descriptor.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{
    self, AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, Uid,
};
use rustix::io::Errno;

use crate::error::{FsError, Result};

/// Names that the overlay gives to its own half-made files, never shown.
pub(crate) const HIDDEN: &[u8] = b".kache-tmp-";

/// Longer paths are walked in pieces.
const LONGEST: usize = 4000;

pub(crate) struct Upper {
    root: OwnedFd,
    /// Device number of the root.
    pub dev: u64,
    no_tmpfile: AtomicBool,
    serial: AtomicU64,
    /// Held by whoever changes a file's permission bits.
    modes: Mutex<()>,
}

/// A file without a name yet, on the upper's file system, readable and writable.
pub(crate) struct Temporary {
    pub file: File,
    /// Its hidden name in the root, where `O_TMPFILE` is not to be had.
    name: Option<Vec<u8>>,
}

/// An entry of an upper directory.
pub(crate) struct Entry {
    pub name: Vec<u8>,
    pub kind: FileType,
    /// Inode number, [`FOREIGN`] on another file system.
    pub real: u64,
}

/// No inode number: the file is on a file system that is mounted inside of the upper, and its number may be that of a file
/// of the upper's own.
pub(crate) const FOREIGN: u64 = 0;

impl Upper {
    pub fn open(dir: &Path) -> Result<Self> {
        let root = fs::open(dir, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let dev = fs::fstat(&root)?.st_dev;
        Ok(Upper {
            root,
            dev,
            no_tmpfile: AtomicBool::new(false),
            serial: AtomicU64::new(0),
            modes: Mutex::new(()),
        })
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    fn at<R>(
        &self,
        path: &[u8],
        f: impl FnOnce(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<R>,
    ) -> Result<R> {
        if path.is_empty() {
            return Ok(f(self.root.as_fd(), b".")?);
        }
        if path.len() <= LONGEST {
            return Ok(f(self.root.as_fd(), path)?);
        }
        let mut rest = path;
        let mut dir: Option<OwnedFd> = None;
        while rest.len() > LONGEST {
            let cut = rest[..LONGEST].iter().rposition(|b| *b == b'/').ok_or(Errno::NAMETOOLONG)?;
            let base = dir.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
            dir = Some(fs::openat(base, &rest[..cut], DIR_PATH, Mode::empty())?);
            rest = &rest[cut + 1..];
        }
        Ok(f(dir.as_ref().map_or(self.root.as_fd(), AsFd::as_fd), rest)?)
    }

    pub fn stat(&self, path: &[u8]) -> Result<Stat> {
        self.at(path, |dir, path| fs::statat(dir, path, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// Inode number of what has this name, if anything has; [`FOREIGN`] on another file system.
    pub fn real(&self, path: &[u8]) -> Option<u64> {
        self.stat(path).ok().map(|s| if s.st_dev == self.dev { s.st_ino } else { FOREIGN })
    }

    pub fn list(&self, path: &[u8]) -> Result<Vec<Entry>> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let dir = self.at(path, |dir, path| fs::openat(dir, path, flags, Mode::empty()))?;
        let is_foreign = fs::fstat(&dir)?.st_dev != self.dev;
        let mut entries = Vec::new();
        for entry in fs::Dir::new(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let mut kind = entry.file_type();
            let mut real = entry.ino();
            if kind == FileType::Unknown {
                let mut full = path.to_vec();
                crate::path::push(&mut full, name);
                let stat = self.stat(&full)?;
                kind = FileType::from_raw_mode(stat.st_mode);
                real = stat.st_ino;
            }
            if is_foreign {
                real = FOREIGN;
            }
            entries.push(Entry { name: name.to_vec(), kind, real });
        }
        Ok(entries)
    }

    pub fn mkdir(&self, path: &[u8], mode: u32) -> Result<()> {
        self.at(path, |dir, path| fs::mkdirat(dir, path, Mode::from_raw_mode(mode)))
    }

    pub fn mknod(&self, path: &[u8], kind: FileType, mode: u32, rdev: u64) -> Result<()> {
        self.at(path, |dir, path| fs::mknodat(dir, path, kind, Mode::from_raw_mode(mode), rdev))
    }

    /// Creates a regular file that must not exist.
    pub fn create(&self, path: &[u8], mode: u32) -> Result<File> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        self.at(path, |dir, path| fs::openat(dir, path, flags, Mode::from_raw_mode(mode))).map(File::from)
    }

    pub fn symlink(&self, target: &[u8], path: &[u8]) -> Result<()> {
        self.at(path, |dir, path| fs::symlinkat(target, dir, path))
    }

    pub fn readlink(&self, path: &[u8]) -> Result<Vec<u8>> {
        self.at(path, |dir, path| fs::readlinkat(dir, path, Vec::new())).map(|s| s.into_bytes())
    }

    pub fn unlink(&self, path: &[u8]) -> Result<()> {
        self.at(path, |dir, path| fs::unlinkat(dir, path, AtFlags::empty()))
    }

    pub fn rmdir(&self, path: &[u8]) -> Result<()> {
        self.at(path, |dir, path| fs::unlinkat(dir, path, AtFlags::REMOVEDIR))
    }

    pub fn link(&self, from: &[u8], to: &[u8]) -> Result<()> {
        self.at(from, |from_dir, from| {
            self.at(to, |to_dir, to| fs::linkat(from_dir, from, to_dir, to, AtFlags::empty()))
                .map_err(|error| Errno::from_raw_os_error(error.errno()))
        })
    }

    pub fn rename(&self, from: &[u8], to: &[u8], exchange: bool) -> Result<()> {
        let flags = if exchange { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
        self.at(from, |from_dir, from| {
            self.at(to, |to_dir, to| {
                if exchange {
                    fs::renameat_with(from_dir, from, to_dir, to, flags)
                } else {
                    fs::renameat(from_dir, from, to_dir, to)
                }
            })
            .map_err(|error| Errno::from_raw_os_error(error.errno()))
        })
    }

    /// Hard links a file from elsewhere.
    pub fn link_in(&self, dir: BorrowedFd<'_>, name: &OsStr, to: &[u8]) -> Result<()> {
        self.at(to, |to_dir, to| fs::linkat(dir, name, to_dir, to, AtFlags::empty()))
    }

    /// Moves a file from elsewhere into the upper, over what is there.
    pub fn rename_in(&self, from: &Path, to: &[u8]) -> Result<()> {
        self.at(to, |dir, to| fs::renameat(CWD, from, dir, to))
    }

    /// Moves a file out of the upper, to where nothing has that name.
    pub fn rename_out(&self, from: &[u8], dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        self.at(from, |from_dir, from| {
            match fs::renameat_with(from_dir, from, dir, name, RenameFlags::NOREPLACE) {
                // A file system without RENAME_NOREPLACE: the same blob twice is the same bytes.
                Err(Errno::INVAL) => fs::renameat(from_dir, from, dir, name),
                other => other,
            }
        })
    }

    /// Moves a file back that was moved out.
    pub fn rename_back(&self, dir: BorrowedFd<'_>, name: &OsStr, to: &[u8]) -> Result<()> {
        self.at(to, |to_dir, to| fs::renameat(dir, name, to_dir, to))
    }

    pub fn set_times(&self, path: &[u8], times: &Timestamps) -> Result<()> {
        self.at(path, |dir, path| fs::utimensat(dir, path, times, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// Stamps a directory as modified now.
    pub fn touch(&self, dir: &[u8]) -> Result<()> {
        self.set_times(dir, &Timestamps { last_access: omit(), last_modification: now() })
    }

    /// Runs `f`, and leaves a directory's modification time as it was before.
    pub fn keep_mtime<R>(&self, dir: &[u8], f: impl FnOnce() -> Result<R>) -> Result<R> {
        let before = self.stat(dir)?;
        let result = f()?;
        let last_modification = Timespec { tv_sec: before.st_mtime, tv_nsec: before.st_mtime_nsec as i64 };
        self.set_times(dir, &Timestamps { last_access: omit(), last_modification })?;
        Ok(result)
    }

    pub fn chmod(&self, path: &[u8], mode: u32) -> Result<()> {
        let _alone = self.modes.lock();
        self.at(path, |dir, path| fs::chmodat(dir, path, Mode::from_raw_mode(mode), AtFlags::empty()))
    }

    /// The same for a file that is held.
    pub fn chmod_held(&self, held: &OwnedFd, mode: u32) -> Result<()> {
        let _alone = self.modes.lock();
        Ok(fs::chmodat(CWD, proc_path(held), Mode::from_raw_mode(mode), AtFlags::empty())?)
    }

    pub fn chown(&self, path: &[u8], uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        self.at(path, |dir, path| fs::chownat(dir, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW))
    }

    /// A descriptor that holds whatever has this name, whatever its permissions.
    pub fn hold(&self, path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.at(path, |dir, path| fs::openat(dir, path, flags, Mode::empty()))
    }

    /// Opens a regular file for reading or for both. Whoever asks has been checked by the kernel, so this user's own
    /// missing permission bits do not count. (They are as before when this returns.)
    pub fn open_file(&self, path: &[u8], write: bool) -> Result<File> {
        let flags = access(write) | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        match self.at(path, |dir, path| fs::openat(dir, path, flags, Mode::empty())) {
            // With a lease on it: this waits for its end.
            Err(error) if error.is(Errno::ACCESS) || error.is(Errno::AGAIN) => {
                self.open_held(&self.hold(path)?, write)
            }
            other => other.map(File::from),
        }
    }

    /// Like [`Upper::open_file`], for a file that is held.
    pub fn open_held(&self, held: &OwnedFd, write: bool) -> Result<File> {
        let path = proc_path(held);
        match fs::open(&path, access(write), Mode::empty()) {
            Err(Errno::ACCESS) => {
                let _alone = self.modes.lock();
                let mode = fs::fstat(held)?.st_mode & 0o7777;
                fs::chmodat(CWD, &path, Mode::from_raw_mode(mode | 0o600), AtFlags::empty())?;
                let opened = fs::open(&path, access(write), Mode::empty());
                fs::chmodat(CWD, &path, Mode::from_raw_mode(mode), AtFlags::empty())?;
                Ok(File::from(opened?))
            }
            other => Ok(File::from(other?)),
        }
    }

    pub fn temporary(&self) -> Result<Temporary> {
        let mode = Mode::from_raw_mode(0o600);
        if !self.no_tmpfile.load(Ordering::Relaxed) {
            match fs::openat(&self.root, ".", OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode) {
                Ok(fd) => return Ok(Temporary { file: fd.into(), name: None }),
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {
                    self.no_tmpfile.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let name = self.hidden_name(b"");
        Ok(Temporary { file: self.create(&name, 0o600)?, name: Some(name) })
    }

    fn hidden_name(&self, dir: &[u8]) -> Vec<u8> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let mut path = dir.to_vec();
        let name = [HIDDEN, format!("{}-{serial}", std::process::id()).as_bytes()].concat();
        crate::path::push(&mut path, &name);
        path
    }

    /// Gives a temporary file one more name, which must be free.
    pub fn link_temporary(&self, temporary: &Temporary, path: &[u8]) -> Result<()> {
        match &temporary.name {
            Some(name) => self.link(name, path),
            None => {
                let source = proc_path(&temporary.file);
                self.at(path, |dir, path| fs::linkat(CWD, &source, dir, path, AtFlags::SYMLINK_FOLLOW))
            }
        }
    }

    /// Gives a temporary file its name, replacing what has it.
    pub fn install(&self, temporary: &Temporary, path: &[u8]) -> Result<()> {
        match self.link_temporary(temporary, path) {
            Err(error) if error.is(Errno::EXIST) => {
                let dir = path.iter().rposition(|b| *b == b'/').map_or(&path[..0], |at| &path[..at]);
                let hidden = self.hidden_name(dir);
                self.link_temporary(temporary, &hidden)?;
                self.rename(&hidden, path, false)
            }
            other => other,
        }
    }

    /// Removes the hidden name of a temporary file, if it has one.
    pub fn finish(&self, temporary: &Temporary) {
        if let Some(name) = &temporary.name {
            let _ = self.unlink(name);
        }
    }

    /// A path by which system calls that take no directory descriptor reach the file.
    pub fn absolute(&self, path: &[u8]) -> Vec<u8> {
        let mut full = proc_path(&self.root);
        full.push(b'/');
        full.extend_from_slice(if path.is_empty() { b"." } else { path });
        full
    }
}

const DIR_PATH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn access(write: bool) -> OFlags {
    OFlags::CLOEXEC | if write { OFlags::RDWR } else { OFlags::RDONLY }
}

/// The magic link to an open file.
pub(crate) fn proc_path(fd: &impl AsFd) -> Vec<u8> {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()).into_bytes()
}

pub(crate) const fn omit() -> Timespec {
    Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }
}

pub(crate) const fn now() -> Timespec {
    Timespec { tv_sec: 0, tv_nsec: UTIME_NOW }
}

/// Is this a name that users may not create?
pub(crate) fn is_hidden(name: &[u8]) -> bool {
    name.starts_with(HIDDEN)
}

/// The kernel's FUSE lets longer names through.
pub(crate) fn check_length(name: &OsStr) -> Result<()> {
    if name.len() > 255 {
        return Err(FsError::new(Errno::NAMETOOLONG, "a name has at most 255 bytes"));
    }
    Ok(())
}

/// May a file get this name?
pub(crate) fn check_name(name: &OsStr) -> Result<()> {
    check_length(name)?;
    if is_hidden(name.as_bytes()) {
        return Err(FsError::new(Errno::ACCESS, "names that begin with .kache-tmp- are reserved"));
    }
    Ok(())
}
