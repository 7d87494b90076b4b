//! The invocation key: everything about a compile that is known before its sources are read.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::args::{Compile, Keyed};
use crate::cache::{Cache, FileId, Invocation, InvocationKey, Result, Settings};
use crate::closure::Closure;
use crate::hasher::{Hasher, Parts, differences};
use crate::prefixes::{CARGO_HOME, Prefixes, RUST_SRC, TARGET, WORKSPACE};
use crate::toolchain::{self, Toolchain};
use crate::{linker, macros, natives};

/// Changes whenever the recipe below, the records or the entries change meaning: old entries become unreachable.
pub(crate) const RECIPE: &str = "kache 1";

/// Variables that change what rustc does, whatever the sources say.
pub(crate) const RUSTC_ENV: &[&str] = &[
    "RUSTC_BOOTSTRAP",
    "RUST_TARGET_PATH",
    "SOURCE_DATE_EPOCH",
    "RUSTC_FORCE_RUSTC_VERSION",
    "RUSTC_OVERRIDE_VERSION_STRING",
    "RUSTC_BLESS_DIAGNOSTICS",
    "CARGO_RUSTC_CURRENT_DIR",
];

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
    pub prefixes: Prefixes,
    /// Paths are replaced in outputs (else they are part of the key).
    pub remap: bool,
    pub closure: Closure,
    /// Files whose content is in the key, as they were.
    pub watched: Vec<(PathBuf, FileId)>,
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
    let remap = settings.path_remap && !compile.has_codegen("instrument-coverage");
    let prefixes = prefixes(inv, compile, &toolchain);

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
                watched.push((path.clone(), id));
            }
        }
    }
    if compile.codegen("target-cpu") == Some(OsStr::new("native")) {
        match natives::native_cpu() {
            Some(cpu) => h.field("cpu", &cpu),
            None => return Ok(Err("target-cpu=native of an unknown processor")),
        };
    }
    environment(h, inv, settings, &prefixes);
    closure.add_to_key(h, cache, compile)?;
    macros::add_to_key(h, cache, inv, &prefixes, &closure.dynamic(cache, compile)?)?;
    let names: Vec<String> = closure.libs.iter().cloned().collect();
    natives::add_libraries(h, cache, compile, &names)?;
    natives::add_named_files(h, cache, inv, compile)?;
    if compile.links() {
        linker::add_to_key(h, cache, inv, compile, &toolchain, &names)?;
    }
    if compile.driver.len() > 1 || is_clippy(compile) {
        clippy(h, cache, inv)?;
    }
    let extra = extra_inputs(h, cache, inv, settings)?;
    Ok(Ok(Known {
        key: InvocationKey(h.finish()),
        toolchain: toolchain.identity,
        prefixes,
        remap,
        closure,
        watched,
        extra,
    }))
}

fn environment(h: &mut Hasher, inv: &Invocation, settings: &Settings, prefixes: &Prefixes) {
    for name in RUSTC_ENV {
        if let Some(value) = inv.var(name) {
            h.field("env", name.as_bytes()).field("value", &prefixes.normal(value));
        }
    }
    for name in &settings.key_env_vars {
        h.field("key-env", name.as_bytes());
        match inv.var(name) {
            Some(value) => h.field("value", &prefixes.normal(value)),
            None => h.field("unset", b""),
        };
    }
}

/// This machine's paths, and how outputs show them. Documented in docs/portable-builds.md.
fn prefixes(inv: &Invocation, compile: &Compile, toolchain: &Toolchain) -> Prefixes {
    let mut p = Prefixes::default();
    let about = &toolchain.about;
    let rust_src = about.sysroot.join("lib/rustlib/src/rust");
    p.add(RUST_SRC, &rust_src, format!("/rustc/{}", about.commit()));
    let home = cargo_home(inv);
    if let Some(home) = &home {
        p.add(CARGO_HOME, home, "/cargo");
    }
    let belongs_elsewhere = home.is_some_and(|h| inv.cwd.starts_with(h)) || inv.cwd.starts_with(&rust_src);
    if !belongs_elsewhere {
        let shown = if compile.source.is_absolute() {
            // A path dependency outside of the workspace: cargo runs the compiler in its package.
            let name = inv.var("CARGO_PKG_NAME").unwrap_or_default().to_string_lossy();
            let version = inv.var("CARGO_PKG_VERSION").unwrap_or_default().to_string_lossy();
            format!("{name}-{version}")
        } else {
            ".".to_owned()
        };
        p.add(WORKSPACE, &inv.cwd, shown);
    }
    if let Some(dir) = profile_dir(&compile.out_dir) {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        p.add(TARGET, dir, format!("./target/{name}"));
    }
    p
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

fn is_clippy(compile: &Compile) -> bool {
    compile.driver.first().is_some_and(|d| Path::new(d).file_stem() == Some(OsStr::new("clippy-driver")))
}

/// clippy's own inputs: its arguments come by environment, its configuration lies in some parent directory.
fn clippy(h: &mut Hasher, cache: &dyn Cache, inv: &Invocation) -> Result<()> {
    h.field("clippy-args", inv.var("CLIPPY_ARGS").unwrap_or_default().as_bytes());
    let start = inv.var("CLIPPY_CONF_DIR").or_else(|| inv.var("CARGO_MANIFEST_DIR")).map(PathBuf::from);
    let start = inv.cwd.join(start.unwrap_or_default());
    for dir in start.ancestors() {
        for name in [".clippy.toml", "clippy.toml"] {
            if let Some(hash) = cache.hash_file(&dir.join(name))? {
                h.field("clippy-conf", &hash);
                return Ok(());
            }
        }
    }
    Ok(())
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
    let found = natives::extra_inputs(&package, &settings.extra_inputs);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profile_directories() {
        assert_eq!(profile_dir(Path::new("/t/debug/deps")), Some(Path::new("/t/debug")));
        assert_eq!(profile_dir(Path::new("/t/x86/release/build/a-1")), Some(Path::new("/t/x86/release")));
    }
}
