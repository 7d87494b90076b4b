//! Cargo's fingerprints where its packages lie at another path.
//!
//! Cargo knows a unit by a hash over what it is made of: for packages of a registry or a git repository the absolute
//! path of their main source too, for all units the hashes of those before them. So with another `CARGO_HOME` nothing is
//! what it was to cargo. The hashes are made again with the path that is true here.
//!
//! How cargo hashes is its own affair (`Fingerprint` in `core/compiler/fingerprint`, `util::hash_u64`). So nothing is
//! taken for granted: only where the same recipe gives the very hash that cargo has written, and the very hash of the
//! path as it was, it is believed to give what cargo will want here. Where not, cargo finds the unit stale.

use std::collections::{BTreeMap, HashMap};

use std::hash::{Hash, Hasher};
use std::path::PathBuf;

use kache_fs::RelPath;
use kache_wrapper::depinfo::DepInfo;
use rustc_stable_hash::StableSipHasher128;
use serde::{Deserialize, Serialize};

use super::place::{Base, Place};
use super::units::{self, Reader, Unit};

/// As it is in `.fingerprint/<package>-<hash>/<unit>.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fingerprint {
    rustc: u64,
    features: String,
    declared_features: String,
    target: u64,
    profile: u64,
    path: u64,
    /// Package, name, whether public, fingerprint.
    deps: Vec<(u64, String, bool, u64)>,
    local: Vec<Local>,
    rustflags: Vec<String>,
    config: u64,
    compile_kind: u64,
}

#[derive(Debug, Hash, Serialize, Deserialize)]
enum Local {
    Precalculated(String),
    CheckDepInfo { dep_info: PathBuf, checksum: bool },
    RerunIfChanged { output: PathBuf, paths: Vec<PathBuf> },
    RerunIfEnvChanged { var: String, val: Option<String> },
}

impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, h: &mut H) {
        let Fingerprint { rustc, features, declared_features, target, profile, path, .. } = self;
        let Fingerprint { deps, local, rustflags, config, compile_kind, .. } = self;
        (rustc, features, declared_features, target, path, profile).hash(h);
        (local, config, compile_kind, rustflags).hash(h);
        h.write_usize(deps.len());
        for (package, name, public, fingerprint) in deps {
            (package, name, public).hash(h);
            h.write_u64(*fingerprint);
        }
    }
}

fn hash_of(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = StableSipHasher128::new();
    value.hash(&mut hasher);
    Hasher::finish(&hasher)
}

/// Gives all units the fingerprints that cargo will want here. Returns the files that say so; a unit of which that
/// cannot be proven gets a problem.
pub fn rehome(units: &mut [Unit], read: &Reader, from: &Place, to: &Place) -> BTreeMap<RelPath, Vec<u8>> {
    let mut parsed: Vec<Option<Fingerprint>> =
        units.iter().map(|unit| understood(unit, read, from, to)).collect();
    let mut known: HashMap<u64, u64> = HashMap::new();
    let mut files = BTreeMap::new();
    loop {
        let before = parsed.iter().flatten().count();
        for (unit, slot) in units.iter_mut().zip(&mut parsed) {
            let ready = slot.as_ref().is_some_and(|f| f.deps.iter().all(|d| known.contains_key(&d.3)));
            let Some(mut fingerprint) = slot.take_if(|_| ready) else { continue };
            for dep in &mut fingerprint.deps {
                dep.3 = known[&dep.3];
            }
            let new = hash_of(&fingerprint);
            known.insert(unit.fingerprint, new);
            unit.fingerprint = new;
            unit.deps = fingerprint.deps.iter().map(|d| d.3).collect();
            let dir = units::path_of(&unit.dir);
            let Ok(json) = serde_json::to_vec(&fingerprint) else { continue };
            files.insert(dir.join(&unit.name), units::to_hex(new));
            files.insert(dir.join(format!("{}.json", unit.name)), json);
        }
        if parsed.iter().flatten().count() == before {
            break;
        }
    }
    for unit in units.iter_mut() {
        let path = units::path_of(&unit.dir).join(&unit.name);
        if unit.problem.is_empty() && !files.contains_key(&path) {
            unit.problem = "cargo knows it, or one before it, by another path of its package".into();
        }
    }
    files
}

/// The fingerprint of a unit, with the path of its package as it is here but its dependencies as they were; `None` if
/// it is not known how cargo came to it.
fn understood(unit: &Unit, read: &Reader, from: &Place, to: &Place) -> Option<Fingerprint> {
    let dir = units::path_of(&unit.dir);
    let json = read(&dir.join(format!("{}.json", unit.name))).ok()?;
    let mut fingerprint: Fingerprint = serde_json::from_slice(&json).ok()?;
    if hash_of(&fingerprint) != unit.fingerprint {
        return None;
    }
    if fingerprint.path != 0 {
        fingerprint.path = path_here(fingerprint.path, unit, read, from, to)?;
    }
    for local in &mut fingerprint.local {
        if let Local::RerunIfChanged { paths, .. } = local {
            for path in paths.iter_mut().filter(|p| p.is_absolute()) {
                *path = to.path(&from.spot(path))?;
            }
        }
    }
    Some(fingerprint)
}

/// Cargo's hash of a unit's main source, as it is here.
fn path_here(known: u64, unit: &Unit, read: &Reader, from: &Place, to: &Place) -> Option<u64> {
    let text = read(&units::path_of(&unit.rustc_dep_info)).ok()?;
    DepInfo::parse(&text).files.iter().find_map(|file| {
        let path = super::place::normal(&from.workspace.join(file));
        let spot = from.spot(&path);
        // Of members of the workspace, the path in it.
        let relative = path.strip_prefix(&from.workspace).is_ok_and(|p| hash_of(p) == known);
        if relative || hash_of(path.as_path()) == known && spot.base != Base::CargoHome {
            return Some(known);
        }
        (hash_of(path.as_path()) == known).then(|| Some(hash_of(to.path(&spot)?.as_path())))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// What this very cargo writes is what the recipe gives.
    #[test]
    fn the_recipe_is_that_of_cargo() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "Cargo.toml",
            "[package]\nname = \"a\"\nedition = \"2024\"\n[features]\nx = []\n[dependencies]\nb = { path = \"b\" }\n",
        );
        write("src/main.rs", "fn main() { b::f() }\n");
        write("b/Cargo.toml", "[package]\nname = \"b\"\nedition = \"2024\"\n");
        write(
            "b/build.rs",
            "fn main() { println!(\"cargo::rerun-if-changed=build.rs\\ncargo::rerun-if-env-changed=X\"); }\n",
        );
        write("b/src/lib.rs", "pub fn f() {}\n");
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--offline", "--quiet"]).current_dir(dir.path());
        for name in ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR"]
        {
            cargo.env_remove(name);
        }
        assert!(cargo.status().unwrap().success());
        let mut seen = 0;
        for unit in std::fs::read_dir(dir.path().join("target/debug/.fingerprint")).unwrap() {
            for file in std::fs::read_dir(unit.unwrap().path()).unwrap() {
                let path = file.unwrap().path();
                if path.extension() != Some(std::ffi::OsStr::new("json")) {
                    continue;
                }
                let parsed: Fingerprint = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                let written = std::fs::read(path.with_extension("")).unwrap();
                assert_eq!(units::to_hex(hash_of(&parsed)), written, "{}", path.display());
                seen += 1;
            }
        }
        assert_eq!(seen, 4, "a, b, b's build script, and its run");
    }
}
