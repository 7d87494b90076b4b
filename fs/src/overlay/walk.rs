//! Looking at the tree from outside of the mount, without going through it.

use std::fs::File;
use std::time::{Duration, SystemTime};

use blake3::Hash;
use rustix::fs::{FileType, Timespec};
use rustix::io::Errno;

use super::{Attr, Location, Overlay, State};
use crate::error::{FsError, Result, not_found};
use crate::path::RelPath;
use crate::tree::{Kind as NodeKind, ROOT};

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    /// Fifo, socket or device.
    Special,
}

/// What `stat` tells about a path, and whether it is a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Permission bits, set-id bits and sticky bit.
    pub mode: u32,
    pub mtime: SystemTime,
    pub ctime: SystemTime,
    pub ino: u64,
    pub nlink: u32,
    /// The blob, if the file is a view.
    pub blob: Option<Hash>,
}

/// One path of a [`Overlay::walk`].
#[derive(Debug, Clone)]
pub struct WalkEntry {
    pub path: RelPath,
    pub stat: Stat,
    /// Target of a symbolic link.
    pub target: Option<Vec<u8>>,
}

/// Counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Regular files, by inode.
    pub files: u64,
    /// Those that are views.
    pub views: u64,
    pub directories: u64,
    /// Bytes of all regular files.
    pub bytes_shown: u64,
    /// Bytes that files in the upper take on the disk.
    pub bytes_upper: u64,
}

impl Overlay {
    pub(super) fn resolve(&self, path: &RelPath) -> Result<u64> {
        {
            let state = self.state.read();
            let mut at = ROOT;
            let mut all_loaded = true;
            for name in path.components() {
                let dir = state.dir(at)?;
                if !dir.loaded {
                    all_loaded = false;
                    break;
                }
                at = dir.get(name).ok_or_else(not_found)?;
            }
            if all_loaded {
                return Ok(at);
            }
        }
        self.resolve_in(&mut self.state.write(), path)
    }

    pub(super) fn resolve_in(&self, state: &mut State, path: &RelPath) -> Result<u64> {
        let mut at = ROOT;
        for name in path.components() {
            self.load(state, at)?;
            at = state.dir(at)?.get(name).ok_or_else(not_found)?;
        }
        Ok(at)
    }

    /// Fills all directories.
    pub fn load_all(&self) -> Result<()> {
        let mut open = vec![ROOT];
        while let Some(ino) = open.pop() {
            let below = self.with_dir(ino, |state| {
                Ok(state
                    .dir(ino)?
                    .iter()
                    .map(|(_, child)| child)
                    .filter(|c| state.tree.dir(*c).is_some())
                    .collect())
            });
            match below {
                Ok::<Vec<u64>, _>(below) => open.extend(below),
                // It went away meanwhile.
                Err(error) if error.is_not_found() || error.is(Errno::STALE) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What a path is, symbolic links not followed.
    pub fn stat(&self, path: &RelPath) -> Result<Stat> {
        let ino = self.resolve(path)?;
        self.stat_of(&self.state.read(), ino)
    }

    fn stat_of(&self, state: &State, ino: u64) -> Result<Stat> {
        let attr: Attr = self.attr_of(state, ino)?;
        Ok(Stat {
            kind: match attr.kind {
                FileType::RegularFile => Kind::File,
                FileType::Directory => Kind::Directory,
                FileType::Symlink => Kind::Symlink,
                _ => Kind::Special,
            },
            size: attr.size,
            mode: attr.mode,
            mtime: system_time(attr.mtime),
            ctime: system_time(attr.ctime),
            ino,
            nlink: attr.nlink,
            blob: state.node(ino)?.view().map(|v| v.hash),
        })
    }

    /// Opens a regular file for reading: the upper file, or the blob.
    pub fn open_file(&self, path: &RelPath) -> Result<File> {
        let ino = self.resolve(path)?;
        let view = {
            let state = self.state.read();
            match &state.node(ino)?.kind {
                NodeKind::Dir(_) => return Err(FsError::new(Errno::ISDIR, "open")),
                NodeKind::View(view) => view.clone(),
                NodeKind::Upper(upper) if upper.file_type != FileType::RegularFile => {
                    return Err(FsError::new(Errno::INVAL, "only regular files can be opened"));
                }
                NodeKind::Upper(_) => {
                    return match self.location(&state, ino)? {
                        Location::Path(path) => self.upper.open_file(&path, false),
                        Location::Held(held) => self.upper.open_held(&held, false),
                    };
                }
            }
        };
        Ok(self.blobs.open(&view.hash, view.size)?)
    }

    /// Target of a symbolic link.
    pub fn read_link(&self, path: &RelPath) -> Result<Vec<u8>> {
        let ino = self.resolve(path)?;
        self.readlink(ino)
    }

    /// The whole tree at one moment, parents before their children, the root left out.
    pub fn walk(&self) -> Result<Vec<WalkEntry>> {
        loop {
            self.load_all()?;
            let state = self.state.read();
            let mut entries = Vec::new();
            if self.walk_dir(&state, ROOT, &RelPath::root(), &mut entries)? {
                return Ok(entries);
            }
        }
    }

    /// False if a directory has not been loaded (it came into being after `load_all`).
    fn walk_dir(&self, state: &State, ino: u64, path: &RelPath, out: &mut Vec<WalkEntry>) -> Result<bool> {
        let dir = state.dir(ino)?;
        if !dir.loaded {
            return Ok(false);
        }
        for (_, name, child) in dir.after(0) {
            let path = path.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name));
            let stat = match self.stat_of(state, child) {
                Err(error) if error.is_not_found() => continue,
                other => other?,
            };
            let target = match stat.kind {
                Kind::Symlink => Some(self.upper.readlink(path.as_bytes())?),
                _ => None,
            };
            out.push(WalkEntry { path: path.clone(), stat, target });
            if stat.kind == Kind::Directory && !self.walk_dir(state, child, &path, out)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Counts files and bytes. Looks at every upper file.
    pub fn statistics(&self) -> Result<Statistics> {
        self.load_all()?;
        let state = self.state.read();
        let mut counts = Statistics::default();
        for (ino, node) in state.tree.nodes().filter(|(_, node)| node.names.len() > 0) {
            match &node.kind {
                NodeKind::Dir(_) => counts.directories += 1,
                NodeKind::View(view) => {
                    counts.files += 1;
                    counts.views += 1;
                    counts.bytes_shown += view.size;
                }
                NodeKind::Upper(upper) if upper.file_type == FileType::RegularFile => {
                    counts.files += 1;
                    if let Ok(attr) = self.attr_of(&state, ino) {
                        counts.bytes_shown += attr.size;
                        counts.bytes_upper += attr.blocks * 512;
                    }
                }
                NodeKind::Upper(_) => {}
            }
        }
        Ok(counts)
    }
}

pub(crate) fn system_time(time: Timespec) -> SystemTime {
    let nanos = Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0));
    let whole = Duration::from_secs(time.tv_sec.unsigned_abs());
    let base = if time.tv_sec >= 0 {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    };
    base.and_then(|base| base.checked_add(nanos)).unwrap_or(SystemTime::UNIX_EPOCH)
}
