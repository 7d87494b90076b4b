//! What this process reports, each thing once.

use crate::format::{self, Entry, Header, MAGIC, MAP_SIZE, NOBODY, RECORD, kind};
use crate::{objects, paths, real, sys};
use core::mem::MaybeUninit;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, AtomicU64};

const NEW: u8 = 0;
const STARTING: u8 = 1;
const ON: u8 = 2;
const OFF: u8 = 3;
static STATE: AtomicU8 = AtomicU8::new(NEW);
static MAP: AtomicPtr<u8> = AtomicPtr::new(core::ptr::null_mut());
static LOCAL: AtomicPtr<Local> = AtomicPtr::new(core::ptr::null_mut());
/// The number of the process that last knew it: after a fork, that of the parent.
static PROCESS: AtomicU32 = AtomicU32::new(NOBODY);

/// The number that the program began with: not that of a forked child.
static ATTACHED: AtomicU32 = AtomicU32::new(NOBODY);
/// Process and descriptor of the map, and the nonce.
static NAMES: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];

/// Few enough to be there from the beginning: one by one, the first use of each page costs more.
const SLOTS: usize = 1 << 13;

/// Memory that a forked child finds empty: so it notices that it is a new process, at no cost.
#[repr(C)]
struct Local {
    /// The process's number plus one.
    process: AtomicU32,
    /// Hashes of what was reported.
    seen: [AtomicU64; SLOTS],
}

/// Begins, if that has not happened; to be called first in every hook.
#[inline(always)]
pub fn ready() {
    if STATE.load(Acquire) == NEW {
        start(None);
    }
}

#[inline(always)]
pub fn is_on() -> bool {
    STATE.load(Acquire) == ON
}

#[cold]
#[inline(never)]
pub fn start(argv: Option<&[u8]>) {
    if STATE.compare_exchange(NEW, STARTING, Acquire, Relaxed).is_err() {
        return;
    }
    real::begin();
    let Some((map, sequence)) = open() else {
        STATE.store(OFF, Release);
        return;
    };
    MAP.store(map, Relaxed);
    let number = header().processes.fetch_add(1, Relaxed);
    PROCESS.store(number, Relaxed);
    ATTACHED.store(number, Relaxed);
    if let Some(local) = anonymous() {
        local.process.store(number + 1, Relaxed);
        LOCAL.store(core::ptr::from_ref(local).cast_mut(), Relaxed);
    }
    STATE.store(ON, Release);
    attach(number, sequence, argv);
    if let Some(path) = crate::environment::get(b"LD_LIBRARY_PATH") {
        append(Entry {
            process: 0,
            kind: kind::LIBRARIES,
            detail: 0,
            object: 0,
            value: 0,
            pid: 0,
            text: path,
        });
    }
    objects::refresh();
}

/// The map that the environment names, and the sequence number of our exec.
fn open() -> Option<(*mut u8, u32)> {
    let value = crate::environment::get(format::VARIABLE)?;
    let [pid, fd, nonce, sequence] = format_of(value)?;
    NAMES.iter().zip([pid, fd, nonce]).for_each(|(name, number)| name.store(number, Relaxed));
    introduce();
    let mut name = [0u8; 48];
    name[..6].copy_from_slice(b"/proc/");
    let mut at = 6 + paths::decimal(pid as u32, &mut name[6..]);
    name[at..at + 4].copy_from_slice(b"/fd/");
    at += 4;
    paths::decimal(fd as u32, &mut name[at..]);
    // SAFETY: the name ends with a zero; F_GET_SEALS (1034) says whether the file can become shorter (F_SEAL_SHRINK is 2), and a
    // map of it is read only when it has its length.
    unsafe {
        let fd = sys::openat(sys::AT_FDCWD, name.as_ptr(), sys::O_RDWR | sys::O_CLOEXEC, 0);
        if fd < 0 {
            return None;
        }
        let seals = sys::fcntl(fd as i32, 1034, 0);
        // PROT_READ | PROT_WRITE, MAP_SHARED.
        let map = sys::mmap(0, MAP_SIZE, 3, 1, fd as i32, 0);
        sys::close(fd as i32);
        if map < 0 && map > -4096 || seals < 0 || seals & 2 == 0 {
            return None;
        }
        let header = &*(map as *const Header);
        (header.magic == MAGIC && header.nonce == nonce).then_some((map as *mut u8, sequence as u32))
    }
}

