//! Runs a command with all its children, and says what they read, wrote, ran and asked for.
//!
//! An object that the loader puts into every program (`preload/`) stands before the C library's functions and writes what is
//! asked of them into shared memory. Programs that no loader enters are watched by the kernel, which asks the observer
//! before each of their system calls. What neither sees is said to be a gap:
//!
//! - a program that was started and did not report: of another machine, privileged, its libraries missing;
//! - a process that outlives the command, or is killed in the middle of a report;
//! - what changes the meaning of paths (chroot, mounts, namespaces), io_uring, programs that lock themselves in.
//!
//! What is neither seen nor said, because the C library does it by itself:
//!
//! - where the loader looked for a library in vain, other than in `LD_LIBRARY_PATH`; that it read its cache;
//! - the C library's own data (locales, character sets, time zones but for the local one), and the number of processors;
//! - what is read from descriptors that the command was given;
//! - system calls that a library makes without the C library: [`Object::system_calls`] tells of those, and `everything`
//!   watches them.

mod account;
mod callers;
mod object;

pub use account::{Access, Account, Call, How, Process, Variable, What};
pub use object::Object;

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod linux {
    pub use super::observer::{Observer, inside, report_gap};
}
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub use linux::*;

// What the preload object knows of the log, of the kernel and of programs is the same here.
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
#[path = "../preload"]
mod shared {
    #[allow(dead_code)]
    pub mod format;
    #[allow(dead_code)]
    pub mod program;
    #[allow(dead_code)]
    pub mod sys;
    pub mod watch;
}
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
use shared::{format, sys};

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod files;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod log;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod map;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod observer;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod seccomp;

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod unsupported;
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
pub use unsupported::*;
