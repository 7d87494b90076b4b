//! Environment variables that a proc macro may read without rustc knowing.
//!
//! `std::env::var` in a proc macro is not reported in dep-info. But the name it asks for is, as a rule, a string
//! constant in the macro's shared library. So every variable of the current environment whose name occurs in a
//! macro that this compile may run is part of the key. Variables of the session (PATH, TERM, …), that differ from
//! one terminal to the next, are not; who has a macro that reads them lists them in `key_env_vars`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::cache::{Cache, Invocation, Result};
use crate::hasher::Hasher;
use crate::prefixes::Prefixes;

/// Never in a key by themselves.
const AMBIENT: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TERM",
    "COLORTERM",
    "LANG",
    "LANGUAGE",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
    "TMPDIR",
    "TMP",
    "TEMP",
    "EDITOR",
    "VISUAL",
    "PAGER",
    "DISPLAY",
    "HOSTNAME",
    "MAIL",
    "LS_COLORS",
    "COLUMNS",
    "LINES",
    "RUST_BACKTRACE",
    "RUST_LIB_BACKTRACE",
    "RUST_MIN_STACK",
    "LD_LIBRARY_PATH",
    "MAKEFLAGS",
    "MFLAGS",
    "CARGO_MAKEFLAGS",
    "NUM_JOBS",
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "NO_COLOR",
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "FORCE_COLOR",
];
const AMBIENT_FAMILIES: &[&str] = &[
    "LC_",
    "SSH_",
    "XDG_",
    "DBUS_",
    "GPG_",
    "DYLD_",
    "KACHE_",
    "CARGO_TERM_",
    "RUSTUP_",
    "TERM_",
    "VTE_",
    "TMUX",
    "WAYLAND_",
    "INVOCATION_",
];

/// Shorter names occur by accident in longer words, and must stand alone.
const SHORT: usize = 6;

/// Adds the variables that the macros in `libraries` may read.
pub fn add_to_key(
    h: &mut Hasher,
    cache: &dyn Cache,
    inv: &Invocation,
    prefixes: &Prefixes,
    libraries: &[PathBuf],
) -> Result<()> {
    if libraries.is_empty() {
        return Ok(());
    }
    let mut texts = Vec::with_capacity(libraries.len());
    for library in libraries {
        texts.push(words(cache, library)?);
    }
    let mut vars: Vec<_> = inv.env.iter().filter(|(name, _)| !is_ambient(name)).collect();
    vars.sort();
    for (name, value) in vars {
        if !texts.iter().any(|text| mentions(text, name.as_bytes())) {
            continue;
        }
        h.field("macro-env", name.as_bytes()).field("value", &prefixes.normal(value));
        // A macro that asks where the package is reads its manifest.
        if name == "CARGO_MANIFEST_DIR" {
            let manifest = std::path::Path::new(value).join("Cargo.toml");
            h.field("manifest", &cache.hash_file(&manifest)?.unwrap_or_default());
        }
    }
    Ok(())
}

/// All words of a library that could be a variable's name, each between newlines. Kept as a fact of its content.
pub(crate) fn words(cache: &dyn Cache, library: &std::path::Path) -> Result<Vec<u8>> {
    let Some(hash) = cache.hash_file(library)? else { return Ok(Vec::new()) };
    if let Some(known) = cache.fact("words", &hash)? {
        return Ok(known);
    }
    let found = extract(&cache.read(library)?.unwrap_or_default());
    cache.set_fact("words", &hash, &found)?;
    Ok(found)
}

pub(crate) fn extract(bytes: &[u8]) -> Vec<u8> {
    let is_word = |b: &u8| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_';
    let words: BTreeSet<&[u8]> = bytes
        .split(|b| !is_word(b))
        .filter(|w| w.len() >= 3 && w.iter().any(u8::is_ascii_uppercase))
        .collect();
    let mut text = vec![b'\n'];
    for word in words {
        text.extend_from_slice(word);
        text.push(b'\n');
    }
    text
}

pub(crate) fn mentions(words: &[u8], name: &[u8]) -> bool {
    if name.len() >= SHORT {
        return memchr::memmem::find(words, name).is_some();
    }
    let alone = [b"\n", name, b"\n"].concat();
    memchr::memmem::find(words, &alone).is_some()
}

pub(crate) fn is_ambient(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return true };
    AMBIENT.contains(&name) || AMBIENT_FAMILIES.iter().any(|f| name.starts_with(f))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_also_when_constants_stand_side_by_side() {
        let words = extract(b"\0\x01foo DATABASE_URLSQLX_OFFLINEfile not\0CI\0CARGO_PKG_NAME");
        assert!(mentions(&words, b"DATABASE_URL") && mentions(&words, b"SQLX_OFFLINE"));
        assert!(!mentions(&words, b"CARGO") && !mentions(&words, b"OTHER_NAME"));
    }
}
