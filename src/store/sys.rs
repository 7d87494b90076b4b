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
    // SAFETY: close_range with CLOEXEC touches only flags of descriptors.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
    #[cfg(not(target_os = "linux"))]
    for fd in 3..256 {
        // SAFETY: fcntl on any number is harmless.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
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