/// If the kernel watches this process as well, the observer learns where our own system calls come from: they do not count.
fn introduce() {
    let mut name = [0u8; 48];
    let (start, rest) = name.split_at_mut(format::HELLO.len());
    start.copy_from_slice(format::HELLO);
    for (address, digits) in real::RANGE.iter().zip(rest.chunks_exact_mut(16)) {
        let address = address.load(Relaxed);
        digits
            .iter_mut()
            .rev()
            .enumerate()
            .for_each(|(i, to)| *to = b"0123456789abcdef"[address >> (4 * i) & 15]);
    }
    // SAFETY: the name ends with a zero. There is no such file.
    unsafe { sys::openat(sys::AT_FDCWD, name.as_ptr(), 0, 0) };
}

/// The four numbers of the variable.
pub fn format_of(value: &[u8]) -> Option<[u64; 4]> {
    let mut numbers = [0u64; 4];
    let mut parts = value.split(|byte| *byte == b':');
    for number in &mut numbers {
        for byte in parts.next()? {
            *number = *number << 4 | (*byte as char).to_digit(16)? as u64;
        }
    }
    Some(numbers)
}

fn anonymous() -> Option<&'static Local> {
    // SAFETY: new memory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE; zeros are a valid `Local`.
    unsafe {
        let at = sys::mmap(0, size_of::<Local>(), 3, 0x8022, -1, 0);
        if at < 0 && at > -4096 {
            return None;
        }
        // MADV_WIPEONFORK
        sys::madvise(at as *const u8, size_of::<Local>(), 18);
        Some(&*(at as *const Local))
    }
}

pub fn header() -> &'static Header {
    // SAFETY: only called when there is a map, which stays for ever.
    unsafe { &*MAP.load(Relaxed).cast::<Header>() }
}

fn local() -> Option<&'static Local> {
    // SAFETY: it stays for ever.
    unsafe { LOCAL.load(Relaxed).as_ref() }
}

/// The number of this process.
fn process() -> u32 {
    let Some(local) = local() else { return PROCESS.load(Relaxed) };
    match local.process.load(Relaxed) {
        0 => forked(local),
        number => number - 1,
    }
}

#[cold]
fn forked(local: &Local) -> u32 {
    let parent = PROCESS.load(Relaxed);
    let number = header().processes.fetch_add(1, Relaxed);
    if let Err(other) = local.process.compare_exchange(0, number + 1, Relaxed, Relaxed) {
        return other - 1;
    }
    PROCESS.store(number, Relaxed);
    // SAFETY: getpid.
    let pid = unsafe { sys::getpid() } as u32;
    append(Entry { process: 0, kind: kind::FORKED, detail: 0, object: 0, value: parent, pid, text: b"" });
    number
}

/// Appends a record of this process.
pub fn append(mut entry: Entry) {
    if is_on() {
        entry.process = process();
        // SAFETY: the map is there when we are on.
        unsafe { format::append(MAP.load(Relaxed), &entry) };
    }
}

/// Whether this was reported already; from now on it was. What has to make room is reported again.
fn is_known(hash: u64) -> bool {
    let Some(local) = local() else { return false };
    let slot = |i: usize| &local.seen[(hash as usize >> 8).wrapping_add(i) % SLOTS];
    for i in 0..8 {
        match slot(i).load(Relaxed) {
            0 => match slot(i).compare_exchange(0, hash, Relaxed, Relaxed) {
                Ok(_) => return false,
                Err(other) if other == hash => return true,
                Err(_) => {}
            },
            other if other == hash => return true,
            _ => {}
        }
    }
    slot(hash as usize >> 2 & 7).store(hash, Relaxed);
    false
}

pub fn hash(seed: u64, text: &[u8]) -> u64 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| {
        let product = (hash ^ word) as u128 * K as u128;
        product as u64 ^ (product >> 64) as u64
    };
    let mut hash = mix(seed ^ K, text.len() as u64);
    let mut words = text.chunks_exact(8);
    for word in &mut words {
        // The chunk has 8 bytes.
        hash = mix(hash, word.try_into().map_or(0, u64::from_le_bytes));
    }
    let rest = words.remainder().iter().fold(0u64, |rest, byte| rest << 8 | *byte as u64);
    mix(mix(hash, rest), K) | 1
}

#[inline(never)]
fn report(kind: u8, detail: u8, from: usize, text: &[u8]) {
    if !is_on() {
        return;
    }
    // Before the table of what is known: a child finds it empty.
    process();
    let object = objects::of(from);
    if !is_known(hash((kind as u64) << 32 | (detail as u64) << 16 | object as u64, text)) {
        append(Entry { process: 0, kind, detail, object, value: 0, pid: 0, text });
    }
}

