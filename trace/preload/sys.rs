//! System calls, made directly: the C library's functions are what this object replaces.

use core::arch::asm;

pub const AT_FDCWD: i32 = -100;
pub const AT_SYMLINK_NOFOLLOW: i32 = 0x100;
pub const AT_EMPTY_PATH: i32 = 0x1000;

pub const ENOENT: i32 = 2;
pub const ENOTDIR: i32 = 20;
pub const EFAULT: i32 = 14;

pub const O_ACCMODE: i32 = 3;
pub const O_WRONLY: i32 = 1;
pub const O_RDWR: i32 = 2;
pub const O_CREAT: i32 = 0o100;
pub const O_EXCL: i32 = 0o200;
pub const O_TRUNC: i32 = 0o1000;
pub const O_NONBLOCK: i32 = 0o4000;
pub const O_CLOEXEC: i32 = 0o2000000;
pub const O_PATH: i32 = 0o10000000;
#[cfg(target_arch = "x86_64")]
pub const O_DIRECTORY: i32 = 0o200000;
#[cfg(target_arch = "aarch64")]
pub const O_DIRECTORY: i32 = 0o40000;
/// O_TMPFILE without the O_DIRECTORY that is part of it.
pub const O_TMPFILE_BIT: i32 = 0o20000000;

macro_rules! numbers {
    ($($name:ident $x86:literal $arm:literal)*) => {
        /// Numbers of system calls; -1: this machine does not have it.
        #[allow(dead_code)]
        pub mod nr {
            $(
                #[cfg(target_arch = "x86_64")]
                pub const $name: i64 = $x86;
                #[cfg(target_arch = "aarch64")]
                pub const $name: i64 = $arm;
            )*
        }
    };
}

numbers! {
    READ 0 63
    OPEN 2 -1
    CLOSE 3 57
    STAT 4 -2
    LSTAT 6 -3
    FSTAT 5 80
    MMAP 9 222
    PREAD64 17 67
    MUNMAP 11 215
    MADVISE 28 233
    ACCESS 21 -4
    GETPID 39 172
    SOCKET 41 198
    CONNECT 42 203
    SENDMSG 46 211
    FORK 57 -5
    VFORK 58 -6
    CLONE 56 220
    EXECVE 59 221
    EXIT 60 93
    UNAME 63 160
    CHMOD 90 -18
    CHOWN 92 -19
    FCHOWNAT 260 54
    FCHMODAT 268 53
    UTIMENSAT 280 88
    CHROOT 161 51
    MOUNT 165 40
    PIVOT_ROOT 155 41
    UNSHARE 272 97
    SETNS 308 268
    FCHMODAT2 452 452
    FCNTL 72 25
    TRUNCATE 76 45
    GETDENTS 78 -7
    GETCWD 79 17
    CHDIR 80 49
    FCHDIR 81 50
    RENAME 82 -8
    MKDIR 83 -9
    RMDIR 84 -10
    CREAT 85 -11
    LINK 86 -12
    UNLINK 87 -13
    SYMLINK 88 -14
    READLINK 89 -15
    GETTIMEOFDAY 96 169
    GETPPID 110 173
    MKNOD 133 -16
    PRCTL 157 167
    TIME 201 -17
    GETDENTS64 217 61
    CLOCK_GETTIME 228 113
    EXIT_GROUP 231 94
    OPENAT 257 56
    MKDIRAT 258 34
    MKNODAT 259 33
    NEWFSTATAT 262 79
    UNLINKAT 263 35
    RENAMEAT 264 38
    LINKAT 265 37
    SYMLINKAT 266 36
    READLINKAT 267 78
    FACCESSAT 269 48
    RENAMEAT2 316 276
    SECCOMP 317 277
    EXECVEAT 322 281
    STATX 332 291
    CLONE3 435 435
    OPENAT2 437 437
    FACCESSAT2 439 439
    IO_URING_SETUP 425 425
}

/// Makes a system call. What comes back is the kernel's: an error is a small negative number.
///
/// # Safety
/// What the call does with its arguments must be allowed.
#[inline(always)]
pub unsafe fn call(n: i64, a: [usize; 6]) -> isize {
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel's calling convention; the caller answers for the arguments.
    unsafe {
        asm!("syscall", inlateout("rax") n as isize => result, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
            in("r10") a[3], in("r8") a[4], in("r9") a[5], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the kernel's calling convention; the caller answers for the arguments.
    unsafe {
        asm!("svc 0", in("x8") n, inlateout("x0") a[0] as isize => result, in("x1") a[1], in("x2") a[2],
            in("x3") a[3], in("x4") a[4], in("x5") a[5], options(nostack));
    }
    result
}

macro_rules! wrapper {
    ($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) = $nr:ident [$($value:expr),*]) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// Pointers must be what the system call wants them to be; the kernel checks that they are mapped.
        #[allow(dead_code)]
        #[inline]
        pub unsafe fn $name($($arg: $ty),*) -> isize {
            let given = [$($value as usize),*];
            let mut all = [0usize; 6];
            let mut i = 0;
            while i < given.len() {
                all[i] = given[i];
                i += 1;
            }
            // SAFETY: passed on to the caller.
            unsafe { call(nr::$nr, all) }
        }
    };
}

