//! What the wrapper needs from the program around it: a place that keeps blobs, records and entries.
//!
//! The wrapper decides *what* a key, a record and an entry are; the implementor decides where they live
//! and how files get to their places. Every method may fail; the wrapper answers every failure by running
//! the real compiler.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blake3::Hash;
use serde::{Deserialize, Serialize};

/// Any failure of the cache itself. It never fails a build: the wrapper compiles instead and reports this once.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T> = std::result::Result<T, Error>;

/// Hash of everything about an action that is known before its sources are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InvocationKey(pub [u8; 32]);

/// Invocation key + content of every recorded input. Names an [`Entry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EntryKey(pub [u8; 32]);

impl InvocationKey {
    pub fn to_hex(self) -> String {
        Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl EntryKey {
    pub fn to_hex(self) -> String {
        Hash::from_bytes(self.0).to_hex().to_string()
    }
}

/// How the bytes of an output may be shared between the store and a target directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sharing {
    /// Nobody edits it in place (rlib, rmeta, proc macro, build-script binary): a hard link is safe.
    Link,
    /// People and tools edit it in place (strip, patchelf, …): only a reflink or a copy will do.
    Copy,
}

/// One output file of an action whose bytes are a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    pub dest: Dest,
    /// blake3 of the bytes.
    pub blob: [u8; 32],
    /// Bytes.
    pub size: u64,
    pub executable: bool,
    pub sharing: Sharing,
}

impl Output {
    /// This output at `path`.
    pub fn placed_at(&self, path: PathBuf) -> Placement {
        let Output { blob, size, executable, sharing, .. } = *self;
        Placement { path, content: Content::Blob { hash: blob, size, executable, sharing } }
    }
}

/// Where an output goes, independent of the checkout.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Dest {
    /// File name (raw bytes) in the action's output directory.
    OutDir(Vec<u8>),
    /// The path that the invocation names for this emit kind (`--emit=metadata=PATH`, `-o PATH`).
    Explicit(String),
    /// Path (raw bytes) below the directory that a build script fills.
    Tree(Vec<u8>, Node),
    /// A path with tokens: what an action leaves outside of its own directory.
    Beside(Vec<u8>, Node),
}

/// What a directory tells of something in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    pub name: OsString,
    pub kind: DirEntryKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DirEntryKind {
    File,
    Dir,
    Link,
    Other,
}

impl DirEntry {
    fn of(entry: &std::fs::DirEntry) -> std::io::Result<DirEntry> {
        let kind = match entry.file_type()? {
            t if t.is_file() => DirEntryKind::File,
            t if t.is_dir() => DirEntryKind::Dir,
            t if t.is_symlink() => DirEntryKind::Link,
            _ => DirEntryKind::Other,
        };
        Ok(DirEntry { name: entry.file_name(), kind })
    }
}

/// What is at a place of a build script's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Node {
    File,
    /// An executable file.
    Program,
    /// An empty directory.
    Dir,
    /// A symbolic link; its text is where it leads.
    Link,
    /// A file whose permissions were set, whatever the umask was.
    Mode(u16),
    /// The same of a directory.
    DirMode(u16),
}

impl Node {
    /// Of a file with these permissions.
    pub fn of_file(mode: u32) -> Node {
        if mode & 0o111 != 0 { Node::Program } else { Node::File }
    }

    pub fn is_executable(self) -> bool {
        match self {
            Node::Program => true,
            Node::Mode(mode) => mode & 0o111 != 0,
            Node::File | Node::Dir | Node::DirMode(_) | Node::Link => false,
        }
    }
}

/// A small text output, kept inside the entry with this checkout's paths replaced by tokens (dep-info).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextOutput {
    pub dest: Dest,
    pub template: Vec<u8>,
}

/// The result of an action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub crate_name: String,
    /// What kind of action: "lib", "bin", "proc-macro", "test", "build-script", "build-script-run", …
    pub kind: String,
    pub outputs: Vec<Output>,
    pub texts: Vec<TextOutput>,
    /// As templates (see [`TextOutput`]).
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Milliseconds the action took when it ran.
    pub took_ms: u64,
}

impl Entry {
    /// Bytes of all outputs as a target directory shows them.
    pub fn bytes(&self) -> u64 {
        self.outputs.iter().map(|o| o.size).sum::<u64>()
            + self.texts.iter().map(|t| t.template.len() as u64).sum::<u64>()
    }
}

