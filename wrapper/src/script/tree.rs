//! Directories as inputs: names and content of everything in them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::outputs;
use crate::cache::{Cache, FileId, Result};
use crate::hasher::Hasher;
use crate::prefixes::{Prefixes, TARGET};

/// Which files of a directory count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Which {
    /// All of them: the directory was declared.
    All,
    /// What cargo watches when a script declares nothing: the package, without version control and packages in it.
    Package,
    /// The same without Rust sources and what is written for people. An edit of these does not concern a script that
    /// has declared its inputs; a C source that it forgot to declare does.
    Beside,
}

/// State of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    pub hash: [u8; 32],
    /// Latest change of a file, nanoseconds since the Unix epoch.
    pub newest_ns: i64,
}

/// A script that depends on more files is not cached.
const MAX_FILES: usize = 50_000;
/// Larger files are not searched for paths. Bytes.
const SMALL: u64 = 64 << 10;

/// `None` when there is no such directory.
pub fn state(cache: &dyn Cache, root: &Path, which: Which, prefixes: &Prefixes) -> Result<Option<State>> {
    let skip = prefixes.get(TARGET).into_iter().flat_map(|t| [Some(t), t.parent()]).flatten().collect();
    walk(cache, root, which, skip, None)
}

/// Everything in a directory that another build script filled, with paths of this machine in small texts taken for
/// what they mean.
pub fn normal_state(cache: &dyn Cache, root: &Path, prefixes: &Prefixes) -> Result<Option<State>> {
    walk(cache, root, Which::All, Vec::new(), Some(prefixes))
}

fn walk(
    cache: &dyn Cache,
    root: &Path,
    which: Which,
    skip: Vec<&Path>,
    normal: Option<&Prefixes>,
) -> Result<Option<State>> {
    let Some(id) = cache.stat(root)?.filter(|id| id.is_dir) else { return Ok(None) };
    let mut walk = Walk {
        cache,
        which,
        skip,
        normal,
        above: vec![(id.dev, id.ino)],
        files: 0,
        newest_ns: 0,
        h: Hasher::new("tree"),
    };
    walk.enter(root, Path::new(""), cache.list_dir(root)?)?;
    Ok(Some(State { hash: walk.h.finish(), newest_ns: walk.newest_ns }))
}

struct Walk<'a> {
    cache: &'a dyn Cache,
    which: Which,
    skip: Vec<&'a Path>,
    normal: Option<&'a Prefixes>,
    /// Directories on the way here, against links that lead in circles.
    above: Vec<(u64, u64)>,
    files: usize,
    newest_ns: i64,
    h: Hasher,
}

impl Walk<'_> {
    fn enter(&mut self, dir: &Path, inner: &Path, names: Vec<OsString>) -> Result<()> {
        for name in names {
            if !self.counts(&name) {
                continue;
            }
            let (path, inner) = (dir.join(&name), inner.join(&name));
            let Some(id) = self.cache.stat(&path)? else {
                self.h.field("dangling", inner.as_os_str().as_bytes());
                continue;
            };
            if id.is_dir {
                self.directory(&path, &inner, &id)?;
            } else {
                self.file(&path, &inner, &id)?;
            }
        }
        Ok(())
    }

    fn directory(&mut self, path: &Path, inner: &Path, id: &FileId) -> Result<()> {
        let own = (id.dev, id.ino);
        if self.above.contains(&own) || self.skip.contains(&path) {
            return Ok(());
        }
        let names = self.cache.list_dir(path)?;
        if self.is_apart(&names) {
            return Ok(());
        }
        self.h.field("directory", inner.as_os_str().as_bytes());
        self.above.push(own);
        self.enter(path, inner, names)?;
        self.above.pop();
        Ok(())
    }

    fn file(&mut self, path: &Path, inner: &Path, id: &FileId) -> Result<()> {
        if self.which == Which::Beside && is_for_rust_or_people(inner) {
            return Ok(());
        }
        self.files += 1;
        if self.files > MAX_FILES {
            return Err(format!("more than {MAX_FILES} files in {}", path.display()).into());
        }
        self.newest_ns = self.newest_ns.max(id.mtime_ns).max(id.ctime_ns);
        self.h.field("file", inner.as_os_str().as_bytes()).field("executable", &[u8::from(id.executable)]);
        // What cannot be read (a socket, somebody else's file) counts by its name.
        let mut content = self.cache.hash_file(path).ok().flatten().unwrap_or_default();
        if let Some(prefixes) = self.normal.filter(|_| id.size <= SMALL) {
            content = normal_hash(self.cache, path, content, prefixes)?;
        }
        self.h.field("content", &content);
        Ok(())
    }

    /// Is this directory no part of what is around it?
    fn is_apart(&self, names: &[OsString]) -> bool {
        let has = |wanted: &str| names.iter().any(|n| n == wanted);
        has("CACHEDIR.TAG") || self.which != Which::All && has("Cargo.toml")
    }

    fn counts(&self, name: &OsStr) -> bool {
        self.which == Which::All
            || !matches!(name.as_bytes(), b".git" | b".hg" | b".jj" | b".svn" | b".pijul" | b"node_modules")
    }
}

