//! Mounting and unmounting: `mount(2)` with privilege, `fusermount3` without. Recognising dead mounts.

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};

use crate::error::FsError;

const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";
/// File-system type as `/proc/self/mountinfo` shows it.
const TYPE: &str = "fuse.kache";

/// Why a directory could not be mounted or unmounted. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("{0} is not a directory")]
    NotADirectory(PathBuf),
    #[error(
        "there is no /dev/fuse: load the kernel's fuse module (`modprobe fuse`), or, in a container, pass the device in (`--device /dev/fuse`)"
    )]
    NoDevice,
    #[error("/dev/fuse cannot be opened: {0}")]
    DeviceRefused(io::Error),
    #[error(
        "fusermount3 is not installed; a user without privilege needs it (Debian, Ubuntu, Fedora, Arch: package `fuse3`)"
    )]
    NoHelper,
    #[error("mounting on {path} was refused: {reason}")]
    Refused { path: PathBuf, reason: String },
    #[error("{0} is mounted already")]
    AlreadyMounted(PathBuf),
    #[error("{0} is a dead mount (its daemon is gone); unmount it lazily first")]
    Stale(PathBuf),
    #[error("{0} is in use (open files, or a shell's working directory)")]
    Busy(PathBuf),
    #[error("the files take {needed} bytes, and {free} are free on that disk")]
    NoRoom { needed: u64, free: u64 },
    #[error("another process is using the journal in {0}")]
    InUse(PathBuf),
    #[error("the kernel's FUSE cannot do without open requests: Linux 5.1 or newer is needed")]
    TooOld,
    #[error("{0} is not a mount of kache")]
    NotMounted(PathBuf),
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What is mounted on a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountState {
    /// No mount of kache.
    None,
    /// Somebody serves it.
    Live,
    /// Whoever served it is gone: everything in it fails with `ENOTCONN`.
    Stale,
    /// It is mounted and did not answer in time.
    Silent,
}

/// The path by which the kernel knows a directory, even a dead mount.
pub fn absolute(dir: &Path) -> io::Result<PathBuf> {
    match fs::canonicalize(dir) {
        Ok(path) => Ok(path),
        Err(error) => {
            let dead = error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error());
            match (dir.parent(), dir.file_name()) {
                (Some(parent), Some(name)) if dead => {
                    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                    Ok(fs::canonicalize(parent)?.join(name))
                }
                _ => Err(error),
            }
        }
    }
}

/// Is a mount of kache on this directory, and does it answer within `patience`?
pub fn mount_state(dir: &Path, patience: Duration) -> MountState {
    let Some(dir) = mounted_at(dir) else { return MountState::None };
    let (send, receive) = mpsc::channel();
    // Left behind if it hangs; it ends when the mount does. Other questions may be answered from the kernel's cache.
    let asked = std::thread::Builder::new()
        .stack_size(64 * 1024)
        .spawn(move || send.send(rustix::fs::statfs(&dir).map(|_| ())));
    if asked.is_err() {
        return MountState::Silent;
    }
    match receive.recv_timeout(patience) {
        Ok(Ok(_)) => MountState::Live,
        Ok(Err(Errno::NOTCONN | Errno::CONNABORTED)) => MountState::Stale,
        // Somebody else's mount answers somebody else.
        Ok(Err(_)) => MountState::Live,
        Err(_) => MountState::Silent,
    }
}

/// The directory as the table of mounts has it. Nobody who may be hung is asked, if it can be told without.
fn mounted_at(dir: &Path) -> Option<PathBuf> {
    let all = mounted_dirs();
    let beside = match (dir.parent(), dir.file_name()) {
        (Some(parent), Some(name)) if !parent.as_os_str().is_empty() => {
            fs::canonicalize(parent).ok().map(|parent| parent.join(name))
        }
        _ => None,
    };
    beside.filter(|dir| all.contains(dir)).or_else(|| absolute(dir).ok().filter(|dir| all.contains(dir)))
}

/// All directories on which a kache is mounted, dead or alive.
pub fn mounted_dirs() -> Vec<PathBuf> {
    mounted().into_iter().map(|m| m.dir).collect()
}

/// A mount of kache.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mounted {
    /// Where it is now: it moves with the directories around it.
    pub dir: PathBuf,
    /// `major:minor`. No other mount has it.
    pub device: String,
    /// What was given to [`mount`].
    pub source: String,
}

pub(crate) fn mounted() -> Vec<Mounted> {
    let Ok(table) = fs::read("/proc/self/mountinfo") else { return Vec::new() };
    table.split(|b| *b == b'\n').filter_map(mounted_in).collect()
}

/// A line of mountinfo (proc(5)), if it is ours.
fn mounted_in(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|b| *b == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let dir = fields.nth(1)?;
    let mut rest = fields.skip_while(|f| *f != b"-").skip(1);
    let (kind, source) = (rest.next()?, rest.next()?);
    let source = String::from_utf8_lossy(source).into_owned();
    (kind == TYPE.as_bytes()).then(|| Mounted {
        dir: PathBuf::from(OsString::from_vec(unescape(dir))),
        device,
        source,
    })
}

