//! Opening, looking at, and changing files.

use crate::format::how;
use crate::report::{Opening, Pair, outcome, path};
use crate::sys::{AT_EMPTY_PATH, AT_FDCWD, O_CREAT, O_TRUNC, O_WRONLY};
use core::ffi::{c_int, c_long, c_uint, c_void};

type P = *const u8;
type File = *mut c_void;
type Buffer = *mut c_void;

const CREAT: c_int = O_CREAT | O_WRONLY | O_TRUNC;

/// Opens by `$call`, whose result is a descriptor.
macro_rules! opens {
    ($from:ident, $dir:expr, $path:ident, $flags:expr, $call:expr) => {{
        let opening = Opening::new($from, $dir, $path, $flags);
        let fd = $call;
        opening.done(fd >= 0, fd);
        fd
    }};
}

/// Opens by `$call`, whose result is a stream.
macro_rules! streams {
    ($from:ident, $path:ident, $mode:ident, $call:expr) => {{
        let opening = Opening::with_mode($from, $path, $mode);
        let file = $call;
        opening.done(!file.is_null(), -1);
        file
    }};
}

/// Does `$call` and reports `$how` if it succeeds.
macro_rules! does {
    ($how:ident, $from:ident, $dir:expr, $path:ident, $call:expr) => {{
        let result = $call;
        outcome(result >= 0, how::$how, $from, $dir, $path);
        result
    }};
}

macro_rules! pairs {
    ($from:ident, $old:expr, $new:expr, $call:expr, $was:ident, $becomes:ident) => {{
        let result = $call;
        Pair { from: $from, old: $old, new: $new }.done(result == 0, how::$was, how::$becomes);
        result
    }};
}

