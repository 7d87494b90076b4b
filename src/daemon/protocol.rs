//! What client and daemon say to each other: length-prefixed postcard messages on a Unix socket.
//!
//! A connection carries one request after the other. The daemon acknowledges each at once with [`ALIVE`] and
//! answers when it has the answer, so that a client can tell a slow daemon from one that hangs.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use kache_wrapper::cache::{Event, Invocation, Settings};
use kache_wrapper::finish::{Finished, Left};
use kache_wrapper::lookup::{Lookup, Miss, News, Plan, Role};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Both sides must say the same. Changes whenever a message changes meaning.
pub const VERSION: &str = concat!("kache ", env!("CARGO_PKG_VERSION"), " protocol 10");

/// First byte of every answer, sent before the request is worked on.
pub const ALIVE: u8 = 0xA5;

/// Larger messages are not from us.
const MAX_MESSAGE: usize = 256 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    pub version: String,
    /// Of the caller, for files that the daemon makes in its place.
    pub umask: u32,
    pub body: Body,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Body {
    Lookup {
        inv: Invocation,
        role: Role,
        settings: Settings,
        /// Microseconds that the caller has lived before it asked.
        spent_us: u64,
        /// There may be a remote to ask.
        shared: bool,
    },
    HasNews(News),
    Announced {
        plan: Box<Plan>,
        path: PathBuf,
    },
    /// Put the crates that a compiler will read into its scratch directory.
    Gather(Box<Plan>),
    /// Move files that a compiler made elsewhere (see [`kache_wrapper::scratch`]) to where they belong.
    Collect {
        from: PathBuf,
        to: PathBuf,
        names: Vec<OsString>,
    },
    Finish {
        inv: Invocation,
        role: Role,
        miss: Box<Miss>,
        left: Box<Left>,
        /// There may be a remote to upload to.
        shared: bool,
    },
    /// Has no answer.
    Event(Event),
    /// Write what is pending, so that others see it.
    Flush,
    Mount {
        dir: PathBuf,
    },
    Umount {
        dir: PathBuf,
        discard: bool,
    },
    /// Empty a mount.
    Clean {
        dir: PathBuf,
    },
    /// About snapshots and forks; and who asks, in which environment.
    Tree(crate::snapshot::Request, Box<Invocation>),
    /// Somebody who shares through a remote is here.
    Hello(Box<Invocation>),
    Mounts,
    /// Paths of a mount on which memory and journal do not agree.
    CheckMount {
        dir: PathBuf,
    },
    Status,
    /// Unmount everything, leaving complete directories, and end.
    Stop,
    /// End, but keep what the mounts show for the next daemon.
    Restart,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Response {
    Lookup(Lookup),
    News(bool),
    Finished(Finished),
    Gathered(Vec<PathBuf>),
    Mounted {
        already: bool,
        files: u64,
    },
    Tree(crate::snapshot::Answer),
    Mounts(Vec<MountInfo>),
    Disagreements(Vec<PathBuf>),
    Status(Status),
    Done,
    /// Done; and what a person should know.
    DoneBut(String),
    NotMounted,
    /// For people.
    Failed(String),
    /// Mounting is impossible here: what is missing and what to do.
    Unavailable(String),
    OtherVersion(String),
}

/// One mount, for `kache mounts`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct MountInfo {
    pub dir: PathBuf,
    pub files: u64,
    pub views: u64,
    /// Bytes that the mount shows.
    pub shown_bytes: u64,
    /// Bytes that only this mount takes: what is in its upper.
    pub own_bytes: u64,
    /// Milliseconds since the Unix epoch.
    pub since_ms: u64,
    pub alive: bool,
    /// Views whose blobs are not in the store.
    pub missing: u64,
    /// FUSE protocol of the kernel, and what it and the mount agreed on.
    pub protocol: String,
    pub capabilities: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub exe: PathBuf,
    /// Seconds.
    pub uptime_s: u64,
    pub mounts: u64,
    /// Bytes.
    pub resident: u64,
    pub requests: u64,
}

pub fn send<T: Serialize>(stream: &mut impl Write, message: &T) -> io::Result<()> {
    let body = postcard::to_stdvec(message).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(body.len() + 4);
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(&body);
    stream.write_all(&frame)
}

pub fn receive<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message too long"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    postcard::from_bytes(&body).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}
