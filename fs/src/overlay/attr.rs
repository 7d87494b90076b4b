//! Attributes: asking and setting.

use std::os::fd::OwnedFd;

use rustix::fs::{self, AtFlags, CWD, FileType, Gid, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::{Location, Overlay, State};
use crate::error::{FsError, Result, not_found};
use crate::record::{Op, View};
use crate::tree::{Kind as NodeKind, ROOT};
use crate::upper::{self, proc_path};

/// What `stat` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Allocated, in units of 512 bytes.
    pub blocks: u64,
    pub atime: Timespec,
    pub mtime: Timespec,
    pub ctime: Timespec,
    pub kind: FileType,
    /// Permission bits, set-id bits and sticky bit.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
}

/// A time to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    Now,
    At(Timespec),
}

/// What `setattr` is to change.
#[derive(Debug, Clone, Copy, Default)]
pub struct SetAttr {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    /// The caller may not keep set-id bits on a file that it truncates.
    pub kill_suid: bool,
}

impl SetAttr {
    /// A change of owner, be it `chown(-1, -1)`: the kernel then sends a change of nothing. It takes set-id bits away.
    fn has_owner(&self) -> bool {
        let nothing =
            self.mode.is_none() && self.size.is_none() && self.atime.is_none() && self.mtime.is_none();
        self.uid.is_some() || self.gid.is_some() || nothing
    }
}

impl Attr {
    pub(super) fn of_stat(ino: u64, stat: &rustix::fs::Stat) -> Self {
        Attr {
            ino,
            size: stat.st_size as u64,
            blocks: stat.st_blocks as u64,
            atime: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as i64 },
            mtime: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 },
            ctime: Timespec { tv_sec: stat.st_ctime, tv_nsec: stat.st_ctime_nsec as i64 },
            kind: FileType::from_raw_mode(stat.st_mode),
            mode: stat.st_mode & 0o7777,
            nlink: stat.st_nlink as u32,
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: stat.st_rdev as u32,
        }
    }

    /// The answer that tells the kernel that there is nothing.
    pub fn nothing() -> Self {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        Attr {
            ino: 0,
            size: 0,
            blocks: 0,
            atime: zero,
            mtime: zero,
            ctime: zero,
            kind: FileType::RegularFile,
            mode: 0,
            nlink: 0,
            uid: 0,
            gid: 0,
            rdev: 0,
        }
    }

    fn of_view(ino: u64, view: &View, nlink: usize) -> Self {
        Attr {
            ino,
            size: view.size,
            blocks: view.size.div_ceil(4096) * 8,
            atime: view.atime,
            mtime: view.mtime,
            ctime: view.ctime,
            kind: FileType::RegularFile,
            mode: view.mode,
            nlink: nlink as u32,
            uid: view.uid,
            gid: view.gid,
            rdev: 0,
        }
    }
}

impl Overlay {
    pub(super) fn attr_of(&self, state: &State, ino: u64) -> Result<Attr> {
        let node = state.node(ino)?;
        match &node.kind {
            NodeKind::View(view) => Ok(Attr::of_view(ino, view, node.names.len())),
            NodeKind::Dir(dir) => match &dir.gone {
                Some(stat) => Ok(Attr { nlink: 0, ..Attr::of_stat(ino, stat) }),
                None => {
                    let path = state.tree.path(ino).ok_or_else(not_found)?;
                    let mut attr = Attr::of_stat(ino, &self.upper.stat(&path)?);
                    if ino == ROOT {
                        attr.kind = FileType::Directory;
                    }
                    Ok(attr)
                }
            },
            NodeKind::Upper(_) => {
                let stat = match self.location(state, ino)? {
                    Location::Path(path) => self.upper.stat(&path)?,
                    Location::Held(held) => rustix::fs::fstat(&*held)?,
                };
                Ok(Attr::of_stat(ino, &stat))
            }
        }
    }

    pub fn getattr(&self, ino: u64) -> Result<Attr> {
        self.attr_of(&self.state.read(), ino)
    }

    /// Would this change have to copy a view up first (which may take long)?
    pub fn setattr_is_slow(&self, ino: u64, set: &SetAttr) -> bool {
        set.size.is_some() && self.state.read().tree.node(ino).is_some_and(|n| n.view().is_some())
    }

    pub fn setattr(&self, ino: u64, set: &SetAttr) -> Result<Attr> {
        self.active();
        if let Some(size) = set.size {
            self.truncate(ino, size, set.kill_suid)?;
        }
        if self.is_view(ino)? && self.setattr_view(ino, set)? || self.setattr_gone(ino, set)? {
            return self.getattr(ino);
        }
        let state = self.state.read();
        let (dir_path, through_link) = match self.location(&state, ino)? {
            Location::Path(path) => (path, None),
            Location::Held(held) => (Vec::new(), Some(held)),
        };
        match &through_link {
            None => self.set_upper(&dir_path, set)?,
            Some(held) => self.set_held(held, set)?,
        }
        self.attr_of(&state, ino)
    }

