//! Snapshots on their way to other machines, and from there.
//!
//! What travels is what others can use: units that kache stored itself, that are tied to no path, and whose dependencies
//! are such. Incremental state stays at home, for rustc would not use it elsewhere. Files by which cargo judges, and all
//! that are small, travel inside of the snapshot; the others are views of blobs that come when somebody opens them.
//!
//! Whoever takes one in believes nothing of it but what it can check, and holds units against its own machine: what was
//! linked or made by a build script counts only where tools and system are the same, what a macro made only if variables
//! that the macro may read are the same. From then on it is a snapshot like any other.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context, Result, bail, ensure};
use kache_fs::RelPath;
use kache_wrapper::machine::{self, Machine};
use serde::{Deserialize, Serialize};

use super::survey::{Needs, Survey};
use super::take::{self, Needles, Snapshot};
use super::tree::{self, Item, Listing, os};
use super::units::{self, Unit};
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
    let survey = Survey::new(store, &listing, &snapshot.units);
    let portable = survey.portable()?;
    if portable.is_empty() {
        return Ok(None);
    }
    let words = survey.words(portable.keys().copied())?;
    let kept: Vec<&Unit> = portable.keys().map(|at| &snapshot.units[*at]).collect();
    let files = survey.files(&kept);
    let facts = survey.facts(&kept)?;
    let needs = portable.values().copied().collect();
    let digest = digest(&kept)?;
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

/// Names of the units, and what they were made from. Not what cargo knows them by: that depends on `CARGO_HOME`.
fn digest<'a>(units: impl IntoIterator<Item = &'a &'a Unit>) -> Result<Hash> {
    let mut all: Vec<_> = units.into_iter().map(|u| (&u.dir, &u.name, &u.inputs)).collect();
    all.sort_unstable();
    Ok(*blake3::hash(&postcard::to_stdvec(&(VERSION, take::VERSION, all))?).as_bytes())
}

