//! Has the kernel tell the observer of this process's system calls before they happen: for programs that no loader loads.
//!
//! <https://docs.kernel.org/userspace-api/seccomp_filter.html>, "Userspace Notification".

use crate::format::HELLO;
use crate::sys::{self, nr};

/// What the kernel tells of. Numbers below zero are calls that this machine does not have.
const WATCHED: [i64; 51] = [
    nr::OPEN,
    nr::OPENAT,
    nr::OPENAT2,
    nr::CREAT,
    nr::STAT,
    nr::LSTAT,
    nr::NEWFSTATAT,
    nr::STATX,
    nr::ACCESS,
    nr::FACCESSAT,
    nr::FACCESSAT2,
    nr::READLINK,
    nr::READLINKAT,
    nr::GETDENTS,
    nr::GETDENTS64,
    nr::EXECVE,
    nr::EXECVEAT,
    nr::RENAME,
    nr::RENAMEAT,
    nr::RENAMEAT2,
    nr::UNLINK,
    nr::UNLINKAT,
    nr::RMDIR,
    nr::MKDIR,
    nr::MKDIRAT,
    nr::LINK,
    nr::LINKAT,
    nr::SYMLINK,
    nr::SYMLINKAT,
    nr::MKNOD,
    nr::MKNODAT,
    nr::TRUNCATE,
    nr::CHMOD,
    nr::FCHMODAT,
    nr::FCHMODAT2,
    nr::CHOWN,
    nr::FCHOWNAT,
    nr::UTIMENSAT,
    nr::CHDIR,
    nr::CHROOT,
    nr::MOUNT,
    nr::PIVOT_ROOT,
    nr::UNSHARE,
    nr::SETNS,
    nr::CONNECT,
    nr::UNAME,
    nr::GETCWD,
    nr::CLOCK_GETTIME,
    nr::GETTIMEOFDAY,
    nr::TIME,
    nr::IO_URING_SETUP,
];

#[cfg(target_arch = "x86_64")]
const MACHINE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const MACHINE: u32 = 0xc000_00b7;

const ALLOW: u32 = 0x7fff_0000;
const TELL: u32 = 0x7fc0_0000;

/// An instruction of the filter.
#[derive(Clone, Copy)]
#[repr(C)]
struct Step {
    code: u16,
    yes: u8,
    no: u8,
    value: u32,
}

const LOAD: u16 = 0x20;
const EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

const fn step(code: u16, value: u32, yes: u8, no: u8) -> Step {
    Step { code, yes, no, value }
}

const LENGTH: usize = WATCHED.len() + 13;

/// Machine, then number; looks at open files by way of an empty path are so common that they are let through here.
const fn filter() -> [Step; LENGTH] {
    let mut steps = [step(RETURN, ALLOW, 0, 0); LENGTH];
    steps[0] = step(LOAD, 4, 0, 0);
    steps[1] = step(EQUAL, MACHINE, 1, 0);
    // [2]: allow.
    steps[3] = step(LOAD, 0, 0, 0);
    steps[4] = step(EQUAL, nr::NEWFSTATAT as u32, 0, 2);
    // The lower half of the fourth argument: only AT_EMPTY_PATH.
    steps[5] = step(LOAD, 16 + 3 * 8, 0, 0);
    steps[6] = step(EQUAL, sys::AT_EMPTY_PATH as u32, (LENGTH - 2 - 7) as u8, (LENGTH - 1 - 7) as u8);
    steps[7] = step(EQUAL, nr::STATX as u32, 0, 2);
    steps[8] = step(LOAD, 16 + 2 * 8, 0, 0);
    steps[9] = step(EQUAL, sys::AT_EMPTY_PATH as u32, (LENGTH - 2 - 10) as u8, (LENGTH - 1 - 10) as u8);
    let mut i = 0;
    while i < WATCHED.len() {
        // A number that the machine does not have is none that can be called.
        steps[10 + i] = step(EQUAL, WATCHED[i] as u32, (LENGTH - 1 - 11 - i) as u8, 0);
        i += 1;
    }
    steps[LENGTH - 3] = step(RETURN, ALLOW, 0, 0);
    steps[LENGTH - 2] = step(RETURN, ALLOW, 0, 0);
    steps[LENGTH - 1] = step(RETURN, TELL, 0, 0);
    steps
}

