//! The invocation key: everything about a compile that is known before it reads anything: compiler, arguments, place.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::args::{Compile, Keyed};
use crate::cache::{Cache, FileId, Invocation, InvocationKey, Result, Settings};
use crate::closure::Closure;
use crate::hasher::{Hasher, Parts, differences};
use crate::prefixes::{CARGO_HOME, Prefixes, REPOSITORY, RUST_SRC, TARGET, WORKSPACE};
use crate::toolchain::{self, Toolchain};
use crate::{host, script, variables};

/// Changes whenever the recipe below, the records or the entries change meaning: old entries become unreachable.
pub(crate) const RECIPE: &str = "kache 2";

/// Remembers what went into this compile's key, and tells how that differs from the last time a compile of the same
/// name and kind was remembered. For people; called on misses only.
pub fn explain(
    cache: &dyn Cache,
    inv: &Invocation,
    compile: &Compile,
    settings: &Settings,
) -> Result<Vec<String>> {
    let mut h = Hasher::tracing("invocation");
    let _ = hash(&mut h, cache, inv, compile, settings)?;
    explain_parts(cache, &compile.crate_name, compile.kind(), h.parts())
}

/// The same for the parts of any key.
pub(crate) fn explain_parts(
    cache: &dyn Cache,
    crate_name: &str,
    kind: &str,
    parts: Parts,
) -> Result<Vec<String>> {
    let mut name = Hasher::new("explain");
    name.field("crate", crate_name.as_bytes()).field("kind", kind.as_bytes());
    let name = name.finish();
    let last = cache.fact("explain", &name)?.and_then(|v| postcard::from_bytes::<Parts>(&v).ok());
    cache.set_fact("explain", &name, &postcard::to_stdvec(&parts)?)?;
    Ok(last.map(|last| differences(&last, &parts)).unwrap_or_default())
}

/// A key, and what was learned on the way to it.
pub struct Known {
    pub key: InvocationKey,
    /// Identity of the compiler.
    pub toolchain: [u8; 32],
    pub sysroot: PathBuf,
    /// Files of the compiler, whose content is in the key.
    pub programs: Vec<PathBuf>,
    pub prefixes: Prefixes,
    /// Paths are replaced in outputs (else they are part of the key).
    pub remap: bool,
    pub closure: Closure,
    /// Files whose content is in the key, as they were.
    pub watched: Vec<(PathBuf, FileId, [u8; 32])>,
    /// Files and directories of `extra_inputs`, for cargo to watch.
    pub extra: Vec<PathBuf>,
}

/// Computes the invocation key; `Err` text when this compile cannot be proven to depend on it alone.
pub fn invocation_key(
    cache: &dyn Cache,
    inv: &Invocation,
    compile: &Compile,
    settings: &Settings,
) -> Result<std::result::Result<Known, &'static str>> {
    hash(&mut Hasher::new("invocation"), cache, inv, compile, settings)
}