/// Ends the connections of mounts whose server is dying and cannot: one of its threads waits for the answer of another that
/// was killed before it. Whoever waits gets an error, and the mounts are dead ones.
pub(crate) fn abort(source: &str) {
    for mount in mounted().into_iter().filter(|m| m.source == source) {
        let minor = mount.device.rsplit(':').next().unwrap_or_default();
        let aborted = fs::write(Path::new("/sys/fs/fuse/connections").join(minor).join("abort"), "1");
        // Where the control files are not mounted, root has another way. It says that the mount is in use, and has done it.
        if aborted.is_err() {
            let _ = rustix::mount::unmount(&mount.dir, UnmountFlags::NOFOLLOW | UnmountFlags::FORCE);
        }
    }
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|d| *first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match octal {
            Some(d) => {
                out.push(d.iter().fold(0u8, |n, b| n.wrapping_mul(8).wrapping_add(b - b'0')));
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// Mounts a new connection to the kernel on a directory. `source`: what the table of mounts shows, the name of no other.
pub(crate) fn mount(dir: &Path, source: &str, allow_other: bool) -> Result<OwnedFd, MountError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open(DEVICE, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => MountError::NoDevice,
        other => MountError::DeviceRefused(other.into()),
    })?;
    let options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
        if allow_other { ",allow_other" } else { "" },
    );
    let options = CString::new(options).map_err(io::Error::from)?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    match rustix::mount::mount(source, dir, TYPE, flags, Some(options.as_c_str())) {
        Ok(()) => Ok(device),
        Err(Errno::PERM) => {
            drop(device);
            mount_by_helper(dir, source, allow_other)
        }
        Err(Errno::NODEV) => Err(MountError::NoDevice),
        Err(error) => {
            Err(MountError::Refused { path: dir.to_owned(), reason: io::Error::from(error).to_string() })
        }
    }
}

/// `fusermount3` mounts, being setuid root, and sends the connection through a socket (its standard input here).
fn mount_by_helper(dir: &Path, source: &str, allow_other: bool) -> Result<OwnedFd, MountError> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(io::Error::from)?;
    let mut options = format!("default_permissions,fsname={source},subtype=kache,nodev,nosuid");
    if allow_other {
        options.push_str(",allow_other");
    }
    let child = Command::new(HELPER)
        .args(["-o", &options, "--"])
        .arg(dir)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(no_helper)?;
    let connection = receive_fd(&ours);
    let output = child.wait_with_output()?;
    match connection {
        Ok(Some(fd)) if output.status.success() => Ok(fd),
        _ => {
            let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let reason = reason.strip_prefix("fusermount3: ").unwrap_or(&reason).to_owned();
            Err(MountError::Refused { path: dir.to_owned(), reason })
        }
    }
}

fn no_helper(error: io::Error) -> MountError {
    if error.kind() == io::ErrorKind::NotFound { MountError::NoHelper } else { MountError::Io(error) }
}

fn receive_fd(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0u8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [io::IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| recvmsg(socket, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC))?;
    let mut received = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            received = fds.last().or(received);
        }
    }
    Ok(received)
}

/// How to unmount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Only if nobody uses it.
    Polite,
    /// Out of sight at once. With privilege, whoever still uses it gets errors; else they go on until they are done.
    Lazy,
}

pub(crate) fn unmount(dir: &Path, manner: Manner) -> Result<(), MountError> {
    let flags = match manner {
        Manner::Polite => UnmountFlags::NOFOLLOW,
        Manner::Lazy => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH | UnmountFlags::FORCE,
    };
    match rustix::mount::unmount(dir, flags) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(MountError::Busy(dir.to_owned())),
        Err(Errno::INVAL | Errno::NOENT) => Err(MountError::NotMounted(dir.to_owned())),
        Err(Errno::PERM) => unmount_by_helper(dir, manner),
        Err(error) => Err(MountError::Io(error.into())),
    }
}

fn unmount_by_helper(dir: &Path, manner: Manner) -> Result<(), MountError> {
    let lazy: &[&OsStr] = if manner == Manner::Lazy { &[OsStr::from_bytes(b"-z")] } else { &[] };
    let output = Command::new(HELPER)
        .arg("-u")
        .args(lazy)
        .arg("--")
        .arg(dir)
        .stdin(Stdio::null())
        .output()
        .map_err(no_helper)?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if reason.to_lowercase().contains("busy") {
        return Err(MountError::Busy(dir.to_owned()));
    }
    if reason.contains("not found in") {
        return Err(MountError::NotMounted(dir.to_owned()));
    }
    Err(MountError::Refused { path: dir.to_owned(), reason })
}

/// Takes a mount of kache away, whoever serves it or does not: for dead mounts.
pub fn unmount_lazily(dir: &Path) -> Result<(), MountError> {
    let dir = absolute(dir)?;
    if !mounted_dirs().contains(&dir) {
        return Err(MountError::NotMounted(dir));
    }
    unmount(&dir, Manner::Lazy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mountinfo() {
        let ours =
            br"36 35 0:50 / /home/a\040b/target rw,nosuid,nodev shared:7 - fuse.kache kache rw,user_id=0";
        let found =
            Mounted { dir: PathBuf::from("/home/a b/target"), device: "0:50".into(), source: "kache".into() };
        assert_eq!(mounted_in(ours), Some(found));
        let other = b"36 35 0:50 / /mnt rw - fuse.sshfs host rw";
        assert_eq!(mounted_in(other), None);
        assert_eq!(mounted_in(b""), None);
    }
}
