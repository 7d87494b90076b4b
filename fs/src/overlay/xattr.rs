//! Extended attributes: the upper's own; on a view, `user.kache.blob` and nothing else.

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::{Location, Overlay, State};
use crate::error::{FsError, Result};
use crate::upper::proc_path;

/// The attribute that tells a view's blob, in hex. It is not listed, so that nothing copies it along.
const BLOB: &[u8] = b"user.kache.blob";

const NO_DATA: FsError = FsError::new(Errno::NODATA, "extended attribute");

impl Overlay {
    pub fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        refuse_acl(name)?;
        let state = self.state.read();
        if let Some(view) = state.node(ino)?.view() {
            return if name == BLOB { Ok(view.hash.to_hex().as_bytes().to_vec()) } else { Err(NO_DATA) };
        }
        if name == BLOB {
            return Err(NO_DATA);
        }
        let (path, follow) = self.xattr_path(&state, ino)?;
        grow(|buffer| {
            if follow {
                rustix::fs::getxattr(&path, name, buffer)
            } else {
                rustix::fs::lgetxattr(&path, name, buffer)
            }
        })
    }

    pub fn listxattr(&self, ino: u64) -> Result<Vec<u8>> {
        let state = self.state.read();
        if state.node(ino)?.view().is_some() {
            return Ok(Vec::new());
        }
        let (path, follow) = self.xattr_path(&state, ino)?;
        let all = grow(|buffer| {
            if follow { rustix::fs::listxattr(&path, buffer) } else { rustix::fs::llistxattr(&path, buffer) }
        })?;
        let shown =
            all.split_inclusive(|b| *b == 0).filter(|name| refuse_acl(&name[..name.len() - 1]).is_ok());
        Ok(shown.flatten().copied().collect())
    }

    /// Sets an attribute; a view is copied up.
    pub fn setxattr(&self, ino: u64, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        let flags = XattrFlags::from_bits_retain(flags);
        self.change_xattr(ino, name, |path, follow| {
            if follow {
                rustix::fs::setxattr(path, name, value, flags)
            } else {
                rustix::fs::lsetxattr(path, name, value, flags)
            }
        })
    }

    pub fn removexattr(&self, ino: u64, name: &[u8]) -> Result<()> {
        if name == BLOB || self.state.read().node(ino)?.view().is_some() {
            return Err(NO_DATA);
        }
        self.change_xattr(ino, name, |path, follow| {
            if follow { rustix::fs::removexattr(path, name) } else { rustix::fs::lremovexattr(path, name) }
        })
    }

    fn change_xattr(
        &self,
        ino: u64,
        name: &[u8],
        f: impl Fn(&[u8], bool) -> rustix::io::Result<()>,
    ) -> Result<()> {
        refuse_acl(name)?;
        if name == BLOB {
            return Err(FsError::new(Errno::PERM, "user.kache.blob is the overlay's own"));
        }
        self.active();
        // A seal may come between; then it is a view again.
        loop {
            self.copy_up(ino, u64::MAX)?;
            let gate = self.gate(ino)?;
            let _writing = gate.writers.read();
            let state = self.state.read();
            if state.node(ino)?.view().is_some() {
                continue;
            }
            gate.version.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let (path, follow) = self.xattr_path(&state, ino)?;
            return Ok(f(&path, follow)?);
        }
    }

    /// A path for the xattr calls, and whether its last step is a magic link to be followed.
    fn xattr_path(&self, state: &State, ino: u64) -> Result<(Vec<u8>, bool)> {
        Ok(match self.location(state, ino)? {
            Location::Path(path) => (self.upper.absolute(&path), false),
            Location::Held(held) => (proc_path(&*held), true),
        })
    }
}

/// The kernel would not enforce an ACL that it does not see.
fn refuse_acl(name: &[u8]) -> Result<()> {
    if name.starts_with(b"system.posix_acl_") {
        return Err(FsError::new(Errno::OPNOTSUPP, "access control lists"));
    }
    Ok(())
}

fn grow(mut f: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>) -> Result<Vec<u8>> {
    let mut buffer = vec![0; 512];
    loop {
        match f(&mut buffer) {
            Ok(n) => {
                buffer.truncate(n);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 17 => buffer.resize(buffer.len() * 8, 0),
            Err(error) => return Err(error.into()),
        }
    }
}
