//! Taking a snapshot: every file of a target directory as a blob, and what each unit was made from.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use kache_fs::{Kind as FsKind, Mount, RelPath};
use kache_wrapper::cache::{Cache, Sharing};
use kache_wrapper::{machine, object};
use serde::{Deserialize, Serialize};

use super::inputs::{IMMUTABLE, Inputs};
use super::place::{Base, Place};
use super::survey::Survey;
use super::tree::{self, File, Item, Listing};
use super::units::{self, Found, Kind, Unit, Whole};
use super::{checkout, package};
use crate::store::{Hash, SnapshotRow, Store};

/// What the blob of a snapshot's root says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub version: u32,
    /// Where it was taken.
    pub place: Place,
    /// Root of the tree.
    pub tree: Hash,
    pub units: Vec<Unit>,
    /// Files (no incremental state) whose content names the donor or cargo's packages.
    pub names: Vec<(Vec<u8>, Names)>,
}

/// What a file's content names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    pub checkout: bool,
    /// `CARGO_HOME`, where packages are.
    pub packages: bool,
    /// It is text, which can be rewritten.
    pub text: bool,
}

/// Changes when [`Snapshot`] does; others are not read.
pub const VERSION: u32 = 4;

/// What a mount shows, all of it sealed. Files that somebody is writing right now are left out: cargo will miss them.
pub fn list_mount(mount: &Mount) -> Result<Listing> {
    let mut listing = Listing::new();
    for entry in mount.walk()? {
        let stat = entry.stat;
        let item = match stat.kind {
            FsKind::Directory => Item::Dir,
            FsKind::Symlink => Item::Symlink(entry.target.unwrap_or_default()),
            FsKind::Special => continue,
            FsKind::File => {
                let hash = match stat.blob {
                    Some(hash) => *hash.as_bytes(),
                    None if stat.size == 0 => *blake3::hash(b"").as_bytes(),
                    None => continue,
                };
                let links = if stat.nlink > 1 { stat.ino } else { 0 };
                Item::File(File {
                    hash,
                    size: stat.size,
                    mode: stat.mode,
                    mtime_ns: nanos(stat.mtime),
                    links,
                })
            }
        };
        listing.insert(entry.path, item);
    }
    Ok(listing)
}

/// A plain directory; its files are copied into the store (by reflink where that is possible).
pub fn list_dir(store: &Store, dir: &Path) -> Result<Listing> {
    let mut listing = Listing::new();
    list_into(store, dir, &RelPath::root(), &mut listing)?;
    Ok(listing)
}

fn list_into(store: &Store, dir: &Path, at: &RelPath, out: &mut Listing) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        let (path, full) = (at.join(entry.file_name()), entry.path());
        let meta = match fs::symlink_metadata(&full) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        if meta.is_dir() {
            out.insert(path.clone(), Item::Dir);
            list_into(store, &full, &path, out)?;
        } else if meta.is_symlink() {
            out.insert(path, Item::Symlink(fs::read_link(&full)?.as_os_str().as_bytes().to_vec()));
        } else if meta.is_file() {
            // Somebody writes to it, or it went away: cargo will miss it.
            let Ok(hash) = store_file(store, &full, &meta) else { continue };
            let links = if meta.nlink() > 1 { meta.ino() } else { 0 };
            let mtime_ns = meta.mtime() * 1_000_000_000 + meta.mtime_nsec();
            out.insert(
                path,
                Item::File(File { hash, size: meta.len(), mode: meta.mode() & 0o7777, mtime_ns, links }),
            );
        }
    }
    Ok(())
}

fn store_file(store: &Store, path: &Path, meta: &fs::Metadata) -> Result<Hash> {
    if meta.len() == 0 {
        return Ok(*blake3::hash(b"").as_bytes());
    }
    if let Ok(Some(hash)) = store.hash_file(path)
        && store.has_blob(&hash, meta.len())?
    {
        return Ok(hash);
    }
    let ingested = store
        .ingest(path, meta.mode() & 0o111 != 0, Sharing::Copy, &[])
        .map_err(|e| anyhow::anyhow!("cannot store {}: {e}", path.display()))?;
    Ok(ingested.hash)
}

