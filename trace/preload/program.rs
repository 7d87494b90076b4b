//! What a program is: whether this object will be loaded into it.

use crate::sys;
use core::mem::MaybeUninit;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The loader loads us into it.
    Loads,
    /// There is no loader, or it makes system calls by itself: the kernel has to watch.
    Watch,
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
        let fd = sys::openat(dir, path, sys::O_CLOEXEC, 0) as i32;
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
        sys::close(fd);
        program
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
    let word = |at: usize| usize::from_le_bytes(core::array::from_fn(|i| head[at + i]));
    let (table, count) = (word(32), u16::from_le_bytes([head[56], head[57]]) as usize);
    let (mut has_loader, mut is_go) = (false, false);
    for index in 0..count.min(64) {
        let mut header = [0u64; 7];
        // SAFETY: as long as said.
        let read = unsafe { sys::pread(fd, header.as_mut_ptr().cast(), 56, table + 56 * index) };
        if read != 56 {
            break;
        }
        match header[0] as u32 {
            // PT_INTERP
            3 => has_loader = true,
            // PT_NOTE: lengths of name and text, kind, name.
            4 if !is_go => {
                let mut note = [0u32; 4];
                // SAFETY: as long as said.
                unsafe { sys::pread(fd, note.as_mut_ptr().cast(), 16, header[1] as usize) };
                is_go = note[0] == 4 && note[3].to_le_bytes() == *b"Go\0\0";
            }
            _ => {}
        }
    }
    if has_loader && !is_go { Program::Loads } else { Program::Watch }
}