/// Cargo reads it when it has nothing to do, or a fork does.
fn is_judged(path: &RelPath) -> bool {
    let (dir, name) = tree::split(path);
    let in_fingerprint = path.components().any(|c| c == b".fingerprint");
    let of_a_run = tree::split(&tree::split(&dir).0).1 == b"build"
        && [&b"output"[..], b"root-output", b"stderr", b"invoked.timestamp"].contains(&name.as_slice());
    in_fingerprint || of_a_run || name.ends_with(b".d") || name == b".rustc_info.json"
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
    for unit in &snapshot.units {
        let one_name = !unit.name.is_empty() && !unit.name.contains(['/', '\0']);
        ensure!(one_name && is_path(&unit.dir), "a unit in it has no name");
        ensure!(is_path(&unit.rustc_dep_info), "a path in it is none");
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
    let digest = digest(&snapshot.units.iter().collect::<Vec<_>>())?;
    Survey::new(store, &listing, &snapshot.units).note_movable();
    store.promise(sizes.iter().map(|(hash, (size, executable))| (*hash, *size, *executable)))?;
    let (root, needed) = tree::save(store, &listing)?;
    snapshot.tree = root;
    let about = take::About { identity: *identity, commit };
    let created = (made_ms / 1000) as i64;
    let row = take::keep(store, &snapshot, &listing, needed, &about, toolchain, created)?;
    Ok(Arrived { row, digest })
}

/// Is this a path in a tree, as trees write it?
fn is_path(bytes: &[u8]) -> bool {
    !bytes.contains(&0) && RelPath::new(os(bytes)).is_ok_and(|path| path.as_bytes() == bytes)
}

/// Checks every path and size.
fn listing(store: &Store, files: Vec<(Vec<u8>, Item)>, max_blob: u64) -> Result<Listing> {
    ensure!(files.len() <= MAX_FILES, "it has too many files");
    let mut listing = Listing::new();
    let mut sizes: HashMap<Hash, u64> = HashMap::new();
    for (bytes, mut item) in files {
        ensure!(is_path(&bytes) && !bytes.is_empty(), "a path in it is none");
        let path = RelPath::new(os(&bytes))?;
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use kache_wrapper::cache::Invocation;

    use super::super::place::Place;
    use super::super::tree::File;
    use super::*;

    fn here(store: &Store) -> Machine {
        Machine::of(store, &Invocation { argv: Vec::new(), cwd: "/".into(), env: Vec::new() }).unwrap()
    }

    fn file(bytes: &[u8]) -> Item {
        let hash = *blake3::hash(bytes).as_bytes();
        Item::File(File { hash, size: bytes.len() as u64, mode: 0o4755, mtime_ns: 1, links: 0 })
    }

    fn packed(store: &Store, files: Vec<(&[u8], Item)>, blobs: Vec<(Hash, Vec<u8>)>) -> Packed {
        let place = Place {
            workspace: "/w".into(),
            repository: None,
            target: "/w/target".into(),
            cargo_home: "/c".into(),
        };
        let snapshot =
            Snapshot { version: take::VERSION, place, tree: [0; 32], units: Vec::new(), names: Vec::new() };
        Packed {
            version: VERSION,
            snapshot,
            commit: String::new(),
            toolchain: "rustc".into(),
            files: files.into_iter().map(|(path, item)| (path.to_vec(), item)).collect(),
            machine: here(store).kind(b""),
            words: Vec::new(),
            needs: Vec::new(),
            facts: Vec::new(),
            blobs,
        }
    }

    fn unpacked(store: &Store, packed: &Packed) -> Result<Listing> {
        let body = postcard::to_stdvec(packed).unwrap();
        let arrived = unpack(store, &body, &[1; 32], 5000, &here(store), 1000)?;
        Ok(take::load(store, &arrived.row).unwrap().1)
    }

    #[test]
    fn what_is_packed_is_taken_in_and_no_more_than_that() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Default::default()).unwrap();
        let inside = (*blake3::hash(b"small").as_bytes(), b"small".to_vec());
        let files: Vec<(&[u8], Item)> =
            vec![(b"debug", Item::Dir), (b"debug/small", file(b"small")), (b"debug/large", file(b"large!"))];
        let listing = unpacked(&store, &packed(&store, files, vec![inside])).unwrap();
        let mode = |name: &str| tree::file(&listing, &RelPath::new(name).unwrap()).unwrap().mode;
        assert_eq!((listing.len(), mode("debug/small")), (3, 0o755), "without set-id bits");
        let (small, large) = (blake3::hash(b"small"), blake3::hash(b"large!"));
        assert!(store.is_on_disk(small.as_bytes()) && !store.is_on_disk(large.as_bytes()));
        assert_eq!(store.fetchable(large.as_bytes()).unwrap(), Some((6, true)));
    }

    #[test]
    fn what_leads_elsewhere_or_lies_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Default::default()).unwrap();
        store.add_bytes(b"known here").unwrap();
        let known = *blake3::hash(b"known here").as_bytes();
        let sized =
            |hash: Hash, size: u64| Item::File(File { hash, size, mode: 0o644, mtime_ns: 1, links: 0 });
        let refused = |files: Vec<(&[u8], Item)>, blobs: Vec<(Hash, Vec<u8>)>| {
            unpacked(&store, &packed(&store, files, blobs)).is_err()
        };
        for path in
            [&b"../x"[..], b"/etc/passwd", b"a/../../x", b"", b".", b"a//b", b"./a", b"a\0b", b"no/directory"]
        {
            assert!(refused(vec![(path, file(b"x"))], Vec::new()), "{:?}", String::from_utf8_lossy(path));
        }
        assert!(refused(vec![(b"link", Item::Symlink(b"/etc".to_vec()))], Vec::new()));
        assert!(refused(vec![(b"a", file(b"a")), (b"a", file(b"b"))], Vec::new()));
        assert!(refused(vec![(b"a", file(b"a")), (b"a/b", file(b"b"))], Vec::new()));
        assert!(refused(vec![(b"large", sized([9; 32], 1001))], Vec::new()));
        assert!(refused(vec![(b"a", sized([9; 32], 1)), (b"b", sized([9; 32], 2))], Vec::new()));
        assert!(refused(vec![(b"a", sized(known, 3))], Vec::new()), "another size than it has");
        assert!(store.is_on_disk(&known), "a lie about a good blob does it no harm");
        assert!(refused(Vec::new(), vec![([9; 32], b"other".to_vec())]), "another hash");

        let with = |change: &dyn Fn(&mut Packed)| {
            let mut packed = packed(&store, Vec::new(), Vec::new());
            change(&mut packed);
            unpacked(&store, &packed).is_err()
        };
        assert!(!with(&|_| ()));
        assert!(with(&|p| p.version += 1));
        assert!(with(&|p| p.snapshot.version += 1));
        assert!(with(&|p| p.needs.push(Needs::default())));
        assert!(with(&|p| p.snapshot.place.target = PathBuf::from("/")));
        assert!(with(&|p| p.snapshot.place.workspace = PathBuf::from("w")));
        assert!(unpack(&store, b"garbage", &[1; 32], 0, &here(&store), 1000).is_err());
        assert_eq!(store.snapshots(None).unwrap().len(), 1, "the one that was right");
    }
}
