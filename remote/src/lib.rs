//! What kache keeps in S3, and how it gets there and back.
//!
//! [`Bucket`] speaks in the objects that kache shares: blobs, input records, entries, build manifests. [`object`] says
//! what they are called and how they are wrapped, [`blob`] how a blob's bytes are packed, [`sign`] who made an object,
//! [`gate`] when a remote is too slow to be worth asking. Everything that comes from a bucket is checked before it
//! leaves this crate: hash, size, signature. What an entry *means* is not known here: its body is opaque.
//!
//! The format is described in `docs/remote.md`.

pub mod blob;
mod bucket;
mod error;
pub mod gate;
pub mod http;
mod message;
pub mod object;
mod parts;
mod s3;
mod settings;
pub mod sign;
mod tls;

pub use bucket::{Bucket, Probe};
pub use error::{Error, Result};
pub use message::{EntryObject, Fact, Listed, Manifest, RecordObject, SnapshotName, SnapshotObject};
pub use settings::{Credentials, Mode, Secret, Settings};

/// 32 raw bytes: a blob's hash, or a key.
pub type Hash = [u8; 32];

/// In hex.
pub fn hex(hash: &Hash) -> String {
    blake3::Hash::from_bytes(*hash).to_hex().to_string()
}
