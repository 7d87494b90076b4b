//! What inputs are right now: content and time of files and directories.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use kache_fs::RelPath;
use kache_wrapper::cache::Cache;

use super::place::{Base, Place};
use super::tree::{self, Item, Listing};
use crate::store::{Hash, Store};

/// Threads that hash.
const THREADS: usize = 8;
/// A declared input directory with more files than this is not looked through.
const MAX_FILES: usize = 20_000;

/// Content of what cargo takes for immutable.
pub const IMMUTABLE: Hash = [0; 32];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    pub hash: Hash,
    /// Of a directory: the newest in it, as cargo has it.
    pub mtime_ns: i64,
    /// Since then its content is what it is. Tools set mtimes back (`git-restore-mtime`, archives), which is a change, too.
    pub changed_ns: i64,
}

/// Inputs of one checkout, each looked at once.
pub struct Inputs<'a> {
    store: &'a Store,
    place: &'a Place,
    /// What is inside of the target directory is known from here, without asking a mount.
    listing: &'a Listing,
    known: Mutex<HashMap<PathBuf, Option<State>>>,
}

impl<'a> Inputs<'a> {
    pub fn new(store: &'a Store, place: &'a Place, listing: &'a Listing) -> Inputs<'a> {
        Inputs { store, place, listing, known: Mutex::default() }
    }

    /// Looks at many, some at a time.
    pub fn hash_all(&self, paths: &[PathBuf]) {
        let todo: BTreeSet<&PathBuf> = paths.iter().collect();
        let todo: Vec<&PathBuf> = todo.into_iter().collect();
        let size = todo.len().div_ceil(THREADS).max(16);
        std::thread::scope(|scope| {
            for part in todo.chunks(size) {
                scope.spawn(move || part.iter().for_each(|p| _ = self.get(p)));
            }
        });
    }

    /// `None` if there is no such thing, or nothing that can be proven.
    pub fn get(&self, path: &Path) -> Option<State> {
        if let Some(known) = self.known().get(path) {
            return *known;
        }
        let state = self.look(path);
        self.known().insert(path.to_owned(), state);
        state
    }

    /// Those that look different from when they were looked at: somebody writes to them right now.
    pub fn changed(&self) -> BTreeSet<PathBuf> {
        let known = self.known();
        let on_disk = known.iter().filter(|(path, _)| self.place.spot(path).base != Base::Target);
        on_disk
            .filter(|(path, state)| {
                let now = fs::metadata(path).ok().filter(|m| m.is_file()).map(|m| mtime(&m));
                now.is_some_and(|now| state.is_none_or(|s| s.mtime_ns != now))
            })
            .map(|(path, _)| path.clone())
            .collect()
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Option<State>>> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn look(&self, path: &Path) -> Option<State> {
        let spot = self.place.spot(path);
        match spot.base {
            Base::CargoHome => Some(self.of_package(path)),
            Base::Target => self.in_tree(&super::units::path_of(&spot.rel)),
            _ => self.on_disk(path),
        }
    }

    fn in_tree(&self, path: &RelPath) -> Option<State> {
        if let Some(file) = tree::file(self.listing, path) {
            return Some(State { hash: file.hash, mtime_ns: file.mtime_ns, changed_ns: file.mtime_ns });
        }
        if !path.is_root() && self.listing.get(path) != Some(&Item::Dir) {
            return None;
        }
        let mut files = BTreeMap::new();
        for (inner, item) in tree::below(self.listing, path) {
            match item {
                Item::File(file) => {
                    files.insert(inner.as_bytes().to_vec(), (file.hash, file.mtime_ns));
                }
                Item::Symlink(_) => return None,
                Item::Dir => {}
            }
        }
        Some(summary(&files, 0))
    }

    /// Immutable, says cargo; but where a build script has declared it, cargo looks at its time.
    fn of_package(&self, path: &Path) -> State {
        let newest = fs::symlink_metadata(path).ok().and_then(|meta| {
            let mut newest = mtime(&meta);
            if meta.is_dir() {
                newest_in(path, &mut newest)?;
            }
            Some(newest)
        });
        let newest = newest.unwrap_or(0);
        State { hash: IMMUTABLE, mtime_ns: newest, changed_ns: newest }
    }

    fn on_disk(&self, path: &Path) -> Option<State> {
        let meta = fs::metadata(path).ok()?;
        if meta.is_file() {
            let hash = self.store.hash_file(path).ok()??;
            return Some(State { hash, mtime_ns: mtime(&meta), changed_ns: changed(&meta) });
        }
        // Cargo would look into the target directory too, which is never older than what it builds.
        if !meta.is_dir() || self.place.target.starts_with(path) {
            return None;
        }
        let mut files = BTreeMap::new();
        let (mut newest, mut latest) = (mtime(&meta), changed(&meta));
        self.dir_on_disk(path, path, &mut files, &mut newest, &mut latest)?;
        let state = summary(&files, newest);
        Some(State { changed_ns: latest.max(state.changed_ns), ..state })
    }

    fn dir_on_disk(
        &self,
        top: &Path,
        dir: &Path,
        files: &mut BTreeMap<Vec<u8>, (Hash, i64)>,
        newest: &mut i64,
        latest: &mut i64,
    ) -> Option<()> {
        for entry in fs::read_dir(dir).ok()? {
            let path = entry.ok()?.path();
            let meta = fs::symlink_metadata(&path).ok()?;
            *newest = (*newest).max(mtime(&meta));
            *latest = (*latest).max(changed(&meta));
            if meta.is_dir() {
                self.dir_on_disk(top, &path, files, newest, latest)?;
            } else if meta.is_file() && files.len() < MAX_FILES {
                let name = path.strip_prefix(top).ok()?.as_os_str().as_bytes().to_vec();
                files.insert(name, (self.store.hash_file(&path).ok()??, mtime(&meta)));
            } else {
                // A symbolic link may lead anywhere.
                return None;
            }
        }
        Some(())
    }
}

fn summary(files: &BTreeMap<Vec<u8>, (Hash, i64)>, newest: i64) -> State {
    let mut hash = blake3::Hasher::new();
    let mut mtime_ns = newest;
    for (name, (content, mtime)) in files {
        hash.update(&(name.len() as u64).to_le_bytes()).update(name).update(content);
        mtime_ns = mtime_ns.max(*mtime);
    }
    State { hash: *hash.finalize().as_bytes(), mtime_ns, changed_ns: mtime_ns }
}

/// `None`: it cannot be looked through.
fn newest_in(dir: &Path, newest: &mut i64) -> Option<()> {
    for entry in fs::read_dir(dir).ok()? {
        let path = entry.ok()?.path();
        let meta = fs::symlink_metadata(&path).ok()?;
        *newest = (*newest).max(mtime(&meta));
        if meta.is_dir() {
            newest_in(&path, newest)?;
        }
    }
    Some(())
}

fn changed(meta: &fs::Metadata) -> i64 {
    mtime(meta).max(meta.ctime() * 1_000_000_000 + meta.ctime_nsec())
}

fn mtime(meta: &fs::Metadata) -> i64 {
    meta.mtime() * 1_000_000_000 + meta.mtime_nsec()
}
