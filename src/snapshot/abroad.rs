//! Snapshots on their way to other machines, and from there.
//!
//! What travels is what others can use: units that kache stored itself, that are tied to no path, and whose dependencies
//! are such. Incremental state stays at home, for rustc would not use it elsewhere. Files by which cargo judges, and all
//! that are small, travel inside of the snapshot; the others are views of blobs that come when somebody opens them.
//!
//! Whoever takes one in believes nothing of it but what it can check, and holds units against its own machine: what was
//! linked or made by a build script counts only where tools and system are the same, what a macro made only if variables
//! that the macro may read are the same. From then on it is a snapshot like any other.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;

use anyhow::{Context, Result, bail, ensure};
use kache_fs::RelPath;
use kache_wrapper::cache::Cache;
use kache_wrapper::machine::{self, Machine};
use serde::{Deserialize, Serialize};

use super::freshness::{self, Verdict};
use super::take::{self, Needles, Snapshot};
use super::tree::{self, File, Item, Listing};
use super::units::{self, Kind, Outputs, Unit};
use crate::store::{Hash, PortableFact, SnapshotRow, Store};

/// Changes when [`Packed`] does; others are not read.
const VERSION: u32 = 1;
/// Blobs up to this size travel inside …
const SMALL: u64 = 4 << 10;
/// … and those by which units are judged, up to this size …
const JUDGED: u64 = 1 << 20;
/// … up to so many bytes of them.
const INSIDE: u64 = 64 << 20;
/// No target directory has so many files.
const MAX_FILES: usize = 500_000;

/// What travels.
#[derive(Serialize, Deserialize)]
struct Packed {
    version: u32,
    /// Its tree is in `files`.
    snapshot: Snapshot,
    commit: String,
    toolchain: String,
    files: Vec<(Vec<u8>, Item)>,
    machine: machine::Kind,
    /// Words in macros and build scripts that may be variables.
    words: Vec<u8>,
    /// Of each unit.
    needs: Vec<Needs>,
    facts: Vec<PortableFact>,
    blobs: Vec<(Hash, Vec<u8>)>,
}

/// In which respects another machine must be like this one, for a unit to be fresh there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Needs {
    tools: bool,
    cpu: bool,
    env: bool,
}

/// A packed snapshot.
pub struct Parcel {
    pub body: Vec<u8>,
    /// Blobs that do not travel inside, and their sizes.
    pub large: Vec<(Hash, u64)>,
    /// Stands for its units: another snapshot with the same is not worth an upload.
    pub digest: Hash,
}

/// Packs a snapshot; `None` if nobody else could use any of it. `machine`: where it was taken.
pub fn pack(store: &Store, row: &SnapshotRow, machine: &Machine) -> Result<Option<Parcel>> {
    let (mut snapshot, listing) = take::load(store, row)?;
    let outputs = Outputs::of(&listing);
    let survey = Survey { store, listing: &listing, outputs: &outputs, units: &snapshot.units };
    let portable = survey.portable()?;
    if portable.is_empty() {
        return Ok(None);
    }
    let words = survey.words(portable.keys().copied())?;
    let kept: Vec<&Unit> = portable.keys().map(|at| &snapshot.units[*at]).collect();
    let files = survey.files(&kept);
    let facts = survey.facts(&kept)?;
    let needs = portable.values().copied().collect();
    let digest = digest(&kept);
    let units = kept.into_iter().cloned().collect();
    snapshot.names.retain(|(path, _)| files.contains_key(&units::path_of(path)));
    let texts: HashSet<&[u8]> =
        snapshot.names.iter().filter(|(_, n)| n.text).map(|(p, _)| p.as_slice()).collect();
    let (mut blobs, mut large, mut room) = (BTreeMap::new(), BTreeMap::new(), INSIDE);
    for (path, item) in &files {
        let Item::File(file) = item else { continue };
        let judged = is_judged(path) || texts.contains(path.as_bytes());
        let inside = file.size <= SMALL || judged && file.size <= JUDGED;
        if blobs.contains_key(&file.hash) || large.contains_key(&file.hash) {
            continue;
        }
        if inside && file.size <= room && store.is_on_disk(&file.hash) {
            room -= file.size;
            blobs.insert(file.hash, store.read_blob(&file.hash)?);
        } else {
            large.insert(file.hash, file.size);
        }
    }
    let files = files.into_iter().map(|(path, item)| (path.as_bytes().to_vec(), item)).collect();
    let packed = Packed {
        version: VERSION,
        snapshot: Snapshot { units, tree: [0; 32], ..snapshot },
        commit: row.commit.clone(),
        toolchain: row.toolchain.clone(),
        files,
        machine: machine.kind(&words),
        words,
        needs,
        facts,
        blobs: blobs.into_iter().collect(),
    };
    Ok(Some(Parcel { body: postcard::to_stdvec(&packed)?, large: large.into_iter().collect(), digest }))
}

