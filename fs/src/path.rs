//! Paths inside a mount.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::io::Errno;

use crate::error::{FsError, Result};

/// A path relative to the root of a mount: no leading slash, no `.` or `..`, no empty component.
/// The empty path is the root. Bytes, not necessarily UTF-8.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RelPath(Vec<u8>);

impl RelPath {
    /// The root of the mount.
    pub fn root() -> Self {
        RelPath::default()
    }

    /// Checks and normalizes a relative path. `..` and absolute paths are refused with `EINVAL`.
    pub fn new(path: impl AsRef<Path>) -> Result<Self> {
        let mut bytes = Vec::with_capacity(path.as_ref().as_os_str().len());
        for component in path.as_ref().components() {
            match component {
                Component::Normal(name) => push(&mut bytes, name.as_bytes()),
                Component::CurDir => {}
                _ => {
                    return Err(FsError::new(
                        Errno::INVAL,
                        "a path inside a mount is relative, without `..`",
                    ));
                }
            }
        }
        if bytes.contains(&0) {
            return Err(FsError::new(Errno::INVAL, "a path contains no NUL"));
        }
        Ok(RelPath(bytes))
    }

    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Self {
        RelPath(bytes)
    }

    /// The path's bytes, components separated by `/`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path as a relative std path (empty for the root).
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The components from the root downwards.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|c| !c.is_empty())
    }

    /// This path extended by one name.
    pub fn join(&self, name: impl AsRef<OsStr>) -> Self {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.as_ref().len());
        bytes.extend_from_slice(&self.0);
        push(&mut bytes, name.as_ref().as_bytes());
        RelPath(bytes)
    }

    /// Directory and last name; `None` for the root.
    pub fn split(&self) -> Option<(&[u8], &[u8])> {
        if self.0.is_empty() {
            return None;
        }
        Some(match self.0.iter().rposition(|b| *b == b'/') {
            Some(at) => (&self.0[..at], &self.0[at + 1..]),
            None => (&[], &self.0),
        })
    }

    /// Is this the root?
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

pub(crate) fn push(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_path().fmt(f)
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_path().display().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalizes_and_refuses() {
        assert_eq!(RelPath::new("./a//b/").unwrap().as_bytes(), b"a/b");
        assert!(RelPath::new("").unwrap().is_root());
        assert_eq!(RelPath::new("../a").unwrap_err().errno(), Errno::INVAL.raw_os_error());
        assert_eq!(RelPath::new("/a").unwrap_err().errno(), Errno::INVAL.raw_os_error());
        assert_eq!(RelPath::new("a/b").unwrap().split(), Some((&b"a"[..], &b"b"[..])));
        assert_eq!(RelPath::new("a").unwrap().split(), Some((&b""[..], &b"a"[..])));
        assert_eq!(RelPath::root().join("x").join("y").as_bytes(), b"x/y");
    }
}
