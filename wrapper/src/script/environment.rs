//! Which environment variables a build script may read.
//!
//! Those that cargo sets for it are all in the key. Of the others, those whose names (or halves of names: scripts
//! build names like `CFLAGS_x86_64_unknown_linux_gnu` or `X86_64_UNKNOWN_LINUX_GNU_OPENSSL_DIR` at run time) occur in
//! the script's program, and those that C compilers and their friends listen to.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::cache::{Cache, Invocation, Result};
use crate::hasher::Hasher;
use crate::key::RUSTC_ENV;
use crate::macros;
use crate::natives;
use crate::prefixes::Prefixes;

/// Set by cargo for each script. `OUT_DIR` and the like count as the paths that they are.
const CARGO_SETS: &[&str] = &[
    "TARGET",
    "HOST",
    "PROFILE",
    "OPT_LEVEL",
    "DEBUG",
    "OUT_DIR",
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTC_LINKER",
];
const CARGO_SETS_FAMILIES: &[&str] =
    &["CARGO_CFG_", "CARGO_FEATURE_", "CARGO_PKG_", "CARGO_MANIFEST_", "DEP_"];

/// Tell the script where to find things whose identity is in the key by other means, or how many jobs to run.
const NOT: &[&str] =
    &["CARGO", "RUSTDOC", "LD_LIBRARY_PATH", "CARGO_HOME", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR"];

/// What compilers and build tools of the C world listen to, in all the spellings that scripts make of it: alone, with
/// a target or `HOST`/`TARGET` before or behind.
const C_WORLD: &[&str] = &[
    "CC",
    "CXX",
    "CPP",
    "AR",
    "AS",
    "LD",
    "NM",
    "ASM",
    "RANLIB",
    "STRIP",
    "OBJCOPY",
    "NVCC",
    "WINDRES",
    "CFLAGS",
    "CXXFLAGS",
    "CPPFLAGS",
    "LDFLAGS",
    "ARFLAGS",
    "ASFLAGS",
    "ASMFLAGS",
    "RANLIBFLAGS",
    "CXXSTDLIB",
    "CPATH",
    "LIBRARY_PATH",
    "INCLUDE_PATH",
    "COMPILER_PATH",
    "GCC_EXEC_PREFIX",
    "SYSROOT",
    "SDKROOT",
    "DEVELOPER_DIR",
    "DEPLOYMENT_TARGET",
    "PKG_CONFIG",
    "CMAKE",
    "MAKE",
    "NINJA",
    "SOURCE_DATE_EPOCH",
    "ZERO_AR_DATE",
    "LIBCLANG_PATH",
    "CLANG_PATH",
    "LLVM_CONFIG_PATH",
    "BINDGEN_EXTRA_CLANG_ARGS",
    "PROTOC",
    "VCPKG",
    "WASI_SDK",
];

/// Shorter pieces of names occur in anything.
const PIECE: usize = 6;

/// Adds the variables to the key.
pub fn add_to_key(
    h: &mut Hasher,
    cache: &dyn Cache,
    inv: &Invocation,
    program: &Path,
    hash: &[u8; 32],
    prefixes: &Prefixes,
) -> Result<()> {
    let mut vars: Vec<(&OsStr, &OsStr)> =
        inv.env.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str())).collect();
    vars.sort();
    let (set_by_cargo, others): (Vec<_>, Vec<_>) = vars.into_iter().partition(|(name, _)| cargo_sets(name));
    let others: Vec<_> = others.into_iter().filter(|(name, _)| !is_ambient(name)).collect();
    let names: Vec<&OsStr> = others.iter().map(|(name, _)| *name).collect();
    let read = may_read(cache, program, hash, &names)?;
    let read = others.into_iter().filter(|(name, _)| read.contains(&name.as_bytes().to_vec()));
    for (name, value) in set_by_cargo.into_iter().chain(read) {
        h.field("env", name.as_bytes()).field("value", &prefixes.normal(value));
        if !cargo_sets(name) {
            natives::add_files_of(h, cache, inv, value)?;
        }
    }
    Ok(())
}

/// Values of variables that name programs of the C world (`CC=ccache gcc`).
pub fn named_programs(inv: &Invocation) -> impl Iterator<Item = &OsStr> {
    const PROGRAMS: &[&str] = &[
        "CC",
        "CXX",
        "CPP",
        "AR",
        "AS",
        "LD",
        "NM",
        "RANLIB",
        "PKG_CONFIG",
        "CMAKE",
        "MAKE",
        "PROTOC",
        "RUSTC_LINKER",
    ];
    let names_one = |name: &OsStr| name.to_str().is_some_and(|n| PROGRAMS.iter().any(|p| is_spelling(n, p)));
    inv.env
        .iter()
        .filter(move |(name, _)| names_one(name) && !is_ambient(name))
        .flat_map(|(_, value)| value.as_bytes().split(|&b| b == b' ').map(OsStr::from_bytes))
        .filter(|word| !word.is_empty() && !word.as_bytes().starts_with(b"-"))
}

/// Does a C compiler hide paths in what it makes (compressed debug information, bytecode)?
pub fn hides_paths(inv: &Invocation) -> bool {
    is_told(inv, &["-gz", "compress-debug", "-flto"])
}

/// Are compilers told to make code for the processor of this machine?
pub fn wants_this_cpu(inv: &Invocation) -> bool {
    is_told(inv, &["=native"])
}

