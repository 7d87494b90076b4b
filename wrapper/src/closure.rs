//! What stands behind the direct dependencies of a compile.
//!
//! cargo names only direct dependencies (`--extern`); rustc finds the others in the `-L dependency` directory, and
//! a linked output contains their code. Every output that kache sees being made gets a fact under its content
//! hash: all crates it was built from. A compile whose dependencies have
//! no such fact (they were built before kache was there) cannot be proven and is passed through.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::args::Compile;
use crate::cache::{Cache, Result};
use crate::hasher::Hasher;

const SPACE: &str = "crate-2";

/// Everything behind an output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closure {
    /// File names of crates (`libfoo-hash.rmeta`, `libbar_derive-hash.so`), as `--extern` named them.
    pub crates: BTreeSet<Vec<u8>>,
}

impl Closure {
    /// Of a compile: its direct dependencies and all that stands behind them. `None` when one is unknown.
    pub fn of(cache: &dyn Cache, compile: &Compile) -> Result<Option<Closure>> {
        let mut all = Closure::default();
        for path in &compile.externs {
            let Some(hash) = cache.hash_file(path)? else { return Ok(None) };
            let Some(fact) = cache.fact(SPACE, &hash)? else { return Ok(None) };
            let Ok(behind) = postcard::from_bytes::<Closure>(&fact) else { return Ok(None) };
            all.crates.extend(path.file_name().map(|n| n.as_bytes().to_vec()));
            all.crates.extend(behind.crates);
        }
        Ok(Some(all))
    }

    /// Remembers what an output with this content was made of.
    pub fn remember(&self, cache: &dyn Cache, compile: &Compile, output: &[u8; 32]) -> Result<()> {
        // A proc macro is complete in itself: who uses it does not see its dependencies.
        let fact = if compile.is_proc_macro() { &Closure::default() } else { self };
        cache.set_fact(SPACE, output, &postcard::to_stdvec(fact)?)
    }

    /// Adds the content of what this compile takes from them: code to link, or just the proc macros it may run.
    pub fn add_to_key(&self, h: &mut Hasher, cache: &dyn Cache, compile: &Compile) -> Result<()> {
        let code = compile.bundles_dependencies();
        for name in &self.crates {
            if code || is_dynamic(name) {
                h.field("crate", name);
                if let Some(path) = self.find(cache, compile, name, code)? {
                    h.field("content", &cache.hash_file(&path)?.unwrap_or_default());
                }
            }
        }
        Ok(())
    }

    /// Files of all crates that the compiler will read, the direct dependencies first.
    pub fn files(&self, cache: &dyn Cache, compile: &Compile) -> Result<Vec<PathBuf>> {
        let mut found = compile.externs.clone();
        let code = compile.bundles_dependencies();
        for name in &self.crates {
            found.extend(self.find(cache, compile, name, false)?);
            if code {
                found.extend(self.find(cache, compile, name, true)?);
            }
        }
        let mut seen = BTreeSet::new();
        found.retain(|path| seen.insert(path.clone()));
        Ok(found)
    }

    /// Shared libraries in it: proc macros, and dylib crates.
    pub fn dynamic(&self, cache: &dyn Cache, compile: &Compile) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for name in self.crates.iter().filter(|n| is_dynamic(n)) {
            found.extend(self.find(cache, compile, name, false)?);
        }
        Ok(found)
    }

    /// The file of a crate that this compile would take: with code rather the rlib than the rmeta.
    fn find(&self, cache: &dyn Cache, compile: &Compile, name: &[u8], code: bool) -> Result<Option<PathBuf>> {
        let direct = compile.externs.iter().filter_map(|e| e.parent());
        let searched =
            compile.search.iter().filter(|(kind, _)| matches!(kind.as_str(), "dependency" | "" | "all"));
        let mut dirs: Vec<&Path> = searched.map(|(_, dir)| dir.as_path()).chain(direct).collect();
        dirs.dedup();
        let name = Path::new(OsStr::from_bytes(name));
        let wanted = if code && name.extension() == Some(OsStr::new("rmeta")) {
            vec![name.with_extension("rlib"), name.to_owned()]
        } else {
            vec![name.to_owned()]
        };
        for name in wanted {
            for dir in &dirs {
                let path = dir.join(&name);
                if cache.stat(&path)?.is_some() {
                    return Ok(Some(path));
                }
            }
        }
        Ok(None)
    }
}

fn is_dynamic(name: &[u8]) -> bool {
    [&b".so"[..], b".dylib", b".dll"].iter().any(|e| name.ends_with(e))
}
