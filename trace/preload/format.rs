//! The log that all observed processes write into: shared memory, appended to without locks.
//!
//! Used by the preload object, by the program that launches static programs, and by the observer; so it knows `core` only.
//!
//! A writer reserves room by adding to `head`, marks its length, copies, and marks the record as complete. A record that
//! was never completed belongs to a process that was killed while it wrote: the account has a gap.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bytes of the whole map. It is sparse: only what is written takes memory.
pub const MAP_SIZE: usize = 512 << 20;
/// Records begin here; before it is [`Header`].
pub const FIRST: u64 = 4096;
pub const MAGIC: u64 = 0x6b61_6368_6554_7201;
/// Names the map, the observation, and the exec that made a process: `pid:fd:nonce:sequence`, all in hexadecimal.
pub const VARIABLE: &[u8] = b"KACHE_TRACE";
/// Process number of records that belong to no process.
pub const NOBODY: u32 = u32::MAX;
/// The sequence number of the command itself, and of the kernel's watch over it.
pub const FIRST_EXEC: u32 = 1;
pub const FIRST_WATCH: u32 = 2;
/// A process under the kernel's watch opens this name and sixteen digits, its sequence number: so the observer learns which is
/// which. The preload object opens it with first and last address of itself.
pub const HELLO: &[u8] = b"/\x01kache-trace/";

/// The first page.
#[repr(C)]
pub struct Header {
    pub magic: u64,
    pub nonce: u64,
    /// Where the next record goes.
    pub head: AtomicU64,
    /// The next number of a process.
    pub processes: AtomicU32,
    /// The next number of an exec.
    pub sequence: AtomicU32,
    /// A record had no room.
    pub full: AtomicU32,
}

/// Set in [`Record::word`] when the record is complete.
pub const COMPLETE: u32 = 1 << 31;

/// What precedes the text of each record.
#[repr(C)]
pub struct Record {
    /// Bytes up to the next record, and [`COMPLETE`].
    pub word: AtomicU32,
    /// Number of the process.
    pub process: u32,
    pub kind: u8,
    pub detail: u8,
    /// Number of an object within its process.
    pub object: u16,
    pub value: u32,
    pub pid: u32,
    /// Bytes of text.
    pub text: u32,
}

pub const RECORD: usize = size_of::<Record>();

/// What a record says. The meaning of the other fields is next to each.
pub mod kind {
    /// A program has begun. value: sequence of its exec; pid; detail: [`CUT`]; text: program, 0, argv (each with a 0).
    pub const ATTACHED: u8 = 1;
    /// A child without exec. value: number of its parent; pid.
    pub const FORKED: u8 = 2;
    /// An object of a process. object: its number; detail: 1 if it imports `environ`; text: its path, or nothing: the program.
    pub const OBJECT: u8 = 3;
    /// detail: [`super::how`]; object; text: the path.
    pub const ACCESS: u8 = 4;
    /// object; text: its name.
    pub const VARIABLE: u8 = 5;
    /// detail: [`super::what`]; object; text: where to, of a connection.
    pub const CALL: u8 = 6;
    /// text: why.
    pub const GAP: u8 = 7;
    /// value: sequence; text: program.
    pub const EXEC: u8 = 8;
    /// value: sequence.
    pub const EXEC_FAILED: u8 = 9;
    /// The kernel watches a process from now on. value: sequence; pid.
    pub const WATCHED: u8 = 10;
    /// A program that the kernel watches has begun, or a child of it ([`CHILD`]). As ATTACHED, but value: number of the process
    /// that started it.
    pub const SEEN: u8 = 11;
    /// text: LD_LIBRARY_PATH, which the loader has read.
    pub const LIBRARIES: u8 = 12;
}

/// The arguments are not complete.
pub const CUT: u8 = 1;
/// A process that executed nothing.
pub const CHILD: u8 = 2;

/// The order is that of `How`.
pub mod how {
    pub const READ: u8 = 0;
    pub const LIST: u8 = 1;
    pub const STAT: u8 = 2;
    pub const LINK: u8 = 3;
    pub const RESOLVE: u8 = 4;
    pub const ABSENT: u8 = 5;
    pub const EXEC: u8 = 6;
    pub const WRITE: u8 = 7;
    pub const REMOVE: u8 = 8;
    pub const MODE: u8 = 9;
}

pub mod what {
    pub const CLOCK: u8 = 0;
    pub const DIRECTORY: u8 = 1;
    pub const HOST: u8 = 2;
    pub const CONNECT: u8 = 3;
    pub const RANDOM: u8 = 4;
}

/// A record to be written.
pub struct Entry<'a> {
    pub process: u32,
    pub kind: u8,
    pub detail: u8,
    pub object: u16,
    pub value: u32,
    pub pid: u32,
    pub text: &'a [u8],
}

/// Appends a record. False: there was no room.
///
/// # Safety
/// `map` is a map of [`MAP_SIZE`] bytes with a [`Header`], writable.
pub unsafe fn append(map: *mut u8, entry: &Entry) -> bool {
    let length = (RECORD + entry.text.len() + 7) & !7;
    // SAFETY: the header is at the beginning of the map, and everything that changes in it is atomic.
    let header = unsafe { &*map.cast::<Header>() };
    let at = header.head.fetch_add(length as u64, Ordering::Relaxed);
    if at + length as u64 > MAP_SIZE as u64 {
        header.full.store(1, Ordering::Relaxed);
        return false;
    }
    // SAFETY: these bytes are within the map, aligned, and nobody else's since they were reserved.
    unsafe {
        let record = map.add(at as usize).cast::<Record>();
        (*record).word.store(length as u32, Ordering::Relaxed);
        (*record).process = entry.process;
        (*record).kind = entry.kind;
        (*record).detail = entry.detail;
        (*record).object = entry.object;
        (*record).value = entry.value;
        (*record).pid = entry.pid;
        (*record).text = entry.text.len() as u32;
        core::ptr::copy_nonoverlapping(entry.text.as_ptr(), record.add(1).cast(), entry.text.len());
        (*record).word.store(length as u32 | COMPLETE, Ordering::Release);
    }
    true
}
