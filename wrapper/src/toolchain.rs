//! Which compiler this is: by content, so that the same toolchain has the same identity on every machine.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::args::Compile;
use crate::cache::{Cache, Invocation, Result};
use crate::claim;
use crate::exec;
use crate::hasher::Hasher;

/// A compiler and the libraries it comes with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// Hash of `rustc -vV`, the driver, the sysroot's libraries and tools.
    pub identity: [u8; 32],
    pub about: About,
    /// Files that the words of the driver stand for.
    pub programs: Vec<PathBuf>,
}

/// What the compiler says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Whole output of `rustc -vV`.
    pub version: String,
    pub sysroot: PathBuf,
}

impl About {
    fn line(&self, name: &str) -> Option<&str> {
        self.version.lines().find_map(|l| l.strip_prefix(name))
    }

    pub fn host(&self) -> &str {
        self.line("host: ").unwrap_or("unknown")
    }

    pub fn commit(&self) -> &str {
        self.line("commit-hash: ").unwrap_or("unknown")
    }
}

/// Identifies the compiler of an invocation; an error when it cannot be found or does not answer.
pub fn identify(cache: &dyn Cache, inv: &Invocation, compile: &Compile) -> Result<Toolchain> {
    of(cache, inv, &compile.driver, compile.sysroot.as_deref(), compile.target.as_deref())
}

/// Identifies the compiler that these words start, for a target.
pub fn of(
    cache: &dyn Cache,
    inv: &Invocation,
    driver: &[OsString],
    sysroot: Option<&Path>,
    target: Option<&OsStr>,
) -> Result<Toolchain> {
    let mut h = Hasher::new("toolchain");
    let mut programs = Vec::with_capacity(driver.len());
    for word in driver {
        let path = exec::resolve(cache, inv, word)?.ok_or("the compiler is not there")?;
        let path = behind_rustup(cache, inv, path)?;
        let hash = cache.hash_file(&path)?.ok_or("the compiler is not there")?;
        h.field("driver", &hash);
        programs.push(path);
    }
    let rustc = programs.last().ok_or("no compiler")?;
    let mut about = about(cache, inv, rustc)?;
    if let Some(sysroot) = sysroot {
        about.sysroot = sysroot.to_owned();
    }
    h.field("version", about.version.as_bytes());
    h.field("libraries", &libraries(cache, &about, target)?);
    Ok(Toolchain { identity: h.finish(), about, programs })
}

fn about(cache: &dyn Cache, inv: &Invocation, rustc: &Path) -> Result<About> {
    let id = cache.stat(rustc)?.ok_or("the compiler is not there")?;
    let mut h = Hasher::new("about");
    h.field("path", rustc.as_os_str().as_bytes()).identity("id", &id);
    let key = h.finish();
    if let Some(known) = cache.fact("about", &key)?.and_then(|v| postcard::from_bytes(&v).ok()) {
        return Ok(known);
    }
    let version = exec::ask(inv, rustc, &[OsStr::new("-vV")])
        .and_then(exec::text)
        .ok_or("the compiler does not tell its version")?;
    let sysroot = exec::ask(inv, rustc, &["--print", "sysroot"].map(OsStr::new))
        .and_then(exec::text)
        .ok_or("the compiler does not tell its sysroot")?;
    let about = About { version, sysroot: sysroot.into() };
    cache.set_fact("about", &key, &postcard::to_stdvec(&about)?)?;
    Ok(about)
}

/// Hash of the content of everything in the sysroot that a compile uses: the driver's shared libraries, the
/// standard library for host and target, the linker that comes along.
fn libraries(cache: &dyn Cache, about: &About, target: Option<&OsStr>) -> Result<[u8; 32]> {
    let lib = about.sysroot.join("lib");
    let mut dirs = vec![lib.clone()];
    let mut triples = vec![about.host().to_owned()];
    if let Some(target) = target.and_then(|t| Path::new(t).file_stem()).and_then(OsStr::to_str)
        && !triples.iter().any(|t| t == target)
    {
        triples.push(target.to_owned());
    }
    for triple in &triples {
        let dir = lib.join("rustlib").join(triple);
        for sub in
            ["lib", "lib/self-contained", "bin", "bin/gcc-ld", "bin/self-contained", "codegen-backends"]
        {
            dirs.push(dir.join(sub));
        }
    }
    let mut look = Hasher::new("sysroot-look");
    for dir in &dirs {
        look.field("dir", dir.as_os_str().as_bytes());
        if let Some(id) = cache.stat(dir)? {
            look.identity("id", &id);
        }
    }
    let look = look.finish();
    if let Some(known) = recently(&look) {
        return Ok(known);
    }
    let hash = examine(cache, about, dirs)?;
    remember(look, hash);
    Ok(hash)
}

