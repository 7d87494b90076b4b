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
use serde::{Deserialize, Serialize};

use super::inputs::Inputs;
use super::object;
use super::place::{Base, Place};
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
    /// Files (no incremental state) whose content names the donor, and whether they are text.
    pub names: Vec<(Vec<u8>, bool)>,
}

/// Changes when [`Snapshot`] does; others are not read.
pub const VERSION: u32 = 2;

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
    let read = |path: &RelPath| -> Result<Vec<u8>> {
        match tree::file(listing, path) {
            Some(file) => Ok(store.read_blob(&file.hash)?),
            None => bail!("there is no {path}"),
        }
    };
    let found = units::find(listing, &read, place);
    let names = names(store, listing, place)?;
    let units = judge(store, listing, place, found, &names)?;
    let (tree, mut blobs) = tree::save(store, listing)?;
    let names = names.into_iter().map(|(path, text)| (path.as_bytes().to_vec(), text)).collect();
    let snapshot = Snapshot { version: VERSION, place: place.clone(), tree, units, names };
    let root = store.add_bytes(&postcard::to_stdvec(&snapshot)?)?;
    blobs.push(root);
    blobs.push(*blake3::hash(b"").as_bytes());
    store.register_blobs(&blobs)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    let bytes = listing.values().map(|i| if let Item::File(f) = i { f.size } else { 0 }).sum();
    let row = SnapshotRow {
        id: blake3::Hash::from_bytes(root).to_hex()[..16].to_owned(),
        identity: about.identity,
        workspace: place.workspace.clone(),
        target: place.target.clone(),
        commit: about.commit.clone(),
        toolchain: toolchain(listing, &read),
        created: now,
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

/// Files that name the checkout, and whether each is text. What a file contains is remembered by its hash.
fn names(store: &Store, listing: &Listing, place: &Place) -> Result<BTreeMap<RelPath, bool>> {
    let needles: Vec<&[u8]> = place.needles().iter().map(|p| p.as_os_str().as_bytes()).collect();
    let salt = blake3::hash(&needles.join(&b'\n'));
    let mut known: HashMap<Hash, u8> = HashMap::new();
    let mut names = BTreeMap::new();
    for (path, item) in listing {
        let Item::File(file) = item else { continue };
        if file.size == 0 || is_incremental(path) {
            continue;
        }
        let class = match known.get(&file.hash) {
            Some(class) => *class,
            None => {
                let class = class(store, file, &salt, &needles)?;
                known.insert(file.hash, class);
                class
            }
        };
        if class == TEXT || class == BINARY {
            names.insert(path.clone(), class == TEXT);
        }
    }
    Ok(names)
}

/// Changes when the classes below change meaning.
const CLASSES: u8 = 1;

const NAMELESS: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
/// Only debuggers would see it.
const DEBUG: u8 = 3;

fn class(store: &Store, file: &File, salt: &blake3::Hash, needles: &[&[u8]]) -> Result<u8> {
    let mut key = blake3::Hasher::new();
    key.update(&[CLASSES]).update(salt.as_bytes()).update(&file.hash);
    let key = *key.finalize().as_bytes();
    if let Some(&[class]) = store.fact("names", &key).ok().flatten().as_deref() {
        return Ok(class);
    }
    let blob = store.open_blob(&file.hash)?;
    let scanned = crate::store::scan_at(&blob, needles)?;
    let class = if !scanned.contains.contains(&true) {
        NAMELESS
    } else {
        let mut bytes = Vec::with_capacity(file.size as usize);
        BufReader::new(blob).read_to_end(&mut bytes)?;
        match is_text(&bytes) {
            true => TEXT,
            false if object::only_in_debug(&bytes, needles) => DEBUG,
            false => BINARY,
        }
    };
    let _ = store.set_fact("names", &key, &[class]);
    Ok(class)
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
    names: &BTreeMap<RelPath, bool>,
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
    names: &BTreeMap<RelPath, bool>,
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
                continue;
            }
            let Some(state) = inputs.get(&source) else {
                unit.problem = format!("{} is gone", source.display());
                break;
            };
            if state.mtime_ns > reference_ns && spot.base != Base::Target {
                unit.problem = format!("{} changed after it was built", source.display());
                break;
            }
            unit.inputs.push((spot, state.hash));
        }
        unit.inputs.sort();
        unit.inputs.dedup();
    }
    for output in &outputs {
        if names.get(output) == Some(&false) {
            unit.bound = format!("{output} names the checkout");
        }
        if unit.took_ms == 0
            && let Some(file) = tree::file(listing, output)
        {
            unit.took_ms = store.took_ms(&file.hash)?.unwrap_or(0);
        }
    }
    if let (Kind::RunBuildScript, Some(dir)) = (unit.kind, &run_dir)
        && let Some((path, _)) = tree::below(listing, dir).find(|(p, _)| names.get(p) == Some(&false))
    {
        unit.bound = format!("{path} names the checkout");
    }
    Ok(unit)
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
        if kache_wrapper::script::reads_git(&store.read_blob(&file.hash)?) {
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
