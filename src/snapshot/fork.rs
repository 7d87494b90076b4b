//! What a fork shows: the donor's tree, with the times and texts that are true in another checkout.
//!
//! cargo compares modification times: of a unit's outputs with those of what it depends on, and of its dep-info with
//! its sources. The first must stay as they were in the donor, whose leftovers may be out of date; so times keep their
//! order. The second is replaced by comparing contents; so all times become not older than the newest input of a fresh
//! unit, and not newer by more than there are files, in nanoseconds: the next edit is newer. A unit that is not fresh
//! loses its dep-info (a build script: all that it left), which cargo never takes for fresh.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use kache_fs::RelPath;

use super::depinfo::{DepInfo, Root};
use super::freshness::{self, Moved, Verdict};
use super::inputs::Inputs;
use super::place::Place;
use super::proofs;
use super::renew;
use super::survey::Survey;
use super::take::Snapshot;
use super::tree::{self, Item, Listing};
use super::units::{self, Kind, Unit};
use crate::store::{Hash, Store};

/// One thing to be put into the new target directory.
#[derive(Debug, Clone)]
pub struct Planned {
    pub path: RelPath,
    pub what: What,
    pub mode: u32,
    pub mtime: SystemTime,
    /// See [`tree::File::links`].
    pub links: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Dir,
    Symlink(Vec<u8>),
    Blob { hash: Hash, size: u64 },
    Bytes(Vec<u8>),
}

/// A fork that can be made.
#[derive(Debug)]
pub struct Plan {
    /// Parents before their children.
    pub files: Vec<Planned>,
    pub fresh: u64,
    /// Units that cargo will have to ask for, and why.
    pub stale: Vec<(String, String)>,
    /// Milliseconds that the fresh units took.
    pub saved_ms: u64,
    /// Bytes of files that are not copied.
    pub bytes: u64,
}

/// Plans a fork of a snapshot for the checkout at `to`.
///
/// `env` is the environment of whoever builds there.
pub fn plan(
    store: &Store,
    snapshot: &Snapshot,
    listing: &Listing,
    to: &Place,
    env: &[(OsString, OsString)],
) -> Result<Plan> {
    let from = &snapshot.place;
    let moved = Moved::of(from, to);
    let inputs = Inputs::new(store, to, listing);
    let names: Vec<(RelPath, bool)> = foreign(snapshot, moved).collect();
    let rewritten: BTreeSet<Vec<u8>> =
        names.iter().filter(|(_, text)| *text).map(|(p, _)| p.as_bytes().to_vec()).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64);
    let mut texts = BTreeMap::new();
    let mut problems = Vec::new();
    for (path, text) in &names {
        let Some(file) = tree::file(listing, path) else { continue };
        let new = match (text, is_dep_info(path)) {
            (_, true) => dep_info(&store.read_blob(&file.hash)?, from, to),
            (true, false) => text_here(&store.read_blob(&file.hash)?, from, to),
            (false, false) => continue,
        };
        match new {
            Some(new) => drop(texts.insert(path.clone(), new)),
            None => problems.push(path.clone()),
        }
    }
    Survey::new(store, listing, &snapshot.units).note_rewritten(&texts);
    let mut units = snapshot.units.clone();
    for unit in &mut units {
        if let Some(path) = problems.iter().find(|p| belongs(unit, p)) {
            unit.problem = format!("{path} names the other checkout in a way that cannot be rewritten");
        }
    }
    let planned = proofs::Planned { store, listing, texts: &texts, target: &to.target };
    proofs::check(&planned, &mut units, to, env);
    let read = |path: &RelPath| tree::read(store, listing, path);
    let renewed = renew::renew(&mut units, from, to, &read);
    for (at, files) in &renewed {
        if files.iter().any(|(path, _)| texts.contains_key(path)) {
            units[*at].problem = "its fingerprint names the other checkout".into();
        }
    }
    let (verdicts, newest) = freshness::judge(&units, from, to, &inputs, &rewritten, now);

    for (at, files) in renewed {
        if verdicts[at].is_fresh() {
            texts.extend(files);
        }
    }
    let dropped = dropped(&units, &verdicts, moved.checkout);
    let times = times(listing, newest);
    let mut plan = Plan { files: Vec::new(), fresh: 0, stale: Vec::new(), saved_ms: 0, bytes: 0 };
    for (path, item) in listing {
        if is_dropped(path, &dropped) {
            continue;
        }
        plan.files.push(placed(path, item, &mut texts, &times));
        if let Item::File(file) = item {
            plan.bytes += file.size;
        }
    }
    for (unit, verdict) in units.iter().zip(&verdicts) {
        match verdict {
            Verdict::Fresh => {
                plan.fresh += 1;
                plan.saved_ms += unit.took_ms;
            }
            Verdict::Stale(reason) => plan.stale.push((label(unit), reason.clone())),
            Verdict::Obsolete => {}
        }
    }
    Ok(plan)
}