/// Hash of a text's template. Kept as a fact of its content and the paths.
fn normal_hash(cache: &dyn Cache, path: &Path, content: [u8; 32], prefixes: &Prefixes) -> Result<[u8; 32]> {
    let mut h = Hasher::new("normal");
    h.field("content", &content);
    for prefix in prefixes.by_token() {
        h.field("token", &[prefix.token as u8]).field("path", prefix.path.as_os_str().as_bytes());
    }
    let key = h.finish();
    if let Some(known) = cache.fact("normal", &key)?.and_then(|v| v.try_into().ok()) {
        return Ok(known);
    }
    let bytes = cache.read(path)?.unwrap_or_default();
    let hash =
        if outputs::is_text(&bytes) { *blake3::hash(&prefixes.template(&bytes)).as_bytes() } else { content };
    cache.set_fact("normal", &key, &hash)?;
    Ok(hash)
}

fn is_for_rust_or_people(path: &Path) -> bool {
    const PEOPLE: &[&str] =
        &["README", "LICENSE", "LICENCE", "COPYING", "CHANGELOG", "CHANGES", "Cargo.lock"];
    let extension = path.extension().and_then(OsStr::to_str);
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    matches!(extension, Some("rs" | "md")) || PEOPLE.iter().any(|p| name.starts_with(p))
}

/// A declared input as a path of this machine.
pub fn declared(package: &Path, file: &Path) -> PathBuf {
    let joined = package.join(file);
    // `a/../b` and `b` are the same file, and only one of them is recognized below a known prefix.
    let mut plain = PathBuf::new();
    for part in joined.components() {
        match part {
            std::path::Component::ParentDir => {
                plain.pop();
            }
            std::path::Component::CurDir => {}
            part => plain.push(part),
        }
    }
    let same = |a: &Path, b: &Path| std::fs::canonicalize(a).ok() == std::fs::canonicalize(b).ok();
    // With symbolic links they may be different after all.
    if plain == joined || same(&plain, &joined) { plain } else { joined }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Disk;

    fn hash(dir: &Path, which: Which) -> [u8; 32] {
        state(&Disk, dir, which, &Prefixes::default()).unwrap().unwrap().hash
    }

    #[test]
    fn names_and_content_count() {
        let dir = tempfile::tempdir().unwrap();
        let write = |p: &str, text: &str| {
            let path = dir.path().join(p);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("a/x.c", "1");
        let first = hash(dir.path(), Which::All);
        write("a/y.c", "");
        let second = hash(dir.path(), Which::All);
        write("a/y.c", "2");
        let third = hash(dir.path(), Which::All);
        assert!(first != second && second != third && first != third);
        std::fs::remove_file(dir.path().join("a/y.c")).unwrap();
        assert_eq!(hash(dir.path(), Which::All), first);
        std::os::unix::fs::symlink(dir.path(), dir.path().join("a/circle")).unwrap();
        hash(dir.path(), Which::All);
    }

    #[test]
    fn paths_in_texts_count_as_what_they_mean() {
        let hash = || {
            let dir = tempfile::tempdir().unwrap();
            let text = format!("prefix={}/out\n", dir.path().display());
            std::fs::write(dir.path().join("z.pc"), text).unwrap();
            let mut prefixes = Prefixes::default();
            prefixes.add(TARGET, dir.path(), "");
            let plain = state(&Disk, dir.path(), Which::All, &Prefixes::default()).unwrap().unwrap();
            (normal_state(&Disk, dir.path(), &prefixes).unwrap().unwrap().hash, plain.hash)
        };
        let (first, second) = (hash(), hash());
        assert_eq!(first.0, second.0);
        assert_ne!(first.1, second.1);
    }

    #[test]
    fn a_package_is_what_cargo_watches() {
        let dir = tempfile::tempdir().unwrap();
        let write = |p: &str| {
            let path = dir.path().join(p);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, p).unwrap();
        };
        write("Cargo.toml");
        let package = hash(dir.path(), Which::Package);
        for elsewhere in [".git/HEAD", "target/CACHEDIR.TAG", "target/debug/x", "member/Cargo.toml"] {
            write(elsewhere);
        }
        assert_eq!(hash(dir.path(), Which::Package), package);
        write("src/lib.rs");
        assert_ne!(hash(dir.path(), Which::Package), package);
        let rust = hash(dir.path(), Which::Beside);
        write("src/other.rs");
        assert_eq!(hash(dir.path(), Which::Beside), rust);
        write("src/other.c");
        assert_ne!(hash(dir.path(), Which::Beside), rust);
    }
}
