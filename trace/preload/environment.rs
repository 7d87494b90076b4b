//! The environment, without asking for it (we are who is asked).

use crate::paths::bytes;

unsafe extern "C" {
    static mut environ: *const *const u8;
}

/// The environment of the process as it is now. May be null.
pub fn all() -> *const *const u8 {
    // SAFETY: a pointer is read; another thread that changes it at the same time is the program's own problem.
    unsafe { (&raw const environ).read_volatile() }
}

/// The value of a variable.
pub fn get(name: &[u8]) -> Option<&'static [u8]> {
    // SAFETY: the environment is a list that ends with null.
    unsafe { find(all(), name) }
}

/// The value of a variable in a list.
///
/// # Safety
/// `list` is null or a list of strings that ends with null.
pub unsafe fn find<'a>(mut list: *const *const u8, name: &[u8]) -> Option<&'a [u8]> {
    if list.is_null() {
        return None;
    }
    // SAFETY: passed on to the caller.
    unsafe {
        while !(*list).is_null() {
            if let Some(value) = value_of(*list, name) {
                return Some(bytes(value));
            }
            list = list.add(1);
        }
    }
    None
}

/// Where the value begins if the entry is of this variable.
///
/// # Safety
/// `entry` is a string.
pub unsafe fn value_of(entry: *const u8, name: &[u8]) -> Option<*const u8> {
    // SAFETY: bytes are compared in order, so a shorter entry ends the comparison at its zero.
    unsafe {
        let same = name.iter().enumerate().all(|(i, byte)| *entry.add(i) == *byte);
        (same && *entry.add(name.len()) == b'=').then(|| entry.add(name.len() + 1))
    }
}
