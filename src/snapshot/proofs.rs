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
use kache_wrapper::proof::{Proof, Site};

use super::fork::run_dir;
use super::place::Place;
use super::survey::Survey;
use super::tree::{self, Item, Listing, os};
use super::units::{self, Kind, Unit};
use crate::store::{Hash, Store};

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
pub fn check(planned: &Planned, units: &mut [Unit], to: &Place, env: &[(OsString, OsString)]) {
    let all = units.to_vec();
    let survey = Survey::new(planned.store, planned.listing, &all);
    let judge = Judge { planned, survey, to, env };
    let size = units.len().div_ceil(THREADS).max(16);
    std::thread::scope(|scope| {
        for part in units.chunks_mut(size) {
            let judge = &judge;
            scope.spawn(move || {
                for unit in part.iter_mut().filter(|unit| unit.problem.is_empty()) {
                    if let Err(why) = judge.judge(unit) {
                        unit.problem = why.to_owned();
                    }
                }
            });
        }
    });
}

struct Judge<'a> {
    planned: &'a Planned<'a>,
    survey: Survey<'a>,
    to: &'a Place,
    env: &'a [(OsString, OsString)],
}

impl Judge<'_> {
    fn judge(&self, unit: &Unit) -> Result<(), &'static str> {
        let store = self.planned.store;
        let names: Vec<Hash> = match unit.kind {
            Kind::Compile => {
                let outputs = self.survey.compiled(unit).into_iter();
                outputs.map(|(path, file)| Proof::name_of_output(&file.hash, &tree::split(path).1)).collect()
            }
            Kind::RunBuildScript => self.survey.run_name(unit).into_iter().collect(),
            Kind::Doc => return Ok(()),
        };
        let proofs: Vec<Proof> =
            names.iter().filter_map(|name| Proof::find(store, name).ok().flatten()).collect();
        if proofs.is_empty() {
            return match self.came_judged(unit, &names) {
                true => Ok(()),
                false => Err("it is not known what it reads"),
            };
        }
        let profile = units::profile_and_hash(&units::path_of(&unit.dir)).map(|(profile, _)| profile);
        let cwd = unit.cwd.as_ref().and_then(|spot| self.to.path(spot));
        let (Some(profile), Some(cwd)) = (profile, cwd) else {
            return Err("the place of its package is not clear");
        };
        let profile = self.to.target.join(profile.as_path());
        let out_dir = match unit.kind {
            Kind::RunBuildScript => run_dir(&units::path_of(&unit.dir)).map(|dir| dir.join("out")),
            _ => None,
        };
        let out_dir = out_dir.map(|dir| self.to.target.join(dir.as_path()));
        let site = Site {
            profile: &profile,
            cargo_home: &self.to.cargo_home,
            cwd: &cwd,
            out_dir: out_dir.as_deref(),
        };
        match proofs.iter().all(|proof| proof.holds(self.planned, self.env, &site).unwrap_or(false)) {
            true => Ok(()),
            false => Err("something that it read is another here"),
        }
    }

    /// It came from another machine, and was held against this one then.
    fn came_judged(&self, unit: &Unit, names: &[Hash]) -> bool {
        let is_movable =
            |key: &Hash| self.planned.store.fact(machine::MOVABLE, key).is_ok_and(|fact| fact.is_some());
        match unit.kind {
            Kind::Compile => {
                let outputs = self.survey.compiled(unit);
                !outputs.is_empty() && outputs.iter().all(|(_, file)| is_movable(&file.hash))
            }
            _ => names.iter().any(is_movable),
        }
    }
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
        // Whoever walks through it recognises directories by their numbers.
        let ino = blake3::hash(inner.as_bytes()).as_bytes()[..8].try_into().map_or(0, u64::from_le_bytes);
        let id = |size, is_dir, executable| FileId {
            dev: 0,
            ino,
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
