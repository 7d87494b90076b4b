//! What proves that an output, or what a build script left, belongs to its inputs: which action made it, so that its record
//! can be asked about another place.
//!
//! A fork of a target directory asks it of each unit. Kept as a fact of the output, which may be in any number of places:
//! it says nothing about the one where it was made.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Dest, Entry, EntryKey, Invocation, InvocationKey, Result};
use crate::hasher::Hasher;
use crate::prefixes::{HOST, Prefixes, RUST_SRC, SYSROOT, TARGET};
use crate::record::{Here, InputRecord};
use crate::{key, script, tree};

const SPACE: &str = "proof 3";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    invocation: InvocationKey,
    key: EntryKey,
    width: Option<String>,
    of: Of,
    /// Of what is not stored.
    record: Option<Vec<u8>>,
    /// Variables that cargo set for the action, with templates of their values: nobody else's environment has them.
    given: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Of {
    Compile {
        rust_src: Option<PathBuf>,
    },
    Script {
        /// The way from the profile's directory to the one where its program is.
        host: PathBuf,
        sysroot: PathBuf,
        /// The state of what it left in its own directory: others may have added to it.
        left: Option<[u8; 32]>,
    },
}

/// A place where an action would run.
#[derive(Debug, Clone, Copy)]
pub struct Site<'a> {
    /// The profile's directory in the target directory.
    pub profile: &'a Path,
    pub cargo_home: &'a Path,
    /// Of a script, its package.
    pub cwd: &'a Path,
    /// Of a script.
    pub out_dir: Option<&'a Path>,
}

/// An action whose result is known.
pub(crate) struct Known<'a> {
    pub invocation: InvocationKey,
    pub key: EntryKey,
    pub width: Option<&'a str>,
    pub prefixes: &'a Prefixes,
    pub is_script: bool,
    /// Where it is not among the records of the invocation.
    pub record: Option<Vec<u8>>,
    /// Of a script that has just run.
    pub out_dir: Option<&'a Path>,
}

impl Proof {
    /// `given` says of a variable whether cargo set it.
    pub(crate) fn of(
        cache: &dyn Cache,
        known: Known,
        inv: &Invocation,
        given: &dyn Fn(&OsStr) -> bool,
    ) -> Proof {
        let prefixes = known.prefixes;
        let set = inv.env.iter().filter(|(name, _)| given(name));
        let path = |token| prefixes.get(token).unwrap_or(Path::new("")).to_owned();
        let left = match known.out_dir {
            // What cannot be looked through is nowhere the same.
            Some(dir) => tree::state(cache, dir, prefixes).unwrap_or(Some([0; 32])),
            None => None,
        };
        let of = match known.is_script {
            false => Of::Compile { rust_src: prefixes.get(RUST_SRC).map(Path::to_owned) },
            true => Of::Script {
                host: prefixes.get(HOST).map_or_else(PathBuf::new, |host| way(&path(TARGET), host)),
                sysroot: path(SYSROOT),
                left,
            },
        };
        Proof {
            invocation: known.invocation,
            key: known.key,
            width: known.width.map(str::to_owned),
            of,
            record: known.record,
            given: set
                .map(|(name, value)| (name.as_bytes().to_vec(), prefixes.template(value.as_bytes())))
                .collect(),
        }
    }

    /// What names an output: empty files, too, belong to one action each.
    pub fn name_of_output(blob: &[u8; 32], file: &[u8]) -> [u8; 32] {
        let file = file.strip_suffix(b".real").unwrap_or(file);
        Hasher::new("output").field("blob", blob).field("file", file).finish()
    }

    /// The same for a file whose content nobody has looked at yet.
    pub fn name_of_file(path: &Path, size: u64, mtime_ns: i64) -> [u8; 32] {
        let path = path.as_os_str().as_bytes();
        let path = path.strip_suffix(b".real").unwrap_or(path);
        let mut h = Hasher::new("file");
        h.field("path", path).field("size", &size.to_le_bytes()).field("mtime", &mtime_ns.to_le_bytes());
        h.finish()
    }

    /// Names of all outputs of a compile.
    pub(crate) fn names(entry: &Entry) -> impl Iterator<Item = [u8; 32]> {
        entry.outputs.iter().filter_map(|output| match &output.dest {
            Dest::OutDir(file) => Some(Proof::name_of_output(&output.blob, file)),
            _ => None,
        })
    }

