//! Native libraries and other files that a compile reads without rustc reporting them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::args::Compile;
use crate::cache::{Cache, Invocation, Result};
use crate::hasher::Hasher;

/// A directory with more libraries than this is a system directory: only what is named is looked at.
const FEW: usize = 200;

/// Adds to the key what `-L` directories offer to `-l`, `#[link]` and linker scripts.
///
/// `names` are the libraries that this compile and everything it links asked for.
pub fn add_libraries(h: &mut Hasher, cache: &dyn Cache, compile: &Compile, names: &[String]) -> Result<()> {
    for (kind, dir) in &compile.search {
        if kind == "dependency" || kind == "framework" {
            continue;
        }
        let files: Vec<_> = cache.list_dir(dir)?.into_iter().filter(|n| is_library(n)).collect();
        h.field("search-dir", kind.as_bytes());
        let few = files.len() <= FEW;
        for name in files {
            if few || names.iter().any(|lib| is_named(&name, lib)) {
                h.field("library", name.as_bytes());
                h.field("content", &cache.hash_file(&dir.join(&name))?.unwrap_or_default());
            }
        }
    }
    Ok(())
}

/// Adds the content of files that option values name: linker scripts, profiles, version scripts, object files.
pub fn add_named_files(h: &mut Hasher, cache: &dyn Cache, inv: &Invocation, compile: &Compile) -> Result<()> {
    let options = compile.codegen.iter().chain(&compile.unstable);
    let mut values: Vec<&OsStr> =
        options.filter(|(n, _)| n != "incremental").filter_map(|(_, v)| v.as_deref()).collect();
    if let Some(target) = compile.target.as_deref().filter(|t| t.as_bytes().ends_with(b".json")) {
        values.push(target);
    }
    values.into_iter().try_for_each(|value| add_files_of(h, cache, inv, value))
}

/// Adds the content of files that flags or a variable name.
pub fn add_files_of(h: &mut Hasher, cache: &dyn Cache, inv: &Invocation, value: &OsStr) -> Result<()> {
    for piece in value.as_bytes().split(|b| matches!(b, b',' | b'=' | b' ' | b'@')) {
        for candidate in
            [Some(piece), piece.strip_prefix(b"-T")].into_iter().flatten().filter(|p| !p.is_empty())
        {
            let path = inv.cwd.join(OsStr::from_bytes(candidate));
            if cache.stat(&path).ok().flatten().is_none_or(|id| id.is_dir) {
                continue;
            }
            match cache.hash_file(&path) {
                Ok(hash) => h.field("file", &hash.unwrap_or_default()),
                // A terminal, a socket, somebody else's file.
                Err(_) if !path.is_file() || std::fs::File::open(&path).is_err() => continue,
                Err(error) => return Err(error),
            };
        }
    }
    Ok(())
}

/// The library's name in `-l [kind[:modifiers]=]name[:rename]`.
pub fn library_name(arg: &str) -> &str {
    let name = arg.split_once('=').map_or(arg, |(_, name)| name);
    name.split(':').next().unwrap_or(name)
}

fn is_library(name: &OsStr) -> bool {
    const ENDINGS: &[&str] =
        &["a", "so", "o", "lib", "dll", "dylib", "tbd", "def", "x", "ld", "lds", "rlib", "rmeta", "bc"];
    let path = Path::new(name);
    path.extension().and_then(OsStr::to_str).is_some_and(|e| ENDINGS.contains(&e))
        || memchr::memmem::find(name.as_bytes(), b".so.").is_some()
}

fn is_named(file: &OsStr, lib: &str) -> bool {
    let stem = file.as_bytes().strip_prefix(b"lib").unwrap_or(file.as_bytes());
    stem.strip_prefix(lib.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'.'))
        || file.as_bytes() == lib.as_bytes()
}

/// Model and features of this processor, for `-C target-cpu=native`. `None` where it is not known how to tell.
pub fn native_cpu() -> Option<Vec<u8>> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let first = text.split("\n\n").next()?;
    let told = |l: &&str| {
        ["vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU"]
            .iter()
            .any(|p| l.starts_with(p))
    };
    Some(first.lines().filter(told).collect::<Vec<_>>().join("\n").into_bytes())
}

/// What tells this machine from others: its processor, system and name. `None` where that is not known.
pub fn machine() -> Option<Vec<u8>> {
    let mut all = native_cpu()?;
    for file in
        ["/proc/sys/kernel/osrelease", "/proc/sys/kernel/hostname", "/etc/os-release", "/etc/machine-id"]
    {
        all.push(0);
        all.extend(std::fs::read(file).unwrap_or_default());
    }
    Some(all)
}

/// Files that match the globs of `extra_inputs`, and the directories that were looked through (a new file there counts).
pub fn extra_inputs(package: &Path, globs: &[String]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for glob in globs {
        let literal: PathBuf = Path::new(glob)
            .components()
            .take_while(|c| !c.as_os_str().as_bytes().iter().any(|b| b"*?[{".contains(b)))
            .collect();
        let Ok(pattern) = globset::GlobBuilder::new(glob).literal_separator(true).build() else { continue };
        let matcher = pattern.compile_matcher();
        let mut todo = vec![package.join(&literal)];
        while let Some(path) = todo.pop() {
            let Ok(meta) = std::fs::metadata(&path) else { continue };
            let relative = path.strip_prefix(package).unwrap_or(&path).to_owned();
            if meta.is_dir() {
                let Ok(entries) = std::fs::read_dir(&path) else { continue };
                todo.extend(entries.flatten().map(|e| e.path()));
                found.push(path);
            } else if matcher.is_match(&relative)
                || relative.starts_with(&literal) && literal == Path::new(glob)
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn library_names() {
        assert_eq!(library_name("static:+whole-archive=foo"), "foo");
        assert_eq!(library_name("dylib=foo:bar"), "foo");
        assert_eq!(library_name("z"), "z");
        assert!(is_named(OsStr::new("libz.so.1"), "z") && !is_named(OsStr::new("libzstd.a"), "z"));
    }

    #[test]
    fn a_directory_or_glob_of_extra_inputs_is_found_with_its_directories() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("sql/deep")).unwrap();
        for f in ["sql/a.sql", "sql/deep/b.sql", "sql/c.txt"] {
            std::fs::write(dir.path().join(f), f).unwrap();
        }
        let names = |globs: &[&str]| {
            extra_inputs(dir.path(), &globs.iter().map(|g| (*g).to_owned()).collect::<Vec<_>>())
                .iter()
                .map(|p| p.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&["sql"]), ["sql", "sql/a.sql", "sql/c.txt", "sql/deep", "sql/deep/b.sql"]);
        assert_eq!(names(&["sql/**/*.sql"]), ["sql", "sql/a.sql", "sql/deep", "sql/deep/b.sql"]);
    }
}