/// Files that name what is elsewhere here, and whether they can be rewritten.
fn foreign(snapshot: &Snapshot, moved: Moved) -> impl Iterator<Item = (RelPath, bool)> {
    let named = snapshot.names.iter();
    named
        .filter(move |(_, n)| n.checkout && moved.checkout || n.packages && moved.packages)
        .map(|(path, names)| (units::path_of(path), names.text))
}

/// Blobs that are read to plan a fork.
pub fn read_blobs(snapshot: &Snapshot, listing: &Listing, to: &Place) -> Vec<Hash> {
    let names = foreign(snapshot, Moved::of(&snapshot.place, to));
    let read = names.filter(|(path, text)| *text || is_dep_info(path));
    read.filter_map(|(path, _)| Some(tree::file(listing, &path)?.hash)).collect()
}

/// A text as it would be here.
fn text_here(text: &[u8], from: &Place, to: &Place) -> Option<Vec<u8>> {
    crate::launcher::moved(text, from, to).or_else(|| from.translate(text, to))
}

fn placed(
    path: &RelPath,
    item: &Item,
    texts: &mut BTreeMap<RelPath, Vec<u8>>,
    times: &BTreeMap<i64, i64>,
) -> Planned {
    let (what, mode, mtime, links) = match item {
        Item::Dir => (What::Dir, 0o755, None, 0),
        Item::Symlink(target) => (What::Symlink(target.clone()), 0o777, None, 0),
        Item::File(file) => {
            let what = match texts.remove(path) {
                Some(text) => What::Bytes(text),
                None => What::Blob { hash: file.hash, size: file.size },
            };
            (what, file.mode, times.get(&file.mtime_ns), file.links)
        }
    };
    let mtime = time(mtime.copied().unwrap_or_else(|| times.values().next_back().copied().unwrap_or(0)));
    Planned { path: path.clone(), what, mode, mtime, links }
}

/// The same order, in as many nanoseconds as there are different times.
pub fn times(listing: &Listing, from_ns: i64) -> BTreeMap<i64, i64> {
    let all: BTreeSet<i64> = listing
        .values()
        .filter_map(|i| if let Item::File(f) = i { Some(f.mtime_ns) } else { None })
        .collect();
    all.into_iter().zip(from_ns..).collect()
}

pub fn time(ns: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(u64::try_from(ns).unwrap_or(0))
}

/// What must not be there, so that cargo does not take a unit for fresh.
fn dropped(units: &[Unit], verdicts: &[Verdict], moved: bool) -> HashSet<RelPath> {
    let mut dropped = HashSet::new();
    for (unit, verdict) in units.iter().zip(verdicts) {
        if verdict.is_fresh() {
            continue;
        }
        let dir = units::path_of(&unit.dir);
        match unit.kind {
            Kind::Compile => {
                dropped.insert(dir.join(format!("dep-{}", unit.name)));
                // By this file the wrapper knows a unit that was built here before: somebody edits it, and the result
                // is not worth storing. In another checkout this is a first build.
                if moved && !unit.rustc_dep_info.is_empty() {
                    dropped.insert(units::path_of(&unit.rustc_dep_info));
                }
            }
            // What it has made may name the donor, or be half of what the next run makes.
            Kind::RunBuildScript if moved => drop(run_dir(&dir).map(|d| dropped.insert(d))),
            Kind::RunBuildScript => drop(run_dir(&dir).map(|d| dropped.insert(d.join("output")))),
            // Cargo has its own ways; ours is to remove nothing that it would find outdated by itself.
            Kind::Doc => {}
        }
    }
    dropped
}

/// It, or a directory that it is in.
fn is_dropped(path: &RelPath, dropped: &HashSet<RelPath>) -> bool {
    let mut at = path.clone();
    while !at.is_root() {
        if dropped.contains(&at) {
            return true;
        }
        at = tree::split(&at).0;
    }
    false
}

/// `build/<package>-<hash>` of `.fingerprint/<package>-<hash>`.
pub fn run_dir(dir: &RelPath) -> Option<RelPath> {
    let (fingerprints, package) = tree::split(dir);
    let (profile, name) = tree::split(&fingerprints);
    (name == b".fingerprint").then(|| profile.join("build").join(OsStr::from_bytes(&package)))
}