// The last argument of open() and its like is passed whether it was given or not: a register holds something in any case.
hooks! {
    fn open(real, from; p: P, flags: c_int, mode: c_uint) -> c_int { opens!(from, AT_FDCWD, p, flags, real(p, flags, mode)) }
    fn open64(real, from; p: P, flags: c_int, mode: c_uint) -> c_int { opens!(from, AT_FDCWD, p, flags, real(p, flags, mode)) }
    fn __open(real, from; p: P, flags: c_int, mode: c_uint) -> c_int { opens!(from, AT_FDCWD, p, flags, real(p, flags, mode)) }
    fn __open64(real, from; p: P, flags: c_int, mode: c_uint) -> c_int { opens!(from, AT_FDCWD, p, flags, real(p, flags, mode)) }
    fn __open_2(real, from; p: P, flags: c_int) -> c_int { opens!(from, AT_FDCWD, p, flags, real(p, flags)) }
    fn __open64_2(real, from; p: P, flags: c_int) -> c_int { opens!(from, AT_FDCWD, p, flags, real(p, flags)) }
    fn openat(real, from; dir: c_int, p: P, flags: c_int, mode: c_uint) -> c_int { opens!(from, dir, p, flags, real(dir, p, flags, mode)) }
    fn openat64(real, from; dir: c_int, p: P, flags: c_int, mode: c_uint) -> c_int { opens!(from, dir, p, flags, real(dir, p, flags, mode)) }
    fn __openat_2(real, from; dir: c_int, p: P, flags: c_int) -> c_int { opens!(from, dir, p, flags, real(dir, p, flags)) }
    fn __openat64_2(real, from; dir: c_int, p: P, flags: c_int) -> c_int { opens!(from, dir, p, flags, real(dir, p, flags)) }
    fn creat(real, from; p: P, mode: c_uint) -> c_int { opens!(from, AT_FDCWD, p, CREAT, real(p, mode)) }
    fn creat64(real, from; p: P, mode: c_uint) -> c_int { opens!(from, AT_FDCWD, p, CREAT, real(p, mode)) }

    fn fopen(real, from; p: P, mode: P) -> File { streams!(from, p, mode, real(p, mode)) }
    fn fopen64(real, from; p: P, mode: P) -> File { streams!(from, p, mode, real(p, mode)) }
    fn freopen(real, from; p: P, mode: P, old: File) -> File { streams!(from, p, mode, real(p, mode, old)) }
    fn freopen64(real, from; p: P, mode: P, old: File) -> File { streams!(from, p, mode, real(p, mode, old)) }

    fn stat(real, from; p: P, to: Buffer) -> c_int { does!(STAT, from, AT_FDCWD, p, real(p, to)) }
    fn stat64(real, from; p: P, to: Buffer) -> c_int { does!(STAT, from, AT_FDCWD, p, real(p, to)) }
    fn lstat(real, from; p: P, to: Buffer) -> c_int { does!(STAT, from, AT_FDCWD, p, real(p, to)) }
    fn lstat64(real, from; p: P, to: Buffer) -> c_int { does!(STAT, from, AT_FDCWD, p, real(p, to)) }
    fn fstatat(real, from; dir: c_int, p: P, to: Buffer, flags: c_int) -> c_int { at(from, dir, p, flags, real(dir, p, to, flags)) }
    fn fstatat64(real, from; dir: c_int, p: P, to: Buffer, flags: c_int) -> c_int { at(from, dir, p, flags, real(dir, p, to, flags)) }
    fn __xstat(real, from; version: c_int, p: P, to: Buffer) -> c_int { does!(STAT, from, AT_FDCWD, p, real(version, p, to)) }
    fn __xstat64(real, from; version: c_int, p: P, to: Buffer) -> c_int { does!(STAT, from, AT_FDCWD, p, real(version, p, to)) }
    fn __lxstat(real, from; version: c_int, p: P, to: Buffer) -> c_int { does!(STAT, from, AT_FDCWD, p, real(version, p, to)) }
    fn __lxstat64(real, from; version: c_int, p: P, to: Buffer) -> c_int { does!(STAT, from, AT_FDCWD, p, real(version, p, to)) }
    fn __fxstatat(real, from; version: c_int, dir: c_int, p: P, to: Buffer, flags: c_int) -> c_int { at(from, dir, p, flags, real(version, dir, p, to, flags)) }
    fn __fxstatat64(real, from; version: c_int, dir: c_int, p: P, to: Buffer, flags: c_int) -> c_int { at(from, dir, p, flags, real(version, dir, p, to, flags)) }
    fn statx(real, from; dir: c_int, p: P, flags: c_int, mask: c_uint, to: Buffer) -> c_int { at(from, dir, p, flags, real(dir, p, flags, mask, to)) }
    fn access(real, from; p: P, mode: c_int) -> c_int { does!(STAT, from, AT_FDCWD, p, real(p, mode)) }
    fn eaccess(real, from; p: P, mode: c_int) -> c_int { does!(STAT, from, AT_FDCWD, p, real(p, mode)) }
    fn euidaccess(real, from; p: P, mode: c_int) -> c_int { does!(STAT, from, AT_FDCWD, p, real(p, mode)) }
    fn faccessat(real, from; dir: c_int, p: P, mode: c_int, flags: c_int) -> c_int { at(from, dir, p, flags, real(dir, p, mode, flags)) }
    fn statfs(real, from; p: P, to: Buffer) -> c_int { does!(STAT, from, AT_FDCWD, p, real(p, to)) }
    fn statfs64(real, from; p: P, to: Buffer) -> c_int { does!(STAT, from, AT_FDCWD, p, real(p, to)) }
    fn statvfs(real, from; p: P, to: Buffer) -> c_int { does!(STAT, from, AT_FDCWD, p, real(p, to)) }
    fn statvfs64(real, from; p: P, to: Buffer) -> c_int { does!(STAT, from, AT_FDCWD, p, real(p, to)) }
    fn pathconf(real, from; p: P, name: c_int) -> c_long { does!(STAT, from, AT_FDCWD, p, real(p, name)) }
    fn getxattr(real, from; p: P, name: P, to: Buffer, len: usize) -> isize { does!(STAT, from, AT_FDCWD, p, real(p, name, to, len)) }
    fn lgetxattr(real, from; p: P, name: P, to: Buffer, len: usize) -> isize { does!(STAT, from, AT_FDCWD, p, real(p, name, to, len)) }
    fn listxattr(real, from; p: P, to: Buffer, len: usize) -> isize { does!(STAT, from, AT_FDCWD, p, real(p, to, len)) }
    fn llistxattr(real, from; p: P, to: Buffer, len: usize) -> isize { does!(STAT, from, AT_FDCWD, p, real(p, to, len)) }
    fn inotify_add_watch(real, from; fd: c_int, p: P, mask: c_uint) -> c_int { does!(STAT, from, AT_FDCWD, p, real(fd, p, mask)) }
    fn chdir(real, from; p: P) -> c_int {
        // Reported first: afterwards a relative path would mean something else.
        crate::report::presence(from, AT_FDCWD, p);
        real(p)
    }
    fn chroot(real, from; p: P) -> c_int {
        crate::report::presence(from, AT_FDCWD, p);
        crate::log::gap(crate::sys::MOVED.as_bytes());
        real(p)
    }

    fn readlink(real, from; p: P, to: Buffer, len: usize) -> isize { does!(LINK, from, AT_FDCWD, p, real(p, to, len)) }
    fn __readlink_chk(real, from; p: P, to: Buffer, len: usize, room: usize) -> isize { does!(LINK, from, AT_FDCWD, p, real(p, to, len, room)) }
    fn readlinkat(real, from; dir: c_int, p: P, to: Buffer, len: usize) -> isize { does!(LINK, from, dir, p, real(dir, p, to, len)) }
    fn __readlinkat_chk(real, from; dir: c_int, p: P, to: Buffer, len: usize, room: usize) -> isize { does!(LINK, from, dir, p, real(dir, p, to, len, room)) }
    fn realpath(real, from; p: P, to: *mut u8) -> *mut u8 { resolved(from, p, real(p, to)) }
    fn __realpath_chk(real, from; p: P, to: *mut u8, room: usize) -> *mut u8 { resolved(from, p, real(p, to, room)) }
    fn canonicalize_file_name(real, from; p: P) -> *mut u8 { resolved(from, p, real(p)) }

    fn rename(real, from; old: P, new: P) -> c_int { pairs!(from, (AT_FDCWD, old), (AT_FDCWD, new), real(old, new), REMOVE, WRITE) }
    fn renameat(real, from; a: c_int, old: P, b: c_int, new: P) -> c_int { pairs!(from, (a, old), (b, new), real(a, old, b, new), REMOVE, WRITE) }
    fn renameat2(real, from; a: c_int, old: P, b: c_int, new: P, flags: c_uint) -> c_int {
        if flags & 2 != 0 {
            // RENAME_EXCHANGE
            return pairs!(from, (a, old), (b, new), real(a, old, b, new, flags), WRITE, WRITE);
        }
        pairs!(from, (a, old), (b, new), real(a, old, b, new, flags), REMOVE, WRITE)
    }
    fn link(real, from; old: P, new: P) -> c_int { pairs!(from, (AT_FDCWD, old), (AT_FDCWD, new), real(old, new), READ, WRITE) }
    fn linkat(real, from; a: c_int, old: P, b: c_int, new: P, flags: c_int) -> c_int {
        if flags & AT_EMPTY_PATH != 0 {
            return does!(WRITE, from, b, new, real(a, old, b, new, flags));
        }
        pairs!(from, (a, old), (b, new), real(a, old, b, new, flags), READ, WRITE)
    }
    fn symlink(real, from; text: P, new: P) -> c_int { does!(WRITE, from, AT_FDCWD, new, real(text, new)) }
    fn symlinkat(real, from; text: P, dir: c_int, new: P) -> c_int { does!(WRITE, from, dir, new, real(text, dir, new)) }
    fn unlink(real, from; p: P) -> c_int { does!(REMOVE, from, AT_FDCWD, p, real(p)) }
    fn unlinkat(real, from; dir: c_int, p: P, flags: c_int) -> c_int { does!(REMOVE, from, dir, p, real(dir, p, flags)) }
    fn remove(real, from; p: P) -> c_int { does!(REMOVE, from, AT_FDCWD, p, real(p)) }
    fn rmdir(real, from; p: P) -> c_int { does!(REMOVE, from, AT_FDCWD, p, real(p)) }
    fn mkdir(real, from; p: P, mode: c_uint) -> c_int { does!(WRITE, from, AT_FDCWD, p, real(p, mode)) }
    fn mkdirat(real, from; dir: c_int, p: P, mode: c_uint) -> c_int { does!(WRITE, from, dir, p, real(dir, p, mode)) }
    fn mknod(real, from; p: P, mode: c_uint, device: u64) -> c_int { does!(WRITE, from, AT_FDCWD, p, real(p, mode, device)) }
    fn mknodat(real, from; dir: c_int, p: P, mode: c_uint, device: u64) -> c_int { does!(WRITE, from, dir, p, real(dir, p, mode, device)) }
    fn __xmknod(real, from; version: c_int, p: P, mode: c_uint, device: P) -> c_int { does!(WRITE, from, AT_FDCWD, p, real(version, p, mode, device)) }
    fn __xmknodat(real, from; version: c_int, dir: c_int, p: P, mode: c_uint, device: P) -> c_int { does!(WRITE, from, dir, p, real(version, dir, p, mode, device)) }
    fn mkfifo(real, from; p: P, mode: c_uint) -> c_int { does!(WRITE, from, AT_FDCWD, p, real(p, mode)) }
    fn mkfifoat(real, from; dir: c_int, p: P, mode: c_uint) -> c_int { does!(WRITE, from, dir, p, real(dir, p, mode)) }
    fn truncate(real, from; p: P, len: i64) -> c_int { truncated(from, p, real(p, len)) }
    fn truncate64(real, from; p: P, len: i64) -> c_int { truncated(from, p, real(p, len)) }
    fn chmod(real, from; p: P, mode: c_uint) -> c_int { does!(MODE, from, AT_FDCWD, p, real(p, mode)) }
    fn fchmodat(real, from; dir: c_int, p: P, mode: c_uint, flags: c_int) -> c_int { does!(MODE, from, dir, p, real(dir, p, mode, flags)) }
    fn chown(real, from; p: P, user: c_uint, group: c_uint) -> c_int { does!(WRITE, from, AT_FDCWD, p, real(p, user, group)) }
    fn lchown(real, from; p: P, user: c_uint, group: c_uint) -> c_int { does!(WRITE, from, AT_FDCWD, p, real(p, user, group)) }
    fn fchownat(real, from; dir: c_int, p: P, user: c_uint, group: c_uint, flags: c_int) -> c_int { does!(WRITE, from, dir, p, real(dir, p, user, group, flags)) }
    fn utime(real, from; p: P, times: P) -> c_int { does!(WRITE, from, AT_FDCWD, p, real(p, times)) }
    fn utimes(real, from; p: P, times: P) -> c_int { does!(WRITE, from, AT_FDCWD, p, real(p, times)) }
    fn lutimes(real, from; p: P, times: P) -> c_int { does!(WRITE, from, AT_FDCWD, p, real(p, times)) }
    fn utimensat(real, from; dir: c_int, p: P, times: P, flags: c_int) -> c_int { does!(WRITE, from, dir, p, real(dir, p, times, flags)) }
    fn setxattr(real, from; p: P, name: P, value: P, len: usize, flags: c_int) -> c_int { does!(WRITE, from, AT_FDCWD, p, real(p, name, value, len, flags)) }
    fn lsetxattr(real, from; p: P, name: P, value: P, len: usize, flags: c_int) -> c_int { does!(WRITE, from, AT_FDCWD, p, real(p, name, value, len, flags)) }

    // These write the name that they chose into their argument.
    fn mkstemp(real, from; p: P) -> c_int { does!(WRITE, from, AT_FDCWD, p, real(p)) }
    fn mkstemp64(real, from; p: P) -> c_int { does!(WRITE, from, AT_FDCWD, p, real(p)) }
    fn mkstemps(real, from; p: P, suffix: c_int) -> c_int { does!(WRITE, from, AT_FDCWD, p, real(p, suffix)) }
    fn mkstemps64(real, from; p: P, suffix: c_int) -> c_int { does!(WRITE, from, AT_FDCWD, p, real(p, suffix)) }
    fn mkostemp(real, from; p: P, flags: c_int) -> c_int { does!(WRITE, from, AT_FDCWD, p, real(p, flags)) }
    fn mkostemp64(real, from; p: P, flags: c_int) -> c_int { does!(WRITE, from, AT_FDCWD, p, real(p, flags)) }
    fn mkostemps(real, from; p: P, suffix: c_int, flags: c_int) -> c_int { does!(WRITE, from, AT_FDCWD, p, real(p, suffix, flags)) }
    fn mkostemps64(real, from; p: P, suffix: c_int, flags: c_int) -> c_int { does!(WRITE, from, AT_FDCWD, p, real(p, suffix, flags)) }
    fn mkdtemp(real, from; p: P) -> *mut u8 {
        let made = real(p);
        if !made.is_null() {
            path(how::WRITE, from, AT_FDCWD, made);
        }
        made
    }
}

/// A look at a path, or (with an empty one) at an open file, which is no report.
unsafe fn at(from: usize, dir: c_int, p: P, flags: c_int, result: c_int) -> c_int {
    // AT_EMPTY_PATH allows for no path at all.
    if !(flags & AT_EMPTY_PATH != 0 && p.is_null()) {
        // SAFETY: the kernel has seen the path.
        unsafe { outcome(result >= 0, how::STAT, from, dir, p) };
    }
    result
}

unsafe fn resolved(from: usize, p: P, result: *mut u8) -> *mut u8 {
    // SAFETY: the C library has read the path.
    unsafe { outcome(!result.is_null(), how::RESOLVE, from, AT_FDCWD, p) };
    result
}

unsafe fn truncated(from: usize, p: P, result: c_int) -> c_int {
    // SAFETY: the kernel has seen the path.
    unsafe {
        if result == 0 {
            path(how::READ, from, AT_FDCWD, p);
        }
        outcome(result == 0, how::WRITE, from, AT_FDCWD, p);
    }
    result
}
