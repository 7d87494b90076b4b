//! What cargo keeps about each unit of work in `.fingerprint`, and what kache concludes from it.
//!
//! Source of the formats: cargo's `core/compiler/fingerprint` and `core/compiler/custom_build`. Everything that is not
//! as expected makes a unit unprovable, which costs a question to the wrapper, never a wrong build.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use kache_fs::RelPath;
use kache_wrapper::depinfo::DepInfo as RustcDepInfo;
use serde::{Deserialize, Serialize};

use super::depinfo::{DepInfo, Root};
use super::fingerprint::from_hex;
use super::place::{Base, Place, Spot};
use super::tree::{self, Item, Listing};
use crate::store::Hash;

/// A unit: one compile, one run of a build script, one run of rustdoc.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// `.fingerprint/<package>-<hash>` in the tree.
    pub dir: RelPathBytes,
    /// `lib-serde`, `run-build-script-build-script-build`.
    pub name: String,
    pub kind: Kind,
    /// rustc's dep-info of a compile.
    pub rustc_dep_info: RelPathBytes,
    /// Cargo's hash, by which other units refer to this one.
    pub fingerprint: u64,
    pub deps: Vec<u64>,
    /// The directory that it ran in.
    pub cwd: Option<Spot>,
    /// What it read, with the content that it had.
    pub inputs: Vec<(Spot, Hash)>,
    /// Of a build script that declares nothing: what else must be the same.
    pub whole: Option<Whole>,
    /// Why it can be fresh nowhere else; empty if it can.
    pub problem: String,
    /// The same, for checkouts at another path.
    pub bound: String,
    /// The same, where cargo keeps packages at another path.
    pub homebound: String,
    /// How long it took, in milliseconds, if known.
    pub took_ms: u64,
}

/// A run of a build script that declares nothing: all files of the package are its inputs, and no others may be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whole {
    /// Directory of the package.
    pub root: Spot,
    /// What cargo had in the fingerprint.
    pub text: String,
    /// For scripts that ask git: what was checked out (empty without a repository).
    pub commit: Option<String>,
}

/// A path in the tree, as bytes.
pub type RelPathBytes = Vec<u8>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Compile,
    RunBuildScript,
    /// Cargo has no list of what it read: it judges by other means.
    Doc,
}

/// What of cargo's JSON matters; of later versions, too.
#[derive(Deserialize)]
struct Parsed {
    /// Package, name, whether public, fingerprint.
    deps: Vec<(u64, String, bool, u64)>,
    local: Vec<serde_json::Value>,
}

/// How to read a file of the tree.
pub type Reader<'a> = dyn Fn(&RelPath) -> Result<Vec<u8>> + 'a;

/// A unit as it was found, its inputs not yet hashed.
pub struct Found {
    pub unit: Unit,
    pub sources: BTreeSet<PathBuf>,
    /// Compiled files, whose content may name the checkout.
    pub outputs: Vec<RelPath>,
    /// A build script's directory, `build/<package>-<hash>`.
    pub run_dir: Option<RelPath>,
    /// The program of a build script that declares nothing, under all its names.
    pub programs: Vec<RelPath>,
    /// Cargo compares the sources' times with this one's.
    pub reference_ns: i64,
}

pub fn path_of(bytes: &[u8]) -> RelPath {
    RelPath::new(Path::new(OsStr::from_bytes(bytes))).unwrap_or_default()
}

/// All units of a tree.
pub fn find(listing: &Listing, read: &Reader, place: &Place) -> Vec<Found> {
    let mut found = Vec::new();
    let mut roots: HashMap<u64, PathBuf> = HashMap::new();
    let outputs = Outputs::of(listing);
    for path in listing.keys() {
        let (dir, name) = tree::split(path);
        let Some(name) = std::str::from_utf8(&name).ok().and_then(|n| n.strip_suffix(".json")) else {
            continue;
        };
        let (parent, _) = tree::split(&dir);
        if tree::split(&parent).1 != b".fingerprint" && !parent.as_bytes().ends_with(b".fingerprint") {
            continue;
        }
        let Some(unit) = one(listing, read, place, &outputs, &dir, name, path, &mut roots) else { continue };
        found.push(unit);
    }
    let programs: HashMap<u64, Vec<RelPath>> =
        found.iter().map(|f| (f.unit.fingerprint, f.outputs.clone())).collect();
    // A run's inputs are relative to its package, which the script's own compile tells.
    for run in found.iter_mut().filter(|f| f.unit.kind == Kind::RunBuildScript) {
        let root = run.unit.deps.iter().find_map(|dep| roots.get(dep));
        run_inputs(run, root.map(PathBuf::as_path), place);
        run.programs = run.unit.deps.iter().filter_map(|dep| programs.get(dep)).flatten().cloned().collect();
    }
    found
}

