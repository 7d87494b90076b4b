//! What a machine brings along to a build, besides sources, compiler and arguments.
//!
//! Cargo does not look at it: a target directory stays on its machine. Whoever takes one to another machine must.
//! It is what keys of compiles and of build scripts have too, here for a whole build at once.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Invocation, Result};
use crate::hasher::Hasher;
use crate::prefixes::{CARGO_HOME, TARGET, WORKSPACE};
use crate::record::{Input, InputRecord};
use crate::{host, system, variables};

/// Facts about outputs that were made for this very processor.
pub const NATIVE: &str = "native";
/// Facts about outputs that came from elsewhere and that this machine might have made.
pub const MOVABLE: &str = "movable";
/// Facts about runs of build scripts that were stored and named no path but those; see [`run_name`].
pub const RAN: &str = "ran";
/// Facts about programs of build scripts: the result of a run was stored.
pub const PROVEN: &str = "proven";
/// Facts about programs and macros: words in them that may be variables.
pub const WORDS: &str = "words";

/// The machine and environment of somebody who builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    tools: [u8; 32],
    cpu: [u8; 32],
    /// Variables that are not of the session, with the hashes of their values.
    vars: Vec<(Vec<u8>, [u8; 32])>,
}

/// As much of it as matters to one build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kind {
    /// C compilers, linkers, libraries of the system and their headers.
    pub tools: [u8; 32],
    pub cpu: [u8; 32],
    /// Variables that macros and build scripts may read.
    pub env: [u8; 32],
}

impl Machine {
    /// `inv` has the environment and the directory; its arguments do not matter.
    pub fn of(cache: &dyn Cache, inv: &Invocation) -> Result<Machine> {
        let mut h = Hasher::new("machine");
        h.field("cpu", &host::cpu().unwrap_or_default());
        let mut vars: Vec<_> = inv
            .env
            .iter()
            .filter(|(name, _)| variables::is_of_user(name) && !name.as_bytes().starts_with(b"CARGO_"))
            .map(|(name, value)| (name.as_bytes().to_vec(), *blake3::hash(value.as_bytes()).as_bytes()))
            .collect();
        vars.sort();
        Ok(Machine { tools: system::tools(cache, inv)?, cpu: h.finish(), vars })
    }

    /// What of it matters to a build whose macros and scripts contain these words.
    pub fn kind(&self, words: &[u8]) -> Kind {
        let mut h = Hasher::new("machine-env");
        for (name, value) in &self.vars {
            if variables::names(words, name) || is_for_compilers(name) {
                h.field("env", name).field("value", value);
            }
        }
        Kind { tools: self.tools, cpu: self.cpu, env: h.finish() }
    }
}

/// Do C compilers and build tools listen to it, in whatever program they are started?
fn is_for_compilers(name: &[u8]) -> bool {
    const PARTS: &[&[u8]] =
        &[b"FLAGS", b"CC", b"CXX", b"CPATH", b"LIBRARY_PATH", b"INCLUDE_PATH", b"SYSROOT", b"PKG_CONFIG"];
    PARTS.iter().any(|part| memchr::memmem::find(name, part).is_some())
}

/// All words of several texts of words.
pub fn all_words<'a>(texts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let words: BTreeSet<&[u8]> =
        texts.into_iter().flat_map(|t| t.split(|b| *b == b'\n')).filter(|w| !w.is_empty()).collect();
    let mut all = vec![b'\n'];
    for word in words {
        all.extend_from_slice(word);
        all.push(b'\n');
    }
    all
}

/// Words of a program or library.
pub fn words_of(bytes: &[u8]) -> Vec<u8> {
    variables::words_of(bytes)
}

/// Is a result with this record one for a certain processor or certain paths only? Paths of the checkout and of cargo's
/// packages do not count: who takes it elsewhere looks for them himself.
pub fn is_bound(record: &[u8]) -> bool {
    const FOUND: [char; 3] = [TARGET, WORKSPACE, CARGO_HOME];
    let binds = |input: &Input| match input {
        Input::Bound(token) => !FOUND.contains(token),
        Input::Cpu | Input::Host => true,
        _ => false,
    };
    InputRecord::from_bytes(record).is_none_or(|record| record.0.iter().any(binds))
}

/// Names a run of a build script: its program, and what it printed.
pub fn run_name(program: &[u8; 32], printed: &[u8; 32]) -> [u8; 32] {
    let mut h = Hasher::new("ran");
    h.field("program", program).field("printed", printed);
    h.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Disk;

    #[test]
    fn only_variables_that_somebody_may_read_matter() {
        let kind = |env: &[(&str, &str)]| {
            let env = env.iter().map(|(k, v)| (k.into(), v.into())).collect();
            let inv = Invocation { argv: Vec::new(), cwd: "/".into(), env };
            Machine::of(&Disk, &inv).unwrap().kind(b"\nDATABASE_URL\n")
        };
        let one =
            kind(&[("DATABASE_URL", "a"), ("OTHER_NAME", "x"), ("HOME", "/a"), ("CARGO_PKG_NAME", "p")]);
        assert_eq!(one, kind(&[("OTHER_NAME", "y"), ("DATABASE_URL", "a")]));
        assert_ne!(one.env, kind(&[("DATABASE_URL", "b")]).env);
        assert_ne!(one.env, kind(&[]).env);
        assert_ne!(kind(&[("CFLAGS", "-O1")]).env, kind(&[("CFLAGS", "-O2")]).env);
    }
}
