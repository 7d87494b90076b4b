//! What of a snapshot another machine can use.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use anyhow::Result;
use kache_fs::RelPath;
use kache_wrapper::cache::Cache;
use kache_wrapper::machine;
use kache_wrapper::proof::Proof;
use serde::{Deserialize, Serialize};

use super::fork::run_dir;
use super::freshness::{self, Verdict};
use super::tree::{self, File, Item, Listing, os};
use super::units::{self, Kind, Outputs, Unit};
use crate::store::{Hash, PortableFact, Store};

/// In which respects another machine must be like this one, for a unit to be fresh there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    pub tools: bool,
    pub cpu: bool,
    pub env: bool,
}

/// Looks at what was taken, with the eyes of another machine.
pub struct Survey<'a> {
    store: &'a Store,
    listing: &'a Listing,
    outputs: Outputs<'a>,
    units: &'a [Unit],
}

impl<'a> Survey<'a> {
    pub fn new(store: &'a Store, listing: &'a Listing, units: &'a [Unit]) -> Survey<'a> {
        Survey { store, listing, outputs: Outputs::of(listing), units }
    }

    /// Units that may be fresh elsewhere, by their place among all, and what that takes.
    pub fn portable(&self) -> Result<BTreeMap<usize, Needs>> {
        let mut needs = Vec::with_capacity(self.units.len());
        let mut verdicts = Vec::with_capacity(self.units.len());
        for unit in self.units {
            let of_unit = match unit.kind {
                _ if !unit.problem.is_empty() => None,
                Kind::Compile => self.compile(unit)?,
                Kind::RunBuildScript => self.run(unit)?,
                Kind::Doc => None,
            };
            verdicts.push(match of_unit {
                Some(_) => Verdict::Fresh,
                None => Verdict::Stale(String::new()),
            });
            needs.push(of_unit.unwrap_or_default());
        }
        freshness::spread(self.units, &mut verdicts);
        self.macros(&mut needs);
        Ok(needs.into_iter().enumerate().filter(|(at, _)| verdicts[*at].is_fresh()).collect())
    }

    fn compile(&self, unit: &Unit) -> Result<Option<Needs>> {
        let mut needs = Needs::default();
        let outputs = self.compiled(unit);
        if outputs.is_empty() {
            return Ok(None);
        }
        for (path, file) in outputs {
            let records = self.store.records_behind(&file.hash)?;
            let made = records.iter().any(|r| !machine::is_bound(r));
            if !made && !self.is_fact(machine::MOVABLE, &file.hash) {
                return Ok(None);
            }
            needs.tools |= !is_library(path);
            needs.cpu |= self.is_fact(machine::NATIVE, &file.hash);
        }
        Ok(Some(needs))
    }

    /// A unit's outputs, without dep-info and launchers.
    pub(super) fn compiled(&self, unit: &Unit) -> Vec<(&RelPath, &File)> {
        let found = units::profile_and_hash(&units::path_of(&unit.dir));
        let Some((profile, hash)) = found.filter(|_| unit.kind == Kind::Compile) else { return Vec::new() };
        let all = self.outputs.of_unit(&profile, &hash).iter();
        all.filter(|path| !path.as_bytes().ends_with(b".d"))
            .filter(|path| {
                let (dir, mut name) = tree::split(path);
                name.extend(b".real");
                !self.listing.contains_key(&dir.join(os(&name)))
            })
            .filter_map(|path| Some((*path, tree::file(self.listing, path)?)))
            .collect()
    }

    fn run(&self, unit: &Unit) -> Result<Option<Needs>> {
        let Some(dir) = run_dir(&units::path_of(&unit.dir)) else { return Ok(None) };
        if tree::below(self.listing, &dir).any(|(_, item)| matches!(item, Item::Symlink(_))) {
            return Ok(None);
        }
        let is_known =
            |name: &Hash| [machine::RAN, machine::MOVABLE].iter().any(|space| self.is_fact(space, name));
        let ran = self.run_name(unit).is_some_and(|name| is_known(&name));
        Ok(ran.then_some(Needs { tools: true, cpu: false, env: true }))
    }

    fn is_fact(&self, space: &'static str, key: &Hash) -> bool {
        self.store.fact(space, key).ok().flatten().is_some()
    }

    /// See [`machine::run_name`].
    pub(super) fn run_name(&self, run: &Unit) -> Option<Hash> {
        let printed = run_dir(&units::path_of(&run.dir))?.join("output");
        Some(machine::run_name(&self.program(run)?, &tree::file(self.listing, &printed)?.hash))
    }

    /// What a run printed is written with other paths in a fork, and is the same run all the same.
    pub fn note_rewritten(&self, texts: &BTreeMap<RelPath, Vec<u8>>) {
        for run in self.units.iter().filter(|u| u.kind == Kind::RunBuildScript) {
            let printed = run_dir(&units::path_of(&run.dir)).map(|dir| dir.join("output"));
            let Some(text) = printed.and_then(|path| texts.get(&path)) else { continue };
            let (Some(old), Some(program)) = (self.run_name(run), self.program(run)) else { continue };
            let new = machine::run_name(&program, blake3::hash(text).as_bytes());
            for space in [machine::RAN, machine::MOVABLE].iter().filter(|space| self.is_fact(space, &old)) {
                let _ = self.store.set_fact(space, &new, &[]);
            }
            if let Ok(Some(proof)) = Proof::find(self.store, &old) {
                let _ = proof.keep(self.store, &new);
            }
        }
    }

    /// Remembers of units that came from elsewhere, and may be fresh here, that they may go on from here.
    pub fn note_movable(&self) {
        for unit in self.units.iter().filter(|u| u.problem.is_empty()) {
            for (_, file) in self.compiled(unit) {
                let _ = self.store.set_fact(machine::MOVABLE, &file.hash, &[]);
            }
            if let Some(name) = self.run_name(unit).filter(|_| unit.kind == Kind::RunBuildScript) {
                let _ = self.store.set_fact(machine::MOVABLE, &name, &[]);
            }
        }
    }

    /// The program of a build script that was run.
    fn program(&self, run: &Unit) -> Option<Hash> {
        let scripts = self.units.iter().filter(|u| u.name.starts_with("build-script-"));
        let script = scripts.filter(|u| run.deps.contains(&u.fingerprint));
        script.flat_map(|u| self.compiled(u)).map(|(_, file)| file.hash).next()
    }

    /// Whatever stands before a macro may have been made by it.
    fn macros(&self, needs: &mut [Needs]) {
        let is_macro = |u: &Unit| self.compiled(u).iter().any(|(path, _)| is_dynamic(path));
        let mut behind: HashSet<u64> =
            self.units.iter().filter(|u| is_macro(u)).map(|u| u.fingerprint).collect();
        loop {
            let before = behind.len();
            for (unit, needs) in self.units.iter().zip(needs.iter_mut()) {
                if unit.deps.iter().any(|dep| behind.contains(dep)) {
                    needs.env = true;
                    behind.insert(unit.fingerprint);
                }
            }
            if behind.len() == before {
                return;
            }
        }
    }

    /// What has not been read since it was compiled is known by its time: from here on by its content.
    pub fn settle_proofs(&self, target: &Path) {
        for unit in self.units {
            for (path, file) in self.compiled(unit) {
                let name = Proof::name_of_file(&target.join(path.as_path()), file.size, file.mtime_ns);
                if let Ok(Some(proof)) = Proof::find(self.store, &name) {
                    let name = Proof::name_of_output(&file.hash, &tree::split(path).1);
                    let _ = proof.keep(self.store, &name);
                }
            }
        }
    }

    /// Of all macros and programs of build scripts among some units.
    pub fn words(&self, units: impl Iterator<Item = usize>) -> Result<Vec<u8>> {
        let mut texts = Vec::new();
        for unit in units.map(|at| &self.units[at]) {
            for (path, file) in self.compiled(unit) {
                if is_dynamic(path) || unit.name.starts_with("build-script-") {
                    texts.push(self.store.words(&file.hash)?);
                }
            }
        }
        Ok(machine::all_words(texts.iter().map(Vec::as_slice)))
    }

    pub fn facts(&self, units: &[&Unit]) -> Result<Vec<PortableFact>> {
        let blobs: BTreeSet<Hash> =
            units.iter().flat_map(|u| self.compiled(u)).map(|(_, file)| file.hash).collect();
        let mut facts = Vec::new();
        for blob in &blobs {
            facts.extend(self.store.facts_of(blob)?);
        }
        Ok(facts)
    }

    /// What the units have left, and directories around it.
    pub fn files(&self, units: &[&Unit]) -> Listing {
        let mut dirs: BTreeSet<RelPath> = BTreeSet::new();
        let mut paths: BTreeSet<RelPath> = BTreeSet::new();
        let mut profiles: BTreeSet<RelPath> = BTreeSet::new();
        let mut contents: HashSet<Hash> = HashSet::new();
        for unit in units {
            let dir = units::path_of(&unit.dir);
            let Some((profile, hash)) = units::profile_and_hash(&dir) else { continue };
            if unit.kind == Kind::RunBuildScript || unit.name.starts_with("build-script-") {
                dirs.extend(run_dir(&dir));
            }
            if unit.kind == Kind::Compile {
                let outputs = self.outputs.of_unit(&profile, &hash);
                paths.extend(outputs.iter().map(|p| (*p).clone()));
                contents.extend(self.compiled(unit).into_iter().map(|(_, file)| file.hash));
            }
            dirs.insert(dir);
            profiles.insert(profile);
        }
        let below_kept = |path: &RelPath| {
            let up = path.as_path().ancestors().skip(1);
            up.filter_map(|p| RelPath::new(p).ok()).any(|p| dirs.contains(&p))
        };
        let uplifted = |path: &RelPath, file: &File| {
            let (dir, name) = tree::split(path);
            let (up, last) = tree::split(&dir);
            (profiles.contains(&dir) || last == b"examples" && profiles.contains(&up))
                && (contents.contains(&file.hash) || name.ends_with(b".d"))
        };
        let is_kept = |path: &RelPath, file: &File| {
            below_kept(path)
                || paths.contains(path)
                || uplifted(path, file)
                || [&b".rustc_info.json"[..], b"CACHEDIR.TAG"].contains(&path.as_bytes())
        };
        let mut kept = Listing::new();
        for (path, item) in self.listing {
            match item {
                Item::File(file) if is_kept(path, file) => {
                    let up = path.as_path().ancestors().skip(1).filter_map(|p| RelPath::new(p).ok());
                    kept.extend(up.filter(|p| !p.is_root()).map(|p| (p, Item::Dir)));
                    kept.insert(path.clone(), item.clone());
                }
                Item::Dir if dirs.contains(path) || below_kept(path) => {
                    kept.insert(path.clone(), Item::Dir);
                }
                _ => {}
            }
        }
        kept
    }
}

fn is_library(path: &RelPath) -> bool {
    [&b".rlib"[..], b".rmeta"].iter().any(|e| path.as_bytes().ends_with(e))
}

fn is_dynamic(path: &RelPath) -> bool {
    [&b".so"[..], b".dylib", b".dll"].iter().any(|e| path.as_bytes().ends_with(e))
}
