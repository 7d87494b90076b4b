//! The overlay file system: a real directory underneath (the upper), immutable blobs as views on top.
//!
//! ```no_run
//! use std::sync::Arc;
//! use kache_fs::{Content, DirBlobs, Leave, LinkPolicy, Mount, Options, Placement, RelPath};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let blobs = Arc::new(DirBlobs::new("/var/cache/blobs")?);
//! let mut mount = Mount::start("target".as_ref(), &Options::new("/var/cache/state/1"), blobs.clone())?;
//!
//! // A finished file becomes a blob, by rename.
//! let (hash, size) = mount.seal(&RelPath::new("debug/deps/libfoo.rlib")?, true)?;
//! // A blob appears at a path. Nothing is copied.
//! let content = Content::View { hash, size, link_ok: true };
//! mount.place(&[Placement { path: RelPath::new("debug/libfoo.rlib")?, content, mode: 0o644, mtime: None }])?;
//!
//! mount.unmount(Leave::Files(LinkPolicy::Never), false)?;
//! # Ok(())
//! # }
//! ```
//!
//! # The interface
//! * [`Blobs`]: what the program provides; [`DirBlobs`] is a plain directory of blobs.
//! * [`Mount::start`]: mounts over a directory. [`MountError`] tells why not: no /dev/fuse, no fusermount3, refused,
//!   mounted already, a dead mount, … [`mount_state`], [`mounted_dirs`] and [`unmount_lazily`] deal with dead mounts.
//! * [`Mount::place`] (views, small files, files [moved](Content::Moved) in when [`Mount::is_beside`]),
//!   [`Mount::remove`], [`Mount::set_mtimes`]: change the tree from outside; the kernel is told.
//!   Not to be called from a thread that serves a request of the same mount, nor with a lock that [`Blobs`] needs.
//! * [`Mount::seal`], or [`Mount::begin_seal`], [`SealTicket::file`], [`Mount::commit_seal`]; [`Mount::seal_quiet`].
//! * [`Mount::stat`], [`Mount::open_file`], [`Mount::read_link`], [`Mount::walk`], [`Mount::statistics`],
//!   [`Mount::shown`], [`Mount::idle`], [`Mount::now`]: look without going through the mount. A daemon must never use
//!   the paths of a mount that it serves itself: it would wait for itself.
//! * [`Mount::unmount`] with what to [`Leave`]; [`dissolve_unmounted`] does the second half for a daemon that died.
//!   A dropped [`Mount`] unmounts and leaves the journal, so that [`Mount::start`] shows the same tree again.
//!
//! # How it works
//! The upper is the target directory itself, used through a descriptor opened before the mount covered it. Directories,
//! symbolic links and ordinary files live there; views exist in memory and in a journal. A view that is written is copied
//! up; a file that is sealed is renamed into the store. See `docs/semantics.md` for what programs can rely on.

mod adapter;
mod blobs;
mod error;
mod fds;
mod journal;
mod kernel;
mod lease;
mod mount;
mod overlay;
mod path;
mod pool;
mod record;
mod tree;
mod upper;

pub use adapter::Negotiated;
pub use blobs::{Blobs, DirBlobs, Slot};
pub use error::{FsError, Result};
pub use kernel::{MountError, MountState, absolute, mount_state, mounted_dirs, unmount_lazily};
pub use mount::{Leave, Mount, Options, abort, dissolve_unmounted, has_journal, raise_file_limit};
pub use overlay::{
    Content, Keep, Kind, LinkPolicy, Materialized, Placement, SealError, SealTicket, Sealed, Stat,
    Statistics, WalkEntry,
};
pub use path::RelPath;