#[allow(clippy::too_many_arguments)]
fn one(
    listing: &Listing,
    read: &Reader,
    place: &Place,
    outputs: &Outputs,
    dir: &RelPath,
    name: &str,
    json: &RelPath,
    roots: &mut HashMap<u64, PathBuf>,
) -> Option<Found> {
    // An unfinished unit has an empty file here: to cargo it does not exist.
    let hex = read(&dir.join(name)).ok()?;
    let fingerprint = from_hex(&hex)?;
    let parsed: Parsed = serde_json::from_slice(&read(json).ok()?).ok()?;
    let kind = if name.starts_with("run-build-script-") {
        Kind::RunBuildScript
    } else if parsed.local.iter().any(|l| l.get("CheckDepInfo").is_some()) {
        Kind::Compile
    } else {
        Kind::Doc
    };
    let unit = Unit {
        dir: dir.as_bytes().to_vec(),
        name: name.to_owned(),
        kind,
        rustc_dep_info: Vec::new(),
        fingerprint,
        deps: parsed.deps.iter().map(|d| d.3).collect(),
        cwd: None,
        inputs: Vec::new(),
        whole: None,
        problem: String::new(),
        bound: String::new(),
        homebound: String::new(),
        took_ms: 0,
    };
    let mut found = Found {
        unit,
        sources: BTreeSet::new(),
        outputs: Vec::new(),
        run_dir: None,
        programs: Vec::new(),
        reference_ns: 0,
    };
    let done = match kind {
        Kind::Compile => compile(&mut found, listing, read, place, outputs, &parsed.local, roots),
        Kind::RunBuildScript => run(&mut found, listing, dir, &parsed.local),
        Kind::Doc => Err("documentation is cargo's to judge"),
    };
    if let Err(problem) = done {
        found.unit.problem = problem.to_owned();
    }
    Some(found)
}

fn compile(
    found: &mut Found,
    listing: &Listing,
    read: &Reader,
    place: &Place,
    outputs: &Outputs,
    local: &[serde_json::Value],
    roots: &mut HashMap<u64, PathBuf>,
) -> Result<(), &'static str> {
    let dir = path_of(&found.unit.dir);
    let dep_path = dir.join(format!("dep-{}", found.unit.name));
    let reference = tree::file(listing, &dep_path).ok_or("cargo has no dep-info of it")?;
    found.reference_ns = reference.mtime_ns;
    let bytes = read(&dep_path).map_err(|_| "cargo's dep-info cannot be read")?;
    let cargo = DepInfo::parse(&bytes).ok_or("cargo's dep-info is of an unknown version")?;
    let (profile, hash) = profile_and_hash(&dir).ok_or("its directory has an unknown name")?;
    let all = outputs.of_unit(&profile, &hash);
    found.outputs = all.iter().filter(|p| !p.as_bytes().ends_with(b".d")).map(|p| (*p).clone()).collect();
    if found.outputs.is_empty() {
        return Err("its outputs have no hash in their names");
    }
    let rustc = all.iter().find(|p| p.as_bytes().ends_with(b".d")).ok_or("there is no dep-info of rustc")?;
    found.unit.rustc_dep_info = rustc.as_bytes().to_vec();
    let rustc = read(rustc).map_err(|_| "rustc's dep-info cannot be read")?;
    for (name, value) in env_deps(&rustc) {
        // Paths that a program asks for by name may be baked into it in ways that nobody can see. Where a build script
        // has put its files is asked for to include them, hardly ever for anything else: there it is enough that no
        // output shows the path.
        if name != b"OUT_DIR" && names_checkout(value, place) {
            found.unit.bound = format!("it was made with {}", String::from_utf8_lossy(name));
        }
    }
    let info = RustcDepInfo::parse(&rustc);
    let root = package_root(&cargo, &info, place);
    if let Some(root) = &root {
        roots.insert(found.unit.fingerprint, root.clone());
        // Cargo lists what packages have read that are nobody's copy of a published version.
        let is_own = cargo.files.iter().any(|(kind, _)| *kind == Root::Package);
        let in_workspace = is_own && root.starts_with(&place.workspace);
        found.unit.cwd = Some(place.spot(if in_workspace { &place.workspace } else { root }));
    }
    if cargo.env_contains(place.workspace.as_os_str().as_bytes()) {
        found.unit.bound = "a variable that it read names the checkout".into();
    }
    let build = build_root(&dep_path, local, place).ok_or("its build directory is not clear")?;
    for (kind, path) in &cargo.files {
        let path = Path::new(OsStr::from_bytes(path));
        found.sources.insert(match kind {
            Root::Build => build.join(path),
            Root::Package => root.as_ref().ok_or("the place of its package is not clear")?.join(path),
        });
    }
    // Of registry packages cargo lists nothing; rustc lists everything.
    found.sources.extend(info.files.iter().map(|f| place.workspace.join(f)));
    Ok(())
}

