//! Where children will be started that `posix_spawn` is told to start elsewhere.

use crate::paths::{PATH_MAX, absolute, bytes};
use crate::sys::AT_FDCWD;
use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use core::sync::atomic::{AtomicU32, AtomicUsize};

/// The directory of one list of actions, which one thread uses.
struct Moved {
    actions: AtomicUsize,
    length: AtomicU32,
    path: UnsafeCell<[u8; PATH_MAX]>,
}

// SAFETY: the path is written by the thread that has claimed the slot for its actions, and read by the same.
unsafe impl Sync for Moved {}

static MOVED: [Moved; 16] = [const {
    Moved { actions: AtomicUsize::new(0), length: AtomicU32::new(0), path: UnsafeCell::new([0; PATH_MAX]) }
}; 16];

fn slot(actions: usize) -> Option<&'static Moved> {
    MOVED.iter().find(|slot| slot.actions.load(Acquire) == actions)
}

/// The child will go to this directory.
///
/// # Safety
/// `path` is a string.
pub unsafe fn moved(actions: *mut c_void, dir: c_int, path: *const u8) {
    let key = actions as usize;
    let claim = || MOVED.iter().find(|slot| slot.actions.compare_exchange(0, key, AcqRel, Acquire).is_ok());
    // SAFETY: passed on to the caller.
    let path = unsafe { bytes(path) };
    let Some(slot) = slot(key).or_else(claim) else { return };
    let keep = |path: &[u8]| {
        // SAFETY: the slot is this thread's, and an absolute path is shorter.
        unsafe {
            core::ptr::copy_nonoverlapping(path.as_ptr(), slot.path.get().cast(), path.len().min(PATH_MAX))
        };
        slot.length.store(path.len().min(PATH_MAX) as u32, Release);
    };
    // A second step may be relative to the first.
    if dir == AT_FDCWD && path.first() != Some(&b'/') && slot.length.load(Acquire) > 0 {
        return joined(slot, path, keep);
    }
    absolute(dir, path, keep);
}

pub fn forget(actions: *mut c_void) {
    if let Some(slot) = slot(actions as usize) {
        slot.length.store(0, Release);
        slot.actions.store(0, Release);
    }
}

/// Calls `then` with the path as the child will find it; does not when the child stays here.
pub fn resolve(actions: *mut c_void, path: &[u8], then: impl FnOnce(&[u8])) {
    if let Some(slot) = slot(actions as usize)
        && slot.length.load(Acquire) > 0
    {
        joined(slot, path, then);
    }
}

#[inline(never)]
fn joined(slot: &Moved, path: &[u8], then: impl FnOnce(&[u8])) {
    let mut buffer = [0u8; PATH_MAX];
    let length = slot.length.load(Acquire) as usize;
    if length + 1 + path.len() > PATH_MAX {
        return;
    }
    // SAFETY: written up to the length by this thread.
    unsafe { core::ptr::copy_nonoverlapping(slot.path.get().cast(), buffer.as_mut_ptr(), length) };
    buffer[length] = b'/';
    buffer[length + 1..length + 1 + path.len()].copy_from_slice(path);
    absolute(AT_FDCWD, &buffer[..length + 1 + path.len()], then);
}