/// Reports what happened to an absolute path.
#[inline(never)]
pub fn access(how: u8, from: usize, path: &[u8]) {
    report(kind::ACCESS, how, from, path);
}

#[inline(never)]
pub fn variable(from: usize, name: &[u8]) {
    report(kind::VARIABLE, 0, from, name);
}

#[inline(never)]
pub fn call(what: u8, from: usize, text: &[u8]) {
    report(kind::CALL, what, from, text);
}

/// Reports that something cannot be observed.
#[cold]
#[inline(never)]
pub fn gap(why: &[u8]) {
    append(Entry { process: 0, kind: kind::GAP, detail: 0, object: 0, value: 0, pid: 0, text: why });
}

/// Bytes of argv that are kept.
const ARGV: usize = 64 << 10;

/// Reports the program, as the kernel has it, and its arguments. They are copied right into the log.
#[inline(never)]
fn attach(number: u32, sequence: u32, argv: Option<&[u8]>) {
    let mut program = MaybeUninit::<[u8; paths::PATH_MAX]>::uninit();
    let mut small = MaybeUninit::<[u8; 4096]>::uninit();
    // SAFETY: system calls with buffers that are as long as said, and read as far as they were written. The record is within
    // the map, and ours.
    unsafe {
        let at = program.as_mut_ptr().cast::<u8>();
        let length = sys::readlinkat(sys::AT_FDCWD, c"/proc/self/exe".as_ptr().cast(), at, paths::PATH_MAX);
        let program = core::slice::from_raw_parts(at, length.max(0) as usize);
        let mut fd = -1;
        let begun = argv.unwrap_or_else(|| {
            fd = sys::openat(sys::AT_FDCWD, c"/proc/self/cmdline".as_ptr().cast(), sys::O_CLOEXEC, 0) as i32;
            let read = sys::read(fd, small.as_mut_ptr().cast(), 4096).max(0) as usize;
            core::slice::from_raw_parts(small.as_ptr().cast(), read)
        });
        // One more than is kept tells that it is cut.
        let begun = &begun[..begun.len().min(ARGV + 1)];
        let room = program.len() + 1 + if fd < 0 || begun.len() < 4096 { begun.len() } else { ARGV + 1 };
        let length = (RECORD + room + 7) & !7;
        let at = header().head.fetch_add(length as u64, Relaxed);
        if at + length as u64 > MAP_SIZE as u64 {
            header().full.store(1, Relaxed);
        } else {
            let record = MAP.load(Relaxed).add(at as usize).cast::<format::Record>();
            (*record).word.store(length as u32, Relaxed);
            let text = record.add(1).cast::<u8>();
            core::ptr::copy_nonoverlapping(program.as_ptr(), text, program.len());
            let argv = text.add(program.len() + 1);
            core::ptr::copy_nonoverlapping(begun.as_ptr(), argv, begun.len());
            let mut filled = begun.len();
            while program.len() + 1 + filled < room {
                match sys::read(fd, argv.add(filled), room - program.len() - 1 - filled) {
                    more if more > 0 => filled += more as usize,
                    _ => break,
                }
            }
            (*record).process = number;
            (*record).kind = kind::ATTACHED;
            (*record).detail = if filled > ARGV { format::CUT } else { 0 };
            (*record).value = sequence;
            (*record).pid = sys::getpid() as u32;
            (*record).text = (program.len() + 1 + filled.min(ARGV)) as u32;
            (*record).word.store(length as u32 | format::COMPLETE, Release);
        }
        if fd >= 0 {
            sys::close(fd);
        }
    }
}

/// The process ends: what was loaded and never called is reported.
pub extern "C" fn end() {
    // A forked child has nothing new; and its copy of the loader's lock may be held by a thread that it does not have.
    if is_on() && local().is_some_and(|local| local.process.load(Relaxed) == ATTACHED.load(Relaxed) + 1) {
        objects::refresh();
    }
}

/// The process will be killed for system calls that it does not make itself, so we make none any more.
pub fn sandboxed() {
    gap(b"a program has locked itself in, and is not observed from then on");
    if is_on() {
        STATE.store(OFF, Release);
    }
}

/// What the variable says besides the sequence number.
pub fn names() -> [u64; 3] {
    NAMES.each_ref().map(|number| number.load(Relaxed))
}
