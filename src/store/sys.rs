//! Single system calls that std does not offer.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

#[cfg(target_os = "linux")]
mod ficlone {
    // _IOW(0x94, 9, int), linux/fs.h. The argument is the source descriptor itself.
    nix::ioctl_write_int!(ficlone, 0x94, 9);
}

/// Makes `to` (empty, open for writing) share all blocks of `from`.
#[cfg(target_os = "linux")]
pub fn reflink(from: &File, to: &File) -> io::Result<()> {
    // SAFETY: FICLONE takes two descriptors, both open for the duration of the call, and touches no memory of ours.
    unsafe { ficlone::ficlone(to.as_raw_fd(), from.as_raw_fd() as _) }.map(drop).map_err(io::Error::from)
}

#[cfg(not(target_os = "linux"))]
pub fn reflink(_: &File, _: &File) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::ENOTSUP))
}

/// Gives an empty file so many bytes on the disk.
pub fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    return Ok(nix::fcntl::fallocate(file, nix::fcntl::FallocateFlags::empty(), 0, bytes as i64)?);
    #[cfg(not(target_os = "linux"))]
    return (0..bytes >> 16).try_for_each(|_| io::Write::write_all(&mut &*file, &[1; 1 << 16]));
}

/// A program that will outlive its starter and inherits nothing from it but the environment: no session, directory,
/// stream or descriptor.
pub fn detached(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            close_inherited_on_exec();
            Ok(())
        });
    }
    command
}

/// Marks every descriptor but stdin, stdout and stderr close-on-exec, so that a program started next inherits none
/// of its starter's pipes and locks. Safe between fork and exec.
fn close_inherited_on_exec() {
    #[cfg(target_os = "linux")]
    // SAFETY: close_range with CLOEXEC touches only flags of descriptors. Linux has it since 5.11.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } == 0 {
        return;
    }
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes into a structure of ours.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    // A limit that was lowered leaves what is open above it.
    let end = if known { limit.rlim_max.clamp(1 << 12, 1 << 20) as libc::c_int } else { 1 << 16 };
    for fd in 3..end {
        // SAFETY: fcntl on any number is harmless.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Gives this process what it would have had from the system, and not from a shell: no limits that can be lifted, the
/// usual priority where it may be had, and no signal for a file that grows too large.
pub fn lift_limits() {
    for limit in [libc::RLIMIT_FSIZE, libc::RLIMIT_AS, libc::RLIMIT_CPU, libc::RLIMIT_DATA] {
        let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a structure of ours that lives through the calls. What is refused stays as it is.
        unsafe {
            libc::getrlimit(limit, &raw mut now);
            let free = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
            if libc::setrlimit(limit, &raw const free) != 0 {
                libc::setrlimit(limit, &libc::rlimit { rlim_cur: now.rlim_max, ..now });
            }
        }
    }
    // SAFETY: these take integers.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 0);
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// A number that is different after every start of the machine.
pub fn boot_id() -> i64 {
    #[cfg(target_os = "linux")]
    let text = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    #[cfg(not(target_os = "linux"))]
    let text = boot_time();
    let hash = blake3::hash(&text);
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    i64::from_le_bytes(first)
}

#[cfg(not(target_os = "linux"))]
fn boot_time() -> Vec<u8> {
    let mut at: libc::timeval = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let mut len = size_of::<libc::timeval>();
    // SAFETY: the name is NUL-terminated, `at` and `len` are valid for writes of the size that `len` tells.
    unsafe {
        libc::sysctlbyname(
            c"kern.boottime".as_ptr(),
            (&raw mut at).cast(),
            &mut len,
            std::ptr::null_mut(),
            0,
        );
    }
    at.tv_sec.to_le_bytes().to_vec()
}