/// Stores a snapshot of what was listed and makes it findable.
pub fn take(store: &Store, listing: &Listing, place: &Place, about: &About) -> Result<SnapshotRow> {
    let _in_use = store.in_use()?;
    store.add_bytes(b"")?;
    let read = |path: &RelPath| tree::read(store, listing, path);
    let found = units::find(listing, &read, place);
    let names = names(store, listing, place)?;
    let units = judge(store, listing, place, found, &names)?;
    Survey::new(store, listing, &units).settle_proofs(&place.target);
    let (tree, blobs) = tree::save(store, listing)?;
    let names = names.into_iter().map(|(path, names)| (path.as_bytes().to_vec(), names)).collect();
    let snapshot = Snapshot { version: VERSION, place: place.clone(), tree, units, names };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    keep(store, &snapshot, listing, blobs, about, toolchain(listing, &read), now)
}

/// Makes a snapshot findable whose tree has been saved. `blobs`: all that the tree needs; `created`: seconds since the
/// Unix epoch.
pub(super) fn keep(
    store: &Store,
    snapshot: &Snapshot,
    listing: &Listing,
    mut blobs: Vec<Hash>,
    about: &About,
    toolchain: String,
    created: i64,
) -> Result<SnapshotRow> {
    let root = store.add_bytes(&postcard::to_stdvec(snapshot)?)?;
    blobs.push(root);
    blobs.push(*blake3::hash(b"").as_bytes());
    store.register_blobs(&blobs)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    let bytes = listing.values().map(|i| if let Item::File(f) = i { f.size } else { 0 }).sum();
    let row = SnapshotRow {
        id: blake3::Hash::from_bytes(root).to_hex()[..16].to_owned(),
        identity: about.identity,
        workspace: snapshot.place.workspace.clone(),
        target: snapshot.place.target.clone(),
        commit: about.commit.clone(),
        toolchain,
        created,
        used: now,
        pinned: false,
        root,
        units: snapshot.units.len() as u64,
        bytes,
    };
    store.add_snapshot(&row, &blobs)?;
    Ok(row)
}

/// What is known of the checkout that a snapshot is of.
#[derive(Debug, Clone)]
pub struct About {
    pub identity: Hash,
    pub commit: String,
}

/// The snapshot that a row names.
pub fn load(store: &Store, row: &SnapshotRow) -> Result<(Snapshot, Listing)> {
    let bytes = store.read_blob(&row.root).with_context(|| format!("snapshot {}", row.id))?;
    let snapshot: Snapshot =
        postcard::from_bytes(&bytes).with_context(|| format!("snapshot {} cannot be read", row.id))?;
    if snapshot.version != VERSION {
        bail!("snapshot {} was taken by another version of kache", row.id);
    }
    let listing = tree::load(store, &snapshot.tree)?;
    Ok((snapshot, listing))
}

/// Cargo keeps what `rustc -vV` said.
fn toolchain(listing: &Listing, read: &units::Reader) -> String {
    let newest = listing
        .iter()
        .filter(|(p, _)| p.as_bytes().ends_with(b".rustc_info.json"))
        .filter_map(|(p, i)| if let Item::File(f) = i { Some((f.mtime_ns, p)) } else { None })
        .max();
    let Some((_, path)) = newest else { return String::new() };
    let parsed = read(path).ok().and_then(|b| serde_json::from_slice::<serde_json::Value>(&b).ok());
    let outputs = parsed.as_ref().and_then(|v| v.get("outputs")).and_then(|o| o.as_object());
    outputs
        .into_iter()
        .flat_map(|o| o.values())
        .filter_map(|o| o.get("stdout")?.as_str())
        .find(|text| text.starts_with("rustc ") && text.contains("\nhost: "))
        .unwrap_or_default()
        .to_owned()
}

