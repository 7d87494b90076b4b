//! The one error type of the file system: an errno for the kernel, and words for people.

use std::io;

use rustix::io::Errno;

/// Why a file-system operation failed. The errno is what the calling program sees.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{context}: {}", io::Error::from_raw_os_error(self.errno.raw_os_error()))]
pub struct FsError {
    errno: Errno,
    context: std::borrow::Cow<'static, str>,
}

/// Result of a file-system operation.
pub type Result<T> = std::result::Result<T, FsError>;

impl FsError {
    pub(crate) const fn new(errno: Errno, context: &'static str) -> Self {
        FsError { errno, context: std::borrow::Cow::Borrowed(context) }
    }

    /// The same failure, told with what was being done.
    pub(crate) fn within(self, what: impl std::fmt::Display) -> Self {
        FsError { errno: self.errno, context: format!("{what}: {}", self.context).into() }
    }

    /// The error number.
    pub fn errno(&self) -> i32 {
        self.errno.raw_os_error()
    }

    /// No such file or directory.
    pub fn is_not_found(&self) -> bool {
        self.errno == Errno::NOENT
    }

    pub(crate) fn is(&self, errno: Errno) -> bool {
        self.errno == errno
    }
}

impl From<Errno> for FsError {
    fn from(errno: Errno) -> Self {
        FsError::new(errno, "file system operation")
    }
}

impl From<io::Error> for FsError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => FsError::from(Errno::from_raw_os_error(errno)),
            None => FsError { errno: Errno::IO, context: error.to_string().into() },
        }
    }
}

impl From<FsError> for io::Error {
    fn from(error: FsError) -> Self {
        io::Error::from_raw_os_error(error.errno())
    }
}

pub(crate) const fn not_found() -> FsError {
    FsError::new(Errno::NOENT, "look up")
}
