//! Mounts that nobody else sees, and that the kernel ends when the last process of a test has ended.

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Gives this thread, and what it starts, a mount namespace of its own. Nothing for plain users, who cannot mount
/// anything but their own FUSE file systems.
pub fn enter() {
    if !nix::unistd::getuid().is_root() {
        return;
    }
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .expect("private mounts");
    // As distributions have it: through these files a plain user's dying mount is freed.
    let control = "fusectl";
    match mount(Some(control), "/sys/fs/fuse/connections", Some(control), MsFlags::empty(), None::<&str>) {
        Ok(()) | Err(nix::Error::EBUSY) => {}
        Err(error) => panic!("the control files of FUSE: {error}"),
    }
}

/// Shows `from` at `to`, where other users can reach it, and nobody can write.
pub fn show_read_only(from: &Path, to: &Path) {
    let none = None::<&str>;
    mount(Some(from), to, none, MsFlags::MS_BIND, none).expect("a bind mount");
    mount(none, to, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none)
        .expect("a read-only bind mount");
}

/// Nothing in `dir`, for this thread and what it starts.
pub fn empty(dir: &Path) {
    mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("a tmpfs");
}

/// Everything mounted below `dir`, deepest first.
pub fn mounts_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("the mount table");
    let mut found: Vec<std::path::PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| path.replace("\\040", " ").replace("\\012", "\n").into())
        .filter(|path: &std::path::PathBuf| path.starts_with(dir))
        .collect();
    found.reverse();
    found
}

pub fn detach(dir: &Path) {
    let _ = umount2(dir, MntFlags::MNT_DETACH);
}
