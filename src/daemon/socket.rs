//! Where the daemon listens, and who may talk to it.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// `sun_path` of `sockaddr_un` holds 108 bytes on Linux, 104 elsewhere, with the final NUL.
const MAX_PATH: usize = 103;

/// `{cache_dir}/daemon.sock`, or a name in `XDG_RUNTIME_DIR` when that is too long for a socket.
pub fn path(cache_dir: &Path) -> PathBuf {
    let path = cache_dir.join("daemon.sock");
    if path.as_os_str().len() <= MAX_PATH {
        return path;
    }
    let hash = blake3::hash(cache_dir.as_os_str().as_bytes()).to_hex();
    let name = format!("kache-{}.sock", &hash[..16]);
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) => Path::new(&dir).join(name),
        None => std::env::temp_dir().join(format!("kache-{}", nix::unistd::getuid())).join(name),
    }
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
