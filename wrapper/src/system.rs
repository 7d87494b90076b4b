//! What a machine's system brings along to any build: compilers, and the packages whose headers and libraries they find.
//!
//! A target directory that comes from another machine is judged by it as a whole ([`crate::machine`]).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, Invocation, Result};
use crate::exec;
use crate::hasher::Hasher;

const PROGRAMS: &[&str] = &[
    "cc",
    "c++",
    "ar",
    "gcc",
    "g++",
    "clang",
    "clang++",
    "ranlib",
    "as",
    "ld",
    "lld",
    "ld.lld",
    "mold",
    "wild",
    "pkg-config",
    "pkgconf",
    "cmake",
    "make",
    "ninja",
    "llvm-config",
];

/// Identity of everything that any script or linker may run and take from the system.
pub fn tools(cache: &dyn Cache, inv: &Invocation) -> Result<[u8; 32]> {
    let mut h = Hasher::new("tools");
    for program in PROGRAMS {
        h.field("program", program.as_bytes());
        let Some(path) = exec::resolve(cache, inv, OsStr::new(program))? else { continue };
        h.field("at", path.as_os_str().as_bytes());
        h.field("content", &cache.hash_file(&path).ok().flatten().unwrap_or_default());
    }
    h.field("packages", &packages(cache)?);
    h.field("pkg-config files", &pkg_config_files(cache, inv)?);
    Ok(h.finish())
}

/// Versions of the system's development packages: what its headers and libraries are.
fn packages(cache: &dyn Cache) -> Result<[u8; 32]> {
    let mut h = Hasher::new("system-packages");
    let dpkg = Path::new("/var/lib/dpkg/status");
    if let Some(hash) = cache.hash_file(dpkg).ok().flatten() {
        let digest = match cache.fact("dpkg", &hash)? {
            Some(known) => known,
            None => {
                let digest = development_packages(&cache.read(dpkg)?.unwrap_or_default());
                cache.set_fact("dpkg", &hash, &digest)?;
                digest.to_vec()
            }
        };
        h.field("dpkg", &digest);
    }
    for file in ["/lib/apk/db/installed", "/var/lib/rpm/rpmdb.sqlite", "/usr/lib/sysimage/rpm/rpmdb.sqlite"] {
        h.field(file, &cache.hash_file(Path::new(file)).ok().flatten().unwrap_or_default());
    }
    for dir in ["/var/lib/pacman/local", "/opt/homebrew/Cellar", "/usr/local/Cellar", "/usr/local/include"] {
        for entry in cache.list_dir(Path::new(dir)).unwrap_or_default() {
            h.field(dir, entry.name.as_bytes());
        }
    }
    Ok(h.finish())
}

/// Of dpkg's database: packages with headers, libraries and compilers, and their versions.
fn development_packages(status: &[u8]) -> [u8; 32] {
    const BEGIN: &[&str] = &[
        "gcc",
        "g++",
        "cpp",
        "clang",
        "llvm",
        "libc6",
        "libgcc",
        "libstdc++",
        "libclang",
        "libllvm",
        "binutils",
        "linux-libc",
    ];
    let mut h = Hasher::new("dpkg");
    let mut counts = false;
    for line in status.split(|&b| b == b'\n') {
        if let Some(name) = line.strip_prefix(b"Package: ") {
            counts = memchr::memmem::find(name, b"-dev").is_some()
                || BEGIN.iter().any(|b| name.to_ascii_lowercase().starts_with(b.as_bytes()));
        }
        if counts && [&b"Package: "[..], b"Version: ", b"Status: "].iter().any(|p| line.starts_with(p)) {
            h.field("line", line);
        }
    }
    h.finish()
}

/// Everything that pkg-config can find.
fn pkg_config_files(cache: &dyn Cache, inv: &Invocation) -> Result<[u8; 32]> {
    let mut dirs: Vec<PathBuf> = Vec::new();
    for name in ["PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR"] {
        dirs.extend(std::env::split_paths(inv.var(name).unwrap_or_default()));
    }
    if let Some(program) = exec::resolve(cache, inv, OsStr::new("pkg-config"))? {
        let mut h = Hasher::new("pc-path");
        h.field("program", &cache.hash_file(&program)?.unwrap_or_default());
        h.field("libdir", inv.var("PKG_CONFIG_LIBDIR").unwrap_or_default().as_bytes());
        let key = h.finish();
        let path = match cache.fact("pc-path", &key)? {
            Some(known) => known,
            None => {
                let args = ["--variable", "pc_path", "pkg-config"].map(OsStr::new);
                let answer = exec::ask(inv, &program, &args).unwrap_or_default().trim_ascii().to_vec();
                cache.set_fact("pc-path", &key, &answer)?;
                answer
            }
        };
        dirs.extend(std::env::split_paths(OsStr::from_bytes(&path)));
    }
    let mut state = Hasher::new("pc-state");
    let mut files = Vec::new();
    for dir in dirs {
        for entry in cache.list_dir(&dir)? {
            let path = dir.join(&entry.name);
            if path.extension() == Some(OsStr::new("pc"))
                && let Some(id) = cache.stat(&path)?
            {
                state.field("path", path.as_os_str().as_bytes()).identity("id", &id);
                files.push(path);
            }
        }
    }
    let state = state.finish();
    if let Some(known) = cache.fact("pc-files", &state)?.and_then(|v| v.try_into().ok()) {
        return Ok(known);
    }
    let mut h = Hasher::new("pc-files");
    for path in files {
        h.field("path", path.as_os_str().as_bytes());
        h.field("content", &cache.hash_file(&path).ok().flatten().unwrap_or_default());
    }
    let hash = h.finish();
    cache.set_fact("pc-files", &state, &hash)?;
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_development_packages_count() {
        let status = |dev: &str, other: &str| {
            development_packages(
                format!("Package: zlib1g-dev\nVersion: {dev}\n\nPackage: vim\nVersion: {other}\n").as_bytes(),
            )
        };
        assert_eq!(status("1", "1"), status("1", "2"));
        assert_ne!(status("1", "1"), status("2", "1"));
    }
}
