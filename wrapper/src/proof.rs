//! What proves that an output, or what a build script left, belongs to its inputs: which action made it, so that its record
//! can be asked about another place.
//!
//! A fork of a target directory asks it of each unit. Kept as a fact of the output.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, EntryKey, Invocation, InvocationKey, Result};
use crate::hasher::Hasher;
use crate::lookup::Miss;
use crate::prefixes::Prefixes;
use crate::record::{Here, InputRecord};

const SPACE: &str = "proof";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    invocation: InvocationKey,
    key: EntryKey,
    width: Option<String>,
    prefixes: Prefixes,
    cwd: PathBuf,
    /// Variables that cargo set for the action, with templates of their values: nobody else's environment has them.
    given: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Proof {
    /// Of a result that was just stored. `given` are the names of what cargo set.
    pub(crate) fn of(miss: &Miss, key: EntryKey, inv: &Invocation, given: &[OsString]) -> Proof {
        let prefixes = miss.work.prefixes().clone();
        let set = inv.env.iter().filter(|(name, _)| given.contains(name));
        let given = set.map(|(name, value)| (name.as_bytes().to_vec(), prefixes.template(value.as_bytes())));
        Proof {
            invocation: miss.invocation,
            key,
            width: miss.work.width().map(str::to_owned),
            cwd: inv.cwd.clone(),
            given: given.collect(),
            prefixes,
        }
    }

    /// What names an output: empty files, too, belong to one action each.
    pub fn name_of_output(blob: &[u8; 32], file: &[u8]) -> [u8; 32] {
        let file = file.strip_suffix(b".real").unwrap_or(file);
        Hasher::new("output").field("blob", blob).field("file", file).finish()
    }

    /// `name` names an output, or a run of a build script.
    pub fn keep(&self, cache: &dyn Cache, name: &[u8; 32]) -> Result<()> {
        cache.set_fact(SPACE, name, &postcard::to_stdvec(self)?)
    }

    pub fn find(cache: &dyn Cache, name: &[u8; 32]) -> Result<Option<Proof>> {
        Ok(cache.fact(SPACE, name)?.and_then(|fact| postcard::from_bytes(&fact).ok()))
    }

    /// Would the same action, where paths are as `moved` says and in this environment, have the same inputs?
    pub fn holds(
        &self,
        cache: &dyn Cache,
        env: &[(OsString, OsString)],
        moved: &dyn Fn(&Path) -> PathBuf,
    ) -> Result<bool> {
        let prefixes = self.prefixes.moved(moved);
        let mut env = env.to_vec();
        for (name, template) in &self.given {
            let name = OsString::from_vec(name.clone());
            let Some(value) = prefixes.expand(template) else { return Ok(false) };
            env.retain(|(known, _)| *known != name);
            env.push((name, OsString::from_vec(value)));
        }
        let inv = Invocation { argv: Vec::new(), cwd: moved(&self.cwd), env };
        let here = Here { cache, inv: &inv, prefixes: &prefixes, width: self.width.as_deref() };
        for bytes in cache.records(&self.invocation)? {
            let Some(record) = InputRecord::from_bytes(&bytes) else { continue };
            if record.entry_key(&here, &self.invocation)? == Some(self.key) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Input;
    use crate::testing::Memory;

    /// A result of an action that read `x` and a variable of cargo's, in a place.
    struct Story {
        dir: tempfile::TempDir,
        cache: Memory,
        proof: Proof,
    }

    fn story() -> Story {
        let dir = tempfile::tempdir().unwrap();
        let (one, cache) = (dir.path().join("one"), Memory::default());
        let mut prefixes = Prefixes::default();
        prefixes.add('W', &one, "");
        for place in ["one", "two"] {
            std::fs::create_dir_all(dir.path().join(place)).unwrap();
            std::fs::write(dir.path().join(place).join("x"), "text").unwrap();
        }
        let record = InputRecord::new([
            Input::File(b"\x1fW\x1f/x".to_vec()),
            Input::Env("CARGO_MANIFEST_DIR".into()),
            Input::Env("MODE".into()),
        ]);
        let invocation = InvocationKey([1; 32]);
        let value = prefixes.template(one.as_os_str().as_bytes());
        let given = vec![(b"CARGO_MANIFEST_DIR".to_vec(), value)];
        let env =
            vec![("CARGO_MANIFEST_DIR".into(), one.clone().into_os_string()), ("MODE".into(), "fast".into())];
        let inv = Invocation { argv: Vec::new(), cwd: one.clone(), env };
        let here = Here { cache: &cache, inv: &inv, prefixes: &prefixes, width: None };
        let key = record.entry_key(&here, &invocation).unwrap().unwrap();
        cache.add_record(&invocation, b"no record".to_vec());
        cache.add_record(&invocation, record.to_bytes().unwrap());
        let proof = Proof { invocation, key, width: None, prefixes, cwd: one, given };
        Story { dir, cache, proof }
    }

    impl Story {
        fn holds(&self, place: &str, mode: &str) -> bool {
            let (from, to) = (self.dir.path().join("one"), self.dir.path().join(place));
            let moved = |path: &Path| to.join(path.strip_prefix(&from).unwrap());
            self.proof.holds(&self.cache, &[("MODE".into(), mode.into())], &moved).unwrap()
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
        assert!(s.proof.holds(&s.cache, &env, &|path| path.to_owned()).unwrap());
        let mut s = story();
        s.proof.given.clear();
        assert!(!s.holds("one", "fast"));
        s.proof.given.push((b"OTHER".to_vec(), b"\x1fZ\x1f".to_vec()));
        assert!(!s.holds("one", "fast"), "a value that has no place here");
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