fn is_dep_info(path: &RelPath) -> bool {
    let (dir, name) = tree::split(path);
    name.starts_with(b"dep-") && tree::split(&tree::split(&dir).0).1 == b".fingerprint"
}

/// Is this file one of those by which cargo judges the unit, or which its build script made?
fn belongs(unit: &Unit, path: &RelPath) -> bool {
    let dir = units::path_of(&unit.dir);
    let (parent, name) = tree::split(path);
    (parent == dir && name.ends_with(unit.name.as_bytes()))
        || unit.kind == Kind::RunBuildScript
            && run_dir(&dir).is_some_and(|d| path.as_path().starts_with(d.as_path()))
}

/// Cargo's dep-info with absolute paths of the other checkout.
fn dep_info(bytes: &[u8], from: &Place, to: &Place) -> Option<Vec<u8>> {
    let mut info = DepInfo::parse(bytes)?;
    for (root, path) in &mut info.files {
        let absolute = Path::new(OsStr::from_bytes(path));
        if *root == Root::Build && absolute.is_absolute() {
            let here = to.path(&from.spot(absolute))?;
            *path = here.as_os_str().as_bytes().to_vec();
        }
    }
    Some(info.to_bytes())
}

/// What people call a unit.
pub fn label(unit: &Unit) -> String {
    let dir = units::path_of(&unit.dir);
    let (_, package) = tree::split(&dir);
    let package = String::from_utf8_lossy(&package).into_owned();
    let package = package.rsplit_once('-').map_or(package.as_str(), |(name, _)| name).to_owned();
    format!("{package} {}", unit.name)
}

/// The files of a plan as a mount places them.
pub fn placements(plan: &Plan) -> Vec<kache_fs::Placement> {
    use kache_fs::{Content, Placement};
    let with_children: HashSet<RelPath> = plan.files.iter().map(|f| tree::split(&f.path).0).collect();
    let (files, links) = by_first_name(plan.files.iter());
    let first = files
        .into_iter()
        .filter(|f| !(matches!(f.what, What::Dir) && with_children.contains(&f.path)))
        .map(|f| Placement {
            path: f.path.clone(),
            content: match &f.what {
                What::Dir => Content::Directory,
                What::Symlink(target) => Content::Symlink(target.clone()),
                What::Bytes(bytes) => Content::Bytes(bytes.clone()),
                What::Blob { hash, size } => Content::View {
                    hash: blake3::Hash::from_bytes(*hash),
                    size: *size,
                    link_ok: is_linkable(&f.path),
                },
            },
            mode: f.mode,
            mtime: (!matches!(f.what, What::Dir)).then_some(f.mtime),
        });
    let others = links.into_iter().map(|(f, first)| Placement {
        path: f.path.clone(),
        content: Content::HardLink(first.path.clone()),
        mode: f.mode,
        mtime: None,
    });
    first.chain(others).collect()
}

/// Of files with several names the first, and the others each with its first.
pub fn by_first_name<'a>(
    all: impl Iterator<Item = &'a Planned>,
) -> (Vec<&'a Planned>, Vec<(&'a Planned, &'a Planned)>) {
    let mut first: HashMap<u64, &Planned> = HashMap::new();
    let (mut files, mut links) = (Vec::new(), Vec::new());
    for file in all {
        // One that was rewritten is another than those that it was linked with.
        match first.get(&file.links).filter(|first| file.links != 0 && first.what == file.what) {
            Some(other) => links.push((file, *other)),
            None => {
                first.insert(file.links, file);
                files.push(file);
            }
        }
    }
    (files, links)
}

/// Compilers replace these, nobody edits them.
pub fn is_linkable(path: &RelPath) -> bool {
    matches!(path.as_path().extension().and_then(OsStr::to_str), Some("rlib" | "rmeta"))
}

/// All blobs that a plan shows.
pub fn blobs(plan: &Plan) -> Vec<Hash> {
    let mut all: Vec<Hash> = plan
        .files
        .iter()
        .filter_map(|f| if let What::Blob { hash, .. } = f.what { Some(hash) } else { None })
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Are all blobs there? A view of nothing would be a build that fails later.
pub fn check_blobs(store: &Store, plan: &Plan) -> Result<()> {
    let mut known = HashSet::new();
    for file in &plan.files {
        if let What::Blob { hash, size } = file.what
            && known.insert(hash)
            && !store.can_show(&hash, size)?
        {
            return Err(anyhow::anyhow!("a blob of this snapshot is missing or damaged"))
                .context(file.path.to_string());
        }
    }
    Ok(())
}
