//! The file system itself, without FUSE: what the adapter calls, and what the daemon calls.
//!
//! # Locks
//! In this order, each optional: a file's [`Gate`] (`copy_up`, then `writers`), then the state. System calls on the upper
//! that need a path happen under the state's lock, so that the path stays true; they are short. Whatever can take long
//! (reading and writing bytes, copying up, opening a blob, fsync) happens outside of it. The kernel is told to forget
//! what it cached only when no lock is held.

mod attr;
mod copy_up;
mod data;
mod materialize;
mod namespace;
mod place;
mod recover;
mod seal;
mod walk;
mod xattr;

pub use attr::{Attr, SetAttr, SetTime};
pub use data::Reading;
pub use materialize::{Keep, LinkPolicy, Materialized};
pub use namespace::{Caller, RenameMode};
pub(crate) use place::timespec;
pub use place::{Content, Placement};
pub use seal::{SealError, SealTicket, Sealed};
pub(crate) use walk::system_time;
pub use walk::{Kind, Stat, Statistics, WalkEntry};

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use blake3::Hash;
use parking_lot::RwLock;
use rustix::fs::{FileType, Timespec, Timestamps};
use rustix::io::Errno;

use crate::blobs::Blobs;
use crate::error::{FsError, Result, not_found};
use crate::fds::{Fds, Key};
use crate::journal::Journal;
use crate::record::{Op, View};
use crate::tree::{self, Gate, Kind as NodeKind, Node, Tree};
use crate::upper::{self, Temporary, Upper};

/// Tells the kernel that what it cached is no longer true. Called from threads that hold no lock.
pub(crate) trait Kernel: Send + Sync {
    /// The entry `name` of a directory has changed.
    fn entry(&self, dir: u64, name: &[u8]);
    /// An inode's attributes and bytes (a directory's listing) have changed.
    fn inode(&self, ino: u64);
    /// An inode's attributes have changed.
    fn attributes(&self, ino: u64);
}

pub(crate) struct State {
    pub tree: Tree,
    pub journal: Journal,
}

/// An overlay over one directory.
pub(crate) struct Overlay {
    state: RwLock<State>,
    upper: Upper,
    blobs: Arc<dyn Blobs>,
    fds: Fds,
    clock: Clock,
    kernel: OnceLock<Box<dyn Kernel>>,
    born: Instant,
    /// The same on the clock of the upper's file system.
    since: Timespec,
    /// Milliseconds after birth of the last change that came through the mount.
    activity: AtomicU64,
    /// Grows when something gets a name or loses it.
    names: AtomicU64,
    /// Renames from the upper into the store do not work.
    cross_device: std::sync::atomic::AtomicBool,
    cannot_clone: std::sync::atomic::AtomicBool,
}

/// What the kernel has to be told once no lock is held.
#[derive(Default)]
struct Stale {
    entries: Vec<(u64, tree::Name)>,
    inodes: Vec<u64>,
    attributes: Vec<u64>,
}

/// Where an upper file is to be found.
enum Location {
    Path(Vec<u8>),
    Held(Arc<std::os::fd::OwnedFd>),
}

impl Overlay {
    /// Opens a directory and the journal of its views, and finishes what a crash has left half done.
    pub fn open(dir: &Path, state_dir: &Path, blobs: Arc<dyn Blobs>) -> Result<Self> {
        let upper = Upper::open(dir).map_err(|e| e.within(dir.display()))?;
        let (journal, frames) = Journal::open(state_dir)?;
        let tree = recover::replay(&frames);
        let clock = Clock::new(&upper)?;
        let since = clock.now()?;
        let overlay = Overlay {
            state: RwLock::new(State { tree, journal }),
            upper,
            blobs,
            fds: Fds::default(),
            clock,
            kernel: OnceLock::new(),
            born: Instant::now(),
            since,
            activity: AtomicU64::new(0),
            names: AtomicU64::new(0),
            cross_device: false.into(),
            cannot_clone: false.into(),
        };
        overlay.recover(&frames)?;
        Ok(overlay)
    }

    pub fn set_kernel(&self, kernel: Box<dyn Kernel>) {
        let _ = self.kernel.set(kernel);
    }

    /// Device number of what is underneath.
    pub fn device(&self) -> u64 {
        self.upper.dev
    }

    /// Time since the last change that a program made through the mount (or since the start).
    pub fn idle(&self) -> Duration {
        self.born.elapsed().saturating_sub(Duration::from_millis(self.activity.load(Ordering::Relaxed)))
    }

    /// Another number whenever something has got a name or lost it, through the mount or from outside.
    pub fn names(&self) -> u64 {
        self.names.load(Ordering::Relaxed)
    }

    fn named(&self) {
        self.names.fetch_add(1, Ordering::Relaxed);
    }

    fn active(&self) {
        self.activity.store(self.age_ms(), Ordering::Relaxed);
    }