fn hash(
    h: &mut Hasher,
    cache: &dyn Cache,
    inv: &Invocation,
    compile: &Compile,
    settings: &Settings,
) -> Result<std::result::Result<Known, &'static str>> {
    let toolchain = toolchain::identify(cache, inv, compile)?;
    let Some(closure) = Closure::of(cache, compile)? else {
        return Ok(Err("a dependency was built without kache"));
    };
    // The user's own replacing of paths goes on as it is, and none of ours can be told from it.
    let has_own = compile.keyed.iter().any(|arg| matches!(arg, Keyed::Literal(text) if is_remap(text)));
    let remap = settings.path_remap && !compile.has_codegen("instrument-coverage") && !has_own;
    let prefixes = prefixes(cache, inv, compile, &toolchain)?;

    h.field("recipe", RECIPE.as_bytes());
    h.field("salt", settings.key_salt.as_bytes());
    h.field("toolchain", &toolchain.identity);
    h.field("remap", &[u8::from(remap)]);
    for prefix in prefixes.by_token() {
        h.field("token", &[prefix.token as u8]).field("shown-as", prefix.shown_as.as_bytes());
        if !remap {
            h.field("path", prefix.path.as_os_str().as_bytes());
        }
    }
    h.field("cwd", &prefixes.normal(inv.cwd.as_os_str()));
    let mut watched = Vec::new();
    for arg in &compile.keyed {
        match arg {
            Keyed::Literal(text) => {
                h.field("arg", &prefixes.normal(text));
            }
            Keyed::Extern { name, path } => {
                let (Some(hash), Some(id)) = (cache.hash_file(path)?, cache.stat(path)?) else {
                    return Ok(Err("a dependency is missing"));
                };
                h.field("extern", name.as_bytes()).field("content", &hash);
                watched.push((path.clone(), id, hash));
            }
        }
    }
    if compile.codegen("target-cpu") == Some(OsStr::new("native")) {
        match host::cpu() {
            Some(cpu) => h.field("cpu", &cpu),
            None => return Ok(Err("target-cpu=native of an unknown processor")),
        };
    }
    environment(h, inv, settings, &prefixes);
    closure.add_to_key(h, cache, compile)?;
    let extra = extra_inputs(h, cache, inv, settings)?;
    Ok(Ok(Known {
        key: InvocationKey(h.finish()),
        toolchain: toolchain.identity,
        programs: programs(&toolchain, inv, &compile.driver),
        sysroot: toolchain.about.sysroot,
        prefixes,
        remap,
        closure,
        watched,
        extra,
    }))
}

fn environment(h: &mut Hasher, inv: &Invocation, settings: &Settings, prefixes: &Prefixes) {
    for name in variables::RUSTC {
        if let Some(value) = inv.var(name) {
            h.field("env", name.as_bytes()).field("value", &prefixes.normal(value));
        }
    }
    wanted_variables(h, inv, settings, prefixes);
    loader_variables(h, inv, prefixes);
}

/// What is loaded into every program, and from where, before anything can be observed.
pub(crate) fn loader_variables(h: &mut Hasher, inv: &Invocation, prefixes: &Prefixes) {
    for name in ["LD_PRELOAD", "LD_AUDIT"] {
        if let Some(value) = inv.var(name).filter(|value| !value.is_empty()) {
            h.field("env", name.as_bytes()).field("value", &prefixes.normal(value));
        }
    }
}

/// Files of the compiler that are in the key by content.
pub(crate) fn programs(
    toolchain: &Toolchain,
    inv: &Invocation,
    driver: &[std::ffi::OsString],
) -> Vec<PathBuf> {
    let named = driver.iter().map(|word| inv.cwd.join(word));
    toolchain.programs.iter().cloned().chain(named).collect()
}

/// Variables that the user wants in every key.
pub(crate) fn wanted_variables(h: &mut Hasher, inv: &Invocation, settings: &Settings, prefixes: &Prefixes) {
    for name in &settings.key_env_vars {
        h.field("key-env", name.as_bytes());
        match inv.var(name) {
            Some(value) => h.field("value", &prefixes.normal(value)),
            None => h.field("unset", b""),
        };
    }
}

fn is_remap(arg: &OsStr) -> bool {
    arg.as_bytes().starts_with(b"--remap-path-prefix")
}

/// This machine's paths, and how outputs show them. Documented in docs/portable-builds.md.
fn prefixes(
    cache: &dyn Cache,
    inv: &Invocation,
    compile: &Compile,
    toolchain: &Toolchain,
) -> Result<Prefixes> {
    let about = &toolchain.about;
    let home = cargo_home(inv);
    let dirs = Directories {
        rust_src: (&about.sysroot.join("lib/rustlib/src/rust"), &format!("/rustc/{}", about.commit())),
        cargo_home: home.as_deref(),
        cwd: &inv.cwd,
        // Of a path dependency outside of the workspace, which cargo names by its whole path, programs and messages say
        // where it really is.
        shown_as: if compile.source.is_absolute() { "" } else { "." },
        profile: profile_dir(&compile.out_dir),
    };
    dirs.prefixes(cache)
}

