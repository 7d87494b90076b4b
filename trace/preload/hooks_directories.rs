//! What lists directories.

use crate::format::how;
use crate::log;
use crate::paths::{PATH_MAX, absolute, bytes};
use crate::report::{list, outcome, path};
use crate::sys::{self, AT_FDCWD};
use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;

type P = *const u8;
type Any = *mut c_void;

hooks! {
    fn opendir(real, from; p: P) -> Any {
        let stream = real(p);
        outcome(!stream.is_null(), how::LIST, from, AT_FDCWD, p);
        stream
    }
    fn fdopendir(real, from; fd: c_int) -> Any {
        let stream = real(fd);
        if !stream.is_null() {
            list(from, fd);
        }
        stream
    }
    fn getdents64(real, from; fd: c_int, to: Any, len: usize) -> isize {
        let read = real(fd, to, len);
        if read >= 0 {
            list(from, fd);
        }
        read
    }
    fn scandir(real, from; p: P, names: Any, filter: Any, order: Any) -> c_int { listed(from, AT_FDCWD, p, real(p, names, filter, order)) }
    fn scandir64(real, from; p: P, names: Any, filter: Any, order: Any) -> c_int { listed(from, AT_FDCWD, p, real(p, names, filter, order)) }
    fn scandirat(real, from; dir: c_int, p: P, names: Any, filter: Any, order: Any) -> c_int { listed(from, dir, p, real(dir, p, names, filter, order)) }
    fn scandirat64(real, from; dir: c_int, p: P, names: Any, filter: Any, order: Any) -> c_int { listed(from, dir, p, real(dir, p, names, filter, order)) }
    fn glob(real, from; pattern: P, flags: c_int, error: Any, to: Any) -> c_int { globs(from, pattern); real(pattern, flags, error, to) }
    fn glob64(real, from; pattern: P, flags: c_int, error: Any, to: Any) -> c_int { globs(from, pattern); real(pattern, flags, error, to) }
    // A walk may remove what it finds, so it is followed before it begins.
    fn ftw(real, from; p: P, each: Any, depth: c_int) -> c_int { walks(from, p); real(p, each, depth) }
    fn ftw64(real, from; p: P, each: Any, depth: c_int) -> c_int { walks(from, p); real(p, each, depth) }
    fn nftw(real, from; p: P, each: Any, depth: c_int, flags: c_int) -> c_int { walks(from, p); real(p, each, depth, flags) }
    fn nftw64(real, from; p: P, each: Any, depth: c_int, flags: c_int) -> c_int { walks(from, p); real(p, each, depth, flags) }
    fn fts_open(real, from; roots: *const P, options: c_int, order: Any) -> Any { walk_all(from, roots); real(roots, options, order) }
    fn fts64_open(real, from; roots: *const P, options: c_int, order: Any) -> Any { walk_all(from, roots); real(roots, options, order) }
}

unsafe fn listed(from: usize, dir: c_int, p: P, result: c_int) -> c_int {
    // SAFETY: the kernel has seen the path.
    unsafe { outcome(result >= 0, how::LIST, from, dir, p) };
    result
}

unsafe fn walk_all(from: usize, mut roots: *const P) {
    // SAFETY: the list ends with null.
    unsafe {
        while !(*roots).is_null() {
            walks(from, *roots);
            roots = roots.add(1);
        }
    }
}

unsafe fn walks(from: usize, p: P) {
    if log::is_on() {
        // SAFETY: ftw and fts take strings.
        absolute(AT_FDCWD, unsafe { bytes(p) }, |path| walk(from, path, usize::MAX));
    }
}

/// All directories that a pattern could look into: more than it does when names in its middle are patterns, too.
unsafe fn globs(from: usize, pattern: P) {
    if !log::is_on() {
        return;
    }
    // SAFETY: glob takes a string.
    let pattern = unsafe { bytes(pattern) };
    if pattern.first() == Some(&b'~') {
        log::gap(b"glob of a home directory");
    }
    let special = |byte: &u8| b"*?[{\\".contains(byte);
    let Some(first) = pattern.iter().position(special) else {
        return absolute(AT_FDCWD, pattern, |path| seen(from, path));
    };
    let root = pattern[..first].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let depth = pattern[root..].iter().filter(|byte| **byte == b'/').count();
    absolute(AT_FDCWD, if root == 0 { b"." } else { &pattern[..root] }, |path| walk(from, path, depth));
}

/// Reports that a path was looked at.
fn seen(from: usize, path: &[u8]) {
    let mut name = MaybeUninit::<[u8; PATH_MAX + 1]>::uninit();
    let at = name.as_mut_ptr().cast::<u8>();
    if path.len() > PATH_MAX {
        return log::gap(b"a path is too long");
    }
    // SAFETY: the path and its zero fit.
    unsafe {
        core::ptr::copy_nonoverlapping(path.as_ptr(), at, path.len());
        at.add(path.len()).write(0);
        crate::report::presence(from, AT_FDCWD, at);
    }
}

/// Reports the names in a directory and what is in it, and so on `depth` levels down.
#[inline(never)]
fn walk(from: usize, root: &[u8], depth: usize) {
    let mut name = MaybeUninit::<[u8; PATH_MAX + 1]>::uninit();
    let mut entries = MaybeUninit::<[u64; 256]>::uninit();
    if root.len() >= PATH_MAX {
        return log::gap(b"a path is too long");
    }
    let at = name.as_mut_ptr().cast::<u8>();
    // SAFETY: the name is written up to its zero; entries are read as far as the kernel says that it wrote them.
    unsafe {
        core::ptr::copy_nonoverlapping(root.as_ptr(), at, root.len());
        at.add(root.len()).write(0);
        let fd = sys::openat(AT_FDCWD, at, sys::O_DIRECTORY | sys::O_CLOEXEC, 0) as i32;
        if fd < 0 {
            return crate::report::presence(from, AT_FDCWD, at);
        }
        path(how::LIST, from, AT_FDCWD, at);
        let buffer = entries.as_mut_ptr().cast::<u8>();
        loop {
            let filled = sys::getdents64(fd, buffer, size_of::<[u64; 256]>());
            if filled <= 0 {
                break;
            }
            let mut entry = 0;
            while entry < filled as usize {
                let record = buffer.add(entry);
                entry += record.add(16).cast::<u16>().read() as usize;
                let (kind, text) = (record.add(18).read(), bytes(record.add(19)));
                if text == b"." || text == b".." {
                    continue;
                }
                let length = root.len() + 1 + text.len();
                if length > PATH_MAX {
                    log::gap(b"a path is too long");
                    continue;
                }
                at.add(root.len()).write(b'/');
                core::ptr::copy_nonoverlapping(text.as_ptr(), at.add(root.len() + 1), text.len());
                at.add(length).write(0);
                let path = core::slice::from_raw_parts(at, length);
                seen(from, path);
                // A directory, or the file system does not say.
                if depth > 0 && matches!(kind, 0 | 4) {
                    walk(from, path, depth - 1);
                }
            }
        }
        sys::close(fd);
    }
}
