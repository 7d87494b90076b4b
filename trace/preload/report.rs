//! What the outcome of a call says about a path.

use crate::format::{how, what};
use crate::paths::{absolute, bytes, of_descriptor};
use crate::real::errno;
use crate::{log, sys};

/// Reports `how` for a path that the kernel has accepted.
///
/// # Safety
/// `path` is a string: a call with it has succeeded, or has failed with another error than EFAULT.
#[inline(never)]
pub unsafe fn path(how: u8, from: usize, dir: i32, path: *const u8) {
    if log::is_on() && !path.is_null() {
        // SAFETY: passed on to the caller.
        absolute(dir, unsafe { bytes(path) }, |path| log::access(how, from, path));
    }
}

/// Reports a call that succeeded or failed. `errno` is still that of the call.
///
/// # Safety
/// The kernel has seen `path`.
#[inline(never)]
pub unsafe fn outcome(ok: bool, how: u8, from: usize, dir: i32, path: *const u8) {
    if !ok && errno() == sys::ENOTDIR {
        // It, or something on the way to it.
        // SAFETY: passed on to the caller.
        return unsafe { presence(from, dir, path) };
    }
    let how = if ok { how } else { failure(errno()) };
    if ok || errno() != sys::EFAULT {
        // SAFETY: the kernel has read it.
        unsafe { self::path(how, from, dir, path) }
    }
}

fn failure(errno: i32) -> u8 {
    if matches!(errno, sys::ENOENT | sys::ENOTDIR) { how::ABSENT } else { how::STAT }
}

/// Reports whether it is there, for a call that failed without saying which of its paths is at fault.
///
/// # Safety
/// `path` may be any pointer: the kernel checks it first.
#[inline(never)]
pub unsafe fn presence(from: usize, dir: i32, path: *const u8) {
    // SAFETY: the kernel checks the pointer.
    let result = unsafe { sys::faccessat2(dir, path, 0, sys::AT_SYMLINK_NOFOLLOW) } as i32;
    if result != -sys::EFAULT {
        // SAFETY: the kernel has read it.
        unsafe { self::path(if result == 0 { how::STAT } else { failure(-result) }, from, dir, path) }
    }
}

/// What is known before a file is opened.
#[derive(Clone, Copy)]
pub struct Opening {
    pub from: usize,
    pub dir: i32,
    pub path: *const u8,
    pub flags: i32,
    existed: bool,
}

impl Opening {
    /// # Safety
    /// `path` may be any pointer: the kernel checks it.
    #[inline(never)]
    pub unsafe fn new(from: usize, dir: i32, path: *const u8, flags: i32) -> Opening {
        let creates = flags & sys::O_CREAT != 0 && log::is_on();
        // SAFETY: the kernel checks the pointer.
        let existed = !creates || unsafe { sys::faccessat(dir, path, 0) } == 0;
        Opening { from, dir, path, flags, existed }
    }

    /// As `fopen` understands its mode.
    ///
    /// # Safety
    /// `mode` is a string.
    #[inline(never)]
    pub unsafe fn with_mode(from: usize, path: *const u8, mode: *const u8) -> Opening {
        // SAFETY: passed on to the caller.
        let mode = unsafe { bytes(mode) };
        let access = if mode.contains(&b'+') { sys::O_RDWR } else { sys::O_WRONLY };
        let flags = match mode.first() {
            Some(b'w') => access | sys::O_CREAT | sys::O_TRUNC,
            Some(b'a') => access | sys::O_CREAT,
            _ if mode.contains(&b'+') => sys::O_RDWR,
            _ => 0,
        };
        let flags = if mode.contains(&b'x') { flags | sys::O_EXCL } else { flags };
        // SAFETY: the kernel checks it.
        unsafe { Opening::new(from, sys::AT_FDCWD, path, flags) }
    }

    /// Reports it. `fd`: if known and not negative, what was opened.
    ///
    /// # Safety
    /// The kernel has seen the path.
    #[inline(never)]
    pub unsafe fn done(self, ok: bool, fd: i32) {
        if !log::is_on() {
            return;
        }
        // SAFETY: passed on to the caller.
        unsafe {
            if !ok {
                return outcome(false, how::STAT, self.from, self.dir, self.path);
            }
            let report = |how| path(how, self.from, self.dir, self.path);
            let flags = self.flags;
            if flags & (sys::O_PATH | sys::O_TMPFILE_BIT) != 0 || flags & sys::O_DIRECTORY != 0 {
                return report(how::STAT);
            }
            let writes = flags & sys::O_ACCMODE != 0;
            if !self.existed {
                report(how::ABSENT);
                return report(how::WRITE);
            }
            if flags & sys::O_CREAT != 0 && flags & sys::O_EXCL != 0 {
                return report(how::WRITE);
            }
            if !writes && flags & sys::O_TRUNC == 0 {
                if is_random(self.path) {
                    log::call(what::RANDOM, self.from, b"");
                }
                return report(if fd >= 0 && sys::is_directory(fd) { how::STAT } else { how::READ });
            }
            if flags & sys::O_TRUNC == 0 {
                // What is not written over stays, and so decides what comes out.
                report(how::READ);
            }
            report(how::WRITE);
        }
    }
}

/// # Safety
/// `path` is a string.
unsafe fn is_random(path: *const u8) -> bool {
    // SAFETY: passed on to the caller.
    matches!(unsafe { bytes(path) }, b"/dev/random" | b"/dev/urandom")
}

/// Reports that the names in an open directory are asked for.
pub fn list(from: usize, fd: i32) {
    if log::is_on() {
        of_descriptor(fd, |path| log::access(how::LIST, from, path));
    }
}

/// Two paths of which the first becomes the second.
pub struct Pair {
    pub from: usize,
    pub old: (i32, *const u8),
    pub new: (i32, *const u8),
}

impl Pair {
    /// # Safety
    /// The kernel has seen the paths.
    #[inline(never)]
    pub unsafe fn done(self, ok: bool, old: u8, new: u8) {
        // SAFETY: passed on to the caller; `presence` checks for itself.
        unsafe {
            if ok {
                path(old, self.from, self.old.0, self.old.1);
                path(new, self.from, self.new.0, self.new.1);
            } else if log::is_on() {
                presence(self.from, self.old.0, self.old.1);
                presence(self.from, self.new.0, self.new.1);
            }
        }
    }
}

/// Whether the last call was given a pointer to nowhere.
pub fn was_fault() -> bool {
    errno() == sys::EFAULT
}