/// Where a compile runs.
pub(crate) struct Directories<'a> {
    /// Library sources of the toolchain, and what rustc shows in their place.
    pub rust_src: (&'a Path, &'a str),
    pub cargo_home: Option<&'a Path>,
    pub cwd: &'a Path,
    /// What rustc shows in place of the workspace.
    pub shown_as: &'a str,
    pub profile: Option<&'a Path>,
}

impl Directories<'_> {
    pub fn prefixes(&self, cache: &dyn Cache) -> Result<Prefixes> {
        let mut p = Prefixes::default();
        let (rust_src, shown_as) = self.rust_src;
        p.add(RUST_SRC, rust_src, shown_as);
        if let Some(home) = self.cargo_home {
            p.add(CARGO_HOME, home, "/cargo");
            p.add_alias(CARGO_HOME);
        }
        let in_home = p.iter().any(|p| p.token == CARGO_HOME && self.cwd.starts_with(&p.path));
        if !in_home && !self.cwd.starts_with(rust_src) {
            p.add(WORKSPACE, self.cwd, self.shown_as);
            if let Some(root) = script::workspace(cache, self.cwd)?.filter(|root| *root != *self.cwd) {
                p.add(REPOSITORY, &root, "");
            }
        }
        if let Some(dir) = self.profile {
            let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
            p.add(TARGET, dir, format!("./target/{name}"));
            p.add_alias(TARGET);
        }
        Ok(p)
    }
}

/// `target/debug` of `target/debug/deps`, `target/debug/examples` or `target/debug/build/pkg-hash`.
pub(crate) fn profile_dir(out_dir: &Path) -> Option<&Path> {
    let parent = out_dir.parent()?;
    match parent.file_name()?.to_str()? {
        "build" => parent.parent(),
        _ => Some(parent),
    }
}

pub fn cargo_home(inv: &Invocation) -> Option<PathBuf> {
    let set = inv.var("CARGO_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    set.or_else(|| inv.var("HOME").map(|h| Path::new(h).join(".cargo"))).filter(|p| p.is_absolute())
}

fn extra_inputs(
    h: &mut Hasher,
    cache: &dyn Cache,
    inv: &Invocation,
    settings: &Settings,
) -> Result<Vec<PathBuf>> {
    if settings.extra_inputs.is_empty() {
        return Ok(Vec::new());
    }
    let package = inv.var("CARGO_MANIFEST_DIR").map_or_else(|| inv.cwd.clone(), PathBuf::from);
    let found = matching(&package, &settings.extra_inputs);
    for path in &found {
        h.field("extra", path.strip_prefix(&package).unwrap_or(path).as_os_str().as_bytes());
        if let Some(id) = cache.stat(path)?
            && !id.is_dir
        {
            h.field("content", &cache.hash_file(path)?.unwrap_or_default());
        }
    }
    Ok(found)
}

/// Files that match the globs of `extra_inputs`, and the directories that were looked through (a new file there counts).
fn matching(package: &Path, globs: &[String]) -> Vec<PathBuf> {
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
    fn profile_directories() {
        assert_eq!(profile_dir(Path::new("/t/debug/deps")), Some(Path::new("/t/debug")));
        assert_eq!(profile_dir(Path::new("/t/x86/release/build/a-1")), Some(Path::new("/t/x86/release")));
    }

    #[test]
    fn a_directory_or_glob_of_extra_inputs_is_found_with_its_directories() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("sql/deep")).unwrap();
        for f in ["sql/a.sql", "sql/deep/b.sql", "sql/c.txt"] {
            std::fs::write(dir.path().join(f), f).unwrap();
        }
        let names = |globs: &[&str]| {
            matching(dir.path(), &globs.iter().map(|g| (*g).to_owned()).collect::<Vec<_>>())
                .iter()
                .map(|p| p.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&["sql"]), ["sql", "sql/a.sql", "sql/c.txt", "sql/deep", "sql/deep/b.sql"]);
        assert_eq!(names(&["sql/**/*.sql"]), ["sql", "sql/a.sql", "sql/deep", "sql/deep/b.sql"]);
    }
}
