//! Which program or library a call came from.

use crate::elf::{Info, dl_iterate_phdr};
use crate::format::{Entry, kind};
use crate::{log, paths, sys};
use core::ffi::{c_int, c_void};
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize};

/// The object of code that belongs to no file.
pub const UNKNOWN: u16 = u16::MAX;
const MOST: usize = 1024;

struct Known {
    start: AtomicUsize,
    /// 0: not (or no longer) there.
    end: AtomicUsize,
    /// Hash of its name.
    name: AtomicU64,
}

static KNOWN: [Known; MOST] =
    [const { Known { start: AtomicUsize::new(0), end: AtomicUsize::new(0), name: AtomicU64::new(0) } }; MOST];
static COUNT: AtomicUsize = AtomicUsize::new(0);
static LAST: AtomicUsize = AtomicUsize::new(0);
/// Something was loaded since we looked.
static STALE: AtomicBool = AtomicBool::new(false);
/// Our own file, as the loader was told.
static OURS: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());

/// The path of the preload object itself; empty when it is not known.
pub fn ours() -> &'static [u8] {
    let name = OURS.load(Relaxed);
    // SAFETY: the loader keeps the name as long as the object, which is for ever.
    if name.is_null() { b"" } else { unsafe { paths::bytes(name) } }
}

/// Something is being loaded: the list is looked at again before the next report.
pub fn stale() {
    STALE.store(true, Relaxed);
}

/// The number of the object that has this address.
pub fn of(address: usize) -> u16 {
    if STALE.load(Relaxed) {
        refresh();
    }
    find(address).unwrap_or_else(|| {
        refresh();
        find(address).unwrap_or(UNKNOWN)
    })
}

fn find(address: usize) -> Option<u16> {
    let has = |index: usize| {
        let known = &KNOWN[index];
        address < known.end.load(Acquire) && address >= known.start.load(Relaxed)
    };
    let last = LAST.load(Relaxed);
    if last < MOST && has(last) {
        return Some(last as u16);
    }
    let found = (0..COUNT.load(Relaxed).min(MOST)).find(|&index| has(index))?;
    LAST.store(found, Relaxed);
    Some(found as u16)
}

/// Looks at the loader's list, and reports what is new.
pub fn refresh() {
    STALE.store(false, Relaxed);
    let mut first = true;
    // SAFETY: the callback gets the flag that it expects.
    unsafe { dl_iterate_phdr(note, (&raw mut first).cast()) };
}

unsafe extern "C" fn note(info: *const Info, _: usize, data: *mut c_void) -> c_int {
    // SAFETY: both are valid while dl_iterate_phdr calls.
    let (info, first) = unsafe { (&*info, &mut *data.cast::<bool>()) };
    let is_program = core::mem::take(first);
    let (start, end) = info.range();
    if (0..COUNT.load(Relaxed).min(MOST)).any(|i| is(i, start, end)) {
        return 0;
    }
    // SAFETY: the loader's names end with a zero.
    let name = if info.name.is_null() { &[] } else { unsafe { paths::bytes(info.name.cast()) } };
    if (start..end).contains(&(note as *const () as usize)) {
        OURS.store(info.name.cast_mut().cast(), Relaxed);
        return 0;
    }
    if !name.contains(&b'/') && !is_program {
        // The kernel's own object.
        return 0;
    }
    // One that comes and goes has been reported.
    let hash = log::hash(0, name);
    let was_here = |known: &&Known| known.end.load(Acquire) == 0 && known.name.load(Relaxed) == hash;
    if let Some(known) = KNOWN[..COUNT.load(Relaxed).min(MOST)].iter().find(was_here) {
        known.start.store(start, Relaxed);
        known.end.store(end, Release);
        return 0;
    }
    let index = COUNT.fetch_add(1, Relaxed);
    if index >= MOST {
        log::gap(b"too many libraries");
        return 0;
    }
    let environ = [&b"environ"[..], b"__environ", b"_environ"];
    let whole = info.symbols().is_some_and(|symbols| environ.iter().any(|name| symbols.uses(name)));
    let report = |path: &[u8]| {
        let detail = whole as u8;
        let entry = Entry {
            process: 0,
            kind: kind::OBJECT,
            detail,
            object: index as u16,
            value: 0,
            pid: 0,
            text: path,
        };
        log::append(entry);
    };
    if name.contains(&b'/') {
        paths::absolute(sys::AT_FDCWD, name, report);
    } else {
        // The program: its name was reported when it began.
        report(b"");
    }
    KNOWN[index].name.store(hash, Relaxed);
    KNOWN[index].start.store(start, Relaxed);
    KNOWN[index].end.store(end, Release);
    0
}

fn is(index: usize, start: usize, end: usize) -> bool {
    KNOWN[index].end.load(Acquire) == end && KNOWN[index].start.load(Relaxed) == start
}

/// Forgets what was unloaded: something else may be loaded to its addresses.
pub fn forget_unloaded() {
    let mut loaded = [0u64; MOST / 64];
    // SAFETY: the callback gets the set that it expects.
    unsafe { dl_iterate_phdr(mark, (&raw mut loaded).cast()) };
    for index in 0..COUNT.load(Relaxed).min(MOST) {
        if loaded[index / 64] & 1 << (index % 64) == 0 {
            KNOWN[index].end.store(0, Release);
        }
    }
}

unsafe extern "C" fn mark(info: *const Info, _: usize, data: *mut c_void) -> c_int {
    // SAFETY: both are valid while dl_iterate_phdr calls.
    let (info, loaded) = unsafe { (&*info, &mut *data.cast::<[u64; MOST / 64]>()) };
    let (start, end) = info.range();
    for index in 0..COUNT.load(Relaxed).min(MOST) {
        if is(index, start, end) {
            loaded[index / 64] |= 1 << (index % 64);
        }
    }
    0
}
