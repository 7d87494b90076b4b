//! Programs that a build script may run, and what these take from the system.
//!
//! Which they are is guessed from the words in the script's program; a C compiler is always among them. Each counts by
//! its place and its content (or its absence). For scripts that look at C headers and libraries of the system, the
//! versions of the packages that bring such things count as well.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::environment;
use crate::cache::{Cache, Invocation, Result};
use crate::exec;
use crate::hasher::Hasher;
use crate::machine;
use crate::prefixes::Prefixes;

/// Programs by the word that gives them away.
const BY_WORD: &[(&str, &[&str])] = &[
    ("CFLAGS", &["gcc", "g++", "clang", "clang++", "ranlib", "as", "ld"]),
    ("pkg-config", &["pkg-config", "pkgconf"]),
    ("cmake", &["cmake", "make", "ninja", "gcc", "g++", "clang", "clang++"]),
    ("libclang", &["clang", "llvm-config"]),
    ("rustfmt", &["rustfmt"]),
    ("configure", &["make", "gmake", "perl", "m4"]),
    ("gmake", &["make", "gmake"]),
    ("python", &["python3", "python"]),
    ("perl", &["perl"]),
    ("protoc", &["protoc"]),
    ("nasm", &["nasm"]),
    ("yasm", &["yasm"]),
    ("bison", &["bison"]),
    ("meson", &["meson", "ninja"]),
    ("flatc", &["flatc"]),
    ("capnp", &["capnp"]),
    ("glslc", &["glslc"]),
    ("nvcc", &["nvcc"]),
    ("npm", &["npm", "node"]),
];
const ALWAYS: &[&str] = &["cc", "c++", "ar"];

/// Scripts with these look at headers and libraries of the system.
const SYSTEM_WORDS: &[&str] = &["CFLAGS", "pkg-config", "cmake", "libclang", "/usr/include", "vcpkg"];

/// Words of scripts that read the state of a git repository.
const GIT_WORDS: &[&str] =
    &["rev-parse", ".git/HEAD", "VERGEN_", "git describe", "git_describe", "SHADOW_RS", "GIT_DIR"];

/// Scripts with these look at the processor, or at which machine and system this is.
const MACHINE_WORDS: &[&str] = &[
    "march=native",
    "cpu=native",
    "tune=native",
    "std_detect",
    "/proc/cpuinfo",
    "lscpu",
    "uname",
    "gethostname",
    "/etc/hostname",
    "os-release",
    "lsb_release",
    "machine-id",
];

/// What the words in a script's program say about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Habits {
    pub programs: BTreeSet<String>,
    pub system: bool,
    pub pkg_config: bool,
    pub git: bool,
    pub machine: bool,
}

impl Habits {
    pub fn of(cache: &dyn Cache, program: &Path, hash: &[u8; 32]) -> Result<Habits> {
        if let Some(known) = Habits::known(cache, hash)? {
            return Ok(known);
        }
        let habits = Habits::read(&cache.read(program)?.unwrap_or_default());
        cache.set_fact(machine::HABITS, hash, &postcard::to_stdvec(&habits)?)?;
        Ok(habits)
    }

    /// Does a run depend on the processor, or on which machine and system this is?
    pub fn depend_on_machine(&self, inv: &Invocation) -> bool {
        self.machine || environment::wants_this_cpu(inv)
    }

    pub fn known(cache: &dyn Cache, hash: &[u8; 32]) -> Result<Option<Habits>> {
        Ok(cache.fact(machine::HABITS, hash)?.and_then(|v| postcard::from_bytes(&v).ok()))
    }

    pub fn read(program: &[u8]) -> Habits {
        let has = |word: &&str| memchr::memmem::find(program, word.as_bytes()).is_some();
        let mut programs: BTreeSet<String> = ALWAYS.iter().map(|&p| p.to_owned()).collect();
        for (word, names) in BY_WORD {
            if has(word) {
                programs.extend(names.iter().map(|&n| n.to_owned()));
            }
        }
        Habits {
            programs,
            system: SYSTEM_WORDS.iter().any(&has),
            pkg_config: has(&"pkg-config"),
            git: GIT_WORDS.iter().any(&has),
            machine: MACHINE_WORDS.iter().any(has),
        }
    }
}

