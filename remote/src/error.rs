//! What can go wrong with a remote, in words. No error holds a secret: neither headers nor bodies get in here.

use std::time::Duration;

/// Cheap to clone: everybody who waits for one request gets its error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{endpoint} cannot be reached: {why} (check the endpoint, the network and any proxy)")]
    Unreachable { endpoint: String, why: String },

    #[error("{endpoint} did not answer within {} ms", waited.as_millis())]
    TimedOut { endpoint: String, waited: Duration },

    #[error(
        "there are no usable credentials: {why} (set KACHE_S3_ACCESS_KEY and KACHE_S3_SECRET_KEY, or AWS credentials)"
    )]
    NoCredentials { why: String },

    #[error("{endpoint} refused to {what} ({code}): the credentials are wrong or lack the permission")]
    Denied { endpoint: String, what: &'static str, code: String },

    #[error("this machine's clock and that of {endpoint} differ by too much: set the clock")]
    Skewed { endpoint: String },

    #[error("the bucket `{bucket}` does not exist on {endpoint}")]
    NoBucket { endpoint: String, bucket: String },

    #[error("{endpoint} could not {what}: {status} {code}")]
    Server { endpoint: String, what: &'static str, status: u16, code: String },

    /// Somebody stored what is not what its name says, or it was changed on the way.
    #[error("{name} is not what it should be: {how}; it was not used")]
    Bad { name: String, how: String },

    #[error("{name} is not signed by a key that is trusted here; it was not used")]
    Untrusted { name: String },

    #[error("{name} is not there any more")]
    Gone { name: String },

    #[error("{0}")]
    Local(String),

    #[error("bad remote settings: {0}")]
    Settings(String),
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn bad(name: &str, how: impl Into<String>) -> Error {
        Error::Bad { name: name.to_owned(), how: how.into() }
    }

    pub(crate) fn local(what: &str, error: std::io::Error) -> Error {
        Error::Local(format!("{what}: {error}"))
    }

    /// Asking again soon will not help.
    pub fn is_lasting(&self) -> bool {
        matches!(
            self,
            Error::NoCredentials { .. }
                | Error::Denied { .. }
                | Error::Skewed { .. }
                | Error::NoBucket { .. }
                | Error::Settings(_)
        )
    }

    /// The remote itself works; one object in it does not.
    pub fn is_about_one_object(&self) -> bool {
        matches!(self, Error::Bad { .. } | Error::Untrusted { .. } | Error::Gone { .. })
    }
}
