//! Making a complete real directory out of an overlay that is no longer mounted.

use std::os::fd::AsFd;

use blake3::Hash;
use rustix::fs::{AtFlags, Gid, Mode, Timestamps, Uid};
use rustix::io::Errno;

use super::{Overlay, State};
use crate::error::{FsError, Result, not_found};
use crate::path::RelPath;
use crate::record::{Op, View};
use crate::tree::Kind as NodeKind;
use crate::upper::Temporary;

/// May views that allow it become hard links to their blobs?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkPolicy {
    Never,
    /// Where reflinks are not to be had, for views that were placed with `link_ok` and whose blob has no other link.
    WhereAllowed,
}

/// Is a view of this blob, under these names, to be kept?
pub type Keep = dyn Fn(&Hash, &[RelPath]) -> bool;

/// How many files became real, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Materialized {
    pub reflinked: u64,
    pub linked: u64,
    pub copied: u64,
    /// Views whose blob was missing or damaged: there is no such file now.
    pub lost: u64,
}

#[derive(Clone, Copy)]
enum Way {
    Reflinked,
    Linked,
    Copied,
}

/// A file with the bytes of a view, to be given its names.
struct RealCopy {
    ino: u64,
    view: View,
    names: Vec<RelPath>,
    temporary: Temporary,
    way: Way,
}

/// Files that are on the disk with one call. Each is open until then.
const BATCH: usize = 128;
/// As many are quicker one by one than with everything else that waits for the disk.
const FEW: usize = 8;

/// Bytes that file systems round sizes up to.
const BLOCK: u64 = 4096;

/// Views that are to become files.
fn chosen(state: &State, keep: Option<&Keep>) -> Vec<u64> {
    let wanted = |ino: u64, view: &View| keep.is_none_or(|keep| keep(&view.hash, &state.tree.paths(ino)));
    let nodes = state.tree.nodes().filter(|(_, node)| node.names.len() > 0);
    let mut views: Vec<u64> = nodes
        .filter(|(ino, node)| node.view().is_some_and(|v| wanted(*ino, v)))
        .map(|(ino, _)| ino)
        .collect();
    views.sort_unstable();
    views
}

impl Materialized {
    fn count(&mut self, way: Way) {
        match way {
            Way::Reflinked => self.reflinked += 1,
            Way::Linked => self.linked += 1,
            Way::Copied => self.copied += 1,
        }
    }
}

impl Overlay {
    /// Bytes that [`Overlay::materialize`] would write, roughly, and bytes that are free.
    pub fn room_for_files(&self, policy: LinkPolicy, keep: Option<&Keep>) -> Result<(u64, u64)> {
        let disk = self.statfs()?;
        let state = self.state.read();
        let all: Vec<View> =
            chosen(&state, keep).iter().filter_map(|ino| state.tree.node(*ino)?.view().cloned()).collect();
        drop(state);
        let links = policy == LinkPolicy::WhereAllowed && self.is_beside_blobs(&all);
        let mut copies = all.iter().filter(|view| view.size > 0 && !(links && view.link_ok)).peekable();
        let needed = match copies.peek() {
            Some(view) if !self.can_clone(view) => copies.map(|v| v.size.next_multiple_of(BLOCK)).sum(),
            _ => 0,
        };
        Ok((needed, disk.f_bavail * disk.f_frsize))
    }

    /// Do blobs and upper lie on one file system?
    fn is_beside_blobs(&self, views: &[View]) -> bool {
        let Some(view) = views.first() else { return true };
        let slot = self.blobs.slot(&view.hash, false);
        slot.is_ok_and(|s| rustix::fs::fstat(&s.dir).is_ok_and(|stat| stat.st_dev == self.device()))
    }

    fn can_clone(&self, view: &View) -> bool {
        let try_it = || -> Result<()> {
            let blob = self.blobs.open(&view.hash, view.size)?;
            let temporary = self.upper.temporary()?;
            let cloned = rustix::fs::ioctl_ficlone(&temporary.file, &blob);
            self.upper.finish(&temporary);
            Ok(cloned?)
        };
        try_it().is_ok()
    }

    /// Makes views (all, or those that are to be kept) ordinary files in the upper. Each is journaled when it is done, so
    /// that this can be cut off and begun again.
    pub fn materialize(&self, policy: LinkPolicy, keep: Option<&Keep>) -> Result<Materialized> {
        let mut report = Materialized::default();
        let mut state = self.state.write();
        let views = chosen(&state, keep);
        for batch in views.chunks(BATCH) {
            let mut copies = Vec::new();
            let mut done = batch
                .iter()
                .try_for_each(|ino| self.make_real(&mut state, *ino, policy, &mut copies, &mut report))
                .and_then(|()| self.sync(&copies));
            for copy in copies {
                if done.is_ok() {
                    done = self.install_real(&mut state, &copy).map(|()| report.count(copy.way));
                }
                self.upper.finish(&copy.temporary);
            }
            done?;
        }
        Ok(report)
    }

