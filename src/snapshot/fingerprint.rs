//! Cargo's fingerprint of a unit, read, computed and written again.
//!
//! A build script that declares nothing has the time of its package's newest file in its fingerprint, and with it all
//! that depends on it. In another checkout that time is another. A package of a registry or a git repository has the
//! absolute path of its main source in it, so that with another `CARGO_HOME` cargo would know nothing again. The new
//! fingerprints are computed as cargo does it
//! (`core/compiler/fingerprint`), which is checked against what cargo itself has computed for each unit: where that does
//! not agree, nothing is claimed.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use rustc_stable_hash::StableSipHasher128;
use serde::{Deserialize, Serialize};

/// The order of the fields is that of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    rustc: u64,
    features: String,
    declared_features: String,
    target: u64,
    profile: u64,
    /// Of the main source: see [`of_path`].
    pub path: u64,
    /// Package, name, whether public, fingerprint.
    pub deps: Vec<(u64, String, bool, u64)>,
    pub local: Vec<Local>,
    rustflags: Vec<String>,
    config: u64,
    compile_kind: u64,
}

/// The order of the variants counts: their numbers are hashed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Local {
    Precalculated(String),
    CheckDepInfo { dep_info: PathBuf, checksum: bool },
    RerunIfChanged { output: PathBuf, paths: Vec<PathBuf> },
    RerunIfEnvChanged { var: String, val: Option<String> },
}

impl Fingerprint {
    pub fn parse(json: &[u8]) -> Option<Fingerprint> {
        serde_json::from_slice(json).ok()
    }

    pub fn to_json(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(self).ok()
    }

    pub fn hash(&self) -> u64 {
        let mut h = StableSipHasher128::new();
        let Fingerprint { rustc, features, declared_features, target, profile, path, local, .. } = self;
        (rustc, features, declared_features, target, path, profile, local).hash(&mut h);
        (self.config, self.compile_kind, &self.rustflags).hash(&mut h);
        h.write_usize(self.deps.len());
        for (package, name, public, fingerprint) in &self.deps {
            (package, name, public).hash(&mut h);
            h.write_u64(*fingerprint);
        }
        Hasher::finish(&h)
    }

    /// With other dependencies, by their old fingerprints. `None` if cargo computes otherwise than we do.
    pub fn renewed(
        &self,
        was: u64,
        deps: &HashMap<u64, u64>,
        whole: Option<&str>,
        path: Option<u64>,
    ) -> Option<Fingerprint> {
        if self.hash() != was {
            return None;
        }
        let mut new = self.clone();
        new.path = path.unwrap_or(new.path);
        for dep in &mut new.deps {
            dep.3 = deps.get(&dep.3).copied().unwrap_or(dep.3);
        }
        if let Some(text) = whole {
            new.local = vec![Local::Precalculated(text.to_owned())];
        }
        Some(new)
    }
}

/// What cargo has of a path: of members of the workspace the path in it, of others the absolute one.
pub fn of_path(path: &Path) -> u64 {
    let mut h = StableSipHasher128::new();
    path.hash(&mut h);
    Hasher::finish(&h)
}

/// Cargo writes the bytes of the number, lowest first, in hexadecimal.
pub fn from_hex(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok().filter(|t| t.len() == 16)?;
    u64::from_str_radix(text, 16).ok().map(u64::swap_bytes)
}

pub fn to_hex(fingerprint: u64) -> String {
    format!("{:016x}", fingerprint.swap_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_read_and_written_as_cargo_does() {
        assert_eq!(from_hex(b"0100000000000000"), Some(1));
        assert_eq!(from_hex(b""), None);
        assert_eq!(from_hex(b"01000000000000000"), None);
        assert_eq!(to_hex(1), "0100000000000000");
    }

    /// A project of every kind of unit, built by the cargo that runs this test.
    #[test]
    fn cargo_computes_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "Cargo.toml",
            "[package]\nname = \"a\"\nversion = \"0.1.0\"\n[dependencies]\nb = { path = \"b\" }\n",
        );
        write("src/main.rs", "fn main() { b::b() }");
        write("b/Cargo.toml", "[package]\nname = \"b\"\nversion = \"0.1.0\"\n[features]\nx = []\n");
        write("b/src/lib.rs", "pub fn b() {}");
        write("b/build.rs", "fn main() {}");
        write(
            "build.rs",
            "fn main() { println!(\"cargo:rerun-if-changed=src\\ncargo:rerun-if-env-changed=X\") }",
        );
        let mut cargo = std::process::Command::new(env!("CARGO"));
        cargo.args(["build", "--offline", "--quiet"]).current_dir(dir.path());
        cargo.env("RUSTC_WRAPPER", "").env("RUSTFLAGS", "--cfg y").env_remove("CARGO_TARGET_DIR");
        assert!(cargo.status().unwrap().success());
        let mut kinds = Vec::new();
        for unit in std::fs::read_dir(dir.path().join("target/debug/.fingerprint")).unwrap() {
            let unit = unit.unwrap().path();
            for file in std::fs::read_dir(&unit).unwrap() {
                let file = file.unwrap().path();
                if file.extension().is_none_or(|e| e != "json") {
                    continue;
                }
                let json = std::fs::read(&file).unwrap();
                let parsed = Fingerprint::parse(&json).unwrap();
                let hash = std::fs::read(file.with_extension("")).unwrap();
                assert_eq!(from_hex(&hash), Some(parsed.hash()), "{}", String::from_utf8_lossy(&json));
                assert_eq!(parsed.to_json().unwrap(), json);
                kinds.extend(parsed.local.iter().map(std::mem::discriminant));
            }
        }
        kinds.dedup();
        assert!(kinds.len() >= 4, "{kinds:?}");
    }
}