static FILTER: [Step; LENGTH] = filter();

const EBUSY: isize = -16;
const EACCES: isize = -13;

/// Puts this process under watch, with all that it will start, and says hello with the sequence number.
///
/// What does not succeed is noticed by the observer: nobody says hello.
///
/// # Safety
/// For a process that is about to execute another program: it loses the right to gain privileges, and its system calls wait
/// for the observer.
pub unsafe fn begin(nonce: u64, sequence: u32) {
    // SAFETY: system calls with structures as the kernel has them.
    unsafe {
        // AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC. Connected first: afterwards a connection waits for the observer.
        let socket = sys::call(nr::SOCKET, [1, 5 | sys::O_CLOEXEC as usize, 0, 0, 0, 0]);
        if socket < 0 {
            return;
        }
        let (address, length) = address(nonce);
        if sys::call(nr::CONNECT, [socket as usize, address.as_ptr() as usize, length, 0, 0, 0]) < 0 {
            sys::close(socket as i32);
            return;
        }
        let program = (LENGTH as u64, FILTER.as_ptr());
        let program: *const (u64, *const Step) = &program;
        // SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER.
        let install = || sys::call(nr::SECCOMP, [1, 8, program as usize, 0, 0, 0]);
        let mut listener = install();
        if listener == EACCES {
            // PR_SET_NO_NEW_PRIVS
            sys::call(nr::PRCTL, [38, 1, 0, 0, 0, 0]);
            listener = install();
        }
        if listener >= 0 {
            send(socket as usize, listener as i32);
            sys::close(listener as i32);
        }
        sys::close(socket as i32);
        // Under somebody's watch already: ours, or it will not be answered as we expect.
        if listener >= 0 || listener == EBUSY {
            hello(sequence);
        }
    }
}

/// The observer's address: family, and a name that is in no directory.
pub fn address(nonce: u64) -> ([u8; 32], usize) {
    let mut address = [0u8; 32];
    address[..2].copy_from_slice(&1u16.to_ne_bytes());
    address[3..9].copy_from_slice(b"kache-");
    let digits = hexadecimal(nonce);
    address[9..25].copy_from_slice(&digits);
    (address, 25)
}

fn hexadecimal(value: u64) -> [u8; 16] {
    core::array::from_fn(|i| b"0123456789abcdef"[(value >> (60 - 4 * i)) as usize & 15])
}

unsafe fn send(socket: usize, fd: i32) {
    #[repr(C)]
    struct Message {
        name: usize,
        name_length: u64,
        parts: *const (*const u8, usize),
        count: usize,
        control: *const Control,
        control_length: usize,
        flags: u64,
    }
    #[repr(C)]
    struct Control {
        length: usize,
        level: i32,
        kind: i32,
        fd: i32,
        rest: i32,
    }
    let part = (b"L".as_ptr(), 1);
    // SOL_SOCKET, SCM_RIGHTS
    let control = Control { length: 20, level: 1, kind: 1, fd, rest: 0 };
    let message = Message {
        name: 0,
        name_length: 0,
        parts: &part,
        count: 1,
        control: &control,
        control_length: size_of::<Control>(),
        flags: 0,
    };
    let message: *const Message = &message;
    // SAFETY: the structures live until the call returns.
    unsafe { sys::call(nr::SENDMSG, [socket, message as usize, 0, 0, 0, 0]) };
}

unsafe fn hello(sequence: u32) {
    let mut name = [0u8; 40];
    name[..HELLO.len()].copy_from_slice(HELLO);
    name[HELLO.len()..HELLO.len() + 16].copy_from_slice(&hexadecimal(sequence as u64));
    // SAFETY: the name ends with a zero. There is no such file.
    unsafe { sys::openat(sys::AT_FDCWD, name.as_ptr(), 0, 0) };
}
