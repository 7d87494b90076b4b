//! Copy-up: a view that is about to be written becomes an upper file with the same bytes.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{Gid, Mode, SeekFrom, Timestamps, Uid};
use rustix::io::Errno;

use super::{Overlay, State};
use crate::error::{FsError, Result};
use crate::fds::Key;
use crate::path::RelPath;
use crate::record::{Op, Redo, View};
use crate::tree::{Kind as NodeKind, Upper as UpperNode};
use crate::upper::Temporary;

impl Overlay {
    /// Makes a view an upper file. Only the first `keep` bytes need to survive. Does nothing to what is no view.
    pub(super) fn copy_up(&self, ino: u64, keep: u64) -> Result<()> {
        let gate = self.gate(ino)?;
        let _one_at_a_time = gate.copy_up.lock();
        loop {
            let Some(view) = self.state.read().node(ino)?.view().cloned() else { return Ok(()) };
            let temporary = self.upper.temporary()?;
            let done = self.fill(&temporary, &view, keep).and_then(|()| {
                let mut state = self.state.write();
                // The hash is what was copied; anything else may have changed meanwhile.
                match state.view_mut(ino) {
                    Some(now) if now.hash == view.hash => {
                        let view = now.clone();
                        self.install_copy(&mut state, ino, &view, &temporary).map(|()| true)
                    }
                    _ => Ok(false),
                }
            });
            self.upper.finish(&temporary);
            if done? {
                gate.copies.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
        }
    }

    fn fill(&self, temporary: &Temporary, view: &View, keep: u64) -> Result<()> {
        let wanted = view.size.min(keep);
        if wanted == 0 {
            return Ok(());
        }
        let blob = self.open_blob(view)?;
        if blob.metadata()?.len() != view.size {
            self.fds.remove(Key::Blob(view.hash));
            return Err(FsError::new(Errno::IO, "a blob is not as long as its view"));
        }
        self.transfer(&blob, &temporary.file, wanted)?;
        // The view may be on the disk; what takes its name must be, too.
        Ok(temporary.file.sync_data()?)
    }

    /// Reflink, else copy.
    pub(super) fn transfer(&self, from: &File, to: &File, length: u64) -> Result<()> {
        if !self.cannot_clone.load(Ordering::Relaxed) {
            match rustix::fs::ioctl_ficlone(to, from) {
                Ok(()) => return Ok(()),
                Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL) => {
                    self.cannot_clone.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
        }
        copy(from, to, length)
    }

    fn install_copy(&self, state: &mut State, ino: u64, view: &View, temporary: &Temporary) -> Result<()> {
        let file = &temporary.file;
        let names: Vec<(u64, Vec<u8>, RelPath)> = state
            .node(ino)?
            .names
            .iter()
            .filter_map(|(dir, name)| Some((dir, state.tree.path(dir)?, state.tree.rel_path_in(dir, name)?)))
            .collect();
        let stat = rustix::fs::fstat(file)?;
        if (stat.st_uid, stat.st_gid) != (view.uid, view.gid) {
            // Without privilege the file stays the user's own, as after a `cp`.
            let _ = rustix::fs::fchown(file, Some(Uid::from_raw(view.uid)), Some(Gid::from_raw(view.gid)));
        }
        rustix::fs::fchmod(file, Mode::from_raw_mode(view.mode))?;
        rustix::fs::futimens(file, &Timestamps { last_access: view.atime, last_modification: view.mtime })?;
        if names.len() > 1 {
            let names = names.iter().map(|(_, _, path)| path.clone()).collect();
            state.journal.append(&[Op::Redo(Redo::CopyUp { names })])?;
        }
        for (at, (_, dir, path)) in names.iter().enumerate() {
            let linked = self.upper.keep_mtime(dir, || self.upper.link_temporary(temporary, path.as_bytes()));
            if let Err(error) = linked {
                for (_, dir, path) in &names[..at] {
                    let _ = self.upper.keep_mtime(dir, || self.upper.unlink(path.as_bytes()));
                }
                return Err(error.within("copy up"));
            }
        }
        // From here on the upper has it. A crash before the append is harmless: what the upper has wins.
        let unlinks: Vec<Op> = names.iter().map(|(_, _, path)| Op::Unlink { path: path.clone() }).collect();
        let held = names.is_empty().then(|| file.try_clone()).transpose()?;
        let open = file.try_clone()?;
        let upper = UpperNode {
            real: stat.st_ino,
            file_type: rustix::fs::FileType::RegularFile,
            held: held.map(|file| Arc::new(file.into())),
        };
        state.tree.replace_kind(ino, NodeKind::Upper(upper));
        // While the state is locked: after a seal, this descriptor would be one that writes a blob.
        self.fds.put(Key::Upper(ino), Arc::new(open), true);
        Ok(state.journal.append(&unlinks)?)
    }
}

/// Copies bytes inside the kernel where it can. Holes stay holes.
fn copy(from: &File, to: &File, length: u64) -> Result<()> {
    rustix::fs::ftruncate(to, length)?;
    let mut at = 0;
    while at < length {
        let (start, end) = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) if start >= length => break,
            Ok(start) => (start, rustix::fs::seek(from, SeekFrom::Hole(start))?.min(length)),
            // Nothing but a hole, or a file that has become shorter.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => (at, length),
            Err(error) => return Err(error.into()),
        };
        copy_data(from, to, start, end)?;
        at = end;
    }
    if rustix::fs::fstat(from)?.st_size as u64 >= length {
        Ok(())
    } else {
        Err(FsError::new(Errno::IO, "a blob has lost bytes"))
    }
}

fn copy_data(from: &File, to: &File, start: u64, end: u64) -> Result<()> {
    let (mut at, mut into) = (start, start);
    while at < end {
        let step = usize::try_from(end - at).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut into), step) {
            Ok(0) => return Err(FsError::new(Errno::IO, "a blob has lost bytes")),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::IO) => {
                return copy_by_hand(from, to, at, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(from: &File, to: &File, mut at: u64, end: u64) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; 1 << 18];
    while at < end {
        let step = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
        match from.read_at(&mut buffer[..step], at) {
            Ok(0) => return Err(FsError::new(Errno::IO, "a blob has lost bytes")),
            Ok(n) => {
                to.write_all_at(&buffer[..n], at)?;
                at += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
