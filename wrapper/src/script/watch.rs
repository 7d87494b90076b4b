//! Does a build script write outside of `OUT_DIR`? Then its result is more than what is stored, and it always runs.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Script;
use crate::cache::Invocation;

/// Looking at more files than this would take longer than it is worth.
const MAX_FILES: usize = 20_000;

type State = (u64, u64, i64);

/// What lies around a script before it runs.
pub struct Watch {
    /// What scripts of dependencies left, and the package.
    places: Vec<PathBuf>,
    target: Option<PathBuf>,
    before: BTreeMap<PathBuf, State>,
}

impl Watch {
    pub fn begin(script: &Script, inv: &Invocation) -> Watch {
        let mut places: Vec<PathBuf> = script.dependencies(inv).into_iter().map(Path::to_owned).collect();
        places.push(script.package.clone());
        let target = script.prefixes.get(crate::prefixes::TARGET).and_then(Path::parent).map(Path::to_owned);
        let before = look(&places, target.as_deref());
        Watch { places, target, before }
    }

    /// Something that appeared, changed or went meanwhile.
    pub fn changed(&self) -> Option<PathBuf> {
        let now = look(&self.places, self.target.as_deref());
        let changed = now.iter().find(|(path, state)| self.before.get(*path) != Some(*state));
        let gone = || self.before.keys().find(|path| !now.contains_key(*path));
        changed.map(|(path, _)| path).or_else(gone).cloned()
    }
}

fn look(places: &[PathBuf], target: Option<&Path>) -> BTreeMap<PathBuf, State> {
    let mut found = BTreeMap::new();
    let mut todo = places.to_vec();
    while let Some(dir) = todo.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        let entries: Vec<_> = entries.flatten().collect();
        let has = |name: &str| entries.iter().any(|e| e.file_name() == name);
        if !places.contains(&dir) && has("Cargo.toml") || has("CACHEDIR.TAG") {
            continue;
        }
        for entry in entries {
            let path = entry.path();
            // Cargo itself keeps the lock file, and makes the target directory.
            let name = entry.file_name();
            if name == ".git"
                || name == "node_modules"
                || name == "Cargo.lock"
                || Some(path.as_path()) == target
            {
                continue;
            }
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                todo.push(path);
                continue;
            }
            found.insert(path, state(&meta));
            if found.len() > MAX_FILES {
                return found;
            }
        }
    }
    if let Some(target) = target {
        beside_profiles(target, &mut found);
    }
    found
}

/// In the target directory itself, what is no profile's and not cargo's.
fn beside_profiles(target: &Path, found: &mut BTreeMap<PathBuf, State>) {
    let Ok(entries) = std::fs::read_dir(target) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let known = [".rustc_info.json", "CACHEDIR.TAG", "doc", "tmp", "package", ".cargo-lock"];
        if known.iter().any(|k| entry.file_name() == *k) || path.extension() == Some(OsStr::new("lock")) {
            continue;
        }
        let Ok(meta) = entry.metadata() else { continue };
        let is_profile = |dir: &Path| dir.join(".fingerprint").exists() || dir.join("build").exists();
        let is_triple = |dir: &Path| {
            std::fs::read_dir(dir).is_ok_and(|mut d| d.any(|e| e.is_ok_and(|e| is_profile(&e.path()))))
        };
        if meta.is_dir() && (is_profile(&path) || is_triple(&path)) || path.starts_with(target.join("build"))
        {
            continue;
        }
        found.insert(path, state(&meta));
    }
}

fn state(meta: &std::fs::Metadata) -> State {
    (meta.ino(), meta.size(), meta.mtime() * 1_000_000_000 + meta.mtime_nsec())
}