/// Names of the units, and what cargo knows them by.
fn digest<'a>(units: impl IntoIterator<Item = &'a &'a Unit>) -> Hash {
    let mut all: Vec<(&[u8], &str, u64)> =
        units.into_iter().map(|u| (u.dir.as_slice(), u.name.as_str(), u.fingerprint)).collect();
    all.sort_unstable();
    let mut hash = blake3::Hasher::new();
    hash.update(&VERSION.to_le_bytes()).update(&take::VERSION.to_le_bytes());
    for (dir, name, fingerprint) in all {
        hash.update(dir).update(&[0]).update(name.as_bytes()).update(&[0]);
        hash.update(&fingerprint.to_le_bytes());
    }
    *hash.finalize().as_bytes()
}

/// Cargo reads it when it has nothing to do, or a fork does.
fn is_judged(path: &RelPath) -> bool {
    let (dir, name) = tree::split(path);
    let in_fingerprint = path.components().any(|c| c == b".fingerprint");
    let of_a_run = tree::split(&tree::split(&dir).0).1 == b"build"
        && [&b"output"[..], b"root-output", b"stderr", b"invoked.timestamp"].contains(&name.as_slice());
    in_fingerprint || of_a_run || name.ends_with(b".d") || name == b".rustc_info.json"
}

/// Looks at what was taken, with the eyes of another machine.
struct Survey<'a> {
    store: &'a Store,
    listing: &'a Listing,
    outputs: &'a Outputs<'a>,
    units: &'a [Unit],
}