/// Files that name the checkout or cargo's packages. What a file contains is remembered by its hash.
fn names(store: &Store, listing: &Listing, place: &Place) -> Result<BTreeMap<RelPath, Names>> {
    let needles = Needles::of(place);
    let mut known: HashMap<Hash, Names> = HashMap::new();
    let mut names = BTreeMap::new();
    for (path, item) in listing {
        let Item::File(file) = item else { continue };
        if file.size == 0 || is_incremental(path) {
            continue;
        }
        let found = match known.get(&file.hash) {
            Some(found) => *found,
            None => {
                let found = needles.look(store, file)?;
                known.insert(file.hash, found);
                found
            }
        };
        if found.checkout || found.packages {
            names.insert(path.clone(), found);
        }
    }
    Ok(names)
}

/// What files are searched for.
pub struct Needles {
    checkout: Vec<Vec<u8>>,
    packages: Vec<u8>,
}

impl Needles {
    pub fn of(place: &Place) -> Needles {
        let bytes = |p: &Path| p.as_os_str().as_bytes().to_vec();
        Needles {
            checkout: place.needles().into_iter().map(bytes).collect(),
            packages: bytes(&place.cargo_home),
        }
    }

    /// That of the packages first.
    fn all(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.packages.as_slice()).chain(self.checkout.iter().map(Vec::as_slice))
    }

    fn look(&self, store: &Store, file: &File) -> Result<Names> {
        if let Some(known) = self.known(store, &file.hash) {
            return Ok(known);
        }
        if !store.is_on_disk(&file.hash) && store.fetchable(&file.hash)?.is_some() {
            // It was never here, so it was not made here. If it comes from another checkout at this very path, that
            // was noted when it came.
            return Ok(Names::default());
        }
        let blob = store.open_sound(&file.hash, file.size)?;
        let all: Vec<&[u8]> = self.all().collect();
        let scanned = crate::store::scan_at(&blob, &all)?;
        let (packages, checkout) = all.split_at(1);
        let mut found = Names {
            checkout: scanned.contains[1..].contains(&true),
            packages: scanned.contains[0],
            text: false,
        };
        if found.checkout || found.packages {
            let mut bytes = Vec::with_capacity(file.size as usize);
            BufReader::new(blob).read_to_end(&mut bytes)?;
            found.text = is_text(&bytes);
            if !found.text {
                // What only debuggers see does not count.
                found.checkout = found.checkout && !object::only_in_debug(&bytes, checkout);
                found.packages = found.packages && !object::only_in_debug(&bytes, packages);
            }
        }
        self.note(store, &file.hash, found);
        Ok(found)
    }

    fn known(&self, store: &Store, hash: &Hash) -> Option<Names> {
        postcard::from_bytes(&store.fact("names", &self.key(hash)).ok()??).ok()
    }

    /// Remembers what a file with this content names.
    pub fn note(&self, store: &Store, hash: &Hash, names: Names) {
        if let Ok(value) = postcard::to_stdvec(&names) {
            let _ = store.set_fact("names", &self.key(hash), &value);
        }
    }

    fn key(&self, hash: &Hash) -> Hash {
        let mut key = blake3::Hasher::new();
        key.update(&[VERSION as u8]);
        for needle in self.all() {
            key.update(&(needle.len() as u64).to_le_bytes()).update(needle);
        }
        *key.update(hash).finalize().as_bytes()
    }
}

fn is_text(bytes: &[u8]) -> bool {
    !bytes.contains(&0) && std::str::from_utf8(bytes).is_ok()
}

/// rustc's own, which it checks itself.
pub fn is_incremental(path: &RelPath) -> bool {
    path.components().any(|c| c == b"incremental")
}