    fn is_view(&self, ino: u64) -> Result<bool> {
        Ok(self.state.read().node(ino)?.view().is_some())
    }

    /// Changes a view's metadata. False if it has been copied up meanwhile.
    fn setattr_view(&self, ino: u64, set: &SetAttr) -> Result<bool> {
        let now = self.clock.now()?;
        let mut state = self.state.write();
        let Some(mut view) = state.view_mut(ino).cloned() else { return Ok(false) };
        if let Some(mode) = set.mode {
            view.mode = mode & 0o7777;
        }
        if set.has_owner() {
            view.uid = set.uid.unwrap_or(view.uid);
            view.gid = set.gid.unwrap_or(view.gid);
            if set.mode.is_none() {
                view.mode = without_suid(view.mode);
            }
        }
        let time = |time: SetTime| if let SetTime::At(at) = time { at } else { now };
        view.atime = set.atime.map_or(view.atime, time);
        view.mtime = set.mtime.map_or(view.mtime, time);
        view.ctime = now;
        if state.node(ino)?.names.len() > 0 {
            state.journal.append(&[Op::File { id: ino, view: view.clone() }])?;
        }
        if let Some(place) = state.view_mut(ino) {
            *place = view;
        }
        Ok(true)
    }

    /// Changes what is remembered of a directory that has been removed while somebody had it open. False if it is none.
    fn setattr_gone(&self, ino: u64, set: &SetAttr) -> Result<bool> {
        if self.state.read().node(ino)?.dir().is_none_or(|dir| dir.gone.is_none()) {
            return Ok(false);
        }
        let now = self.clock.now()?;
        let mut state = self.state.write();
        let Some(stat) = state.dir_mut(ino)?.gone.as_mut() else { return Ok(false) };
        stat.st_mode = set.mode.map_or(stat.st_mode, |mode| stat.st_mode & !0o7777 | mode & 0o7777);
        stat.st_uid = set.uid.unwrap_or(stat.st_uid);
        stat.st_gid = set.gid.unwrap_or(stat.st_gid);
        if let Some(mtime) = set.mtime {
            let mtime = if let SetTime::At(at) = mtime { at } else { now };
            (stat.st_mtime, stat.st_mtime_nsec) = (mtime.tv_sec, mtime.tv_nsec as _);
        }
        (stat.st_ctime, stat.st_ctime_nsec) = (now.tv_sec, now.tv_nsec as _);
        Ok(true)
    }

    fn set_upper(&self, path: &[u8], set: &SetAttr) -> Result<()> {
        if set.has_owner() {
            self.upper.chown(path, set.uid, set.gid)?;
        }
        if let Some(mode) = set.mode {
            self.upper.chmod(path, mode & 0o7777)?;
        }
        if let Some(times) = timestamps(set) {
            self.upper.set_times(path, &times)?;
        }
        Ok(())
    }

    /// The same for a file without a name, through its magic link.
    fn set_held(&self, held: &OwnedFd, set: &SetAttr) -> Result<()> {
        if set.has_owner() {
            let (uid, gid) = (set.uid.map(Uid::from_raw), set.gid.map(Gid::from_raw));
            fs::chownat(held, "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if FileType::from_raw_mode(fs::fstat(held)?.st_mode) == FileType::Symlink {
            return Ok(());
        }
        if let Some(mode) = set.mode {
            self.upper.chmod_held(held, mode & 0o7777)?;
        }
        if let Some(times) = timestamps(set) {
            fs::utimensat(CWD, proc_path(held), &times, AtFlags::empty())?;
        }
        Ok(())
    }
}

fn timestamps(set: &SetAttr) -> Option<Timestamps> {
    // A truncation has stamped the file already; the kernel's wish to stamp it "now" is then the same wish.
    let time = |time: Option<SetTime>| match time {
        None => upper::omit(),
        Some(SetTime::Now) => upper::now(),
        Some(SetTime::At(at)) => at,
    };
    (set.atime.is_some() || set.mtime.is_some())
        .then(|| Timestamps { last_access: time(set.atime), last_modification: time(set.mtime) })
}

/// What a change of owner or a write by somebody without privilege leaves of a mode.
pub(super) fn without_suid(mode: u32) -> u32 {
    let mode = mode & !0o4000;
    if mode & 0o010 != 0 { mode & !0o2000 } else { mode }
}

pub(super) fn check_size(size: u64) -> Result<()> {
    if i64::try_from(size).is_err() {
        return Err(FsError::new(Errno::FBIG, "set size"));
    }
    Ok(())
}
