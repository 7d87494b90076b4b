//! Whose umask counts for files that appear in a target directory: that of whoever builds, as if the compiler itself had
//! made them. The daemon works for builds with different ones, and has its own from whoever happened to start it.

use std::cell::Cell;
use std::sync::OnceLock;

thread_local! {
    static CALLER: Cell<Option<u32>> = const { Cell::new(None) };
}

/// From now on this thread works for somebody with this umask.
pub fn work_for(umask: u32) {
    CALLER.set(Some(umask & 0o777));
}

/// Of whoever this thread works for.
pub fn current() -> u32 {
    CALLER.get().unwrap_or_else(of_process)
}

/// Does the kernel apply another one to what this thread makes?
pub fn is_foreign() -> bool {
    current() != of_process()
}

/// This process's own.
pub fn of_process() -> u32 {
    static OWN: OnceLock<u32> = OnceLock::new();
    *OWN.get_or_init(|| {
        // There is no other way to ask that every system has. Whatever another thread makes in between is the more private.
        let closed = nix::sys::stat::Mode::from_bits_truncate(0o077);
        let own = nix::sys::stat::umask(closed);
        nix::sys::stat::umask(own);
        #[allow(clippy::useless_conversion)] // `mode_t` differs between systems.
        u32::from(own.bits())
    })
}

/// Permissions that a new file or program would get.
pub fn file_mode(executable: bool) -> u32 {
    (if executable { 0o777 } else { 0o666 }) & !current()
}

/// Permissions that a new directory would get.
pub fn dir_mode() -> u32 {
    0o777 & !current()
}
