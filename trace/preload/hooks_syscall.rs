//! `syscall()`: the calls of the other files by number. And what ends or extends a process.

use crate::format::{how, what};
use crate::hooks_environment::connected;
use crate::real::{behind, set_errno};
use crate::report::{Opening, Pair, list, outcome, path, presence};
use crate::sys::{self, AT_EMPTY_PATH, AT_FDCWD, O_CREAT, O_TRUNC, O_WRONLY, nr};
use crate::{hooks_exec, log, objects};
use core::ffi::{c_int, c_long};
use core::sync::atomic::AtomicUsize;

type P = *const u8;
type List = *const P;

/// # Safety
/// That of the C library's function.
// What makes a child that returns into our frame must not have one: such numbers go to the kernel from here.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn syscall() {
    core::arch::naked_asm!(
        "cmp rdi, 56", "je 2f", "cmp rdi, 57", "je 2f", "cmp rdi, 58", "je 2f", "cmp rdi, 435", "je 2f",
        "jmp {dispatch}",
        "2:", "mov rax, rdi", "mov rdi, rsi", "mov rsi, rdx", "mov rdx, rcx", "mov r10, r8", "mov r8, r9",
        "mov r9, [rsp + 8]", "syscall", "cmp rax, -4095", "jae 3f", "ret",
        "3:", "mov rdi, rax", "jmp {failed}",
        dispatch = sym dispatch, failed = sym failed,
    )
}

/// # Safety
/// That of the C library's function.
#[cfg(target_arch = "aarch64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
pub unsafe extern "C" fn syscall() {
    core::arch::naked_asm!(
        "cmp x0, #220", "b.eq 2f", "cmp x0, #435", "b.eq 2f", "b {dispatch}",
        "2:", "mov x8, x0", "mov x0, x1", "mov x1, x2", "mov x2, x3", "mov x3, x4", "mov x4, x5", "mov x5, x6",
        "svc 0", "cmn x0, #4095", "b.hs 3f", "ret",
        "3:", "b {failed}",
        dispatch = sym dispatch, failed = sym failed,
    )
}

extern "C" fn failed(result: isize) -> c_long {
    set_errno(-result as c_int);
    -1
}

unsafe extern "C" fn dispatch(
    n: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    let from = return_address!();
    log::ready();
    let arguments = [a, b, c, d, e, f];
    // SAFETY: what the caller passes is passed on.
    unsafe {
        let real = || match sys::call(n, arguments) {
            result if result < 0 && result > -4096 => failed(result),
            result => result as c_long,
        };
        if log::is_on() { observed(from, n, arguments, real) } else { real() }
    }
}

unsafe fn observed(from: usize, n: c_long, a: [usize; 6], real: impl FnOnce() -> c_long) -> c_long {
    let [first, second, third] = [a[0] as P, a[1] as P, a[2] as P];
    let dir = a[0] as i32;
    // SAFETY: reports look at a path only after the kernel has.
    unsafe {
        let opens = |dir, path, flags: i32| Opening::new(from, dir, path, flags);
        let (opening, dir_and_path, how) = match n {
            nr::OPEN => (Some(opens(AT_FDCWD, first, a[1] as i32)), (0, first), 0),
            nr::CREAT => (Some(opens(AT_FDCWD, first, O_CREAT | O_WRONLY | O_TRUNC)), (0, first), 0),
            nr::OPENAT => (Some(opens(dir, second, a[2] as i32)), (0, second), 0),
            nr::OPENAT2 => {
                let flags = if third.is_null() { 0 } else { *third.cast::<u64>() as i32 };
                (Some(opens(dir, second, flags)), (0, second), 0)
            }
            nr::STAT | nr::LSTAT | nr::ACCESS => (None, (AT_FDCWD, first), how::STAT),
            nr::NEWFSTATAT | nr::FACCESSAT2
                if a[3] as i32 & AT_EMPTY_PATH != 0 && (second.is_null() || *second == 0) =>
            {
                return real();
            }
            nr::STATX if a[2] as i32 & AT_EMPTY_PATH != 0 && (second.is_null() || *second == 0) => {
                return real();
            }
            nr::NEWFSTATAT | nr::STATX | nr::FACCESSAT | nr::FACCESSAT2 => (None, (dir, second), how::STAT),
            nr::READLINK => (None, (AT_FDCWD, first), how::LINK),
            nr::READLINKAT => (None, (dir, second), how::LINK),
            nr::UNLINK | nr::RMDIR => (None, (AT_FDCWD, first), how::REMOVE),
            nr::UNLINKAT => (None, (dir, second), how::REMOVE),
            nr::MKDIR | nr::MKNOD => (None, (AT_FDCWD, first), how::WRITE),
            nr::MKDIRAT | nr::MKNODAT => (None, (dir, second), how::WRITE),
            nr::CHMOD => (None, (AT_FDCWD, first), how::MODE),
            nr::FCHMODAT | nr::FCHMODAT2 => (None, (dir, second), how::MODE),
            nr::CHOWN => (None, (AT_FDCWD, first), how::WRITE),
            nr::FCHOWNAT | nr::UTIMENSAT => (None, (dir, second), how::WRITE),
            nr::TRUNCATE => (None, (AT_FDCWD, first), how::WRITE),
            nr::SYMLINK => (None, (AT_FDCWD, second), how::WRITE),
            nr::SYMLINKAT => (None, (a[1] as i32, third), how::WRITE),
            nr::RENAME | nr::LINK => {
                return pair(from, n == nr::LINK, (AT_FDCWD, first), (AT_FDCWD, second), real());
            }
            nr::RENAMEAT | nr::RENAMEAT2 | nr::LINKAT => {
                return pair(from, n == nr::LINKAT, (dir, second), (a[2] as i32, a[3] as P), real());
            }
            _ => return other(from, n, a, real),
        };
        let result = real();
        match opening {
            Some(opening) => opening.done(result >= 0, result as i32),
            None => outcome(result >= 0, how, from, dir_and_path.0, dir_and_path.1),
        }
        result
    }
}

