//! Fingerprints that are others in another checkout: of build scripts that declare nothing, of packages where
//! `CARGO_HOME` is another, and of all that depends on one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kache_fs::RelPath;
use kache_wrapper::depinfo::DepInfo;

use super::fingerprint::{Fingerprint, of_path, to_hex};
use super::place::{Base, Place, normal};
use super::units::{Kind, Reader, Unit, path_of};
use super::{checkout, package};

/// What cargo has to find of units whose fingerprint is another here, by their position.
pub type Renewed = BTreeMap<usize, Files>;
/// The files with the hash and with the whole.
type Files = [(RelPath, Vec<u8>); 2];

/// Computes the new fingerprints. Units for which that is impossible get a problem.
pub fn renew(units: &mut [Unit], from: &Place, to: &Place, read: &Reader) -> Renewed {
    let mut texts: HashMap<usize, String> = HashMap::new();
    for (at, unit) in units.iter_mut().enumerate().filter(|(_, u)| u.problem.is_empty()) {
        let Some(was) = unit.whole.as_ref().map(|w| w.text.clone()) else { continue };
        match look(unit, to) {
            Ok(text) if text == was => {}
            Ok(text) => drop(texts.insert(at, text)),
            Err(problem) => unit.problem = problem.to_owned(),
        }
    }
    let mut paths: HashMap<usize, u64> = HashMap::new();
    let compiled = |u: &Unit| u.kind == Kind::Compile && u.problem.is_empty();
    for (at, unit) in units.iter_mut().enumerate().filter(|(_, u)| compiled(u)) {
        if from.cargo_home == to.cargo_home {
            break;
        }
        match path_here(unit, from, to, read) {
            Some((was, here)) if was == here => {}
            Some((_, here)) => drop(paths.insert(at, here)),
            None => unit.problem = "it is not clear by which path cargo knows its package".into(),
        }
    }
    if texts.is_empty() && paths.is_empty() {
        return Renewed::new();
    }
    let mut by_fingerprint: HashMap<u64, Vec<usize>> = HashMap::new();
    for (at, unit) in units.iter().enumerate() {
        by_fingerprint.entry(unit.fingerprint).or_default().push(at);
    }
    let (new, out) = (HashMap::new(), Renewed::new());
    let mut work = Work { units, read, texts, paths, by_fingerprint, new, out };
    for at in 0..work.units.len() {
        work.unit(at);
    }
    work.out
}

/// What cargo has of a unit's main source, there and here.
fn path_here(unit: &Unit, from: &Place, to: &Place, read: &Reader) -> Option<(u64, u64)> {
    let json = read(&path_of(&unit.dir).join(format!("{}.json", unit.name))).ok()?;
    let was = Fingerprint::parse(&json)?.path;
    let sources = DepInfo::parse(&read(&path_of(&unit.rustc_dep_info)).ok()?).files;
    let mut sources = sources.iter().map(|file| normal(&from.workspace.join(file)));
    sources.find_map(|path| {
        if path.strip_prefix(&from.workspace).is_ok_and(|p| of_path(p) == was) {
            return Some((was, was));
        }
        if of_path(&path) != was {
            return None;
        }
        let spot = from.spot(&path);
        let here = if spot.base == Base::CargoHome { of_path(&to.path(&spot)?) } else { was };
        Some((was, here))
    })
}

/// The package of a build script that declares nothing, as it is here.
fn look(unit: &Unit, to: &Place) -> Result<String, &'static str> {
    const UNCLEAR: &str =
        "its build script declares no inputs, and it is not clear which files its package has";
    let whole = unit.whole.as_ref().ok_or(UNCLEAR)?;
    let root = to.path(&whole.root).ok_or(UNCLEAR)?;
    let here = package::look(&root).ok_or(UNCLEAR)?;
    let recorded: BTreeSet<_> =
        unit.inputs.iter().filter(|(s, _)| s.base != Base::Target).map(|(s, _)| to.path(s)).collect();
    if recorded != here.files.iter().map(|f| Some(root.join(f))).collect() {
        return Err("its build script declares no inputs, and its package has other files");
    }
    if whole.commit.as_ref().is_some_and(|c| *c != checkout::head(to).0) {
        return Err("its build script asks git, and another commit is checked out");
    }
    Ok(here.text)
}

struct Work<'a> {
    units: &'a mut [Unit],
    read: &'a Reader<'a>,
    texts: HashMap<usize, String>,
    paths: HashMap<usize, u64>,
    by_fingerprint: HashMap<u64, Vec<usize>>,
    /// By the old fingerprint; the same where nothing changes.
    new: HashMap<u64, u64>,
    out: Renewed,
}

impl Work<'_> {
    fn unit(&mut self, at: usize) {
        let was = self.units[at].fingerprint;
        if self.out.contains_key(&at) || self.new.contains_key(&was) && self.by_fingerprint[&was].len() == 1 {
            return;
        }
        // Before the dependencies: a circle would be none of cargo's.
        self.new.insert(was, was);
        let deps = self.units[at].deps.clone();
        for dep in &deps {
            for other in self.by_fingerprint.get(dep).cloned().unwrap_or_default() {
                if other != at {
                    self.unit(other);
                }
            }
        }
        let changed = |dep: &u64| self.new.get(dep).is_some_and(|new| new != dep);
        let changes = self.texts.contains_key(&at) || self.paths.contains_key(&at);
        if !changes && !deps.iter().any(changed) {
            return;
        }
        match self.files(at) {
            Some((new, files)) => {
                self.new.insert(was, new);
                self.out.insert(at, files);
            }
            None => self.units[at].problem = "its fingerprint cannot be computed".into(),
        }
    }

    fn files(&self, at: usize) -> Option<(u64, Files)> {
        let unit = &self.units[at];
        let dir = path_of(&unit.dir);
        let (hash, json) = (dir.join(&unit.name), dir.join(format!("{}.json", unit.name)));
        let old = Fingerprint::parse(&(self.read)(&json).ok()?)?;
        let (whole, path) = (self.texts.get(&at).map(String::as_str), self.paths.get(&at).copied());
        let new = old.renewed(unit.fingerprint, &self.new, whole, path)?;
        let fingerprint = new.hash();
        Some((fingerprint, [(hash, to_hex(fingerprint).into_bytes()), (json, new.to_json()?)]))
    }
}