/// The same as what a script printed or left tells it: the flags may come from a `CMakeLists.txt`.
pub fn is_for_this_cpu(text: &[u8]) -> bool {
    const FLAGS: &[&str] = &["march=native", "mcpu=native", "mtune=native", "target-cpu=native"];
    FLAGS.iter().any(|flag| memchr::memmem::find(text, flag.as_bytes()).is_some())
}

/// Is one of these flags in a variable that compilers listen to?
fn is_told(inv: &Invocation, flags: &[&str]) -> bool {
    inv.env.iter().any(|(name, value)| {
        let listens = |n: &str| n == "CARGO_ENCODED_RUSTFLAGS" || C_WORLD.iter().any(|p| is_spelling(n, p));
        name.to_str().is_some_and(listens)
            && flags.iter().any(|f| memchr::memmem::find(value.as_bytes(), f.as_bytes()).is_some())
    })
}

fn cargo_sets(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    CARGO_SETS.contains(&name)
        || CARGO_SETS_FAMILIES.iter().any(|f| name.starts_with(f))
        || RUSTC_ENV.contains(&name)
}

fn is_ambient(name: &OsStr) -> bool {
    macros::is_ambient(name) || name.to_str().is_some_and(|n| NOT.contains(&n))
}

/// Does a variable belong to the session's user rather than to the session or to cargo?
pub fn is_of_user(name: &OsStr) -> bool {
    !cargo_sets(name) && !is_ambient(name)
}

/// May a program with these words read it? One that is no word of capitals may be read by any.
pub fn may_be_read(name: &OsStr, words: &[u8]) -> bool {
    let capitals = name.as_bytes().iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_');
    !capitals || occurs(name, words, b"")
}

fn is_spelling(name: &str, of: &str) -> bool {
    name == of
        || name.strip_prefix(of).is_some_and(|rest| rest.starts_with('_'))
        || name.strip_suffix(of).is_some_and(|rest| rest.ends_with('_'))
}

/// Those of the names that this program may read. Kept as a fact: the same names come again with each build.
fn may_read(cache: &dyn Cache, program: &Path, hash: &[u8; 32], names: &[&OsStr]) -> Result<Vec<Vec<u8>>> {
    let mut h = Hasher::new("script-env");
    h.field("program", hash);
    for name in names {
        h.field("name", name.as_bytes());
    }
    let key = h.finish();
    if let Some(known) = cache.fact("script-env", &key)?.and_then(|v| postcard::from_bytes(&v).ok()) {
        return Ok(known);
    }
    let words = macros::words(cache, program)?;
    let bytes = cache.read(program)?.unwrap_or_default();
    let found: Vec<Vec<u8>> = names
        .iter()
        .filter(|name| occurs(name, &words, &bytes))
        .map(|name| name.as_bytes().to_vec())
        .collect();
    cache.set_fact("script-env", &key, &postcard::to_stdvec(&found)?)?;
    Ok(found)
}

fn occurs(name: &OsStr, words: &[u8], program: &[u8]) -> bool {
    let Some(name) = name.to_str() else { return false };
    if macros::mentions(words, name.as_bytes()) || C_WORLD.iter().any(|p| is_spelling(name, p)) {
        return true;
    }
    let pieces: Vec<&str> = name
        .match_indices('_')
        .flat_map(|(at, _)| [&name[..at], &name[at + 1..]])
        .filter(|piece| piece.len() >= PIECE)
        .collect();
    let is_word =
        |piece: &&&str| piece.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    let (plain, odd): (Vec<&&str>, Vec<&&str>) = pieces.iter().partition(|p| is_word(p));
    plain.iter().any(|piece| memchr::memmem::find(words, piece.as_bytes()).is_some())
        || odd
            .iter()
            .map(|piece| piece.as_bytes())
            .chain((!is_word(&&name)).then_some(name.as_bytes()))
            .any(|piece| memchr::memmem::find(program, piece).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_put_together_are_found() {
        let words = b"\nOPENSSL_DIR\n_NO_PKG_CONFIG\nSETTING\n";
        let program = b"\0http_proxy\0my_lib_\0";
        let occurs = |name: &str| occurs(OsStr::new(name), words, program);
        for name in [
            "OPENSSL_DIR",
            "X86_64_UNKNOWN_LINUX_GNU_OPENSSL_DIR",
            "CC",
            "CC_x86_64-unknown-linux-gnu",
            "HOST_CFLAGS",
            "LIBZ_NO_PKG_CONFIG",
            "SETTING_a",
            "http_proxy",
        ] {
            assert!(occurs(name), "{name}");
        }
        for name in ["OTHER_NAME", "ACCENT", "https_proxies"] {
            assert!(!occurs(name), "{name}");
        }
    }

    #[test]
    fn what_cargo_sets_is_known() {
        for name in ["CARGO_CFG_UNIX", "CARGO_PKG_VERSION", "DEP_Z_INCLUDE", "OPT_LEVEL", "RUSTC_BOOTSTRAP"] {
            assert!(cargo_sets(OsStr::new(name)), "{name}");
        }
        for name in ["CARGO_MAKEFLAGS", "NUM_JOBS", "RUSTC_WRAPPER", "RUSTC"] {
            assert!(!cargo_sets(OsStr::new(name)) && is_ambient(OsStr::new(name)), "{name}");
        }
    }
}
