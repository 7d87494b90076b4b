//! Runs a command with all its children, and says what they read, wrote, ran and asked for.
//!
//! An object that the loader puts into every program (`preload/`) stands before the C library's functions and writes what is
//! asked of them into shared memory. Programs that no loader enters are watched by the kernel, which asks the observer
//! before each of their system calls. What neither sees is said to be a gap.

mod account;
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
