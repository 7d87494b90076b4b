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

/// Looks at a program; `interpreter` is told the path of each interpreter that a script names, which is relative to `cwd`.
///
/// # Safety
/// `path` ends with a zero.
#[inline(never)]
pub unsafe fn examine(
    dir: i32,
    path: *const u8,
    cwd: i32,
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
                    examine(cwd, path, cwd, interpreter, depth + 1)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::{CStr, CString};
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    const LOAD: u64 = 1;
    const DYNAMIC: u64 = 2;
    const INTERP: u64 = 3;
    const NOTE: u64 = 4;

    /// What a program is, and the interpreters that it names.
    fn look(path: &Path) -> (Program, Vec<String>) {
        let mut interpreters = Vec::new();
        let mut interpreter = |path: *const u8| {
            // SAFETY: the path ends with a zero.
            interpreters.push(unsafe { CStr::from_ptr(path.cast()) }.to_str().unwrap().to_string());
        };
        let name = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the name ends with a zero.
        let program =
            unsafe { examine(sys::AT_FDCWD, name.as_ptr().cast(), sys::AT_FDCWD, &mut interpreter, 0) };
        (program, interpreters)
    }

    /// A program with these headers, which begin at `table`: kind, place in the file, address, length.
    fn program(table: usize, headers: &[[u64; 4]], parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let mut put = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        put(0, b"\x7fELF\x02\x01\x01");
        put(18, &MACHINE.to_le_bytes());
        put(32, &table.to_le_bytes());
        put(56, &(headers.len() as u16).to_le_bytes());
        for (index, [kind, at, address, length]) in headers.iter().enumerate() {
            let header = [*kind, *at, *address, 0, *length, 0, 0];
            put(table + 56 * index, header.map(u64::to_le_bytes).as_flattened());
        }
        parts.iter().for_each(|(at, part)| put(*at, part));
        bytes
    }

    #[test]
    fn which_programs_load_what_is_preloaded() {
        use Program::{Foreign, Loads, Refuses, Unknown, Watch};
        let (interp, load) = ([INTERP, 0, 0, 0], [LOAD, 0, 0, 0]);
        let go = b"\x04\0\0\0\x08\0\0\0\x04\0\0\0Go\0\0".as_slice();
        let gnu = b"\x04\0\0\0\x08\0\0\0\x04\0\0\0GNU\0".as_slice();
        // The same letters in a longer name.
        let gopher = b"\x07\0\0\0\x08\0\0\0\x04\0\0\0Go\0\0".as_slice();
        let dynamic =
            |entries: &[[u64; 2]]| entries.as_flattened().iter().flat_map(|n| n.to_le_bytes()).collect();
        // Names are at 0x600 of the file, which is at 0x1600 in memory.
        let two: Vec<u8> = dynamic(&[[1, 2], [1, 0x10], [5, 0x1600], [0, 0], [1, 0x20]]);
        let names = b"\0\0libc.so.6\0\0\0\0\0libm.so.6\0\0\0\0\0\0\0libasan.so.8\0".as_slice();
        let asan = b"\0\0libc.so.6\0\0\0\0\0libasan.so.8\0".as_slice();
        let sanitized =
            [[LOAD, 0x400, 0x1400, 0], [LOAD, 0x800, 0x3800, 0], interp, [DYNAMIC, 0x500, 0x1500, 80]];
        let mut foreign = program(64, &[interp], &[]);
        foreign[18] ^= 1;
        let mut of_32_bits = program(64, &[interp], &[]);
        of_32_bits[4] = 1;
        let dir = tempfile::tempdir().unwrap();
        for (index, (expected, mode, bytes)) in [
            (Loads, 0o755, program(64, &[load, interp], &[])),
            (Watch, 0o755, program(64, &[load], &[])),
            // Where the headers are not all in the first bytes, or none of them.
            (Loads, 0o755, program(1020, &[interp], &[])),
            (Loads, 0o755, program(900, &[load, load, interp], &[])),
            (Loads, 0o755, program(2000, &[load, interp], &[])),
            (Watch, 0o755, program(2000, &[load], &[])),
            // Go makes its calls by itself. Its note is one of several, anywhere.
            (Watch, 0o755, program(64, &[interp, [NOTE, 0x300, 0, 0]], &[(0x300, go)])),
            (Watch, 0o755, program(64, &[[NOTE, 0x3f4, 0, 0], interp], &[(0x3f4, go)])),
            (Watch, 0o755, program(64, &[[NOTE, 0x700, 0, 0], interp], &[(0x700, go)])),
            (
                Watch,
                0o755,
                program(
                    64,
                    &[[NOTE, 0x300, 0, 0], [NOTE, 0x320, 0, 0], interp],
                    &[(0x300, go), (0x320, gnu)],
                ),
            ),
            (
                Watch,
                0o755,
                program(
                    64,
                    &[[NOTE, 0x300, 0, 0], [NOTE, 0x320, 0, 0], interp],
                    &[(0x300, gnu), (0x320, go)],
                ),
            ),
            (Loads, 0o755, program(64, &[interp, [NOTE, 0x300, 0, 0]], &[(0x300, gnu)])),
            (Loads, 0o755, program(64, &[interp, [NOTE, 0x300, 0, 0]], &[(0x300, gopher)])),
            (Refuses, 0o755, program(64, &sanitized, &[(0x500, &two), (0x600, asan)])),
            // What is named behind the end does not count.
            (Loads, 0o755, program(64, &sanitized, &[(0x500, &two), (0x600, names)])),
            (Loads, 0o755, program(64, &sanitized, &[(0x500, &two[..32]), (0x600, asan)])),
            // Who gains privileges must not be watched.
            (Unknown, 0o4755, program(64, &[load], &[])),
            (Unknown, 0o2755, program(64, &sanitized, &[(0x500, &two), (0x600, asan)])),
            (Loads, 0o4755, program(64, &[interp], &[])),
            (Foreign, 0o755, foreign),
            (Foreign, 0o755, of_32_bits),
            (Loads, 0o755, b"echo for the shell".to_vec()),
        ]
        .into_iter()
        .enumerate()
        {
            let path = dir.path().join(index.to_string());
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(look(&path) == (expected, vec![]), "{index}");
        }
        assert!(look(&dir.path().join("none")).0 == Unknown);
    }

    #[test]
    fn interpreters_of_scripts() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
        fs::write(at("static"), program(64, &[], &[])).unwrap();
        let is = |script: &str, program: Program, interpreters: &[String]| {
            fs::write(at("script"), script).unwrap();
            assert!(look(Path::new(&at("script"))) == (program, interpreters.to_vec()), "{script}");
        };
        is(&format!("#!{}\n", at("static")), Program::Watch, &[at("static")]);
        is(&format!("#! \t{}\targument\n", at("static")), Program::Watch, &[at("static")]);
        is(&format!("#!{}", at("none")), Program::Unknown, &[at("none")]);
        for nobody in ["#!", "#!\n", "#! \n"] {
            is(nobody, Program::Unknown, &[]);
        }
        fs::write(at("next"), format!("#!{} -x\n", at("static"))).unwrap();
        is(&format!("#!{}\n", at("next")), Program::Watch, &[at("next"), at("static")]);
        // One that is its own goes on only as long as the kernel would.
        is(&format!("#!{}\n", at("script")), Program::Unknown, &vec![at("script"); SCRIPTS]);
    }
}
