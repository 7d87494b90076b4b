//! Snapshots of whole target directories, and forks of them: a new checkout that has nothing to build.
//!
//! * [`tree`]: directories as blobs. [`take`]: from a target directory to a snapshot.
//! * [`units`], [`depinfo`], [`fingerprint`]: what cargo keeps about each unit of work. [`inputs`], [`package`]: what it was made from.
//! * [`place`], [`checkout`]: paths, repositories and workspaces, here and there. [`choose`]: which snapshot.
//! * [`freshness`]: what is proven to be up to date here. [`fork`]: the tree that says so to cargo.
//! * [`renew`]: fingerprints of cargo that are others here.
//! * [`materialize`]: a fork without a mount. [`abroad`]: snapshots on their way to other machines.
//!   [`survey`]: what is of use there.

pub mod abroad;
pub mod checkout;
pub mod choose;
mod depinfo;
mod fingerprint;
pub mod fork;
mod freshness;
mod inputs;
pub mod materialize;
mod package;
pub mod place;
mod proofs;
pub mod refresh;
mod renew;
mod survey;
pub mod take;
pub mod tree;
mod units;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::store::SnapshotRow;
use place::Place;

/// What is asked of the daemon about trees.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Which checkout a mount belongs to.
    Know { place: Place },
    /// Take a snapshot of a mount.
    Take { dir: PathBuf },
    /// Show a snapshot in an empty mount.
    Fork { place: Place, from: From, toolchain: String },
    /// Judge the units of a mount again.
    Refresh { place: Place },
}

impl Request {
    /// The target directory that it is about.
    pub fn target(&self) -> &Path {
        match self {
            Request::Know { place } | Request::Fork { place, .. } | Request::Refresh { place } => {
                &place.target
            }
            Request::Take { dir } => dir,
        }
    }
}

/// What to fork.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum From {
    Best,
    /// A snapshot's id or a directory.
    Named(String),
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Known,
    Taken(Box<SnapshotRow>),
    Forked(Report),
    /// There is nothing to fork.
    Nothing,
    /// The target directory is not empty.
    NotEmpty,
}

/// What a fork came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    pub id: String,
    pub fresh: u64,
    /// Units and reasons.
    pub stale: Vec<(String, String)>,
    pub saved_ms: u64,
    pub bytes: u64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = self.fresh + self.stale.len() as u64;
        write!(f, "{}: {} of {all} units fresh, {} to rebuild", self.id, self.fresh, self.stale.len())
    }
}
