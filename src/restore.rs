//! Puts a blob's bytes, or bytes of our own, at a path: reflink, else hard link, else copy.
//!
//! A reflink is the best there is: independent of the blob at no cost. A hard link costs as little, and shares the
//! inode, so it is taken only for what nobody edits in place ([`Sharing::Link`]), and only by one target at a time:
//! links share their mtime, and cargo compares mtimes, so a second target would move the first one's. How many there
//! are is in the inode's link count: a blob with one link is in nobody's target.
//!
//! Permissions are those that a compiler's own output would have there: what the umask of whoever builds leaves.
//!
//! Nothing appears under its final name before it is whole, and nothing follows a symbolic link at that name.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use kache_wrapper::atomic::Temp;
use kache_wrapper::cache::{FileId, LinkMode, Sharing};
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use crate::store::sys;
use crate::umask;

/// What is known of whether one file system can clone blocks into another. Asking costs system calls, so the answer
/// is remembered.
pub trait LinkMemory {
    /// `None` when nobody has tried yet.
    fn can_reflink(&self, from_dev: u64, to_dev: u64) -> Option<bool>;
    fn learn_reflink(&self, from_dev: u64, to_dev: u64, can: bool);
}

/// A blob as found on disk just now.
pub struct Source<'a> {
    pub path: &'a Path,
    pub meta: &'a fs::Metadata,
}

pub struct Placed {
    pub mode: LinkMode,
    /// Of the file at its place.
    pub id: FileId,
}

/// Puts a blob at `dest`, replacing what is there, with the current time as its mtime.
pub fn place(
    source: &Source,
    dest: &Path,
    executable: bool,
    sharing: Sharing,
    memory: &dyn LinkMemory,
) -> io::Result<Placed> {
    with_parent(dest, || {
        let there = fs::metadata(parent(dest))?;
        let (from, to) = (source.meta.dev(), there.dev());
        if memory.can_reflink(from, to) != Some(false) {
            match copy(source, dest, executable, LinkMode::Reflink) {
                Err(e) if is_cannot_reflink(&e) => memory.learn_reflink(from, to, false),
                Err(e) => return Err(e),
                Ok(placed) => {
                    if memory.can_reflink(from, to).is_none() {
                        memory.learn_reflink(from, to, true);
                    }
                    return Ok(placed);
                }
            }
        }
        if sharing == Sharing::Link
            && from == to
            && source.meta.gid() == group_of_new_files(&there)
            && let Some(placed) = hard_link(source, dest, executable)?
        {
            return Ok(placed);
        }
        copy(source, dest, executable, LinkMode::Copy)
    })
}

/// Puts bytes at `dest`, replacing what is there.
pub fn place_bytes(dest: &Path, bytes: &[u8], executable: bool) -> io::Result<FileId> {
    with_parent(dest, || {
        let (mut file, temp) = create(dest, executable)?;
        file.write_all(bytes)?;
        let id = FileId::of(&file.metadata()?);
        temp.rename(dest)?;
        Ok(id)
    })
}

/// Runs `put`, and once more after making the directories it missed.
fn with_parent<T>(dest: &Path, put: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match put() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let parent = parent(dest);
            if parent.is_dir() {
                return Err(e);
            }
            create_dirs(parent)?;
            put()
        }
        other => other,
    }
}