wrapper!(/// `path` is absolute or relative to `dir`.
    openat(dir: i32, path: *const u8, flags: i32, mode: u32) = OPENAT [dir as isize, path, flags, mode]);
wrapper!(/// Reads up to `len` bytes.
    read(fd: i32, to: *mut u8, len: usize) = READ [fd, to, len]);
wrapper!(/// Closes a descriptor.
    close(fd: i32) = CLOSE [fd]);
wrapper!(/// Is it there, without following a link.
    faccessat2(dir: i32, path: *const u8, mode: i32, flags: i32) = FACCESSAT2 [dir as isize, path, mode, flags]);
wrapper!(/// Is it there.
    faccessat(dir: i32, path: *const u8, mode: i32) = FACCESSAT [dir as isize, path, mode]);
wrapper!(/// The text of a link.
    readlinkat(dir: i32, path: *const u8, to: *mut u8, len: usize) = READLINKAT [dir as isize, path, to, len]);
wrapper!(/// The working directory with a zero byte.
    getcwd(to: *mut u8, len: usize) = GETCWD [to, len]);
wrapper!(/// Maps.
    mmap(at: usize, len: usize, prot: i32, flags: i32, fd: i32, offset: usize)
        = MMAP [at, len, prot, flags, fd as isize, offset]);
wrapper!(/// Says something of pages.
    madvise(at: *const u8, len: usize, advice: i32) = MADVISE [at, len, advice]);
wrapper!(/// File control.
    fcntl(fd: i32, command: i32, value: usize) = FCNTL [fd, command, value]);
wrapper!(/// The process.
    getpid() = GETPID []);
wrapper!(/// The process that started it.
    getppid() = GETPPID []);

/// Kind and permissions of an open file; 0 when there is no answer.
pub fn mode(fd: i32) -> u32 {
    let mut stat = [0u32; 64];
    // SAFETY: `struct stat` of the kernel is 144 bytes at most.
    let result = unsafe { fstat(fd, stat.as_mut_ptr()) };
    let at = if cfg!(target_arch = "x86_64") { 6 } else { 4 };
    if result == 0 { stat[at] } else { 0 }
}

/// Whether a descriptor is a directory.
pub fn is_directory(fd: i32) -> bool {
    mode(fd) & 0o170000 == 0o040000
}
wrapper!(/// What a descriptor is.
    fstat(fd: i32, to: *mut u32) = FSTAT [fd, to]);
wrapper!(/// Names in a directory.
    getdents64(fd: i32, to: *mut u8, len: usize) = GETDENTS64 [fd, to, len]);
wrapper!(/// The time.
    clock_gettime(clock: i32, to: *mut [i64; 2]) = CLOCK_GETTIME [clock, to]);
wrapper!(/// Reads from a place.
    pread(fd: i32, to: *mut u8, len: usize, at: usize) = PREAD64 [fd, to, len, at]);
wrapper!(/// Ends the process.
    exit_group(code: i32) = EXIT_GROUP [code]);
wrapper!(/// Becomes another program.
    execve(path: *const u8, argv: *const *const u8, envp: *const *const u8) = EXECVE [path, argv, envp]);

/// Why there is a gap after a call of which [`moves`] is true.
pub const MOVED: &str = "a program makes a world of its own, in which paths mean something else";

/// Whether paths mean something else after a call with this number and first argument.
pub fn moves(number: i64, first: usize) -> bool {
    // CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID
    let namespaces = 0x3002_0000;
    matches!(number, nr::CHROOT | nr::MOUNT | nr::PIVOT_ROOT | nr::SETNS)
        || number == nr::UNSHARE && first & namespaces != 0
}

/// Ends the process.
pub fn exit(code: i32) -> ! {
    loop {
        // SAFETY: ends the process.
        unsafe { exit_group(code) };
    }
}

/// Whether a path leads to a directory.
///
/// # Safety
/// `path` may be any pointer: the kernel checks it.
pub unsafe fn is_directory_path(path: *const u8) -> bool {
    // SAFETY: passed on to the caller.
    let fd = unsafe { openat(AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0) } as i32;
    if fd >= 0 {
        // SAFETY: ours.
        unsafe { close(fd) };
    }
    fd >= 0
}