    /// Makes a file with the bytes of a view: in its place if it is a link, else one that has to be installed.
    fn make_real(
        &self,
        state: &mut State,
        ino: u64,
        policy: LinkPolicy,
        copies: &mut Vec<RealCopy>,
        report: &mut Materialized,
    ) -> Result<()> {
        self.load_parents(state, ino)?;
        // The upper may have had it all the time.
        let Some(view) = state.tree.node(ino).and_then(|n| n.view()).cloned() else { return Ok(()) };
        let names = state.tree.paths(ino);
        match self.copy_of(&view, &names, policy) {
            Ok(Some((temporary, way))) => copies.push(RealCopy { ino, view, names, temporary, way }),
            Ok(None) => {
                self.note_real(state, ino, names)?;
                report.count(Way::Linked);
            }
            Err(error) if error.is(Errno::IO) || error.is_not_found() => {
                tracing::error!(path = ?names, %error, "a view cannot be made real");
                report.lost += 1;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// `None`: links to the blob are at the names.
    fn copy_of(
        &self,
        view: &View,
        names: &[RelPath],
        policy: LinkPolicy,
    ) -> Result<Option<(Temporary, Way)>> {
        let blob = self.blobs.open(&view.hash, view.size)?;
        let stat = rustix::fs::fstat(&blob)?;
        if stat.st_size as u64 != view.size {
            return Err(FsError::new(Errno::IO, "a blob is not as long as its view"));
        }
        let temporary = self.upper.temporary()?;
        let filled = (|| {
            match rustix::fs::ioctl_ficlone(&temporary.file, &blob) {
                Ok(()) => return Ok(Some(Way::Reflinked)),
                Err(_) if policy == LinkPolicy::WhereAllowed && view.link_ok => {
                    let same_mode = (view.mode & 0o111 != 0) == (stat.st_mode & 0o111 != 0);
                    if same_mode && stat.st_nlink == 1 && self.link_blob(view, &blob, names)? {
                        return Ok(None);
                    }
                }
                Err(_) => {}
            }
            self.transfer(&blob, &temporary.file, view.size)?;
            Ok(Some(Way::Copied))
        })();
        match filled {
            Ok(Some(way)) => Ok(Some((temporary, way))),
            other => {
                self.upper.finish(&temporary);
                other.map(|_| None)
            }
        }
    }

    /// The bytes of copies are on the disk before they take the place of views that may be.
    fn sync(&self, copies: &[RealCopy]) -> Result<()> {
        if copies.len() > FEW {
            return self.sync_upper();
        }
        copies.iter().try_for_each(|copy| Ok(copy.temporary.file.sync_data()?))
    }

    fn install_real(&self, state: &mut State, copy: &RealCopy) -> Result<()> {
        let RealCopy { ino, view, names, temporary, .. } = copy;
        let file = &temporary.file;
        let _ = rustix::fs::fchown(file, Some(Uid::from_raw(view.uid)), Some(Gid::from_raw(view.gid)));
        rustix::fs::fchmod(file, Mode::from_raw_mode(view.mode))?;
        rustix::fs::futimens(file, &Timestamps { last_access: view.atime, last_modification: view.mtime })?;
        for name in names {
            let (dir, _) = name.split().ok_or_else(not_found)?;
            self.upper.keep_mtime(dir, || self.upper.install(temporary, name.as_bytes()))?;
        }
        self.note_real(state, *ino, names.clone())
    }

    fn note_real(&self, state: &mut State, ino: u64, names: Vec<RelPath>) -> Result<()> {
        let real = self.upper.real(names.first().ok_or_else(not_found)?.as_bytes()).ok_or_else(not_found)?;
        let unlinks: Vec<Op> = names.into_iter().map(|path| Op::Unlink { path }).collect();
        state.journal.append(&unlinks)?;
        let file_type = rustix::fs::FileType::RegularFile;
        state.tree.replace_kind(ino, NodeKind::Upper(crate::tree::Upper { real, file_type, held: None }));
        Ok(())
    }

    fn load_parents(&self, state: &mut State, ino: u64) -> Result<()> {
        for path in state.tree.paths(ino) {
            match self.resolve_in(state, &path) {
                Err(error) if error.is_not_found() || error.is(Errno::NOTDIR) => {}
                other => _ = other?,
            }
        }
        Ok(())
    }

    /// Hard links the blob under a view's names. False if the file systems do not allow it.
    fn link_blob(&self, view: &View, blob: &std::fs::File, names: &[RelPath]) -> Result<bool> {
        let slot = self.blobs.slot(&view.hash, view.mode & 0o111 != 0)?;
        for (at, name) in names.iter().enumerate() {
            let (dir, _) = name.split().ok_or_else(not_found)?;
            let linked = self
                .upper
                .keep_mtime(dir, || self.upper.link_in(slot.dir.as_fd(), &slot.name, name.as_bytes()));
            match linked {
                Ok(()) => {}
                Err(error)
                    if at == 0
                        && (error.is(Errno::XDEV) || error.is(Errno::PERM) || error.is(Errno::MLINK)) =>
                {
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        // As a compiler would have left it: rustc refuses to replace a file that is not writable.
        rustix::fs::fchmod(blob, Mode::from_raw_mode(view.mode & 0o777))?;
        let times = Timestamps { last_access: view.atime, last_modification: view.mtime };
        let path = crate::upper::proc_path(blob);
        rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::empty())?;
        Ok(true)
    }
}
