//! Where the daemon listens, and who may talk to it.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// `sun_path` of `sockaddr_un` holds 108 bytes on Linux, 104 elsewhere, with the final NUL.
const MAX_PATH: usize = 103;

/// `{cache_dir}/daemon.sock`, or a name in `/tmp/kache-UID` when that is too long for a socket. `None` where others could
/// put a socket of their own.
pub fn path(cache_dir: &Path) -> Option<PathBuf> {
    let path = cache_dir.join("daemon.sock");
    if path.as_os_str().len() <= MAX_PATH {
        return Some(path);
    }
    let hash = blake3::hash(cache_dir.as_os_str().as_bytes()).to_hex();
    let name = format!("kache-{}.sock", &hash[..16]);
    // Not `XDG_RUNTIME_DIR`, which one shell has and another has not: they would not find each other's daemon.
    let dir = own_dir();
    is_private(&dir).then(|| dir.join(name))
}

/// Makes it if need be. Somebody else may have made it, in a directory that all can write.
fn is_private(dir: &Path) -> bool {
    let _ = std::fs::DirBuilder::new().mode(0o700).create(dir);
    std::fs::symlink_metadata(dir).is_ok_and(|meta| {
        meta.is_dir() && meta.uid() == nix::unistd::geteuid().as_raw() && meta.mode() & 0o077 == 0
    })
}

/// Nobody listens at `path` any more.
pub fn leave(path: &Path) {
    if let Some(dir) = path.parent().filter(|dir| *dir == own_dir()) {
        // Other daemons of this user may listen there.
        let _ = std::fs::remove_dir(dir);
    }
}

fn own_dir() -> PathBuf {
    Path::new("/tmp").join(format!("kache-{}", nix::unistd::geteuid()))
}

/// Who is at the other end: of a client's stream, the process that listens.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    pub uid: u32,
    /// 0 when it is not known, or not to be seen from our pid namespace.
    pub pid: i32,
}

/// User id of the process at the other end.
pub fn peer_uid(stream: &UnixStream) -> io::Result<u32> {
    peer(stream).map(|peer| peer.uid)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn peer(stream: &UnixStream) -> io::Result<Peer> {
    let mut cred = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: cred and len are valid for writing and of the size that SO_PEERCRED fills.
    let status = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut cred).cast(),
            &raw mut len,
        )
    };
    if status == 0 { Ok(Peer { uid: cred.uid, pid: cred.pid }) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn peer(stream: &UnixStream) -> io::Result<Peer> {
    let (mut uid, mut gid) = (u32::MAX, u32::MAX);
    // SAFETY: both are valid for writing.
    let status = unsafe { libc::getpeereid(stream.as_raw_fd(), &raw mut uid, &raw mut gid) };
    if status == 0 { Ok(Peer { uid, pid: 0 }) } else { Err(io::Error::last_os_error()) }
}