/// How long a look at the sysroot's files is good for in one process. cargo looks once a build.
const LOOK_AGE: Duration = Duration::from_secs(1);

/// Looks of this process, by the state of the directories that were looked into.
type Look = (Instant, [u8; 32], [u8; 32]);
static LOOKS: Mutex<Vec<Look>> = Mutex::new(Vec::new());

fn recently(look: &[u8; 32]) -> Option<[u8; 32]> {
    let looks = LOOKS.lock().unwrap_or_else(PoisonError::into_inner);
    looks.iter().find(|(at, known, _)| known == look && at.elapsed() < LOOK_AGE).map(|(_, _, hash)| *hash)
}

fn remember(look: [u8; 32], hash: [u8; 32]) {
    let mut looks = LOOKS.lock().unwrap_or_else(PoisonError::into_inner);
    looks.retain(|(at, known, _)| *known != look && at.elapsed() < LOOK_AGE);
    looks.push((Instant::now(), look, hash));
}

fn examine(cache: &dyn Cache, about: &About, dirs: Vec<PathBuf>) -> Result<[u8; 32]> {
    let mut files = Vec::new();
    let mut state = Hasher::new("sysroot-state");
    for dir in dirs {
        for entry in cache.list_dir(&dir)? {
            let path = dir.join(&entry.name);
            let Some(id) = cache.stat(&path)?.filter(|id| !id.is_dir) else { continue };
            state.field("path", path.as_os_str().as_bytes()).identity("id", &id);
            files.push(path);
        }
    }
    let state = state.finish();
    let known =
        || -> Result<Option<[u8; 32]>> { Ok(cache.fact("sysroot", &state)?.and_then(|v| v.try_into().ok())) };
    if let Some(known) = known()? {
        return Ok(known);
    }
    // These are hundreds of megabytes: of all compilers that a build starts at once, one reads them.
    let _claim = match claim::claim(&cache.locks_dir(), &state)? {
        claim::Outcome::Owner(claim) => Some(claim),
        claim::Outcome::Waited | claim::Outcome::Stuck => None,
    };
    if let Some(known) = known()? {
        return Ok(known);
    }
    let mut h = Hasher::new("sysroot");
    for path in files {
        let name = path.strip_prefix(&about.sysroot).unwrap_or(&path);
        h.field("name", name.as_os_str().as_bytes());
        h.field("content", &cache.hash_file(&path)?.unwrap_or_default());
    }
    let hash = h.finish();
    cache.set_fact("sysroot", &state, &hash)?;
    cache.flush()?;
    Ok(hash)
}

/// The real compiler behind rustup's proxy of the same name.
fn behind_rustup(cache: &dyn Cache, inv: &Invocation, path: PathBuf) -> Result<PathBuf> {
    let real = std::fs::canonicalize(&path)?;
    let is_proxy = real.file_name() == Some(OsStr::new("rustup"))
        || match (cache.stat(&real)?, cache.stat(&real.with_file_name("rustup"))?) {
            (Some(a), Some(b)) => (a.dev, a.ino) == (b.dev, b.ino),
            _ => false,
        };
    if !is_proxy {
        return Ok(real);
    }
    let tool = path.file_name().ok_or("no compiler")?.to_owned();
    let mut h = Hasher::new("rustup");
    h.field("tool", tool.as_bytes());
    h.identity("proxy", &cache.stat(&real)?.ok_or("the compiler is not there")?);
    for var in ["RUSTUP_TOOLCHAIN", "RUSTUP_HOME", "HOME"] {
        h.field(var, inv.var(var).map_or(&b"unset"[..], |v| v.as_bytes()));
    }
    let home = inv
        .var("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| inv.var("HOME").map(|h| Path::new(h).join(".rustup")))
        .unwrap_or_default();
    // A directory override or a toolchain file decides when the variable does not.
    let mut deciding = vec![home.join("settings.toml")];
    for dir in inv.cwd.ancestors() {
        deciding.extend(["rust-toolchain", "rust-toolchain.toml"].map(|name| dir.join(name)));
    }
    h.field("cwd", inv.cwd.as_os_str().as_bytes());
    for file in deciding {
        if let Some(id) = cache.stat(&file)? {
            h.identity("decides", &id);
        }
    }
    let key = h.finish();
    if let Some(known) = cache.fact("rustup", &key)? {
        let known = PathBuf::from(OsStr::from_bytes(&known));
        if cache.stat(&known)?.is_some() {
            return Ok(known);
        }
    }
    let sysroot = exec::ask(inv, &path, &["--print", "sysroot"].map(OsStr::new))
        .and_then(exec::text)
        .ok_or("rustup does not tell the toolchain")?;
    let found = Path::new(&sysroot).join("bin").join(&tool);
    cache.set_fact("rustup", &key, found.as_os_str().as_bytes())?;
    Ok(found)
}
