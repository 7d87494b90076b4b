//! What is inside the envelopes, in postcard.

use serde::{Deserialize, Serialize};

use crate::Hash;

/// What an earlier run of an invocation read. Opaque here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordObject {
    pub body: Vec<u8>,
}

/// A result, with everything needed to find it and to go on from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryObject {
    pub invocation: Hash,
    /// The input record that the key was made from. Whoever uses the entry makes the key again.
    pub record: Vec<u8>,
    pub key: Hash,
    /// Opaque here.
    pub entry: Vec<u8>,
    pub facts: Vec<Fact>,
}

/// What is known of an output's content: what stands behind a crate, the words in a macro.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    pub space: String,
    pub key: Hash,
    pub value: Vec<u8>,
}

/// What a build was made of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// Milliseconds since the Unix epoch.
    pub made: u64,
    /// In the order in which the build wanted them.
    pub entries: Vec<EntryObject>,
    /// Small blobs that come along: hash and bytes.
    pub blobs: Vec<(Hash, Vec<u8>)>,
}

/// A target directory as it was after a build. What is in it is opaque here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotObject {
    pub body: Vec<u8>,
}

/// A snapshot that a listing showed: no more than its name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotName {
    /// Without the prefix of the settings.
    pub name: String,
    /// Milliseconds since the Unix epoch.
    pub made: u64,
    /// In hexadecimal; empty without git.
    pub commit: String,
}

/// An object that a listing showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Without the prefix of the settings.
    pub name: String,
    /// Bytes.
    pub size: u64,
}
