//! What can go wrong in the store, each with the path concerned and what a person can do about it.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {what} {}: {source}{}", path.display(), remedy(source))]
    Io { what: &'static str, path: PathBuf, source: io::Error },

    #[error("index {}: {source}", path.display())]
    Db { path: PathBuf, source: rusqlite::Error },

    #[error(
        "{} was written by a newer kache (schema {found}, this one knows {known}); \
         upgrade this kache or give it its own cache with KACHE_CACHE_DIR",
        path.display()
    )]
    Newer { path: PathBuf, found: i64, known: i64 },

    #[error("{} belongs to user {owner}, not to user {me}; set KACHE_CACHE_DIR to a directory of your own", path.display())]
    NotOurs { path: PathBuf, owner: u32, me: u32 },

    #[error("{} changed while it was being read", path.display())]
    Changed { path: PathBuf },

    #[error("{} is not a regular file", path.display())]
    NotAFile { path: PathBuf },

    #[error(
        "blob {hash} is not in the store any more; its entries were dropped and the next build stores it again"
    )]
    Missing { hash: blake3::Hash },

    #[error("blob {hash} was damaged ({how}); it was moved to store/quarantine and its entries were dropped")]
    Damaged { hash: blake3::Hash, how: String },
}

pub type Result<T> = std::result::Result<T, Error>;

/// Turns an [`io::Error`] into an [`Error`] that names what was being done to which path.
pub trait At<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { what, path: path.to_owned(), source })
    }
}

impl<T> At<T> for nix::Result<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T> {
        self.map_err(io::Error::from).at(what, path)
    }
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (free some space, or lower `max_size` and run `kache gc`)"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            " (make it writable, or set KACHE_CACHE_DIR to a directory that is)"
        }
        _ => "",
    }
}

impl Error {
    /// There is no room on the disk, or none for this user.
    pub fn is_full(&self) -> bool {
        match self {
            Error::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            // SQLite says so, or (of a file that it maps) that it cannot write.
            Error::Db { source, .. } => matches!(
                source.sqlite_error_code(),
                Some(rusqlite::ErrorCode::DiskFull | rusqlite::ErrorCode::SystemIoFailure)
            ),
            _ => false,
        }
    }

    /// The index itself is broken: no statement on it can be trusted.
    pub fn is_corruption(&self) -> bool {
        matches!(self, Error::Db { source, .. } if is_corruption(source))
    }
}

pub fn is_corruption(e: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(e.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}