fn parent(dest: &Path) -> &Path {
    match dest.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

/// A set-group-ID directory gives its group to what is made in it; a link would keep the blob's.
fn group_of_new_files(dir: &fs::Metadata) -> u32 {
    if dir.mode() & libc::S_ISGID != 0 { dir.gid() } else { nix::unistd::getegid().as_raw() }
}

/// The same as [`fs::create_dir_all`], for whoever this thread works for.
fn create_dirs(dir: &Path) -> io::Result<()> {
    if !umask::is_foreign() {
        return fs::create_dir_all(dir);
    }
    match fs::create_dir(dir) {
        Ok(()) => {
            let inherited = fs::symlink_metadata(dir)?.mode() & libc::S_ISGID;
            fs::set_permissions(dir, fs::Permissions::from_mode(umask::dir_mode() | inherited))
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound && dir.parent().is_some() => {
            create_dirs(parent(dir))?;
            create_dirs(dir)
        }
        Err(e) => Err(e),
    }
}

/// `None`: the blob is in use by another target, or the file system will not link; a copy will do.
fn hard_link(source: &Source, dest: &Path, executable: bool) -> io::Result<Option<Placed>> {
    let ino = source.meta.ino();
    // Two links: the one target that has it may be this one.
    let in_place =
        source.meta.nlink() == 2 && fs::symlink_metadata(dest).is_ok_and(|m| m.ino() == ino && m.is_file());
    if source.meta.nlink() != 1 && !in_place {
        return Ok(None);
    }
    // As a compiler would leave it: rustc refuses to replace a file that is not writable. Nobody else has a link, so the
    // mode of the blob is nobody else's concern; only the store must be able to read it.
    let mode = umask::file_mode(executable);
    if mode & 0o400 == 0 {
        return Ok(None);
    }
    if source.meta.mode() & 0o777 != mode {
        fs::set_permissions(source.path, fs::Permissions::from_mode(mode))?;
    }
    if in_place {
        return stamp(dest).map(|id| Some(Placed { mode: LinkMode::Hardlink, id }));
    }
    match fs::hard_link(source.path, dest) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let temp = Temp::beside(dest);
            match fs::hard_link(source.path, temp.path()) {
                // Of two links to one inode rename does nothing and says nothing; then dropping `temp` removes it.
                Ok(()) => fs::rename(temp.path(), dest)?,
                Err(e) if is_cannot_link(&e) => return Ok(None),
                Err(e) => return Err(e),
            }
        }
        Err(e) if is_cannot_link(&e) => return Ok(None),
        Err(e) => return Err(e),
    }
    // Two processes may have seen one link. Whoever finds more than its own steps back, before it touches the mtime.
    let now = fs::symlink_metadata(dest)?;
    if now.ino() != ino {
        return Err(io::Error::other("the file was replaced by another process"));
    }
    if now.nlink() != 2 {
        fs::remove_file(dest)?;
        return Ok(None);
    }
    stamp(dest).map(|id| Some(Placed { mode: LinkMode::Hardlink, id }))
}

/// Sets the mtime to the file system's own idea of now, the same one it stamps written files with.
fn stamp(dest: &Path) -> io::Result<FileId> {
    let now = TimeSpec::UTIME_NOW;
    utimensat(AT_FDCWD, dest, &now, &now, UtimensatFlags::NoFollowSymlink)?;
    Ok(FileId::of(&fs::symlink_metadata(dest)?))
}

/// Makes an independent file, by cloning blocks or by copying bytes as `mode` tells.
fn copy(source: &Source, dest: &Path, executable: bool, mode: LinkMode) -> io::Result<Placed> {
    let mut from = File::open(source.path)?;
    let (mut to, temp) = create(dest, executable)?;
    if mode == LinkMode::Reflink {
        sys::reflink(&from, &to)?;
    } else {
        io::copy(&mut from, &mut to)?;
    }
    let meta = to.metadata()?;
    if meta.len() != source.meta.len() {
        return Err(io::Error::other(format!("{} of {} bytes arrived", meta.len(), source.meta.len())));
    }
    temp.rename(dest)?;
    Ok(Placed { mode, id: FileId::of(&meta) })
}

/// What FICLONE says between file systems that cannot: not supported, across devices, no such ioctl, or (ext4 with
/// block sizes that differ) invalid.
pub fn is_cannot_reflink(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EXDEV | libc::ENOTTY | libc::EINVAL | libc::ENOSYS | libc::EPERM)
    )
}

fn is_cannot_link(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EXDEV | libc::EMLINK | libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS | libc::EACCES)
    )
}

/// A new file for whoever this thread works for.
fn create(dest: &Path, executable: bool) -> io::Result<(File, Temp)> {
    let mode = umask::file_mode(executable);
    let (file, temp) = Temp::create(dest, mode)?;
    if umask::is_foreign() {
        // The kernel has applied our own as well.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    Ok((file, temp))
}
