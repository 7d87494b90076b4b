//! Paths as they are reported: absolute, without `.` and doubled slashes.

use crate::sys;
use core::mem::MaybeUninit;

/// Bytes of the longest path that the kernel takes.
pub const PATH_MAX: usize = 4096;

/// A string of C as bytes.
///
/// # Safety
/// It ends with a zero.
pub unsafe fn bytes<'a>(text: *const u8) -> &'a [u8] {
    let mut length = 0;
    // SAFETY: passed on to the caller.
    unsafe {
        while *text.add(length) != 0 {
            length += 1;
        }
        core::slice::from_raw_parts(text, length)
    }
}

/// Calls `then` with the absolute path. `dir` is a descriptor or `AT_FDCWD`.
///
/// Without a call when there is no answer: the path is empty, or the directory cannot be named.
pub fn absolute(dir: i32, path: &[u8], then: impl FnOnce(&[u8])) {
    if path.is_empty() {
        return;
    }
    if path[0] == b'/' && is_clean(path) { then(path) } else { composed(dir, path, then) }
}

/// `/proc/self/fd/N` as the kernel shows it.
pub fn of_descriptor(fd: i32, then: impl FnOnce(&[u8])) {
    composed(fd, b".", then)
}

fn is_clean(path: &[u8]) -> bool {
    let mut i = 0;
    while i < path.len() {
        if path[i] == b'/' && matches!(path.get(i + 1), None | Some(b'/' | b'.')) {
            // `..` and hidden files are clean, too.
            let rest = &path[i + 1..];
            let hidden = rest.first() == Some(&b'.') && !matches!(rest.get(1), None | Some(b'/'));
            if !hidden && path.len() > 1 {
                return false;
            }
        }
        i += 1;
    }
    true
}

// A frame with a whole path is for those that need it: signal handlers have small stacks.
#[inline(never)]
fn composed(dir: i32, path: &[u8], then: impl FnOnce(&[u8])) {
    let mut buffer = MaybeUninit::<[u8; PATH_MAX]>::uninit();
    // SAFETY: the bytes are read only up to what was written.
    let buffer = unsafe { core::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast::<u8>(), PATH_MAX) };
    let mut length = 0;
    if path[0] != b'/' {
        length = match directory(dir, buffer) {
            Some(length) => length,
            None => return crate::log::gap(b"a directory has no name"),
        };
    }
    for part in path.split(|byte| *byte == b'/') {
        if part.is_empty() || part == b"." {
            continue;
        }
        if length + part.len() + 1 > PATH_MAX {
            return crate::log::gap(b"a path is too long");
        }
        buffer[length] = b'/';
        buffer[length + 1..length + 1 + part.len()].copy_from_slice(part);
        length += 1 + part.len();
    }
    if length == 0 {
        buffer[0] = b'/';
        length = 1;
    }
    then(&buffer[..length])
}

/// Writes the name of a directory, without a slash at its end.
fn directory(dir: i32, buffer: &mut [u8]) -> Option<usize> {
    let length = if dir == sys::AT_FDCWD {
        // SAFETY: the buffer is as long as said.
        unsafe { sys::getcwd(buffer.as_mut_ptr(), buffer.len()) - 1 }
    } else {
        let mut name = *b"/proc/self/fd/\0\0\0\0\0\0\0\0\0\0\0\0";
        decimal(dir as u32, &mut name[14..25]);
        // SAFETY: as above; the name ends with a zero.
        unsafe { sys::readlinkat(sys::AT_FDCWD, name.as_ptr(), buffer.as_mut_ptr(), buffer.len()) }
    };
    if length <= 0 || buffer[0] != b'/' {
        return None;
    }
    Some(if length == 1 { 0 } else { length as usize })
}

/// Writes a number; returns how many digits.
pub fn decimal(mut value: u32, to: &mut [u8]) -> usize {
    let mut digits = [0u8; 10];
    let mut count = 0;
    loop {
        digits[count] = b'0' + (value % 10) as u8;
        value /= 10;
        count += 1;
        if value == 0 {
            break;
        }
    }
    for i in 0..count {
        to[i] = digits[count - 1 - i];
    }
    count
}