/// Identity of everything that any script (or linker) may run and take from the system.
pub fn all(cache: &dyn Cache, inv: &Invocation) -> Result<[u8; 32]> {
    const LINKERS: &[&str] = &["clang", "mold", "lld", "ld.lld", "wild"];
    let mut habits = Habits::read(b"CFLAGS pkg-config cmake libclang");
    habits.programs.extend(LINKERS.iter().map(|&p| p.to_owned()));
    let mut h = Hasher::new("all-tools");
    add_to_key(&mut h, cache, inv, &habits, &Prefixes::default())?;
    Ok(h.finish())
}

/// Adds identities to a key.
pub fn add_to_key(
    h: &mut Hasher,
    cache: &dyn Cache,
    inv: &Invocation,
    habits: &Habits,
    prefixes: &Prefixes,
) -> Result<()> {
    let mut programs: BTreeSet<&OsStr> = habits.programs.iter().map(OsStr::new).collect();
    programs.extend(environment::named_programs(inv));
    let cross = cross_compilers(cache, inv);
    programs.extend(cross.iter().map(OsString::as_os_str));
    for program in programs {
        h.field("program", program.as_bytes());
        let Some(path) = exec::resolve(cache, inv, program)? else { continue };
        let hash = cache.hash_file(&path).ok().flatten().unwrap_or_default();
        h.field("at", &prefixes.template_path(&path)).field("content", &hash);
        if is_c_compiler(program) {
            for file in behind(cache, inv, &path, &hash)? {
                h.field("link-file", file.as_os_str().as_bytes());
                h.field("content", &cache.hash_file(&file).ok().flatten().unwrap_or_default());
            }
        }
    }
    if habits.system {
        h.field("system packages", &packages(cache)?);
    }
    if habits.pkg_config {
        h.field("pkg-config files", &pkg_config_files(cache, inv)?);
    }
    Ok(())
}

/// Compilers that scripts look for by the target's name. Which prefix a target has is a table in each of them
/// (`thumbv7em-none-eabihf`: `arm-none-eabi-gcc`), so everything counts that may be meant.
fn cross_compilers(cache: &dyn Cache, inv: &Invocation) -> BTreeSet<OsString> {
    const TOOLS: &[&str] = &["gcc", "g++", "cc", "c++", "clang", "clang++", "ar", "ranlib"];
    let text = |name: &str| inv.var(name).and_then(OsStr::to_str).unwrap_or_default();
    let (host, target) = (text("HOST"), text("TARGET"));
    if host == target || target.is_empty() {
        return BTreeSet::new();
    }
    let family = if target.starts_with("thumb") { "arm" } else { target };
    let may_be_meant = |name: &OsStr| {
        let (prefix, tool) = name.to_str().and_then(|n| n.rsplit_once('-')).unwrap_or_default();
        TOOLS.contains(&tool) && prefix.chars().next() == family.chars().next()
    };
    let dirs = std::env::split_paths(inv.var("PATH").unwrap_or_default());
    let names = dirs.flat_map(|dir| cache.list_dir(&inv.cwd.join(dir)).unwrap_or_default());
    let mut found: BTreeSet<OsString> = names.filter(|name| may_be_meant(name)).collect();
    found.extend(["musl-gcc", "clang", "llvm-ar"].map(OsString::from));
    let linker = text("RUSTC_LINKER").strip_suffix("-gcc").unwrap_or_default();
    for prefix in [text("CROSS_COMPILE").trim_end_matches('-'), linker].into_iter().filter(|p| !p.is_empty())
    {
        found.extend(TOOLS.iter().map(|tool| format!("{prefix}-{tool}").into()));
    }
    found
}

fn is_c_compiler(program: &OsStr) -> bool {
    let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
    ["cc", "c++", "gcc", "g++"].iter().any(|c| name.ends_with(c)) && !name.ends_with("-clang++")
}

