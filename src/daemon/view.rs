//! Does another process mean the same files by the same paths?
//!
//! A cache directory can be seen from more than one mount namespace or root directory: containers, sandboxes and
//! services with private directories share one. Paths that a build there names are other files for a daemon here, or
//! none, so it is of no use to that build. Whoever cannot tell does without it: nothing else is lost but time.

use std::io;
use std::path::Path;

/// Which files a process reaches by absolute paths, and what its machine is called.
#[derive(Debug, PartialEq, Eq)]
struct View {
    /// Device and inode of the namespace of the machine's name.
    host: (u64, u64),
    /// Device and inode of the mount namespace.
    namespace: (u64, u64),
    /// Mount, device and inode of the root directory: the same directory can be bound to several places, with other
    /// things mounted in it.
    root: (u64, u64, u64),
}

/// Of the process with this number, which the kernel translated for us; 0: one that our pid namespace does not show.
#[cfg(target_os = "linux")]
pub fn is_ours(pid: i32) -> bool {
    // A /proc of another pid namespace numbers processes differently, and would show us somebody else.
    let proc_is_ours =
        std::fs::read_link("/proc/self").is_ok_and(|p| p == Path::new(&std::process::id().to_string()));
    if pid <= 0 || !proc_is_ours {
        return false;
    }
    match (View::of(Path::new("/proc/self")), View::of(&Path::new("/proc").join(pid.to_string()))) {
        (Ok(ours), Ok(theirs)) => ours == theirs,
        // The kernel shows neither to those who may not trace the process, as in a user namespace of their own.
        _ => false,
    }
}

/// There are no mount namespaces here.
#[cfg(not(target_os = "linux"))]
pub fn is_ours(_pid: i32) -> bool {
    true
}

/// What tells this mount namespace from all others that there are until the machine ends; `None` when it cannot be
/// told.
pub fn namespace() -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self/ns/mnt").ok().map(|meta| meta.ino())
}

#[cfg(target_os = "linux")]
impl View {
    fn of(process: &Path) -> io::Result<View> {
        use std::os::fd::AsRawFd;
        use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
        let namespace = std::fs::metadata(process.join("ns/mnt"))?;
        let root =
            std::fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(process.join("root"))?;
        let meta = root.metadata()?;
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", root.as_raw_fd()))?;
        let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
        let mount = mount.ok_or(io::ErrorKind::Unsupported)?;
        let host = std::fs::metadata(process.join("ns/uts"))?;
        Ok(View {
            host: (host.dev(), host.ino()),
            namespace: (namespace.dev(), namespace.ino()),
            root: (mount, meta.dev(), meta.ino()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_see_what_we_see() {
        assert!(is_ours(std::process::id() as i32));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn whoever_cannot_be_asked_sees_other_files() {
        assert!(!is_ours(0));
        assert!(!is_ours(i32::MAX));
    }
}
