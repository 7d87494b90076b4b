//! Do the records of a snapshot's units hold in another checkout? The one who says so is the wrapper's own record
//! ([`kache_wrapper::proof`]); here it is shown the target directory as it will be.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use kache_fs::RelPath;
use kache_wrapper::cache::{
    self, Cache, DirEntry, DirEntryKind, Entry, EntryKey, Event, FileId, Ingested, InvocationKey, LinkMode,
    Placement, Publication, Sharing,
};
use kache_wrapper::machine;
use kache_wrapper::proof::Proof;

use super::place::Place;
use super::survey::Survey;
use super::tree::{self, Item, Listing, os};
use super::units::{Kind, Unit};
use crate::store::Store;

/// Threads that judge.
const THREADS: usize = 4;

/// A target directory that is not there yet: its files are those of a listing, some with other texts.
pub struct Planned<'a> {
    pub store: &'a Store,
    pub listing: &'a Listing,
    pub texts: &'a BTreeMap<RelPath, Vec<u8>>,
    pub target: &'a Path,
}

/// Tells each unit whose record does not hold that it is not fresh.
pub fn check(planned: &Planned, units: &mut [Unit], from: &Place, to: &Place, env: &[(OsString, OsString)]) {
    let survey = Survey::new(planned.store, planned.listing, &[]);
    let all = units.to_vec();
    let judged = |unit: &Unit| judge(planned, &survey, &all, unit, from, to, env);
    let size = units.len().div_ceil(THREADS).max(16);
    std::thread::scope(|scope| {
        for part in units.chunks_mut(size) {
            scope.spawn(move || {
                for unit in part.iter_mut().filter(|unit| unit.problem.is_empty()) {
                    if let Err(why) = judged(unit) {
                        unit.problem = why.to_owned();
                    }
                }
            });
        }
    });
}

fn judge(
    planned: &Planned,
    survey: &Survey,
    all: &[Unit],
    unit: &Unit,
    from: &Place,
    to: &Place,
    env: &[(OsString, OsString)],
) -> Result<(), &'static str> {
    let names: Vec<[u8; 32]> = match unit.kind {
        Kind::Compile => {
            let outputs = survey.compiled(unit).into_iter();
            outputs.map(|(path, file)| Proof::name_of_output(&file.hash, &tree::split(path).1)).collect()
        }
        Kind::RunBuildScript => survey.run_name_among(all, unit).into_iter().collect(),
        Kind::Doc => return Ok(()),
    };
    let proofs = names.iter().filter_map(|name| Proof::find(planned.store, name).ok().flatten());
    let mut is_any = false;
    for proof in proofs {
        is_any = true;
        if !proof.holds(planned, env, &|path| moved(path, from, to)).unwrap_or(false) {
            return Err("something that it read is another here");
        }
    }
    if unit.kind == Kind::RunBuildScript && !is_any {
        // One from another machine was judged when it came.
        let is_known = |name: &[u8; 32]| planned.store.fact(machine::RAN, name).is_ok_and(|f| f.is_some());
        if !names.iter().any(is_known) {
            return Err("it is not known what its build script reads");
        }
    }
    Ok(())
}

/// A path of one checkout in another.
fn moved(path: &Path, from: &Place, to: &Place) -> PathBuf {
    if path == from.cargo_home {
        return to.cargo_home.clone();
    }
    let around =
        |place: &Place| place.repository.as_deref().unwrap_or(&place.workspace).parent().map(Path::to_owned);
    if Some(path) == around(from).as_deref() {
        return around(to).unwrap_or_default();
    }
    // What this checkout does not have is nowhere.
    to.path(&from.spot(path)).unwrap_or_else(|| PathBuf::from("/nonexistent"))
}

impl Planned<'_> {
    /// Where a path is in the target directory.
    fn inside(&self, path: &Path) -> Option<RelPath> {
        RelPath::new(path.strip_prefix(self.target).ok()?).ok()
    }

    fn is_dir(&self, path: &RelPath) -> bool {
        path.is_root()
            || self.listing.get(path) == Some(&Item::Dir)
            || tree::below(self.listing, path).next().is_some()
    }
}

