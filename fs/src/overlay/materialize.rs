//! Making a complete real directory out of an overlay that is no longer mounted.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Gid, Mode, Timestamps, Uid};
use rustix::io::Errno;

use super::{Overlay, State};
use crate::error::{FsError, Result, not_found};
use crate::path::RelPath;
use crate::record::{Op, View};
use crate::tree::Kind as NodeKind;

/// May views that allow it become hard links to their blobs?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkPolicy {
    Never,
    /// Where reflinks are not to be had, for views that were placed with `link_ok` and whose blob has no other link.
    WhereAllowed,
}

/// How many files became real, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Materialized {
    pub reflinked: u64,
    pub linked: u64,
    pub copied: u64,
    /// Views whose blob was missing or damaged: there is no such file now.
    pub lost: u64,
}

enum Way {
    Reflinked,
    Linked,
    Copied,
}

impl Overlay {
    /// Makes every view an ordinary file in the upper. Each is journaled when it is done, so that this can be cut off and
    /// begun again.
    pub fn materialize(&self, policy: LinkPolicy) -> Result<Materialized> {
        let mut report = Materialized::default();
        let mut state = self.state.write();
        let mut views: Vec<u64> = state
            .tree
            .nodes()
            .filter(|(_, n)| n.view().is_some() && n.names.len() > 0)
            .map(|(ino, _)| ino)
            .collect();
        views.sort_unstable();
        for ino in views {
            self.load_parents(&mut state, ino)?;
            // The upper may have had it all the time.
            let Some(view) = state.tree.node(ino).and_then(|n| n.view()).cloned() else { continue };
            match self.materialize_one(&mut state, ino, &view, policy) {
                Ok(Way::Reflinked) => report.reflinked += 1,
                Ok(Way::Linked) => report.linked += 1,
                Ok(Way::Copied) => report.copied += 1,
                Err(error) if error.is(Errno::IO) || error.is_not_found() => {
                    tracing::error!(path = ?state.tree.paths(ino), %error, "a view cannot be made real");
                    report.lost += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(report)
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

    fn materialize_one(&self, state: &mut State, ino: u64, view: &View, policy: LinkPolicy) -> Result<Way> {
        let names = state.tree.paths(ino);
        let temporary = self.upper.temporary()?;
        let made = (|| {
            let blob = self.blobs.open(&view.hash)?;
            let stat = rustix::fs::fstat(&blob)?;
            if stat.st_size as u64 != view.size {
                return Err(FsError::new(Errno::IO, "a blob is not as long as its view"));
            }
            match rustix::fs::ioctl_ficlone(&temporary.file, &blob) {
                Ok(()) => return Ok(Way::Reflinked),
                Err(_) if policy == LinkPolicy::WhereAllowed && view.link_ok => {
                    let same_mode = (view.mode & 0o111 != 0) == (stat.st_mode & 0o111 != 0);
                    if same_mode && stat.st_nlink == 1 && self.link_blob(view, &blob, &names)? {
                        return Ok(Way::Linked);
                    }
                }
                Err(_) => {}
            }
            self.transfer(&blob, &temporary.file, view.size)?;
            Ok(Way::Copied)
        })();
        let done = match made {
            Ok(Way::Linked) => Ok(Way::Linked),
            Ok(way) => self.install_real(view, &temporary, &names).map(|()| way),
            Err(error) => Err(error),
        };
        self.upper.finish(&temporary);
        let way = done?;
        let real = self.upper.real(names.first().ok_or_else(not_found)?.as_bytes()).ok_or_else(not_found)?;
        let unlinks: Vec<Op> = names.into_iter().map(|path| Op::Unlink { path }).collect();
        state.journal.append(&unlinks)?;
        let file_type = rustix::fs::FileType::RegularFile;
        state.tree.replace_kind(ino, NodeKind::Upper(crate::tree::Upper { real, file_type, held: None }));
        Ok(way)
    }

    fn install_real(
        &self,
        view: &View,
        temporary: &crate::upper::Temporary,
        names: &[RelPath],
    ) -> Result<()> {
        let file = &temporary.file;
        let _ = rustix::fs::fchown(file, Some(Uid::from_raw(view.uid)), Some(Gid::from_raw(view.gid)));
        rustix::fs::fchmod(file, Mode::from_raw_mode(view.mode))?;
        rustix::fs::futimens(file, &Timestamps { last_access: view.atime, last_modification: view.mtime })?;
        for name in names {
            let (dir, _) = name.split().ok_or_else(not_found)?;
            self.upper.keep_mtime(dir, || self.upper.install(temporary, name.as_bytes()))?;
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
