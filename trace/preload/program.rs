//! What a program is: whether this object will be loaded into it.

use crate::sys;
use core::mem::MaybeUninit;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The loader loads us into it.
    Loads,
    /// There is no loader, or it makes system calls by itself: the kernel has to watch.
    Watch,
    /// It refuses to run with us in it: the address sanitizer insists on being the first library. The kernel has to watch.
    Refuses,
    /// Of another machine: nothing of ours can be loaded, and the loader would complain of it.
    Foreign,
    /// Cannot be read: the attempt to run it will tell.
    Unknown,
}

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

/// The kernel's own limit.
const SCRIPTS: usize = 5;

/// Looks at a program; `interpreter` is told the path of each interpreter that a script names.
///
/// # Safety
/// `path` ends with a zero.
#[inline(never)]
pub unsafe fn examine(
    dir: i32,
    path: *const u8,
    interpreter: &mut dyn FnMut(*const u8),
    depth: usize,
) -> Program {
    let mut head = MaybeUninit::<[u64; 128]>::zeroed();
    let at = head.as_mut_ptr().cast::<u8>();
    // SAFETY: all of the buffer is initialized.
    unsafe {
        // A pipe is not waited for.
        let fd = sys::openat(dir, path, sys::O_CLOEXEC | sys::O_NONBLOCK, 0) as i32;
        if fd < 0 {
            return Program::Unknown;
        }
        let length = sys::pread(fd, at, 1024, 0).max(0) as usize;
        let head = core::slice::from_raw_parts_mut(at, 1024);
        let program = if head.starts_with(b"#!") {
            match script(&mut head[2..256]) {
                Some(start) if depth < SCRIPTS => {
                    let path = at.add(2 + start);
                    interpreter(path);
                    examine(sys::AT_FDCWD, path, interpreter, depth + 1)
                }
                _ => Program::Unknown,
            }
        } else if length < 64 || !head.starts_with(b"\x7fELF") {
            // The C library gives it to the shell.
            Program::Loads
        } else if head[4] != 2 || u16::from_le_bytes([head[18], head[19]]) != MACHINE {
            Program::Foreign
        } else {
            elf(fd, head)
        };
        // Under watch a program cannot gain privileges: rather than take them away, it is not observed.
        let gains = matches!(program, Program::Watch | Program::Refuses) && sys::mode(fd) & 0o6000 != 0;
        sys::close(fd);
        if gains { Program::Unknown } else { program }
    }
}

/// Where the interpreter's name begins; ends it with a zero.
fn script(line: &mut [u8]) -> Option<usize> {
    let start = line.iter().position(|byte| !matches!(byte, b' ' | b'\t'))?;
    let end = line[start..].iter().position(|byte| matches!(byte, b' ' | b'\t' | b'\n' | 0))? + start;
    line[end] = 0;
    (end > start).then_some(start)
}

fn elf(fd: i32, head: &[u8]) -> Program {
    let word = |at: usize| head[at..].first_chunk().map_or(0, |bytes| usize::from_le_bytes(*bytes));
    let (table, count) = (word(32), u16::from_le_bytes([head[56], head[57]]) as usize);
    let (mut has_loader, mut is_go, mut dynamic) = (false, false, (0, 0));
    // Where the first addresses are in the file: there are the names of libraries.
    let mut shift = None;
    for index in 0..count.min(64) {
        let mut header = [0u64; 7];
        let at = table + 56 * index;
        if at + 56 <= head.len() {
            // Nearly always it follows the file's header.
            header = core::array::from_fn(|i| word(at + 8 * i) as u64);
        } else {
            // SAFETY: as long as said.
            let read = unsafe { sys::pread(fd, header.as_mut_ptr().cast(), 56, at) };
            if read != 56 {
                break;
            }
        }
        match header[0] as u32 {
            // PT_LOAD
            1 => shift = shift.or(Some(header[2].wrapping_sub(header[1]) as usize)),
            // PT_DYNAMIC
            2 => dynamic = (header[1] as usize, header[4] as usize),
            // PT_INTERP
            3 => has_loader = true,
            // PT_NOTE: lengths of name and text, kind, name.
            4 if !is_go => {
                let at = header[1] as usize;
                let mut note = [0u32; 4];
                if at + 16 <= head.len() {
                    note = core::array::from_fn(|i| word(at + 4 * i) as u32);
                } else {
                    // SAFETY: as long as said.
                    unsafe { sys::pread(fd, note.as_mut_ptr().cast(), 16, at) };
                }
                is_go = note[0] == 4 && note[3].to_le_bytes() == *b"Go\0\0";
            }
            _ => {}
        }
    }
    match has_loader && !is_go {
        true if has_sanitizer(fd, dynamic, shift.unwrap_or(0)) => Program::Refuses,
        true => Program::Loads,
        false => Program::Watch,
    }
}

/// Whether one of the libraries is that of the address sanitizer.
#[inline(never)]
fn has_sanitizer(fd: i32, (at, length): (usize, usize), shift: usize) -> bool {
    let mut entries = [[0usize; 2]; 48];
    // SAFETY: as long as said.
    unsafe { sys::pread(fd, entries.as_mut_ptr().cast(), length.min(size_of_val(&entries)), at) };
    let value = |tag: usize| entries.iter().find(|entry| entry[0] == tag).map(|entry| entry[1]);
    // DT_STRTAB
    let Some(names) = value(5) else { return false };
    // DT_NEEDED
    entries.iter().take_while(|entry| entry[0] != 0).filter(|entry| entry[0] == 1).any(|entry| {
        let mut name = [0u8; 9];
        // SAFETY: as above.
        unsafe { sys::pread(fd, name.as_mut_ptr(), 9, names.wrapping_sub(shift) + entry[1]) };
        name == *b"libasan.s"
    })
}
