//! Views whose blobs are gone or damaged: what cargo made is taken away, and cargo makes it again.

use std::collections::{BTreeMap, BTreeSet};

use kache_fs::{Kind, Mount, RelPath};

use super::engine::{Engine, Hosted};
use crate::store::Hash;

/// Where cargo puts the products of units, in the directory of a profile.
const PRODUCTS: &[&str] = &["deps", "build", "examples", "incremental", ".fingerprint"];

impl Engine {
    /// Looks at every blob that a mount shows: something may have happened to it while nobody served.
    pub(super) fn check_shown(&self, hosted: &Hosted) {
        let Ok(files) = hosted.mount().walk() else { return };
        let shown: BTreeMap<Hash, u64> =
            files.iter().filter_map(|f| Some((*f.stat.blob?.as_bytes(), f.stat.size))).collect();
        for (hash, size) in shown {
            match self.store.can_show(&hash, size) {
                Ok(true) => {}
                Ok(false) => self.remotes.give_up(&hash),
                Err(error) => tracing::warn!(%error, "cannot look at a blob that a mount shows"),
            }
        }
    }

    /// Takes away products whose blobs are not to be had, and what cargo remembers of their units. Other files stay: they are
    /// I/O errors until their blob is back.
    pub(super) fn drop_gone(&self) {
        let gone = self.remotes.take_gone();
        if gone.is_empty() {
            return;
        }
        for hosted in self.all() {
            if let Err(error) = drop_from(&hosted.mount(), &gone) {
                tracing::warn!(dir = %hosted.dir.display(), %error, "cannot take away what is damaged");
            }
        }
    }
}

fn drop_from(mount: &Mount, gone: &[Hash]) -> kache_fs::Result<()> {
    let files = mount.walk()?;
    let profiles: BTreeSet<&[u8]> = files.iter().filter_map(|f| profile_of(&f.path)).collect();
    let mut units = BTreeSet::new();
    for file in files.iter().filter(|f| f.stat.blob.is_some_and(|h| gone.contains(h.as_bytes()))) {
        let path = &file.path;
        if !is_in_profile(path, &profiles) {
            tracing::warn!(%path, "its blob is gone or damaged; it cannot be read");
            continue;
        }
        let removed = mount.remove(path);
        tracing::warn!(%path, ?removed, "its blob is gone or damaged; cargo will make it again");
        units.extend(path.components().find_map(unit_in));
    }
    // What cargo remembers of a unit is in a directory for all units, or in the unit's own.
    for dir in files.iter().filter(|f| f.stat.kind == Kind::Directory) {
        let names: Vec<&[u8]> = dir.path.components().collect();
        let remembered = match names.as_slice() {
            [.., b".fingerprint", unit] | [.., unit, b"fingerprint"] => unit_in(unit),
            _ => None,
        };
        if remembered.is_some_and(|unit| units.contains(unit)) {
            mount.remove(&dir.path)?;
        }
    }
    Ok(())
}

/// Will a build put a file with all these names where it was, if the cache has its bytes?
pub(super) fn is_product(names: &[RelPath]) -> bool {
    let profiles: BTreeSet<&[u8]> = names.iter().filter_map(profile_of).collect();
    names.iter().all(|name| is_in_profile(name, &profiles))
}

/// A product, or a program (a link to one) directly in a profile.
fn is_in_profile(path: &RelPath, profiles: &BTreeSet<&[u8]>) -> bool {
    profile_of(path).is_some() || path.split().is_some_and(|(dir, _)| profiles.contains(dir))
}

/// The profile whose product this is.
fn profile_of(path: &RelPath) -> Option<&[u8]> {
    let mut start = 0;
    for name in path.components() {
        if PRODUCTS.iter().any(|known| known.as_bytes() == name) {
            return Some(path.as_bytes()[..start].strip_suffix(b"/").unwrap_or_default());
        }
        start += name.len() + 1;
    }
    None
}

/// The 16 hexadecimal digits of `name-0123456789abcdef`, `name-0123456789abcdef.d`, or of a whole name.
fn unit_in(name: &[u8]) -> Option<&[u8]> {
    let stem = name.split(|b| *b == b'.').find(|part| !part.is_empty())?;
    let last = stem.rsplit(|b| *b == b'-').next()?;
    (last.len() == 16 && last.iter().all(u8::is_ascii_hexdigit)).then_some(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_found_in_names() {
        let unit = b"0123456789abcdef".as_slice();
        for name in [
            "libserde-0123456789abcdef.rlib",
            "serde-0123456789abcdef",
            "0123456789abcdef",
            "a-b-0123456789abcdef.a.0.rcgu.o",
        ] {
            assert_eq!(unit_in(name.as_bytes()), Some(unit), "{name}");
        }
        for name in ["serde", "serde-0123", "", ".fingerprint", "deps"] {
            assert_eq!(unit_in(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn products_lie_in_profiles() {
        let is_product =
            |names: &[&str]| is_product(&names.iter().map(|n| RelPath::new(n).unwrap()).collect::<Vec<_>>());
        assert!(is_product(&["debug/deps/liba-0123456789abcdef.rlib"]));
        assert!(is_product(&["debug/deps/program-0123456789abcdef", "debug/program"]));
        assert!(is_product(&["x86_64/debug/build/a-0123456789abcdef/out/x.rs"]));
        assert!(!is_product(&["debug/deps/program-0123456789abcdef", "debug/program", "dist/program"]));
        for name in ["notes.txt", "debug/notes.txt", "debug/my/notes.txt", "criterion/base.json"] {
            assert!(!is_product(&[name]), "{name}");
        }
    }
}
