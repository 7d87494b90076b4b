//! Which build an invocation is part of: the same workspace with the same `Cargo.lock`, built by the same toolchain for
//! the same profile and target is the same build, wherever it lies.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::args;
use crate::cache::{Cache, Invocation, Result};
use crate::hasher::Hasher;
use crate::key::{cargo_home, profile_dir};
use crate::lookup::Role;
use crate::{script, toolchain};

/// Names of a build, from the most exact one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Build {
    pub exact: [u8; 32],
    /// Whatever its dependencies: the same workspace before or after an update.
    pub workspace: [u8; 32],
    /// Whatever the toolchain, profile and target: see [`of_lock`].
    pub lock: [u8; 32],
}

impl Build {
    /// From the most exact one.
    pub fn names(&self) -> [[u8; 32]; 3] {
        [self.exact, self.workspace, self.lock]
    }
}

/// Names all builds with a `Cargo.lock` of this content hash.
pub fn of_lock(hash: &[u8; 32]) -> [u8; 32] {
    Hasher::new("builds of a lock").field("lock", hash).finish()
}

/// `None` when there is no `Cargo.lock` to tell it by.
pub fn of(cache: &dyn Cache, inv: &Invocation, role: Role) -> Result<Option<Build>> {
    if role == Role::BuildScript {
        return script::build(cache, inv);
    }
    let Ok(compile) = args::parse(inv, &|path| cache.read(path).ok().flatten()) else { return Ok(None) };
    let Some(profile) = profile_dir(&compile.out_dir) else { return Ok(None) };
    let toolchain = toolchain::identify(cache, inv, &compile)?;
    named(cache, inv, profile, &toolchain.identity, compile.target.as_deref())
}

/// Where an action puts its outputs.
pub fn out_dir(cache: &dyn Cache, inv: &Invocation, role: Role) -> Option<PathBuf> {
    match role {
        Role::BuildScript => inv.var("OUT_DIR").map(PathBuf::from),
        Role::Compiler => {
            args::parse(inv, &|path| cache.read(path).ok().flatten()).ok().map(|compile| compile.out_dir)
        }
    }
}

/// `target` is the one that cargo was told, if it was.
pub(crate) fn named(
    cache: &dyn Cache,
    inv: &Invocation,
    profile: &Path,
    toolchain: &[u8; 32],
    target: Option<&OsStr>,
) -> Result<Option<Build>> {
    let Some(lock) = lock_file(cache, inv, profile)? else { return Ok(None) };
    let Some(hash) = cache.hash_file(&lock)? else { return Ok(None) };
    let members = match cache.fact("members", &hash)? {
        Some(known) => known,
        None => {
            let found = members(&cache.read(&lock)?.unwrap_or_default());
            cache.set_fact("members", &hash, &found)?;
            found
        }
    };
    let name = |what: &str, value: &[u8]| {
        let mut h = Hasher::new("build");
        h.field("toolchain", toolchain);
        h.field("profile", profile.file_name().unwrap_or_default().as_encoded_bytes());
        h.field("target", target.unwrap_or_default().as_encoded_bytes());
        h.field(what, value);
        h.finish()
    };
    Ok(Some(Build {
        exact: name("lock", &hash),
        workspace: name("workspace", &members),
        lock: of_lock(&hash),
    }))
}

/// Above the target directory, above where the compiler runs (in the workspace, except for dependencies), or above
/// where cargo was called.
fn lock_file(cache: &dyn Cache, inv: &Invocation, profile: &Path) -> Result<Option<PathBuf>> {
    let home = cargo_home(inv);
    let called = inv.var("PWD").map(PathBuf::from).filter(|p| p.is_absolute());
    let starts = [Some(profile.to_owned()), Some(inv.cwd.clone()), called];
    for start in starts.into_iter().flatten() {
        if home.as_ref().is_some_and(|h| start.starts_with(h)) {
            continue;
        }
        for dir in start.ancestors() {
            let path = dir.join("Cargo.lock");
            if cache.stat(&path)?.is_some_and(|id| !id.is_dir) {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}

/// Names of the packages that come from nowhere: those of the workspace.
fn members(lock: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(lock);
    let mut names: Vec<&str> = text
        .split("[[package]]")
        .filter(|block| !block.contains("\nsource = "))
        .filter_map(|block| block.lines().find_map(|l| l.strip_prefix("name = ")))
        .collect();
    names.sort_unstable();
    names.join("\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_have_no_source() {
        let lock = "version = 4\n\n[[package]]\nname = \"b\"\nversion = \"1.0.0\"\n\n[[package]]\nname = \"serde\"\n\
                    version = \"1.0.0\"\nsource = \"registry+x\"\n\n[[package]]\nname = \"a\"\nversion = \"0.1.0\"\n";
        assert_eq!(members(lock.as_bytes()), b"\"a\"\n\"b\"");
    }
}
