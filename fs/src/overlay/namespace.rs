//! Names: looking up, making, linking, moving and removing them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{FileType, Stat, Timespec};
use rustix::io::Errno;

use super::{Attr, Overlay, State};
use crate::error::{FsError, Result, not_found};
use crate::fds::Key;
use crate::path::RelPath;
use crate::record::{Op, Redo};
use crate::tree::{Kind as NodeKind, ROOT};
use crate::upper::{check_length, check_name};

/// Who makes something: its owner.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
}

/// What `rename` does when the new name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    Replace,
    NoReplace,
    Exchange,
}

/// One entry of a directory.
pub struct DirEntry<'a> {
    pub ino: u64,
    pub kind: FileType,
    pub name: &'a [u8],
    /// Where to go on behind this entry.
    pub next: u64,
}

/// A name in a directory, as `rename` handles it.
#[derive(Clone, Copy)]
struct Side<'a> {
    dir: u64,
    name: &'a [u8],
}

impl Overlay {
    /// Finds a name. The kernel will know the inode from then on.
    pub fn lookup(&self, dir: u64, name: &OsStr) -> Result<Attr> {
        check_length(name)?;
        self.with_dir(dir, |state| {
            let ino = state.tree.child(dir, name.as_bytes()).ok_or_else(not_found)?;
            let attr = self.attr_of(state, ino)?;
            state.node(ino)?.lookups.fetch_add(1, Ordering::Relaxed);
            Ok(attr)
        })
    }

