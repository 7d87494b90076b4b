//! Putting files at their paths from outside of the mount: the hot path of a restore.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use blake3::Hash;
use rustix::fs::{FileType, Mode, Timespec, Timestamps};
use rustix::io::Errno;

use super::namespace::new_dir;
use super::{Overlay, Stale, State};
use crate::error::{FsError, Result, not_found};
use crate::path::RelPath;
use crate::record::{Op, Redo, View};
use crate::tree::{Kind as NodeKind, ROOT};
use crate::upper::{self, check_name};

/// One thing to be put at its path.
#[derive(Debug, Clone)]
pub struct Placement {
    pub path: RelPath,
    pub content: Content,
    /// Permission bits. For a view or file, 0644 and 0755 are the usual ones.
    pub mode: u32,
    /// Modification time; `None` for now, on the clock that the file system stamps with.
    pub mtime: Option<SystemTime>,
}

/// What is put there.
#[derive(Debug, Clone)]
pub enum Content {
    /// A view of a blob. `link_ok`: may become a hard link to the blob after an unmount.
    View {
        hash: Hash,
        size: u64,
        link_ok: bool,
    },
    /// An ordinary small file.
    Bytes(Vec<u8>),
    /// A file elsewhere on the upper's file system, which moves here as it is, with its mode and times.
    Moved(PathBuf),
    Symlink(Vec<u8>),
    /// A hard link to a file that is there already, of which mode and times stay.
    HardLink(RelPath),
    Directory,
}

/// Placements handled under one hold of the tree's lock.
const CHUNK: usize = 128;

/// A view that is about to be put in place.
struct Incoming {
    dir: u64,
    name: Vec<u8>,
    /// The file that keeps its number (it shows the same bytes already), or a new one.
    ino: u64,
    is_new: bool,
    view: View,
    over: Option<u64>,
}

impl Overlay {
    /// Puts everything at its path, replacing what is there, making parents where they are missing. Everything that was
    /// placed before an error stays.
    pub fn place(&self, placements: &[Placement]) -> Result<()> {
        self.named();
        let mut stale = Stale::default();
        let done = placements.chunks(CHUNK).try_for_each(|chunk| self.place_chunk(chunk, &mut stale));
        self.tell_kernel(stale);
        done?;
        self.compact()
    }

    fn place_chunk(&self, chunk: &[Placement], stale: &mut Stale) -> Result<()> {
        let now = self.clock.now()?;
        let mut state = self.state.write();
        let mut incoming: Vec<Incoming> = Vec::new();
        let done = chunk
            .iter()
            .try_for_each(|placement| self.place_one(&mut state, placement, now, &mut incoming, stale));
        // Also after an error: what came before it stays.
        self.install_views(&mut state, incoming, stale)?;
        done
    }

    /// A view is only prepared: views are put in place many at a time.
    fn place_one(
        &self,
        state: &mut State,
        placement: &Placement,
        now: Timespec,
        incoming: &mut Vec<Incoming>,
        stale: &mut Stale,
    ) -> Result<()> {
        let (dir, name) = self.parents(state, &placement.path, stale)?;
        // Two placements of one path in one chunk would both look at the old state.
        if incoming.iter().any(|i| i.dir == dir && i.name == name) {
            self.install_views(state, std::mem::take(incoming), stale)?;
        }
        match &placement.content {
            Content::View { hash, size, link_ok } => {
                let view = self.new_view(placement, now, *hash, *size, *link_ok);
                incoming.push(self.prepare_view(state, dir, name, view)?);
                Ok(())
            }
            Content::Bytes(bytes) => self.place_file(state, dir, name, placement, bytes, stale),
            Content::Moved(from) => self.place_moved(state, dir, name, from, stale),
            Content::Symlink(target) => self.place_symlink(state, dir, name, target, stale),
            Content::HardLink(to) => {
                self.install_views(state, std::mem::take(incoming), stale)?;
                self.place_link(state, dir, name, (&placement.path, to), stale)
            }
            Content::Directory => self.place_dir(state, dir, name, placement, stale),
        }
    }

    fn new_view(&self, placement: &Placement, now: Timespec, hash: Hash, size: u64, link_ok: bool) -> View {
        let mtime = placement.mtime.map_or(now, timespec);
        View {
            hash,
            size,
            mode: placement.mode & 0o7777,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            atime: mtime,
            mtime,
            ctime: now,
            link_ok,
        }
    }