impl Survey<'_> {
    /// Units that may be fresh elsewhere, by their place among all, and what that takes.
    fn portable(&self) -> Result<BTreeMap<usize, Needs>> {
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
            if !records.iter().any(|r| !machine::is_bound(r)) {
                return Ok(None);
            }
            needs.tools |= !is_library(path);
            needs.cpu |= self.store.fact(machine::NATIVE, &file.hash).ok().flatten().is_some();
        }
        Ok(Some(needs))
    }

    /// A unit's outputs, without dep-info and launchers.
    fn compiled(&self, unit: &Unit) -> Vec<(&RelPath, &File)> {
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
        let Some(dir) = super::fork::run_dir(&units::path_of(&unit.dir)) else { return Ok(None) };
        if tree::below(self.listing, &dir).any(|(_, item)| matches!(item, Item::Symlink(_))) {
            return Ok(None);
        }
        let (Some(program), Some(printed)) =
            (self.program(unit), tree::file(self.listing, &dir.join("output")))
        else {
            return Ok(None);
        };
        let name = machine::run_name(&program, &printed.hash);
        let ran = self.store.fact(machine::RAN, &name).ok().flatten();
        Ok(ran.map(|_| Needs { tools: true, cpu: false, env: true }))
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

    /// Of all macros and programs of build scripts among some units.
    fn words(&self, units: impl Iterator<Item = usize>) -> Result<Vec<u8>> {
        let mut texts = Vec::new();
        for unit in units.map(|at| &self.units[at]) {
            for (path, file) in self.compiled(unit) {
                if is_dynamic(path) || unit.name.starts_with("build-script-") {
                    texts.push(match self.store.fact(machine::WORDS, &file.hash).ok().flatten() {
                        Some(known) => known,
                        None => machine::words_of(&self.store.read_blob(&file.hash)?),
                    });
                }
            }
        }
        Ok(machine::all_words(texts.iter().map(Vec::as_slice)))
    }

    fn facts(&self, units: &[&Unit]) -> Result<Vec<PortableFact>> {
        let blobs: BTreeSet<Hash> =
            units.iter().flat_map(|u| self.compiled(u)).map(|(_, file)| file.hash).collect();
        let mut facts = Vec::new();
        for blob in &blobs {
            facts.extend(self.store.facts_of(blob)?);
        }
        Ok(facts)
    }

    /// What the units have left, and directories around it.
    fn files(&self, units: &[&Unit]) -> Listing {
        let mut dirs: BTreeSet<RelPath> = BTreeSet::new();
        let mut paths: BTreeSet<RelPath> = BTreeSet::new();
        let mut profiles: BTreeSet<RelPath> = BTreeSet::new();
        let mut contents: HashSet<Hash> = HashSet::new();
        for unit in units {
            let dir = units::path_of(&unit.dir);
            let Some((profile, hash)) = units::profile_and_hash(&dir) else { continue };
            if unit.kind == Kind::RunBuildScript || unit.name.starts_with("build-script-") {
                dirs.extend(super::fork::run_dir(&dir));
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

fn os(bytes: &[u8]) -> &OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

fn is_library(path: &RelPath) -> bool {
    [&b".rlib"[..], b".rmeta"].iter().any(|e| path.as_bytes().ends_with(e))
}

fn is_dynamic(path: &RelPath) -> bool {
    [&b".so"[..], b".dylib", b".dll"].iter().any(|e| path.as_bytes().ends_with(e))
}

/// What came from elsewhere, taken in.
pub struct Arrived {
    pub row: SnapshotRow,
    /// See [`Parcel::digest`].
    pub digest: Hash,
}

/// Takes a snapshot in that came from elsewhere. `machine` is the one that is to use it; blobs larger than `max_blob` do
/// not exist.
///
/// # Errors
/// It is not what a kache of this version packs, or leads out of its directory. Nothing of it is used then.
pub fn unpack(
    store: &Store,
    body: &[u8],
    identity: &Hash,
    made_ms: u64,
    machine: &Machine,
    max_blob: u64,
) -> Result<Arrived> {
    let (version, _): (u32, _) = postcard::take_from_bytes(body).context("it cannot be read")?;
    ensure!(version == VERSION, "another version of kache made it");
    let (packed, rest): (Packed, _) = postcard::take_from_bytes(body).context("it cannot be read")?;
    ensure!(rest.is_empty(), "it cannot be read");
    let Packed { mut snapshot, commit, toolchain, files, needs, facts, blobs, .. } = packed;
    ensure!(snapshot.version == take::VERSION, "another version of kache made it");
    ensure!(needs.len() == snapshot.units.len(), "it does not fit together");
    let place = &snapshot.place;
    let dirs = [&place.workspace, &place.target, &place.cargo_home].into_iter().chain(&place.repository);
    for dir in dirs {
        ensure!(dir.is_absolute() && dir.parent().is_some(), "it comes from no directory");
    }
    let listing = listing(store, files, max_blob)?;
    let here = machine.kind(&packed.words);
    for (unit, needs) in snapshot.units.iter_mut().zip(needs) {
        let reasons = [
            (needs.tools && here.tools != packed.machine.tools, "tools or libraries of the system differ"),
            (needs.cpu && here.cpu != packed.machine.cpu, "it was made for another processor"),
            (needs.env && here.env != packed.machine.env, "a variable that it may have read differs"),
        ];
        if let Some((_, reason)) = reasons.iter().find(|(differs, _)| *differs) {
            unit.problem = (*reason).to_owned();
        }
    }
    let _in_use = store.in_use()?;
    store.add_bytes(b"")?;
    for (hash, bytes) in &blobs {
        ensure!(blake3::hash(bytes).as_bytes() == hash, "a blob in it has another hash");
        store.add_bytes(bytes)?;
    }
    let sizes: HashMap<Hash, (u64, bool)> = listing
        .values()
        .filter_map(
            |i| if let Item::File(f) = i { Some((f.hash, (f.size, f.mode & 0o111 != 0))) } else { None },
        )
        .collect();
    store.import_facts(facts.iter().filter(|(_, hash, _)| sizes.contains_key(hash)))?;
    let needles = Needles::of(&snapshot.place);
    for (path, names) in &snapshot.names {
        if let Some(file) = tree::file(&listing, &units::path_of(path)).filter(|f| !store.is_on_disk(&f.hash))
        {
            needles.note(store, &file.hash, *names);
        }
    }
    let digest = digest(&snapshot.units.iter().collect::<Vec<_>>());
    note_runs(store, &listing, &snapshot.units);
    store.promise(sizes.iter().map(|(hash, (size, executable))| (*hash, *size, *executable)))?;
    let (root, needed) = tree::save(store, &listing)?;
    snapshot.tree = root;
    let about = take::About { identity: *identity, commit };
    let created = (made_ms / 1000) as i64;
    let row = take::keep(store, &snapshot, &listing, needed, &about, toolchain, created)?;
    Ok(Arrived { row, digest })
}

/// Checks every path and size.
fn listing(store: &Store, files: Vec<(Vec<u8>, Item)>, max_blob: u64) -> Result<Listing> {
    ensure!(files.len() <= MAX_FILES, "it has too many files");
    let mut listing = Listing::new();
    let mut sizes: HashMap<Hash, u64> = HashMap::new();
    for (bytes, mut item) in files {
        let path = RelPath::new(std::path::Path::new(os(&bytes))).context("a path in it is none")?;
        ensure!(path.as_bytes() == bytes && !path.is_root() && !bytes.contains(&0), "a path in it is none");
        let (dir, _) = tree::split(&path);
        ensure!(dir.is_root() || listing.get(&dir) == Some(&Item::Dir), "a path in it has no directory");
        match &mut item {
            Item::Dir => {}
            Item::Symlink(_) => bail!("it has a symbolic link"),
            Item::File(file) => {
                file.mode &= 0o777;
                ensure!(file.size <= max_blob, "a file in it is too large");
                let size = *sizes.entry(file.hash).or_insert(file.size);
                let known = store.blob_size(&file.hash).unwrap_or(size);
                ensure!(size == file.size && size == known, "the size of a file in it is wrong");
            }
        }
        ensure!(listing.insert(path, item).is_none(), "it has two files of one name");
    }
    Ok(listing)
}

/// What is known of runs of build scripts follows from the tree.
fn note_runs(store: &Store, listing: &Listing, units: &[Unit]) {
    let outputs = Outputs::of(listing);
    let survey = Survey { store, listing, outputs: &outputs, units };
    for unit in units.iter().filter(|u| u.kind == Kind::RunBuildScript) {
        let printed = super::fork::run_dir(&units::path_of(&unit.dir));
        let printed = printed.and_then(|dir| tree::file(listing, &dir.join("output")));
        if let (Some(program), Some(printed)) = (survey.program(unit), printed) {
            let _ = store.set_fact(machine::RAN, &machine::run_name(&program, &printed.hash), &[]);
        }
    }
}