    /// The kernel has forgotten inodes, each as often as it says.
    pub fn forget(&self, forgotten: impl Iterator<Item = (u64, u64)>) {
        let mut nameless = Vec::new();
        {
            let state = self.state.read();
            for (ino, times) in forgotten {
                let Some(node) = state.tree.node(ino) else { continue };
                let before = node
                    .lookups
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_sub(times)))
                    .unwrap_or(0);
                if before <= times && node.names.len() == 0 && ino != ROOT {
                    nameless.push(ino);
                }
            }
        }
        if !nameless.is_empty() {
            let mut state = self.state.write();
            nameless.into_iter().for_each(|ino| self.release(&mut state, ino));
        }
    }

    fn told(&self, state: &State, ino: u64) -> Result<Attr> {
        let attr = self.attr_of(state, ino)?;
        state.node(ino)?.lookups.fetch_add(1, Ordering::Relaxed);
        Ok(attr)
    }

    /// The same for something in the upper whose attributes are known.
    fn told_as(&self, state: &State, ino: u64, stat: &Stat) -> Result<Attr> {
        state.node(ino)?.lookups.fetch_add(1, Ordering::Relaxed);
        Ok(Attr::of_stat(ino, stat))
    }

    /// Makes a regular file, fifo, socket or device.
    pub fn mknod(&self, dir: u64, name: &OsStr, mode: u32, rdev: u64, caller: Caller) -> Result<Attr> {
        check_name(name)?;
        let mut state = self.change(dir)?;
        let path = free_path(&state, dir, name)?;
        let kind = match FileType::from_raw_mode(mode) {
            FileType::Unknown => FileType::RegularFile,
            kind => kind,
        };
        let mode = mode & 0o7777;
        let file = match kind {
            FileType::RegularFile => Some(self.upper.create(&path, mode)?),
            _ => self.upper.mknod(&path, kind, mode, rdev).map(|()| None)?,
        };
        let made = self.hand_over(&path, kind, mode, caller)?;
        let ino = state.tree.create_upper(made.st_ino, kind);
        state.tree.attach(dir, name.as_bytes(), ino);
        if let Some(file) = file {
            self.fds.put(Key::Upper(ino), Arc::new(file), true);
        }
        self.told_as(&state, ino, &made)
    }

    pub fn mkdir(&self, dir: u64, name: &OsStr, mode: u32, caller: Caller) -> Result<Attr> {
        check_name(name)?;
        let mut state = self.change(dir)?;
        let path = free_path(&state, dir, name)?;
        self.upper.mkdir(&path, mode & 0o7777)?;
        let made = self.hand_over(&path, FileType::Directory, mode & 0o7777, caller)?;
        let ino = new_dir(&mut state, dir, name.as_bytes());
        self.told_as(&state, ino, &made)
    }

    pub fn symlink(&self, dir: u64, name: &OsStr, target: &OsStr, caller: Caller) -> Result<Attr> {
        check_name(name)?;
        let mut state = self.change(dir)?;
        let path = free_path(&state, dir, name)?;
        self.upper.symlink(target.as_bytes(), &path)?;
        let made = self.hand_over(&path, FileType::Symlink, 0o777, caller)?;
        let ino = state.tree.create_upper(made.st_ino, FileType::Symlink);
        state.tree.attach(dir, name.as_bytes(), ino);
        self.told_as(&state, ino, &made)
    }

    pub fn readlink(&self, ino: u64) -> Result<Vec<u8>> {
        let state = self.state.read();
        match self.location(&state, ino)? {
            super::Location::Path(path) => self.upper.readlink(&path),
            super::Location::Held(held) => Ok(rustix::fs::readlinkat(&*held, "", Vec::new())?.into_bytes()),
        }
    }

    /// Gives what the daemon has just made to the caller, with the mode it asked for. Returns its attributes there.
    fn hand_over(&self, path: &[u8], kind: FileType, mode: u32, caller: Caller) -> Result<Stat> {
        let made = self.upper.stat(path)?;
        let is_theirs = (made.st_uid, made.st_gid) == (caller.uid, caller.gid);
        if !is_theirs {
            let parent = path.iter().rposition(|b| *b == b'/').map_or(&path[..0], |at| &path[..at]);
            let inherits = self.upper.stat(parent)?.st_mode & 0o2000 != 0;
            // Without privilege it stays the daemon's user's, who is the caller.
            let _ = self.upper.chown(path, Some(caller.uid), (!inherits).then_some(caller.gid));
        }
        // This process has a umask of its own, and a change of owner takes set-id bits away.
        let keep = if kind == FileType::Directory { made.st_mode & 0o2000 } else { 0 };
        let has_mode = made.st_mode & 0o7777 == mode | keep && (is_theirs || mode & 0o6000 == 0);
        if kind != FileType::Symlink && !has_mode {
            self.upper.chmod(path, mode | keep)?;
        }
        if is_theirs && (has_mode || kind == FileType::Symlink) { Ok(made) } else { self.upper.stat(path) }
    }

    pub fn unlink(&self, dir: u64, name: &OsStr) -> Result<()> {
        let name = name.as_bytes();
        let mut state = self.change(dir)?;
        let ino = state.tree.child(dir, name).ok_or_else(not_found)?;
        let path = state.path_in(dir, name)?;
        match &state.node(ino)?.kind {
            NodeKind::Dir(_) => return Err(FsError::new(Errno::ISDIR, "unlink")),
            NodeKind::View(_) => {
                let now = self.clock.now()?;
                state.journal.append(&[Op::Unlink { path: RelPath::from_bytes(path) }])?;
                let dir_path = state.tree.path(dir).ok_or_else(not_found)?;
                self.upper.touch(&dir_path)?;
                self.stamp_view(&mut state, ino, now);
            }
            NodeKind::Upper(_) => {
                self.hold(&mut state, ino, &path)?;
                self.upper.unlink(&path)?;
            }
        }
        state.tree.detach(dir, name);
        self.release(&mut state, ino);
        Ok(())
    }

    pub fn rmdir(&self, dir: u64, name: &OsStr) -> Result<()> {
        let name = name.as_bytes();
        let mut state = self.change(dir)?;
        let ino = state.tree.child(dir, name).ok_or_else(not_found)?;
        self.load(&mut state, ino)?;
        if !state.dir(ino)?.is_empty() {
            return Err(FsError::new(Errno::NOTEMPTY, "remove a directory"));
        }
        let path = state.path_in(dir, name)?;
        let last = self.upper.stat(&path)?;
        self.upper.rmdir(&path)?;
        state.dir_mut(ino)?.gone = Some(Box::new(last));
        state.tree.detach(dir, name);
        self.release(&mut state, ino);
        Ok(())
    }

    pub fn link(&self, ino: u64, dir: u64, name: &OsStr) -> Result<Attr> {
        check_name(name)?;
        let mut state = self.change(dir)?;
        let path = free_path(&state, dir, name)?;
        let node = state.node(ino)?;
        if node.names.len() == 0 {
            return Err(not_found());
        }
        match &node.kind {
            NodeKind::Dir(_) => return Err(FsError::new(Errno::PERM, "link a directory")),
            NodeKind::View(view) => {
                let now = self.clock.now()?;
                let mut view = (**view).clone();
                view.ctime = now;
                let path = RelPath::from_bytes(path);
                state.journal.append(&[Op::File { id: ino, view }, Op::Link { path, id: ino }])?;
                let dir_path = state.tree.path(dir).ok_or_else(not_found)?;
                self.upper.touch(&dir_path)?;
                self.stamp_view(&mut state, ino, now);
            }
            NodeKind::Upper(_) => {
                let from = state.tree.path(ino).ok_or_else(not_found)?;
                self.upper.link(&from, &path)?;
            }
        }
        state.tree.attach(dir, name.as_bytes(), ino);
        self.told(&state, ino)
    }

    pub fn rename(&self, from: (u64, &OsStr), to: (u64, &OsStr), mode: RenameMode) -> Result<()> {
        check_name(to.1)?;
        let from = Side { dir: from.0, name: from.1.as_bytes() };
        let to = Side { dir: to.0, name: to.1.as_bytes() };
        let mut state = self.change(from.dir)?;
        self.load(&mut state, to.dir)?;
        let source = state.tree.child(from.dir, from.name).ok_or_else(not_found)?;
        let target = state.tree.child(to.dir, to.name);
        if mode == RenameMode::NoReplace && target.is_some() {
            return Err(FsError::new(Errno::EXIST, "rename"));
        }
        if target == Some(source) {
            return Ok(());
        }
        if state.tree.dir(source).is_some() && state.tree.is_within(to.dir, source) {
            return Err(FsError::new(Errno::INVAL, "move a directory into itself"));
        }
        if mode == RenameMode::Exchange {
            let target = target.ok_or_else(not_found)?;
            if state.tree.dir(target).is_some() && state.tree.is_within(from.dir, target) {
                return Err(FsError::new(Errno::INVAL, "move a directory into itself"));
            }
            let now = self.clock_for_views(&state, [source, target])?;
            self.exchange(&mut state, (from, source), (to, target), now)
        } else {
            self.check_replaceable(&mut state, source, target)?;
            let now = self.clock_for_views(&state, [source, target.unwrap_or(source)])?;
            self.move_over(&mut state, (from, source), (to, target), now)
        }
    }

    /// The time to stamp views with, which asking for has its price; nothing in particular if none of these is a view.
    fn clock_for_views(&self, state: &State, files: [u64; 2]) -> Result<Timespec> {
        let is_view = |ino: u64| state.tree.node(ino).is_some_and(|n| n.view().is_some());
        if files.into_iter().any(is_view) { self.clock.now() } else { Ok(Timespec { tv_sec: 0, tv_nsec: 0 }) }
    }

    fn check_replaceable(&self, state: &mut State, source: u64, target: Option<u64>) -> Result<()> {
        let Some(target) = target else { return Ok(()) };
        let is_dir = |ino| state.tree.dir(ino).is_some();
        match (is_dir(source), is_dir(target)) {
            (false, true) => Err(FsError::new(Errno::ISDIR, "rename")),
            (true, false) => Err(FsError::new(Errno::NOTDIR, "rename")),
            (true, true) => {
                self.load(state, target)?;
                let empty = state.dir(target)?.is_empty();
                if empty { Ok(()) } else { Err(FsError::new(Errno::NOTEMPTY, "rename")) }
            }
            (false, false) => Ok(()),
        }
    }

    fn move_over(
        &self,
        state: &mut State,
        (from, source): (Side<'_>, u64),
        (to, target): (Side<'_>, Option<u64>),
        now: Timespec,
    ) -> Result<()> {
        let from_path = RelPath::from_bytes(state.path_in(from.dir, from.name)?);
        let to_path = RelPath::from_bytes(state.path_in(to.dir, to.name)?);
        let over_view = target.is_some_and(|t| state.tree.node(t).is_some_and(|n| n.view().is_some()));
        if let Some(target) = target {
            self.hold(state, target, to_path.as_bytes())?;
        }
        match &state.node(source)?.kind {
            NodeKind::View(view) => {
                let mut view = (**view).clone();
                view.ctime = now;
                let mut ops = vec![
                    Op::File { id: source, view },
                    Op::Link { path: to_path.clone(), id: source },
                    Op::Unlink { path: from_path.clone() },
                ];
                let real =
                    if over_view { None } else { target.and_then(|_| self.upper.real(to_path.as_bytes())) };
                ops.extend(real.map(|real| Op::Redo(Redo::Unlink { path: to_path.clone(), real })));
                state.journal.append(&ops)?;
                if real.is_some()
                    && let Err(error) = self.upper.unlink(to_path.as_bytes())
                {
                    let back = [Op::Link { path: from_path, id: source }, Op::Unlink { path: to_path }];
                    state.journal.append(&back)?;
                    return Err(error);
                }
                self.touch_both(state, from.dir, to.dir)?;
                self.stamp_view(state, source, now);
            }
            NodeKind::Upper(_) => {
                self.upper.rename(from_path.as_bytes(), to_path.as_bytes(), false)?;
                if over_view {
                    // If this fails, what the upper has wins anyway.
                    state.journal.append(&[Op::Unlink { path: to_path.clone() }])?;
                }
            }
            NodeKind::Dir(_) => {
                let last = target.map(|_| self.upper.stat(to_path.as_bytes())).transpose()?;
                self.move_dir(state, source, &from_path, &to_path)?;
                if let (Some(target), Some(last)) = (target, last) {
                    state.dir_mut(target)?.gone = Some(Box::new(last));
                }
            }
        }
        if let Some(target) = target {
            state.tree.detach(to.dir, to.name);
            self.stamp_view(state, target, now);
            self.release(state, target);
        }
        state.tree.detach(from.dir, from.name);
        state.tree.attach(to.dir, to.name, source);
        Ok(())
    }

    fn move_dir(&self, state: &mut State, source: u64, from: &RelPath, to: &RelPath) -> Result<()> {
        let journaled = state.has_views(source);
        if journaled {
            let real = self.upper.real(from.as_bytes()).ok_or_else(not_found)?;
            let redo = Redo::Rename { from: from.clone(), to: to.clone(), real, exchange: false };
            state.journal.append(&[Op::MoveTree { from: from.clone(), to: to.clone() }, Op::Redo(redo)])?;
        }
        let moved = self.upper.rename(from.as_bytes(), to.as_bytes(), false);
        if moved.is_err() && journaled {
            state.journal.append(&[Op::MoveTree { from: to.clone(), to: from.clone() }])?;
        }
        moved
    }

    fn touch_both(&self, state: &State, a: u64, b: u64) -> Result<()> {
        self.upper.touch(&state.tree.path(a).ok_or_else(not_found)?)?;
        if a != b {
            self.upper.touch(&state.tree.path(b).ok_or_else(not_found)?)?;
        }
        Ok(())
    }

    fn exchange(
        &self,
        state: &mut State,
        (a, a_ino): (Side<'_>, u64),
        (b, b_ino): (Side<'_>, u64),
        now: Timespec,
    ) -> Result<()> {
        let a_path = RelPath::from_bytes(state.path_in(a.dir, a.name)?);
        let b_path = RelPath::from_bytes(state.path_in(b.dir, b.name)?);
        let is_view = |ino| state.tree.node(ino).is_some_and(|n| n.view().is_some());
        match (is_view(a_ino), is_view(b_ino)) {
            (true, true) => {
                let ops = [Op::Link { path: b_path, id: a_ino }, Op::Link { path: a_path, id: b_ino }];
                state.journal.append(&ops)?;
            }
            (true, false) => self.exchange_view(state, (a_ino, &a_path), (b_ino, &b_path))?,
            (false, true) => self.exchange_view(state, (b_ino, &b_path), (a_ino, &a_path))?,
            (false, false) => self.exchange_uppers(state, (a_ino, &a_path), (b_ino, &b_path))?,
        }
        self.touch_both(state, a.dir, b.dir)?;
        self.stamp_view(state, a_ino, now);
        self.stamp_view(state, b_ino, now);
        state.tree.detach(a.dir, a.name);
        state.tree.detach(b.dir, b.name);
        state.tree.attach(b.dir, b.name, a_ino);
        state.tree.attach(a.dir, a.name, b_ino);
        Ok(())
    }

    /// A view and something in the upper change places.
    fn exchange_view(&self, state: &mut State, view: (u64, &RelPath), other: (u64, &RelPath)) -> Result<()> {
        let (id, view_path) = view;
        let (other_ino, other_path) = other;
        let is_dir = state.tree.dir(other_ino).is_some();
        let real = self.upper.real(other_path.as_bytes()).ok_or_else(not_found)?;
        let there = |from: &RelPath, to: &RelPath| {
            let first = if is_dir {
                Op::MoveTree { from: to.clone(), to: from.clone() }
            } else {
                Op::Unlink { path: from.clone() }
            };
            [first, Op::Link { path: to.clone(), id }]
        };
        let redo = Redo::Rename { from: other_path.clone(), to: view_path.clone(), real, exchange: false };
        let mut ops = there(view_path, other_path).to_vec();
        ops.push(Op::Redo(redo));
        state.journal.append(&ops)?;
        let moved = self.upper.rename(other_path.as_bytes(), view_path.as_bytes(), false);
        if moved.is_err() {
            state.journal.append(&there(other_path, view_path))?;
        }
        moved
    }

    fn exchange_uppers(&self, state: &mut State, a: (u64, &RelPath), b: (u64, &RelPath)) -> Result<()> {
        let journaled = state.has_views(a.0) || state.has_views(b.0);
        let swap = Op::SwapTree { a: a.1.clone(), b: b.1.clone() };
        if journaled {
            let real = self.upper.real(a.1.as_bytes()).ok_or_else(not_found)?;
            let redo = Redo::Rename { from: a.1.clone(), to: b.1.clone(), real, exchange: true };
            state.journal.append(&[swap.clone(), Op::Redo(redo)])?;
        }
        let swapped = self.upper.rename(a.1.as_bytes(), b.1.as_bytes(), true);
        if swapped.is_err() && journaled {
            state.journal.append(&[swap])?;
        }
        swapped
    }

    /// Calls `f` with the entries behind `offset` until it says that it is full (`true`).
    pub fn readdir(&self, ino: u64, offset: u64, mut f: impl FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        self.with_dir(ino, |state| {
            let parent = state.node(ino)?.names.iter().next().map_or(ROOT, |(dir, _)| dir);
            let kind = FileType::Directory;
            if offset < 1 && f(DirEntry { ino, kind, name: b".", next: 1 }) {
                return Ok(());
            }
            if offset < 2 && f(DirEntry { ino: parent, kind, name: b"..", next: 2 }) {
                return Ok(());
            }
            for (position, name, child) in state.dir(ino)?.after(offset.saturating_sub(2)) {
                let Some(node) = state.tree.node(child) else { continue };
                if f(DirEntry { ino: child, kind: node.file_type(), name, next: position + 2 }) {
                    break;
                }
            }
            Ok(())
        })
    }

    /// `statvfs(2)` of the upper's file system.
    pub fn statfs(&self) -> Result<rustix::fs::StatVfs> {
        Ok(rustix::fs::fstatvfs(self.upper.root())?)
    }
}

fn free_path(state: &State, dir: u64, name: &OsStr) -> Result<Vec<u8>> {
    if state.tree.child(dir, name.as_bytes()).is_some() {
        return Err(FsError::new(Errno::EXIST, "create"));
    }
    state.path_in(dir, name.as_bytes())
}

pub(super) fn new_dir(state: &mut State, dir: u64, name: &[u8]) -> u64 {
    let ino = state.tree.create(NodeKind::Dir(Box::default()));
    if let Some(made) = state.tree.dir_mut(ino) {
        made.loaded = true;
    }
    state.tree.attach(dir, name, ino);
    ino
}