/// A file to be put at its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    pub path: PathBuf,
    pub content: Content,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    Blob { hash: [u8; 32], size: u64, executable: bool, sharing: Sharing },
    Bytes(Vec<u8>),
}

/// How a restore or an ingestion moved bytes. Ordered from cheapest to dearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkMode {
    View,
    Reflink,
    Hardlink,
    Copy,
}

/// What [`Cache::ingest`] learned about a file while it became a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingested {
    pub hash: [u8; 32],
    /// Bytes.
    pub size: u64,
    /// For each needle asked for: does the file contain it?
    pub contains: Vec<bool>,
}

/// A finished result, to be made findable.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Publication {
    pub invocation: InvocationKey,
    /// Serialized input record (opaque to the cache), found again by [`Cache::records`].
    pub record: Vec<u8>,
    pub key: EntryKey,
    pub entry: Entry,
}

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileId {
    pub dev: u64,
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Nanoseconds since the Unix epoch.
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub is_dir: bool,
    /// Somebody may execute it.
    pub executable: bool,
}

impl FileId {
    pub fn of(meta: &std::fs::Metadata) -> FileId {
        use std::os::unix::fs::MetadataExt;
        FileId {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.size(),
            mtime_ns: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
            ctime_ns: meta.ctime() * 1_000_000_000 + meta.ctime_nsec(),
            is_dir: meta.is_dir(),
            executable: meta.mode() & 0o111 != 0,
        }
    }

    /// Same bytes as far as a file system can tell, whatever happened to its links and mode.
    pub fn same_content(&self, other: &FileId) -> bool {
        (self.dev, self.ino, self.size, self.mtime_ns) == (other.dev, other.ino, other.size, other.mtime_ns)
    }
}

