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