    fn age_ms(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }

    fn tell_kernel(&self, stale: Stale) {
        let Some(kernel) = self.kernel.get() else { return };
        for (dir, name) in &stale.entries {
            kernel.entry(*dir, name);
        }
        let Stale { mut inodes, mut attributes, .. } = stale;
        inodes.sort_unstable();
        inodes.dedup();
        attributes.sort_unstable();
        attributes.dedup();
        for ino in &inodes {
            kernel.inode(*ino);
        }
        for ino in attributes.into_iter().filter(|ino| inodes.binary_search(ino).is_err()) {
            kernel.attributes(ino);
        }
    }

    /// Runs `f` with the state, in a state where the directory `ino` has been filled from the upper.
    fn with_dir<R>(&self, ino: u64, f: impl FnOnce(&State) -> Result<R>) -> Result<R> {
        {
            let state = self.state.read();
            if state.dir(ino)?.loaded {
                return f(&state);
            }
        }
        self.load(&mut self.state.write(), ino)?;
        f(&self.state.read())
    }

    /// The state for changing it, with the directory filled.
    fn change(&self, dir: u64) -> Result<parking_lot::RwLockWriteGuard<'_, State>> {
        self.active();
        self.named();
        let mut state = self.state.write();
        self.load(&mut state, dir)?;
        Ok(state)
    }

    /// Fills a directory from the upper. Where the upper and the journal both have a file, the upper's wins: it is newer
    /// (somebody worked on the bare directory), or the same (a crash came between two steps).
    fn load(&self, state: &mut State, ino: u64) -> Result<()> {
        if state.dir(ino)?.loaded {
            return Ok(());
        }
        let path = state.tree.path(ino).ok_or_else(not_found)?;
        let mut stale: Vec<tree::Name> = Vec::new();
        let mut forgotten = Vec::new();
        let mut fresh = Vec::new();
        let mut directories = std::collections::HashSet::new();
        for entry in self.upper.list(&path)? {
            let mut full = path.clone();
            crate::path::push(&mut full, &entry.name);
            if upper::is_hidden(&entry.name) {
                let _ = self.upper.unlink(&full);
                continue;
            }
            let is_dir = entry.kind == FileType::Directory;
            match state.tree.child(ino, &entry.name) {
                Some(child) if is_dir && state.tree.dir(child).is_some() => {
                    directories.insert(child);
                    continue;
                }
                Some(_) => stale.push(entry.name.as_slice().into()),
                None => {}
            }
            fresh.push((entry, full));
        }
        // Directories that lead to views but are gone.
        for (name, child) in state.dir(ino)?.iter() {
            if state.tree.dir(child).is_some() && !directories.contains(&child) && !stale.contains(name) {
                stale.push(name.clone());
            }
        }
        for name in &stale {
            state.views_below(ino, name, &mut forgotten);
        }
        state.journal.append(&forgotten)?;
        for name in stale {
            state.tree.prune(ino, &name);
        }
        for (entry, full) in fresh {
            let child = if entry.kind == FileType::Directory {
                state.tree.create(NodeKind::Dir(Box::default()))
            } else {
                self.upper_node(state, entry.real, entry.kind, &full)
            };
            state.tree.attach(ino, &entry.name, child);
        }
        state.dir_mut(ino)?.loaded = true;
        Ok(())
    }

    /// The node of an upper file: the one that another of its names has already, or a new one.
    fn upper_node(&self, state: &mut State, real: u64, kind: FileType, path: &[u8]) -> u64 {
        if let Some(known) = state.tree.by_real(real) {
            let is_link = self.upper.stat(path).is_ok_and(|s| s.st_nlink > 1 && s.st_dev == self.upper.dev);
            if is_link {
                return known;
            }
        }
        state.tree.create_upper(real, kind)
    }

    /// Where an upper file or directory is.
    fn location(&self, state: &State, ino: u64) -> Result<Location> {
        if let Some(upper) = state.node(ino)?.upper()
            && let Some(held) = &upper.held
        {
            return Ok(Location::Held(held.clone()));
        }
        state.tree.path(ino).map(Location::Path).ok_or_else(not_found)
    }

    /// Before an upper file loses its last name: holds it if somebody may still have it open.
    fn hold(&self, state: &mut State, ino: u64, path: &[u8]) -> Result<()> {
        let node = state.tree.node_mut(ino).ok_or_else(not_found)?;
        let known = node.is_known_to_kernel();
        if let NodeKind::Upper(upper) = &mut node.kind
            && node.names.len() == 1
            && known
            && upper.held.is_none()
        {
            upper.held = Some(Arc::new(self.upper.hold(path)?));
        }
        Ok(())
    }

    /// After a node has lost a name.
    fn release(&self, state: &mut State, ino: u64) {
        if state.tree.drop_if_dead(ino) {
            self.fds.remove(Key::Upper(ino));
        }
    }

    /// After an upper file has been hard linked or unlinked, or a view has: its change time.
    fn stamp_view(&self, state: &mut State, ino: u64, now: Timespec) {
        if let Some(node) = state.tree.node_mut(ino)
            && let NodeKind::View(view) = &mut node.kind
        {
            view.ctime = now;
        }
    }

    fn gate(&self, ino: u64) -> Result<Arc<Gate>> {
        Ok(self.state.read().node(ino)?.gate())
    }

    /// Makes everything in the upper durable.
    pub fn sync_upper(&self) -> Result<()> {
        Ok(rustix::fs::syncfs(self.upper.root())?)
    }

    /// Makes the journal durable.
    pub fn sync_journal(&self) -> Result<()> {
        let unsynced = self.state.read().journal.unsynced();
        if let Some((file, end)) = unsynced {
            file.sync_data()?;
            self.state.write().journal.set_synced(&file, end);
        }
        Ok(())
    }

    /// Rewrites the journal if it has become much longer than what it says.
    pub fn compact(&self) -> Result<()> {
        if !self.state.read().journal.is_stale() {
            return Ok(());
        }
        let mut state = self.state.write();
        let image = state.tree.image();
        state.journal.rewrite(&image)?;
        Ok(())
    }

    /// Blobs whose views were written or removed since the last call. Some may be shown elsewhere still.
    pub fn take_superseded(&self) -> Vec<Hash> {
        self.state.write().tree.take_dropped()
    }

    /// Hashes of all blobs that this mount shows (or that somebody has open in it).
    pub fn shown(&self) -> Vec<Hash> {
        let state = self.state.read();
        let mut hashes: Vec<Hash> =
            state.tree.nodes().filter_map(|(_, n)| n.view().map(|v| v.hash)).collect();
        hashes.sort_unstable_by_key(|h| *h.as_bytes());
        hashes.dedup();
        hashes
    }

    /// The time that files written now are stamped with.
    pub fn now(&self) -> Result<Timespec> {
        self.clock.now()
    }
}