/// Hashes what units have read, and finds out which of them nobody can prove.
fn judge(
    store: &Store,
    listing: &Listing,
    place: &Place,
    found: Vec<Found>,
    names: &BTreeMap<RelPath, Names>,
) -> Result<Vec<Unit>> {
    let inputs = Inputs::new(store, place, listing);
    let all: Vec<PathBuf> = found.iter().flat_map(|f| f.sources.iter().cloned()).collect();
    inputs.hash_all(&all);
    found.into_iter().map(|f| judge_one(store, listing, place, &inputs, f, names)).collect()
}

fn judge_one(
    store: &Store,
    listing: &Listing,
    place: &Place,
    inputs: &Inputs,
    found: Found,
    names: &BTreeMap<RelPath, Names>,
) -> Result<Unit> {
    let Found { mut unit, mut sources, outputs, run_dir, programs, reference_ns } = found;
    if let Some(whole) = unit.whole.as_mut().filter(|_| unit.problem.is_empty()) {
        match whole_package(store, listing, place, whole, &programs, reference_ns) {
            Ok(files) => sources.extend(files),
            Err(error) => unit.problem = format!("its build script declares no inputs, and {error}"),
        }
    }
    if unit.problem.is_empty() {
        for source in sources {
            let spot = place.spot(&source);
            if spot.base == Base::CargoHome {
                // Sources of packages do not change. What a build script has declared has a time that counts.
                if unit.kind == Kind::RunBuildScript {
                    unit.inputs.push((spot, IMMUTABLE));
                }
                continue;
            }
            let Some(state) = inputs.get(&source) else {
                unit.problem = format!("{} is gone", source.display());
                break;
            };
            if state.changed_ns > reference_ns && spot.base != Base::Target {
                unit.problem = format!("{} changed after it was built", source.display());
                break;
            }
            unit.inputs.push((spot, state.hash));
        }
        unit.inputs.sort();
        unit.inputs.dedup();
    }
    for output in &outputs {
        bind(&mut unit, output, names);
        if unit.took_ms == 0
            && let Some(file) = tree::file(listing, output)
        {
            unit.took_ms = store.took_ms(&file.hash)?.unwrap_or(0);
        }
    }
    if let (Kind::RunBuildScript, Some(dir)) = (unit.kind, &run_dir) {
        tree::below(listing, dir).for_each(|(path, _)| bind(&mut unit, path, names));
    }
    Ok(unit)
}

/// A file of a unit that names something and cannot be rewritten ties the unit to it.
fn bind(unit: &mut Unit, path: &RelPath, names: &BTreeMap<RelPath, Names>) {
    let Some(names) = names.get(path).filter(|n| !n.text) else { return };
    if names.checkout {
        unit.bound = format!("{path} names the checkout");
    }
    if names.packages {
        unit.homebound = format!("{path} names the place of cargo's packages");
    }
}

/// All files of the package of a build script that declares nothing.
fn whole_package(
    store: &Store,
    listing: &Listing,
    place: &Place,
    whole: &mut Whole,
    programs: &[RelPath],
    reference_ns: i64,
) -> Result<Vec<PathBuf>> {
    let root = place.path(&whole.root).context("the place of its package is not clear")?;
    let package = package::look(&root).context("it is not clear which files its package has")?;
    if package.text != whole.text {
        bail!("its package changed after it ran");
    }
    for program in programs {
        let Some(file) = tree::file(listing, program) else { continue };
        // A script whose runs cannot be stored may have asked git.
        let is_proven = store.fact(machine::PROVEN, &file.hash).is_ok_and(|fact| fact.is_some());
        if !is_proven {
            let (commit, moved_ns) = checkout::head(place);
            if moved_ns > reference_ns {
                bail!("something else was checked out after it asked git");
            }
            whole.commit = Some(commit);
        }
    }
    Ok(package.files.iter().map(|f| root.join(f)).collect())
}

fn nanos(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64)
}