impl Cache for Planned<'_> {
    fn hash_file(&self, path: &Path) -> cache::Result<Option<[u8; 32]>> {
        let Some(inner) = self.inside(path) else { return self.store.hash_file(path) };
        if let Some(text) = self.texts.get(&inner) {
            return Ok(Some(*blake3::hash(text).as_bytes()));
        }
        Ok(tree::file(self.listing, &inner).map(|file| file.hash))
    }

    fn stat(&self, path: &Path) -> cache::Result<Option<FileId>> {
        let Some(inner) = self.inside(path) else { return self.store.stat(path) };
        let id = |size, is_dir, executable| FileId {
            dev: 0,
            ino: 0,
            size,
            mtime_ns: 0,
            ctime_ns: 0,
            is_dir,
            executable,
        };
        if let Some(file) = tree::file(self.listing, &inner) {
            let size = self.texts.get(&inner).map_or(file.size, |text| text.len() as u64);
            return Ok(Some(id(size, false, file.mode & 0o111 != 0)));
        }
        Ok(self.is_dir(&inner).then(|| id(0, true, true)))
    }

    fn is_link(&self, path: &Path) -> cache::Result<bool> {
        match self.inside(path) {
            None => self.store.is_link(path),
            Some(inner) => Ok(matches!(self.listing.get(&inner), Some(Item::Symlink(_)))),
        }
    }

    fn read(&self, path: &Path) -> cache::Result<Option<Vec<u8>>> {
        let Some(inner) = self.inside(path) else { return self.store.read(path) };
        if let Some(text) = self.texts.get(&inner) {
            return Ok(Some(text.clone()));
        }
        match tree::file(self.listing, &inner) {
            Some(file) => Ok(Some(self.store.read_blob(&file.hash)?)),
            None => Ok(None),
        }
    }

    fn list_dir(&self, path: &Path) -> cache::Result<Vec<DirEntry>> {
        let Some(inner) = self.inside(path) else { return self.store.list_dir(path) };
        let depth = inner.as_path().components().count();
        let entries: BTreeSet<DirEntry> = tree::below(self.listing, &inner)
            .filter(|(path, _)| path.as_path().components().count() == depth + 1)
            .map(|(path, item)| DirEntry {
                name: os(&tree::split(path).1).to_owned(),
                kind: match item {
                    Item::File(_) => DirEntryKind::File,
                    Item::Dir => DirEntryKind::Dir,
                    Item::Symlink(_) => DirEntryKind::Link,
                },
            })
            .collect();
        Ok(entries.into_iter().collect())
    }

    fn fact(&self, space: &'static str, key: &[u8; 32]) -> cache::Result<Option<Vec<u8>>> {
        Cache::fact(self.store, space, key)
    }

    fn set_fact(&self, space: &'static str, key: &[u8; 32], value: &[u8]) -> cache::Result<()> {
        Cache::set_fact(self.store, space, key, value)
    }

    fn flush(&self) -> cache::Result<()> {
        Cache::flush(self.store)
    }

    fn records(&self, invocation: &InvocationKey) -> cache::Result<Vec<Vec<u8>>> {
        Cache::records(self.store, invocation)
    }

    fn entry(&self, key: &EntryKey) -> cache::Result<Option<Entry>> {
        Cache::entry(self.store, key)
    }

    fn restore(&self, _: &EntryKey, _: &[Placement]) -> cache::Result<LinkMode> {
        Err("a target directory that is only planned".into())
    }

    fn ingest(&self, _: &Path, _: bool, _: Sharing, _: &[&[u8]]) -> cache::Result<Ingested> {
        Err("a target directory that is only planned".into())
    }

    fn publish(&self, _: &Publication) -> cache::Result<()> {
        Err("a target directory that is only planned".into())
    }

    fn event(&self, event: &Event) {
        Cache::event(self.store, event);
    }

    fn locks_dir(&self) -> PathBuf {
        self.store.locks_dir()
    }
}