    /// `name` names an output, or a run of a build script.
    pub fn keep(&self, cache: &dyn Cache, name: &[u8; 32]) -> Result<()> {
        cache.set_fact(SPACE, name, &postcard::to_stdvec(self)?)
    }

    pub fn find(cache: &dyn Cache, name: &[u8; 32]) -> Result<Option<Proof>> {
        Ok(cache.fact(SPACE, name)?.and_then(|fact| postcard::from_bytes(&fact).ok()))
    }

    /// Would the same action, at a site and in this environment, have the same inputs?
    pub fn holds(&self, cache: &dyn Cache, env: &[(OsString, OsString)], site: &Site) -> Result<bool> {
        let Site { profile, cargo_home, cwd, out_dir } = *site;
        let value = |name: &str| env.iter().find(|(known, _)| known == name).map(|(_, value)| value);
        let prefixes = match &self.of {
            Of::Compile { rust_src } => key::Directories {
                rust_src: (rust_src.as_deref().unwrap_or(Path::new("")), ""),
                cargo_home: Some(cargo_home),
                cwd,
                shown_as: "",
                profile: Some(profile),
            }
            .prefixes(cache)?,
            Of::Script { host, sysroot, .. } => script::Directories {
                profile,
                host: &walked(profile, host),
                cargo_home: Some(cargo_home),
                package: cwd,
                home: value("HOME").map(Path::new),
                sysroot,
            }
            .prefixes(cache)?,
        };
        if let (Of::Script { left: Some(left), .. }, Some(dir)) = (&self.of, out_dir)
            && tree::state(cache, dir, &prefixes)? != Some(*left)
        {
            return Ok(false);
        }
        let mut env = env.to_vec();
        for (name, template) in &self.given {
            let name = OsString::from_vec(name.clone());
            let Some(value) = prefixes.expand(template) else { return Ok(false) };
            env.retain(|(known, _)| *known != name);
            env.push((name, OsString::from_vec(value)));
        }
        let inv = Invocation { argv: Vec::new(), cwd: cwd.to_owned(), env };
        let here = Here { cache, inv: &inv, prefixes: &prefixes, width: self.width.as_deref() };
        for bytes in cache.records(&self.invocation)?.into_iter().chain(self.record.clone()) {
            let Some(record) = InputRecord::from_bytes(&bytes) else { continue };
            if record.entry_key(&here, &self.invocation)? == Some(self.key) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// How to get from one directory to another.
fn way(from: &Path, to: &Path) -> PathBuf {
    let above = from.ancestors().find(|dir| to.starts_with(dir)).unwrap_or(Path::new("/"));
    let up = from.strip_prefix(above).map_or(0, |rest| rest.components().count());
    let down = to.strip_prefix(above).unwrap_or(to);
    std::iter::repeat_n(Path::new(".."), up).chain([down]).collect()
}

/// The directory at the end of a way.
fn walked(from: &Path, way: &Path) -> PathBuf {
    let mut at = from.to_owned();
    for step in way.components() {
        match step {
            std::path::Component::ParentDir => drop(at.pop()),
            other => at.push(other),
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Input;
    use crate::testing::Memory;

    /// A result of a compile that read `x` and a variable of cargo's, in a checkout `one` beside `two`.
    struct Story {
        dir: tempfile::TempDir,
        cache: Memory,
        proof: Proof,
    }

    fn story() -> Story {
        let dir = tempfile::tempdir().unwrap();
        let (one, cache) = (dir.path().join("one"), Memory::default());
        for place in ["one", "two"] {
            std::fs::create_dir_all(dir.path().join(place)).unwrap();
            std::fs::write(dir.path().join(place).join("x"), "text").unwrap();
            std::fs::write(dir.path().join(place).join("Cargo.lock"), "").unwrap();
        }
        let record = InputRecord::new([
            Input::File(b"\x1fW\x1f/x".to_vec()),
            Input::Absent(b"\x1fT\x1f/build/none".to_vec()),
            Input::Env("CARGO_MANIFEST_DIR".into()),
            Input::Env("MODE".into()),
        ]);
        let env =
            vec![("CARGO_MANIFEST_DIR".into(), one.clone().into_os_string()), ("MODE".into(), "fast".into())];
        let inv = Invocation { argv: Vec::new(), cwd: one.clone(), env };
        let site = key::Directories {
            rust_src: (Path::new("/toolchain/src"), "/rustc/x"),
            cargo_home: Some(Path::new("/nowhere/cargo")),
            cwd: &one,
            shown_as: ".",
            profile: Some(&one.join("target/debug")),
        };
        let prefixes = site.prefixes(&cache).unwrap();
        let invocation = InvocationKey([1; 32]);
        let here = Here { cache: &cache, inv: &inv, prefixes: &prefixes, width: None };
        let key = record.entry_key(&here, &invocation).unwrap().unwrap();
        cache.add_record(&invocation, b"no record".to_vec());
        cache.add_record(&invocation, record.to_bytes().unwrap());
        let known = Known {
            invocation,
            key,
            width: None,
            prefixes: &prefixes,
            is_script: false,
            record: None,
            out_dir: None,
        };
        let proof = Proof::of(&cache, known, &inv, &|name| name == "CARGO_MANIFEST_DIR");
        Story { dir, cache, proof }
    }

    impl Story {
        fn holds(&self, place: &str, mode: &str) -> bool {
            self.holds_with(place, &[("MODE".into(), mode.into())])
        }

        fn holds_with(&self, place: &str, env: &[(OsString, OsString)]) -> bool {
            let cwd = self.dir.path().join(place);
            let site = Site {
                profile: &cwd.join("target/debug"),
                cargo_home: Path::new("/nowhere/cargo"),
                cwd: &cwd,
                out_dir: None,
            };
            self.proof.holds(&self.cache, env, &site).unwrap()
        }
    }

    #[test]
    fn it_holds_where_the_inputs_are_the_same() {
        let s = story();
        assert!(s.holds("one", "fast") && s.holds("two", "fast"));
        assert!(!s.holds("two", "slow"), "the environment of whoever asks counts");
        std::fs::write(s.dir.path().join("two/x"), "other").unwrap();
        assert!(!s.holds("two", "fast") && s.holds("one", "fast"));
        std::fs::remove_file(s.dir.path().join("two/x")).unwrap();
        assert!(!s.holds("two", "fast"));
        std::fs::create_dir_all(s.dir.path().join("one/target/debug/build/none")).unwrap();
        assert!(!s.holds("one", "fast"), "what was not there is there now");
    }

    #[test]
    fn it_is_of_one_result() {
        let mut s = story();
        s.proof.key = EntryKey([9; 32]);
        assert!(!s.holds("one", "fast"), "another result of the same invocation");
        let mut s = story();
        s.proof.invocation = InvocationKey([9; 32]);
        assert!(!s.holds("one", "fast"), "nothing is known of this invocation");
    }

    #[test]
    fn what_cargo_set_is_as_it_would_set_it_there() {
        let s = story();
        let env = [("MODE".into(), "fast".into()), ("CARGO_MANIFEST_DIR".into(), "/nonsense".into())];
        assert!(s.holds_with("two", &env));
        let mut s = story();
        s.proof.given.clear();
        assert!(!s.holds("one", "fast"));
        s.proof.given.push((b"OTHER".to_vec(), b"\x1fZ\x1f".to_vec()));
        assert!(!s.holds("one", "fast"), "a value that has no place here");
    }

    #[test]
    fn a_way_leads_back() {
        for (from, to) in [
            ("/t/debug", "/t/debug"),
            ("/t/x86_64/debug", "/t/debug"),
            ("/t/debug", "/t/x86_64/release"),
            ("/t/debug", "/host/debug"),
        ] {
            let way = way(Path::new(from), Path::new(to));
            assert_eq!(walked(Path::new(from), &way), Path::new(to), "{}", way.display());
        }
        let way = way(Path::new("/t/x86_64/debug"), Path::new("/t/debug"));
        assert_eq!(walked(Path::new("/other/x86_64/debug"), &way), Path::new("/other/debug"));
    }

    #[test]
    fn it_is_kept_by_what_it_is_of() {
        let s = story();
        let name = |blob: u8, file: &[u8]| Proof::name_of_output(&[blob; 32], file);
        s.proof.keep(&s.cache, &name(1, b"libx.rlib")).unwrap();
        assert_eq!(Proof::find(&s.cache, &name(1, b"libx.rlib")).unwrap(), Some(s.proof));
        assert_eq!(Proof::find(&s.cache, &name(1, b"liby.rlib")).unwrap(), None);
        assert_eq!(Proof::find(&s.cache, &name(2, b"libx.rlib")).unwrap(), None);
        assert_eq!(name(1, b"build_script_build.real"), name(1, b"build_script_build"));
    }
}