impl State {
    fn node(&self, ino: u64) -> Result<&Node> {
        self.tree.node(ino).ok_or(FsError::new(Errno::STALE, "inode is not known"))
    }

    fn dir(&self, ino: u64) -> Result<&tree::Dir> {
        let dir = self.node(ino)?.dir().ok_or(FsError::new(Errno::NOTDIR, "look into"))?;
        if dir.gone.is_some() { Err(not_found()) } else { Ok(dir) }
    }

    fn dir_mut(&mut self, ino: u64) -> Result<&mut tree::Dir> {
        self.tree.dir_mut(ino).ok_or(FsError::new(Errno::NOTDIR, "look into"))
    }

    fn path_in(&self, dir: u64, name: &[u8]) -> Result<Vec<u8>> {
        self.tree.path_in(dir, name).ok_or_else(not_found)
    }

    fn view_mut(&mut self, ino: u64) -> Option<&mut View> {
        match &mut self.tree.node_mut(ino)?.kind {
            NodeKind::View(view) => Some(view),
            _ => None,
        }
    }

    /// Collects an `Unlink` for each view at or below a name.
    fn views_below(&self, dir: u64, name: &[u8], out: &mut Vec<Op>) {
        let Some(ino) = self.tree.child(dir, name) else { return };
        match self.tree.node(ino).map(|n| &n.kind) {
            Some(NodeKind::View(_)) => {
                out.extend(self.tree.rel_path_in(dir, name).map(|path| Op::Unlink { path }));
            }
            Some(NodeKind::Dir(below)) => {
                for (name, _) in below.iter() {
                    self.views_below(ino, name, out);
                }
            }
            _ => {}
        }
    }

    /// Is any view in memory at or below this directory?
    fn has_views(&self, ino: u64) -> bool {
        match self.tree.node(ino).map(|n| &n.kind) {
            Some(NodeKind::View(_)) => true,
            Some(NodeKind::Dir(dir)) => dir.iter().any(|(_, child)| self.has_views(child)),
            _ => false,
        }
    }
}

/// The clock that the upper's file system stamps files with. It is not any clock of the system: it is coarse, except
/// that a file whose stamp has been looked at gets a finer one the next time (multigrain timestamps, Linux 6.13). A stamp
/// from anywhere else may be older than that of a file written before.
struct Clock {
    scratch: Temporary,
}

impl Clock {
    fn new(upper: &Upper) -> Result<Self> {
        let scratch = upper.temporary()?;
        upper.finish(&scratch);
        Ok(Clock { scratch })
    }

    fn now(&self) -> Result<Timespec> {
        let now = Timestamps { last_access: upper::now(), last_modification: upper::now() };
        rustix::fs::futimens(&self.scratch.file, &now)?;
        let stat = rustix::fs::fstat(&self.scratch.file)?;
        Ok(Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 })
    }
}