fn run(
    found: &mut Found,
    listing: &Listing,
    dir: &RelPath,
    local: &[serde_json::Value],
) -> Result<(), &'static str> {
    let (profile, _) = profile_and_hash(dir).ok_or("its directory has an unknown name")?;
    let (_, package) = tree::split(dir);
    let run_dir = profile.join("build").join(OsStr::from_bytes(&package));
    let output = tree::file(listing, &run_dir.join("output")).ok_or("its output is gone")?;
    found.reference_ns = output.mtime_ns;
    found.run_dir = Some(run_dir);
    for item in local {
        if let Some(changed) = item.get("RerunIfChanged") {
            let paths = changed.get("paths").and_then(|p| p.as_array()).ok_or("an unknown fingerprint")?;
            for path in paths {
                found.sources.insert(path.as_str().ok_or("an unknown fingerprint")?.into());
            }
        } else if let Some(text) = item.get("Precalculated").and_then(|t| t.as_str()) {
            // A version for packages of a registry, times of files for the others.
            if text.contains(' ') {
                let root = Spot { base: Base::Elsewhere, rel: Vec::new() };
                found.unit.whole = Some(Whole { root, text: text.to_owned(), commit: None });
            }
        } else if item.get("RerunIfEnvChanged").is_none() {
            return Err("an unknown fingerprint");
        }
    }
    Ok(())
}

/// The paths that a build script has declared become absolute.
fn run_inputs(found: &mut Found, root: Option<&Path>, place: &Place) {
    let declared = std::mem::take(&mut found.sources);
    found.unit.cwd = root.map(|root| place.spot(root));
    if let (Some(whole), Some(root)) = (&mut found.unit.whole, root) {
        whole.root = place.spot(root);
    }
    // In cargo's fingerprint they are absolute if they are outside of the package.
    if declared.iter().any(|p| p.is_absolute() && place.own().iter().any(|own| p.starts_with(own))) {
        found.unit.bound = "its build script declares inputs by the checkout's path".into();
    }
    match root {
        Some(root) => found.sources = declared.iter().map(|p| root.join(p)).collect(),
        None if found.unit.whole.is_none() && declared.iter().all(|p| p.is_absolute()) => {
            found.sources = declared
        }
        None => found.unit.problem = "the place of its package is not clear".into(),
    }
}

/// Where cargo's relative paths start from: its own path of a file, taken off the end of ours.
fn build_root(dep_path: &RelPath, local: &[serde_json::Value], place: &Place) -> Option<PathBuf> {
    let known = local.iter().find_map(|l| l.get("CheckDepInfo")?.get("dep_info")?.as_str())?;
    let above = dep_path.as_bytes().strip_suffix(known.as_bytes())?;
    Some(place.target.join(OsStr::from_bytes(above.strip_suffix(b"/").unwrap_or(above))))
}

/// Directory of the profile, and the hash in the name of a unit's directory.
pub(super) fn profile_and_hash(dir: &RelPath) -> Option<(RelPath, Vec<u8>)> {
    let (fingerprints, name) = tree::split(dir);
    let (profile, _) = tree::split(&fingerprints);
    let (_, hash) = name.rsplit_once_byte(b'-')?;
    (hash.len() == 16 && hash.iter().all(u8::is_ascii_hexdigit)).then(|| (profile, hash.to_vec()))
}

trait RsplitOnce {
    fn rsplit_once_byte(&self, at: u8) -> Option<(&[u8], &[u8])>;
}

impl RsplitOnce for [u8] {
    fn rsplit_once_byte(&self, at: u8) -> Option<(&[u8], &[u8])> {
        let i = self.iter().rposition(|b| *b == at)?;
        Some((&self[..i], &self[i + 1..]))
    }
}

/// Compiled files by profile directory and the hash in their names.
pub(super) struct Outputs<'a>(HashMap<(RelPath, Vec<u8>), Vec<&'a RelPath>>);