/// What a compiler driver runs and links by itself. Asked once per driver, remembered as a fact.
fn behind(cache: &dyn Cache, inv: &Invocation, driver: &Path, hash: &[u8; 32]) -> Result<Vec<PathBuf>> {
    let mut h = Hasher::new("script-cc");
    h.field("path", driver.as_os_str().as_bytes()).field("content", hash);
    for name in ["PATH", "COMPILER_PATH", "GCC_EXEC_PREFIX", "LIBRARY_PATH"] {
        h.field(name, inv.var(name).unwrap_or_default().as_bytes());
    }
    let key = h.finish();
    if let Some(known) = cache.fact("script-cc", &key)? {
        let paths = known.split(|&b| b == 0).filter(|p| !p.is_empty());
        return Ok(paths.map(|p| OsStr::from_bytes(p).into()).collect());
    }
    let ask = |question: String| {
        exec::ask(inv, driver, &[OsStr::new(&question)]).and_then(exec::text).map(PathBuf::from)
    };
    let mut files = Vec::new();
    for name in ["cc1", "cc1plus", "as", "ld", "collect2"] {
        if let Some(answer) = ask(format!("-print-prog-name={name}")) {
            files.extend(exec::resolve(cache, inv, answer.as_os_str())?);
        }
    }
    for name in ["libc.so", "libc.so.6", "libc.a", "libgcc.a", "libstdc++.a", "libstdc++.so", "crt1.o"] {
        files.extend(ask(format!("-print-file-name={name}")).filter(|p| p.is_absolute()));
    }
    let value: Vec<u8> =
        files.iter().flat_map(|f| f.as_os_str().as_bytes().iter().copied().chain([0])).collect();
    cache.set_fact("script-cc", &key, &value)?;
    Ok(files)
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
        for name in cache.list_dir(Path::new(dir)).unwrap_or_default() {
            h.field(dir, name.as_bytes());
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
        for name in cache.list_dir(&dir)? {
            let path = dir.join(&name);
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
    use crate::testing::Disk;

    #[test]
    fn words_give_habits_away() {
        let habits = Habits::read(b"\0CFLAGS\0pkg-config\0");
        assert!(habits.system && habits.pkg_config && !habits.git);
        assert!(habits.programs.contains("gcc") && habits.programs.contains("pkg-config"));
        assert!(!habits.programs.contains("protoc"));
        assert!(!habits.machine && Habits::read(b"-march=native").machine);
        assert!(!Habits::read(b"cargo:rustc-link-search=native=/x").machine);
        assert!(Habits::read(b"git rev-parse HEAD").git);
        assert!(Habits::read(b"").programs.contains("cc"));
    }

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

    #[test]
    fn cross_compilers_are_named_by_the_target() {
        let dir = tempfile::tempdir().unwrap();
        for name in
            ["arm-none-eabi-gcc", "aarch64-linux-gnu-g++", "x86_64-w64-mingw32-gcc", "arm-none-eabi-gdb"]
        {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let found = |target: &str, more: &[(&str, &str)]| {
            let env = [("HOST", "x86_64-unknown-linux-gnu"), ("TARGET", target)];
            let mut env: Vec<_> = env.iter().chain(more).map(|(k, v)| (k.into(), v.into())).collect();
            env.push(("PATH".into(), dir.path().into()));
            cross_compilers(&Disk, &Invocation { argv: vec![], cwd: "/".into(), env })
        };
        let has = |target: &str, name: &str| found(target, &[]).contains(OsStr::new(name));
        assert!(has("aarch64-unknown-linux-gnu", "aarch64-linux-gnu-g++"));
        assert!(has("thumbv7em-none-eabihf", "arm-none-eabi-gcc"));
        assert!(has("x86_64-pc-windows-gnu", "x86_64-w64-mingw32-gcc"));
        assert!(!has("thumbv7em-none-eabihf", "arm-none-eabi-gdb"));
        assert!(!has("x86_64-pc-windows-gnu", "arm-none-eabi-gcc"));
        assert!(found("x86_64-unknown-linux-gnu", &[]).is_empty());
        let named = found("armv7-unknown-linux-gnueabihf", &[("CROSS_COMPILE", "/opt/x/bin/my-")]);
        assert!(named.contains(OsStr::new("/opt/x/bin/my-gcc")));
    }
}
