//! Where the bucket is and how to talk to it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// What may be done with the remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    #[default]
    ReadWrite,
    /// Restore from it, upload nothing.
    ReadOnly,
    Off,
}

/// Text that must not be shown.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    pub access_key: Secret,
    pub secret_key: Secret,
}

/// Everything that tells one remote from another. The environment in it is what the SDK's standard chain looks at
/// (`AWS_*`, `HOME`): that of whoever builds, which a daemon does not have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settings {
    pub bucket: String,
    /// `None`: AWS.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Before every object's name; without slashes at its ends.
    pub prefix: String,
    pub profile: Option<String>,
    /// `http://host/bucket/…` instead of `http://bucket.host/…`.
    pub path_style: bool,
    pub credentials: Option<Credentials>,
    pub env: BTreeMap<String, Secret>,
    /// PEM file of whom to trust instead of whom the system trusts.
    pub certificates: Option<PathBuf>,
    pub mode: Mode,
    /// Transfers at a time.
    pub concurrency: usize,
    /// For one attempt of one request without its body; and for silence in the middle of one.
    pub timeout: Duration,
    /// zstd level; 0 stores blobs as they are.
    pub compression: i32,
    /// Bytes; larger blobs are neither stored nor fetched.
    pub max_blob: u64,
    /// Signs what is uploaded.
    pub signing_key: Option<Secret>,
    /// Public keys, in hex.
    pub trusted_keys: Vec<String>,
    /// Use only what a trusted key has signed.
    pub require_signed: bool,
}

impl Settings {
    /// Of a bucket, with everything else as it is by default.
    pub fn new(bucket: &str) -> Settings {
        Settings {
            bucket: bucket.to_owned(),
            endpoint: None,
            region: None,
            prefix: String::new(),
            profile: None,
            path_style: false,
            credentials: None,
            env: BTreeMap::new(),
            certificates: None,
            mode: Mode::ReadWrite,
            concurrency: 16,
            timeout: Duration::from_secs(10),
            compression: 3,
            max_blob: 4 << 30,
            signing_key: None,
            trusted_keys: Vec::new(),
            require_signed: false,
        }
    }

    /// Names the place where objects are, whatever the way to it: two builds with the same place share uploads.
    pub fn place(&self) -> String {
        let endpoint = self.endpoint.as_deref().map_or("aws", host);
        format!("{endpoint}/{}/{}", self.bucket, self.prefix)
    }

    /// For messages: where requests go, without anything that may be secret.
    pub fn shown_endpoint(&self) -> String {
        self.endpoint.as_deref().map_or_else(|| "Amazon S3".to_owned(), |e| host(e).to_owned())
    }
}

/// Host and port of a URL; leaves out user, password, path and query.
pub(crate) fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let mut s = Settings::new("b");
        s.endpoint = Some("https://user:hunter2@host:9000/x?token=hunter3".into());
        s.credentials =
            Some(Credentials { access_key: Secret("hunter4".into()), secret_key: Secret("hunter5".into()) });
        s.env.insert("AWS_SESSION_TOKEN".into(), Secret("hunter6".into()));
        s.signing_key = Some(Secret("hunter7".into()));
        let shown = format!(
            "{} {} {:?} {:?} {:?}",
            s.place(),
            s.shown_endpoint(),
            s.credentials,
            s.env,
            s.signing_key
        );
        assert!(!shown.contains("hunter"), "{shown}");
        assert_eq!(s.shown_endpoint(), "host:9000");
    }
}
