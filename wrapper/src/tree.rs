//! Directories as inputs: names and content of everything in them.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::cache::{Cache, DirEntry, FileId, Result};
use crate::hasher::Hasher;
use crate::prefixes::{Prefixes, TARGET};
use crate::script::outputs;

/// A directory with more files in it is no input that can be checked quickly.
const MAX_FILES: usize = 50_000;
/// Larger files are not searched for paths. Bytes.
const SMALL: u64 = 64 << 10;

/// Hash of names and content of everything in a directory but the target directory. `None` when there is no such
/// directory.
pub fn state(cache: &dyn Cache, root: &Path, prefixes: &Prefixes) -> Result<Option<[u8; 32]>> {
    let Some(id) = cache.stat(root)?.filter(|id| id.is_dir) else { return Ok(None) };
    let skip = prefixes.get(TARGET).into_iter().flat_map(|t| [Some(t), t.parent()]).flatten().collect();
    let mut walk = Walk { cache, skip, above: vec![(id.dev, id.ino)], files: 0, h: Hasher::new("tree") };
    walk.enter(root, Path::new(""), cache.list_dir(root)?)?;
    Ok(Some(walk.h.finish()))
}

struct Walk<'a> {
    cache: &'a dyn Cache,
    skip: Vec<&'a Path>,
    /// Directories on the way here, against links that lead in circles.
    above: Vec<(u64, u64)>,
    files: usize,
    h: Hasher,
}

impl Walk<'_> {
    fn enter(&mut self, dir: &Path, inner: &Path, entries: Vec<DirEntry>) -> Result<()> {
        for entry in entries {
            let (path, inner) = (dir.join(&entry.name), inner.join(&entry.name));
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
        let entries = self.cache.list_dir(path)?;
        if entries.iter().any(|e| e.name == "CACHEDIR.TAG") {
            return Ok(());
        }
        self.h.field("directory", inner.as_os_str().as_bytes());
        self.above.push(own);
        self.enter(path, inner, entries)?;
        self.above.pop();
        Ok(())
    }

    fn file(&mut self, path: &Path, inner: &Path, id: &FileId) -> Result<()> {
        self.files += 1;
        if self.files > MAX_FILES {
            return Err(format!("more than {MAX_FILES} files in {}", path.display()).into());
        }
        self.h.field("file", inner.as_os_str().as_bytes()).field("executable", &[u8::from(id.executable)]);
        // What cannot be read (a socket, somebody else's file) counts by its name.
        let content = self.cache.hash_file(path).ok().flatten().unwrap_or_default();
        self.h.field("content", &content);
        Ok(())
    }
}

/// Hash of a text's template. Kept as a fact of its content and the paths.
pub fn normal_hash(
    cache: &dyn Cache,
    path: &Path,
    content: [u8; 32],
    prefixes: &Prefixes,
) -> Result<[u8; 32]> {
    if cache.stat(path)?.is_none_or(|id| id.size > SMALL) {
        return Ok(content);
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Disk;

    #[test]
    fn names_and_content_count() {
        let dir = tempfile::tempdir().unwrap();
        let hash = || state(&Disk, dir.path(), &Prefixes::default()).unwrap().unwrap();
        let write = |p: &str, text: &str| {
            let path = dir.path().join(p);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("a/x.c", "1");
        let first = hash();
        write("a/y.c", "");
        let second = hash();
        write("a/y.c", "2");
        let third = hash();
        assert!(first != second && second != third && first != third);
        std::fs::remove_file(dir.path().join("a/y.c")).unwrap();
        assert_eq!(hash(), first);
        write("target/CACHEDIR.TAG", "");
        assert_eq!(hash(), first);
        std::os::unix::fs::symlink(dir.path(), dir.path().join("a/circle")).unwrap();
        hash();
    }

    #[test]
    fn paths_in_texts_count_as_what_they_mean() {
        let hash = || {
            let dir = tempfile::tempdir().unwrap();
            let text = format!("prefix={}/out\n", dir.path().display());
            let file = dir.path().join("z.pc");
            std::fs::write(&file, &text).unwrap();
            let mut prefixes = Prefixes::default();
            prefixes.add(TARGET, dir.path(), "");
            let content = *blake3::hash(text.as_bytes()).as_bytes();
            (normal_hash(&Disk, &file, content, &prefixes).unwrap(), content)
        };
        let (first, second) = (hash(), hash());
        assert_eq!(first.0, second.0);
        assert_ne!(first.1, second.1);
    }
}