fn is_absence(e: &std::io::Error) -> bool {
    matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// Implemented by the program. All methods are called from many threads and many processes at once.
pub trait Cache: Sync {
    /// blake3 of a regular file's content, through the stat cache (device, inode, size, mtime, ctime -> hash).
    /// `Ok(None)` when there is no such file.
    fn hash_file(&self, path: &Path) -> Result<Option<[u8; 32]>>;

    /// Identity of a file as the file system tells it, `None` when there is none. A program that serves the path
    /// itself (a mount) answers from memory instead of asking its own kernel mount.
    fn stat(&self, path: &Path) -> Result<Option<FileId>> {
        match std::fs::metadata(path) {
            Ok(meta) => Ok(Some(FileId::of(&meta))),
            Err(e) if is_absence(&e) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Is this path itself a symbolic link? What is not there is none.
    fn is_link(&self, path: &Path) -> Result<bool> {
        match std::fs::symlink_metadata(path) {
            Ok(meta) => Ok(meta.is_symlink()),
            Err(e) if is_absence(&e) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Whole content of a small file, `None` when there is none.
    fn read(&self, path: &Path) -> Result<Option<Vec<u8>>> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if is_absence(&e) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// What is in a directory, sorted; empty when there is none.
    fn list_dir(&self, path: &Path) -> Result<Vec<DirEntry>> {
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            Err(e) if is_absence(&e) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        };
        let mut entries = entries.map(|e| DirEntry::of(&e?)).collect::<std::io::Result<Vec<_>>>()?;
        entries.sort();
        Ok(entries)
    }

    /// A derived fact kept under a name: toolchain identity, linker probe, words in a proc macro, … Facts are a
    /// cache of a cache: they may vanish at any time.
    fn fact(&self, space: &'static str, key: &[u8; 32]) -> Result<Option<Vec<u8>>>;
    fn set_fact(&self, space: &'static str, key: &[u8; 32], value: &[u8]) -> Result<()>;

    /// Shows other processes what was set up to now.
    fn flush(&self) -> Result<()>;

    /// Serialized input records of an invocation, most recently used first, at most a few dozen.
    fn records(&self, invocation: &InvocationKey) -> Result<Vec<Vec<u8>>>;
    fn entry(&self, key: &EntryKey) -> Result<Option<Entry>>;

    /// Puts every file at its place, all or an error (then some may be there; the compile will overwrite them).
    /// Existing files are replaced. Each file's mtime is the moment of the restore on the clock that the file
    /// system stamps with. Returns the dearest mode used.
    fn restore(&self, key: &EntryKey, files: &[Placement]) -> Result<LinkMode>;

    /// Makes a file, that a compiler has finished, a blob, and leaves the same bytes at `path`.
    /// Looks for `needles` in the same pass over the bytes.
    fn ingest(&self, path: &Path, executable: bool, sharing: Sharing, needles: &[&[u8]]) -> Result<Ingested>;

    /// Makes a result findable. Its blobs have been ingested before.
    fn publish(&self, publication: &Publication) -> Result<()>;

    /// Appends to the event log. Never fails the caller.
    fn event(&self, event: &Event);

    /// A directory for lock files by which processes agree who compiles a key.
    fn locks_dir(&self) -> PathBuf;
}

/// What became of one action. The only source of `stats`, `report`, `monitor` and `why-miss`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since the Unix epoch; filled by the log when 0.
    pub time_ms: u64,
    pub outcome: Outcome,
    /// Crate name, or the first argument for what is not a crate.
    pub crate_name: String,
    /// See [`Entry::kind`]; "query" and the like for passthroughs.
    pub kind: String,
    /// Why: the passthrough's reason, what changed for a miss, the error.
    pub reason: String,
    /// Entry key in hex, when there is one.
    pub key: String,
    /// Wall time of this action as the wrapper saw it, in microseconds.
    pub wall_us: u64,
    /// Milliseconds that the compile took, when this hit saved it.
    pub saved_ms: u64,
    /// Bytes of outputs restored or stored.
    pub bytes: u64,
    pub link_mode: Option<LinkMode>,
    /// Directory the action ran in.
    pub cwd: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Restored; no compiler ran.
    Hit,
    /// Compiled and stored.
    Miss,
    /// Somebody is editing: compiled incrementally, not stored.
    Edit,
    /// Not cacheable: the compiler ran untouched.
    Pass,
    /// The compiler failed; its failure was passed on and not stored.
    Failed,
    /// Compiled, but not stored (input changed meanwhile, cache error, …).
    Unstored,
}

impl Event {
    /// Of an action that took `wall`. What only some outcomes have is empty.
    pub fn of(
        inv: &Invocation,
        outcome: Outcome,
        crate_name: &str,
        kind: &str,
        reason: &str,
        wall: Duration,
    ) -> Event {
        Event {
            time_ms: 0,
            outcome,
            crate_name: crate_name.to_owned(),
            kind: kind.to_owned(),
            reason: reason.to_owned(),
            key: String::new(),
            wall_us: wall.as_micros() as u64,
            saved_ms: 0,
            bytes: 0,
            link_mode: None,
            // Events become JSON, which has no other names than UTF-8.
            cwd: inv.cwd.to_string_lossy().into_owned().into(),
        }
    }
}

/// What the user may set about keys and what is cached. Filled from kache's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub key_salt: String,
    /// Further environment variables whose values are part of every key.
    pub key_env_vars: Vec<String>,
    /// Globs, relative to the package, of files that macros read and rustc does not report.
    pub extra_inputs: Vec<String>,
    /// Replace this machine's paths in outputs, so that results can be shared between checkouts and machines.
    pub path_remap: bool,
    /// Cache linked programs too (bin, test, example, cdylib, …).
    pub cache_executables: bool,
    pub incremental: Incremental,
    /// Run build scripts through kache.
    pub build_scripts: bool,
    /// Packages whose build scripts always run.
    pub build_scripts_exclude: Vec<String>,
}

/// What to do with cargo's wish for an incremental compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Incremental {
    /// First time for the cache, edits incrementally.
    Auto,
    /// Always for the cache.
    Never,
    /// Always as cargo asked; such results are not stored.
    Always,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            key_salt: String::new(),
            key_env_vars: Vec::new(),
            extra_inputs: Vec::new(),
            path_remap: true,
            cache_executables: true,
            incremental: Incremental::Auto,
            build_scripts: true,
            build_scripts_exclude: Vec::new(),
        }
    }
}

/// One call of a compiler as cargo made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invocation {
    /// `[rustc, args…]` or `[clippy-driver, rustc, args…]`: argv behind the wrapper's own name.
    pub argv: Vec<OsString>,
    pub cwd: PathBuf,
    pub env: Vec<(OsString, OsString)>,
}

impl Invocation {
    pub fn var(&self, name: &str) -> Option<&std::ffi::OsStr> {
        self.env.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_os_str())
    }
}