unsafe fn pair(from: usize, link: bool, old: (i32, P), new: (i32, P), result: c_long) -> c_long {
    // SAFETY: the kernel has seen the paths.
    unsafe {
        Pair { from, old, new }.done(result == 0, if link { how::READ } else { how::REMOVE }, how::WRITE)
    };
    result
}

unsafe fn other(from: usize, n: c_long, a: [usize; 6], real: impl FnOnce() -> c_long) -> c_long {
    // SAFETY: as in `observed`.
    unsafe {
        match n {
            nr::GETDENTS | nr::GETDENTS64 => list(from, a[0] as i32),
            nr::CLOCK_GETTIME if matches!(a[0], 0 | 5 | 11) => log::call(what::CLOCK, from, b""),
            nr::GETTIMEOFDAY | nr::TIME => log::call(what::CLOCK, from, b""),
            nr::GETCWD => log::call(what::DIRECTORY, from, b""),
            nr::UNAME => log::call(what::HOST, from, b""),
            nr::CHDIR => presence(from, AT_FDCWD, a[0] as P),
            _ if sys::moves(n, a[0]) => log::gap(sys::MOVED.as_bytes()),
            nr::IO_URING_SETUP => log::gap(b"io_uring: what is read that way is not seen"),
            nr::SECCOMP => log::sandboxed(),
            nr::PRCTL if a[0] == 22 => log::sandboxed(),
            nr::EXECVE => return hooks_exec::execute(from, a[0] as P, a[1] as List, a[2] as List) as c_long,
            nr::EXECVEAT => {
                type Execveat = unsafe extern "C" fn(c_int, P, List, List, c_int) -> c_int;
                let execveat: Execveat = hooks_exec::execveat;
                return execveat(a[0] as c_int, a[1] as P, a[2] as List, a[3] as List, a[4] as c_int)
                    as c_long;
            }
            nr::CONNECT => {
                let result = real();
                connected(from, a[1] as P, a[2] as u32);
                return result;
            }
            // The end of one thread may be that of the process; what was loaded meanwhile is not to be lost.
            nr::EXIT | nr::EXIT_GROUP => log::end(),
            _ => {}
        }
        real()
    }
}

static DLOPEN: AtomicUsize = AtomicUsize::new(0);
static DLMOPEN: AtomicUsize = AtomicUsize::new(0);

unsafe fn loads(file: P, from: usize) {
    log::ready();
    objects::stale();
    // SAFETY: null or a string.
    unsafe {
        if log::is_on() && !file.is_null() && crate::paths::bytes(file).contains(&b'/') {
            path(how::READ, from, AT_FDCWD, file);
            presence(from, AT_FDCWD, file);
        }
    }
}

unsafe extern "C" fn note_dlopen(file: P, _: usize, from: usize) -> usize {
    // SAFETY: passed on to the caller.
    unsafe { loads(file, from) };
    behind(&DLOPEN, "dlopen")
}

unsafe extern "C" fn note_dlmopen(_: usize, file: P, from: usize) -> usize {
    // SAFETY: passed on to the caller.
    unsafe { loads(file, from) };
    log::gap(b"dlmopen: a second set of libraries is not observed");
    behind(&DLMOPEN, "dlmopen")
}

/// The loader looks at who calls it to know where to search, so the real function is jumped to.
#[cfg(target_arch = "x86_64")]
macro_rules! jumps {
    ($name:ident, $note:ident) => {
        /// # Safety
        /// That of the C library's function of this name.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                "push rdi", "push rsi", "push rdx", "mov rdx, [rsp + 24]", "call {note}", "pop rdx", "pop rsi", "pop rdi",
                "test rax, rax", "je 2f", "jmp rax", "2:", "ret",
                note = sym $note,
            )
        }
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! jumps {
    ($name:ident, $note:ident) => {
        /// # Safety
        /// That of the C library's function of this name.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                "stp x0, x1, [sp, #-32]!", "stp x2, x30, [sp, #16]", "mov x2, x30", "bl {note}", "mov x9, x0",
                "ldp x2, x30, [sp, #16]", "ldp x0, x1, [sp], #32", "cbz x9, 2f", "br x9", "2:", "mov x0, #0", "ret",
                note = sym $note,
            )
        }
    };
}

jumps!(dlopen, note_dlopen);
jumps!(dlmopen, note_dlmopen);

macro_rules! ends {
    ($name:ident) => {
        /// # Safety
        /// That of the C library's function of this name.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(code: c_int) -> ! {
            log::end();
            // All that the C library does here is this call.
            sys::exit(code)
        }
    };
}

ends!(_exit);
ends!(_Exit);