    /// The directory of a path, made if it is missing, and the last name.
    fn parents<'a>(
        &self,
        state: &mut State,
        path: &'a RelPath,
        stale: &mut Stale,
    ) -> Result<(u64, &'a [u8])> {
        let (dir, name) = path.split().ok_or(FsError::new(Errno::INVAL, "the root cannot be replaced"))?;
        check_name(OsStr::from_bytes(name))?;
        let mut at = ROOT;
        for component in dir.split(|b| *b == b'/').filter(|c| !c.is_empty()) {
            self.load(state, at)?;
            at = match state.tree.child(at, component) {
                Some(ino) if state.tree.dir(ino).is_some() => ino,
                Some(_) => return Err(FsError::new(Errno::NOTDIR, "place a file below a file")),
                None => {
                    self.upper.mkdir(&state.path_in(at, component)?, 0o755)?;
                    mark(state, at, component, stale);
                    new_dir(state, at, component)
                }
            };
        }
        self.load(state, at)?;
        Ok((at, name))
    }

    fn prepare_view(&self, state: &mut State, dir: u64, name: &[u8], view: View) -> Result<Incoming> {
        let over = state.tree.child(dir, name);
        if let Some(over) = over {
            let node = state.node(over)?;
            if node.dir().is_some() {
                return Err(FsError::new(Errno::ISDIR, "place a file over a directory"));
            }
            let same = node.view().is_some_and(|v| v.hash == view.hash && v.size == view.size);
            if same && node.names.len() == 1 {
                return Ok(Incoming { dir, name: name.to_vec(), ino: over, is_new: false, view, over: None });
            }
        }
        let ino = state.tree.create(NodeKind::View(Box::new(view.clone())));
        Ok(Incoming { dir, name: name.to_vec(), ino, is_new: true, view, over })
    }

    fn install_views(&self, state: &mut State, incoming: Vec<Incoming>, stale: &mut Stale) -> Result<()> {
        let mut ops = Vec::with_capacity(incoming.len() * 2);
        let mut covered = Vec::new();
        for new in &incoming {
            ops.push(Op::File { id: new.ino, view: new.view.clone() });
            if !new.is_new {
                continue;
            }
            let path = RelPath::from_bytes(state.path_in(new.dir, &new.name)?);
            ops.push(Op::Link { path: path.clone(), id: new.ino });
            if let Some(upper) = new.over.and_then(|ino| state.tree.node(ino)).and_then(|n| n.upper()) {
                ops.push(Op::Redo(Redo::Unlink { path: path.clone(), real: upper.real }));
                covered.push((new.over, path));
            }
        }
        for (over, path) in &covered {
            if let Some(over) = over {
                self.hold(state, *over, path.as_bytes())?;
            }
        }
        if let Err(error) = state.journal.append(&ops) {
            for new in incoming.iter().filter(|new| new.is_new) {
                state.tree.drop_if_dead(new.ino);
            }
            return Err(error.into());
        }
        for (_, path) in &covered {
            if let Err(error) = self.upper.unlink(path.as_bytes()) {
                tracing::error!(%path, %error, "a view has not taken the place of an upper file");
            }
        }
        let mut touched: Vec<u64> = Vec::new();
        for new in incoming {
            if !new.is_new {
                if let Some(view) = state.view_mut(new.ino) {
                    *view = new.view;
                }
                if state.tree.node(new.ino).is_some_and(|n| n.is_known_to_kernel()) {
                    stale.attributes.push(new.ino);
                }
                continue;
            }
            if let Some(over) = state.tree.detach(new.dir, &new.name) {
                self.after_replacement(state, over, new.view.ctime, stale);
            }
            state.tree.attach(new.dir, &new.name, new.ino);
            mark(state, new.dir, &new.name, stale);
            if touched.last() != Some(&new.dir) && !touched.contains(&new.dir) {
                touched.push(new.dir);
            }
        }
        for dir in touched {
            self.upper.touch(&state.tree.path(dir).ok_or_else(not_found)?)?;
        }
        Ok(())
    }

    /// A file has lost a name to another.
    fn after_replacement(&self, state: &mut State, over: u64, now: Timespec, stale: &mut Stale) {
        self.stamp_view(state, over, now);
        if state.tree.node(over).is_some_and(|n| n.is_known_to_kernel()) {
            stale.attributes.push(over);
        }
        self.release(state, over);
    }

    fn place_file(
        &self,
        state: &mut State,
        dir: u64,
        name: &[u8],
        placement: &Placement,
        bytes: &[u8],
        stale: &mut Stale,
    ) -> Result<()> {
        let temporary = self.upper.temporary()?;
        temporary.file.write_all_at(bytes, 0)?;
        rustix::fs::fchmod(&temporary.file, Mode::from_raw_mode(placement.mode & 0o7777))?;
        if let Some(mtime) = placement.mtime {
            let times = Timestamps { last_access: timespec(mtime), last_modification: timespec(mtime) };
            rustix::fs::futimens(&temporary.file, &times)?;
        }
        let real = rustix::fs::fstat(&temporary.file)?.st_ino;
        let done =
            self.replace_in_upper(state, dir, name, stale, |path| self.upper.install(&temporary, path));
        self.upper.finish(&temporary);
        done?;
        attach_upper(state, dir, name, (real, FileType::RegularFile), stale);
        Ok(())
    }

    fn place_moved(
        &self,
        state: &mut State,
        dir: u64,
        name: &[u8],
        from: &Path,
        stale: &mut Stale,
    ) -> Result<()> {
        let real = std::fs::symlink_metadata(from)?;
        if !real.is_file() {
            return Err(FsError::new(Errno::INVAL, "only files are moved into a mount"));
        }
        self.replace_in_upper(state, dir, name, stale, |path| self.upper.rename_in(from, path))?;
        attach_upper(state, dir, name, (real.ino(), FileType::RegularFile), stale);
        Ok(())
    }

    fn place_symlink(
        &self,
        state: &mut State,
        dir: u64,
        name: &[u8],
        target: &[u8],
        stale: &mut Stale,
    ) -> Result<()> {
        self.replace_in_upper(state, dir, name, stale, |path| match self.upper.symlink(target, path) {
            Err(error) if error.is(Errno::EXIST) => {
                self.upper.unlink(path)?;
                self.upper.symlink(target, path)
            }
            other => other,
        })?;
        let real = self.upper.real(&state.path_in(dir, name)?).ok_or_else(not_found)?;
        attach_upper(state, dir, name, (real, FileType::Symlink), stale);
        Ok(())
    }

    fn place_link(
        &self,
        state: &mut State,
        dir: u64,
        name: &[u8],
        (path, to): (&RelPath, &RelPath),
        stale: &mut Stale,
    ) -> Result<()> {
        let ino = self.resolve_in(state, to)?;
        match state.tree.child(dir, name) {
            Some(over) if over == ino => return Ok(()),
            Some(over) => self.remove_tree(state, over, path, stale)?,
            None => {}
        }
        match &state.node(ino)?.kind {
            NodeKind::Dir(_) => return Err(FsError::new(Errno::PERM, "link a directory")),
            NodeKind::View(_) => {
                state.journal.append(&[Op::Link { path: path.clone(), id: ino }])?;
                self.upper.touch(&state.tree.path(dir).ok_or_else(not_found)?)?;
            }
            NodeKind::Upper(_) => self.upper.link(to.as_bytes(), path.as_bytes())?,
        }
        state.tree.attach(dir, name, ino);
        mark(state, dir, name, stale);
        if state.node(ino)?.is_known_to_kernel() {
            stale.attributes.push(ino);
        }
        Ok(())
    }

    /// Lets `f` put something new at a path in the upper, and takes whatever had the name out of the tree.
    fn replace_in_upper(
        &self,
        state: &mut State,
        dir: u64,
        name: &[u8],
        stale: &mut Stale,
        f: impl FnOnce(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let path = state.path_in(dir, name)?;
        let over = state.tree.child(dir, name);
        if let Some(over) = over {
            if state.tree.dir(over).is_some() {
                return Err(FsError::new(Errno::ISDIR, "place a file over a directory"));
            }
            self.hold(state, over, &path)?;
        }
        f(&path)?;
        if let Some(over) = over {
            if state.node(over)?.view().is_some() {
                // If this fails, what the upper has wins anyway.
                state.journal.append(&[Op::Unlink { path: RelPath::from_bytes(path) }])?;
            }
            state.tree.detach(dir, name);
            let now = self.clock.now()?;
            self.after_replacement(state, over, now, stale);
        }
        Ok(())
    }

    fn place_dir(
        &self,
        state: &mut State,
        dir: u64,
        name: &[u8],
        placement: &Placement,
        stale: &mut Stale,
    ) -> Result<()> {
        let path = state.path_in(dir, name)?;
        match state.tree.child(dir, name) {
            Some(ino) if state.tree.dir(ino).is_some() => stale.inodes.push(ino),
            Some(_) => return Err(FsError::new(Errno::NOTDIR, "place a directory over a file")),
            None => {
                self.upper.mkdir(&path, placement.mode & 0o7777)?;
                mark(state, dir, name, stale);
                new_dir(state, dir, name);
            }
        }
        self.upper.chmod(&path, placement.mode & 0o7777)?;
        if let Some(mtime) = placement.mtime {
            let times = Timestamps { last_access: upper::omit(), last_modification: timespec(mtime) };
            self.upper.set_times(&path, &times)?;
        }
        Ok(())
    }

    /// Sets modification times, all at once. Returns how many of the paths exist.
    pub fn set_mtimes(&self, times: &[(RelPath, SystemTime)]) -> Result<usize> {
        let mut stale = Stale::default();
        let mut done = 0;
        for chunk in times.chunks(CHUNK) {
            let now = self.clock.now()?;
            let mut state = self.state.write();
            let mut ops = Vec::new();
            for (path, mtime) in chunk {
                let ino = match self.resolve_in(&mut state, path) {
                    Ok(ino) => ino,
                    Err(error) if error.is_not_found() || error.is(Errno::NOTDIR) => continue,
                    Err(error) => return Err(error),
                };
                let mtime = timespec(*mtime);
                if let Some(view) = state.view_mut(ino) {
                    view.mtime = mtime;
                    view.ctime = now;
                    ops.push(Op::File { id: ino, view: view.clone() });
                } else {
                    let times = Timestamps { last_access: upper::omit(), last_modification: mtime };
                    self.upper.set_times(path.as_bytes(), &times)?;
                }
                if state.node(ino)?.is_known_to_kernel() {
                    stale.attributes.push(ino);
                }
                done += 1;
            }
            state.journal.append(&ops)?;
        }
        self.tell_kernel(stale);
        Ok(done)
    }

    /// Removes a file, or a directory with all that is in it. What does not exist is removed already.
    pub fn remove(&self, path: &RelPath) -> Result<()> {
        self.named();
        let mut stale = Stale::default();
        let done = {
            let mut state = self.state.write();
            match self.resolve_in(&mut state, path) {
                Ok(ino) => self.remove_tree(&mut state, ino, path, &mut stale),
                Err(error) if error.is_not_found() => Ok(()),
                Err(error) => Err(error),
            }
        };
        self.tell_kernel(stale);
        done
    }

    fn remove_tree(&self, state: &mut State, ino: u64, path: &RelPath, stale: &mut Stale) -> Result<()> {
        if state.tree.dir(ino).is_some() {
            self.load(state, ino)?;
            let below: Vec<(Arc<[u8]>, u64)> = state.dir(ino)?.iter().map(|(n, i)| (n.clone(), i)).collect();
            for (name, child) in below {
                let path = path.join(OsStr::from_bytes(&name));
                self.remove_tree(state, child, &path, stale)?;
            }
        }
        let Some((dir, name)) = path.split() else { return Ok(()) };
        let dir = self.resolve_in(state, &RelPath::from_bytes(dir.to_vec()))?;
        let now = self.clock.now()?;
        match &state.node(ino)?.kind {
            NodeKind::View(_) => {
                state.journal.append(&[Op::Unlink { path: path.clone() }])?;
                self.upper.touch(&state.tree.path(dir).ok_or_else(not_found)?)?;
            }
            NodeKind::Dir(_) => {
                let last = self.upper.stat(path.as_bytes())?;
                self.upper.rmdir(path.as_bytes())?;
                state.dir_mut(ino)?.gone = Some(Box::new(last));
            }
            NodeKind::Upper(_) => {
                self.hold(state, ino, path.as_bytes())?;
                self.upper.unlink(path.as_bytes())?;
            }
        }
        mark(state, dir, name, stale);
        state.tree.detach(dir, name);
        self.after_replacement(state, ino, now, stale);
        Ok(())
    }
}

/// What the upper has under a name now, in the tree.
fn attach_upper(state: &mut State, dir: u64, name: &[u8], made: (u64, FileType), stale: &mut Stale) {
    let ino = state.tree.create_upper(made.0, made.1);
    state.tree.attach(dir, name, ino);
    mark(state, dir, name, stale);
}

/// The kernel may know something else about this name, or know that it does not exist.
fn mark(state: &State, dir: u64, name: &[u8], stale: &mut Stale) {
    if dir == ROOT || state.tree.node(dir).is_some_and(|n| n.is_known_to_kernel()) {
        stale.entries.push((dir, name.into()));
        stale.inodes.push(dir);
    }
}

pub(crate) fn timespec(time: SystemTime) -> Timespec {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => Timespec { tv_sec: after.as_secs() as i64, tv_nsec: after.subsec_nanos().into() },
        Err(before) => {
            let before = before.duration();
            match before.subsec_nanos() {
                0 => Timespec { tv_sec: -(before.as_secs() as i64), tv_nsec: 0 },
                n => Timespec { tv_sec: -(before.as_secs() as i64) - 1, tv_nsec: (1_000_000_000 - n).into() },
            }
        }
    }
}
