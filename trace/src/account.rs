//! What is handed out: an account of a command.

use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::PathBuf;

/// What a command and its children did, in the order in which it happened first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    pub processes: Vec<Process>,
    /// Programs and libraries from which calls came: canonical paths. An empty one is code that belongs to no file.
    pub objects: Vec<PathBuf>,
    pub accesses: Vec<Access>,
    pub variables: Vec<Variable>,
    pub calls: Vec<Call>,
    /// Why the account is not complete, in words. Empty: it is.
    pub gaps: Vec<String>,
}

/// A program that ran, or a child of it that went on alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// As the kernel has it (/proc/self/exe).
    pub program: PathBuf,
    /// At most 64 KiB in all; a longer one is cut, and `argv_cut` is true.
    pub argv: Vec<OsString>,
    pub argv_cut: bool,
    /// Index of the process that started it; the first has none.
    pub parent: Option<u32>,
    /// It, or a library in it other than libc/ld.so/the C++ runtime, imports `environ` (or it is static): it may have read
    /// every variable without asking for one.
    pub whole_environment: bool,
}

/// The first access of this kind to this path by this process from this object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Access {
    /// Absolute: as the process named it, made absolute with its working directory or that of the descriptor. `.` and doubled
    /// slashes are removed; `..` and links are not resolved.
    pub path: PathBuf,
    pub how: How,
    /// Index into [`Account::processes`].
    pub process: u32,
    /// Index into [`Account::objects`].
    pub object: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum How {
    /// Content: opened for reading, loaded as a library, mapped.
    Read,
    /// Names in a directory.
    List,
    /// That it is there, and its metadata (stat, access, open with O_PATH).
    Stat,
    /// A symbolic link's text (a readlink that succeeded).
    Link,
    /// The real path was asked for (realpath, canonicalize).
    Resolve,
    /// It was not there (ENOENT, ENOTDIR), whatever was asked.
    Absent,
    /// Executed (also the interpreter of a script; the script itself is Exec, too).
    Exec,
    /// Opened for writing, created, truncated, made (directory, link), renamed to; its metadata changed.
    Write,
    /// Unlinked, removed, renamed from.
    Remove,
    /// Its permissions were set (chmod).
    Mode,
}

/// An environment variable that was asked for by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Variable {
    pub name: OsString,
    pub process: u32,
    pub object: u32,
}

/// A question to the system that is not about a file or a variable.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Call {
    pub what: What,
    pub process: u32,
    pub object: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum What {
    /// The wall clock (time, gettimeofday, clock_gettime(CLOCK_REALTIME*), timespec_get; file times do not count).
    Clock,
    /// getcwd and its family.
    WorkingDirectory,
    /// Which machine or system this is (uname, gethostname).
    Host,
    /// connect() to an internet address (in words), or to a Unix socket (its path; `@` and a name if it has none); or the
    /// look-up of a host's name, which connects.
    Connect(String),
    /// open() of /dev/random and /dev/urandom; getrandom() does not count.
    Random,
}