impl<'a> Outputs<'a> {
    pub(super) fn of(listing: &'a Listing) -> Outputs<'a> {
        let mut map: HashMap<_, Vec<&RelPath>> = HashMap::new();
        for (path, item) in listing {
            if !matches!(item, Item::File(_)) {
                continue;
            }
            let (dir, name) = tree::split(path);
            let (up, last) = tree::split(&dir);
            let profile = match last.as_slice() {
                b"deps" | b"examples" => up,
                // `build/<package>-<hash>/build_script_build-<hash>`
                _ if tree::split(&up).1 == b"build" || up.as_bytes() == b"build" => tree::split(&up).0,
                _ => continue,
            };
            let stem = name.split(|b| *b == b'.').next().unwrap_or_default();
            if let Some((_, hash)) = stem.rsplit_once_byte(b'-')
                && hash.len() == 16
            {
                map.entry((profile, hash.to_vec())).or_default().push(path);
            }
        }
        Outputs(map)
    }

    pub(super) fn of_unit(&self, profile: &RelPath, hash: &[u8]) -> &[&'a RelPath] {
        self.0.get(&(profile.clone(), hash.to_vec())).map_or(&[], Vec::as_slice)
    }
}

/// Where a package lies: the directory from which cargo's relative paths lead to files that rustc read.
fn package_root(cargo: &DepInfo, rustc: &RustcDepInfo, place: &Place) -> Option<PathBuf> {
    let read: Vec<PathBuf> =
        rustc.files.iter().map(|f| super::place::normal(&place.workspace.join(f))).collect();
    let own: Vec<&Path> = cargo
        .files
        .iter()
        .filter(|(root, _)| *root == Root::Package)
        .map(|(_, p)| Path::new(OsStr::from_bytes(p)))
        .collect();
    let Some(first) = own.first() else {
        // A published version: in `registry/src/<index>/<package>`, within `git/checkouts/<repository>/<commit>`, or wherever
        // it was vendored.
        let source = read.first()?;
        return source.ancestors().skip(1).find(|dir| dir.join("Cargo.toml").is_file()).map(Path::to_owned);
    };
    let mut roots = read
        .iter()
        .filter(|f| f.ends_with(first))
        .filter_map(|f| f.ancestors().nth(first.components().count()))
        .filter(|root| own.iter().all(|p| read.contains(&root.join(p))));
    let root = roots.next()?;
    // Two that would do: nobody can tell.
    roots.all(|r| r == root).then(|| root.to_owned())
}

/// Names and values of `# env-dep:` lines.
fn env_deps(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    text.split(|b| *b == b'\n').filter_map(|line| {
        let rest = line.strip_prefix(b"# env-dep:")?;
        let at = rest.iter().position(|b| *b == b'=')?;
        Some((&rest[..at], &rest[at + 1..]))
    })
}

/// Does a value name the checkout other than as a path in the target directory?
fn names_checkout(value: &[u8], place: &Place) -> bool {
    let target = place.target.as_os_str().as_bytes();
    let own = place.own();
    let inside =
        |at: usize| value[at..].strip_prefix(target).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
    own.iter().any(|p| memchr::memmem::find_iter(value, p.as_os_str().as_bytes()).any(|at| !inside(at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_the_target_is_not_the_checkout() {
        let place = Place {
            workspace: "/w".into(),
            repository: None,
            target: "/w/target".into(),
            cargo_home: "/c".into(),
        };
        assert!(!names_checkout(b"/w/target/debug/build/x/out:/w/target", &place));
        assert!(names_checkout(b"/w/target/debug:/w/src", &place));
        assert!(names_checkout(b"/w", &place));
        assert!(names_checkout(b"/w/target2", &place));
    }

    #[test]
    fn a_build_directory_is_above_profile_and_triple() {
        let place = Place {
            workspace: "/w".into(),
            repository: None,
            target: "/w/target".into(),
            cargo_home: "/c".into(),
        };
        for (above, known, root) in [
            ("", "debug/.fingerprint/a-0/dep-lib-a", "/w/target/"),
            ("", "wasm32-unknown-unknown/debug/.fingerprint/a-0/dep-lib-a", "/w/target/"),
            ("rust-analyzer/", "debug/.fingerprint/a-0/dep-lib-a", "/w/target/rust-analyzer"),
        ] {
            let local = [serde_json::json!({"CheckDepInfo": {"dep_info": known, "checksum": false}})];
            let path = path_of(format!("{above}{known}").as_bytes());
            assert_eq!(build_root(&path, &local, &place).unwrap(), Path::new(root));
        }
    }
}
