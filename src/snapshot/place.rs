//! Where a checkout is, and paths that mean the same in another one.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The directories that a build of one checkout knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Root of the cargo workspace.
    pub workspace: PathBuf,
    /// Working tree of the git repository around it.
    pub repository: Option<PathBuf>,
    /// Target directory.
    pub target: PathBuf,
    pub cargo_home: PathBuf,
}

/// What a path is relative to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Base {
    Target,
    Workspace,
    Repository,
    /// What cargo takes for immutable: `registry` and `git` in its home.
    CargoHome,
    /// Absolute.
    Elsewhere,
}

/// A path that can be looked for in another checkout.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Spot {
    pub base: Base,
    pub rel: Vec<u8>,
}

impl Place {
    /// The portable form of an absolute path.
    pub fn spot(&self, path: &Path) -> Spot {
        let path = normal(path);
        let of = |base, rel: &Path| Spot { base, rel: rel.as_os_str().as_bytes().to_vec() };
        if let Ok(rel) = path.strip_prefix(&self.target) {
            return of(Base::Target, rel);
        }
        if let Ok(rel) = path.strip_prefix(&self.cargo_home)
            && (rel.starts_with("registry") || rel.starts_with("git"))
        {
            return of(Base::CargoHome, rel);
        }
        if let Ok(rel) = path.strip_prefix(&self.workspace) {
            return of(Base::Workspace, rel);
        }
        if let Some(Ok(rel)) = self.repository.as_ref().map(|r| path.strip_prefix(r)) {
            return of(Base::Repository, rel);
        }
        of(Base::Elsewhere, &path)
    }

    /// Where a spot is here; `None` if this checkout has no such base.
    pub fn path(&self, spot: &Spot) -> Option<PathBuf> {
        let rel = Path::new(OsStr::from_bytes(&spot.rel));
        let base = match spot.base {
            Base::Target => &self.target,
            Base::Workspace => &self.workspace,
            Base::Repository => self.repository.as_ref()?,
            Base::CargoHome => &self.cargo_home,
            Base::Elsewhere => return Some(rel.to_owned()),
        };
        Some(if rel.as_os_str().is_empty() { base.clone() } else { base.join(rel) })
    }

    /// Paths that only this checkout has, longest first: whatever names one of them belongs to this checkout.
    pub fn own(&self) -> Vec<&Path> {
        let mut own: Vec<&Path> = vec![&self.workspace, &self.target];
        own.extend(self.repository.as_deref());
        own.sort_by_key(|p| std::cmp::Reverse(p.as_os_str().len()));
        own.dedup();
        own
    }

    /// The shortest needles that find everything that names this checkout.
    pub fn needles(&self) -> Vec<&Path> {
        let own = self.own();
        own.iter().copied().filter(|p| !own.iter().any(|q| q != p && p.starts_with(q))).collect()
    }

    /// Text with the paths of this checkout (and of cargo's packages) replaced by those of another. `None` if it names a path of this one that
    /// the other does not have, or if it is not clear where the path begins (`-L/path`, `lib/path`).
    pub fn translate(&self, text: &[u8], to: &Place) -> Option<Vec<u8>> {
        let mut pairs: Vec<(&Path, Option<&Path>)> = vec![
            (&self.target, Some(&to.target)),
            (&self.workspace, Some(&to.workspace)),
            (&self.cargo_home, Some(&to.cargo_home)),
        ];
        if let Some(repository) = &self.repository {
            pairs.push((repository, to.repository.as_deref()));
        }
        pairs.sort_by_key(|(from, _)| std::cmp::Reverse(from.as_os_str().len()));
        let mut out = Vec::with_capacity(text.len() + 64);
        let mut at = 0;
        'text: while at < text.len() {
            if text[at] == b'/' {
                for (from, to) in &pairs {
                    let from = from.as_os_str().as_bytes();
                    let rest = &text[at..];
                    if rest.starts_with(from) && !rest.get(from.len()).is_some_and(|b| is_name_byte(*b)) {
                        if at > 0 && is_name_byte(text[at - 1]) {
                            return None;
                        }
                        out.extend((*to)?.as_os_str().as_bytes());
                        at += from.len();
                        continue 'text;
                    }
                }
            }
            out.push(text[at]);
            at += 1;
        }
        Some(out)
    }
}

fn is_name_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-') || b >= 0x80
}

/// Without `.` and `..`, by the letters.
pub fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(out.pop()),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(root: &str) -> Place {
        Place {
            workspace: format!("{root}/app").into(),
            repository: Some(root.into()),
            target: format!("{root}/app/target").into(),
            cargo_home: "/home/me/.cargo".into(),
        }
    }

    #[test]
    fn a_path_is_found_again_in_another_checkout() {
        let (a, b) = (place("/w/a"), place("/deep/er/b"));
        for (here, there) in [
            ("/w/a/app/src/../src/lib.rs", "/deep/er/b/app/src/lib.rs"),
            ("/w/a/app/target/debug/x", "/deep/er/b/app/target/debug/x"),
            ("/w/a/shared/x.rs", "/deep/er/b/shared/x.rs"),
            ("/usr/include/x.h", "/usr/include/x.h"),
            ("/home/me/.cargo/registry/src/x", "/home/me/.cargo/registry/src/x"),
        ] {
            assert_eq!(b.path(&a.spot(Path::new(here))).unwrap(), Path::new(there));
        }
        assert_eq!(a.spot(Path::new("/home/me/.cargo/bin/x")).base, Base::Elsewhere);
    }

    #[test]
    fn whole_components_are_translated() {
        let (a, b) = (place("/w/a"), place("/b"));
        let text = b"L=/w/a/app/target/x:/w/a/lib:/w/a/apple /w/ab \"/w/a\"";
        let wanted = b"L=/b/app/target/x:/b/lib:/b/apple /w/ab \"/b\"";
        assert_eq!(a.translate(text, &b).unwrap(), wanted);
        assert_eq!(a.translate(b"-L/w/a/lib", &b), None);
        let abroad = Place { cargo_home: "/else".into(), ..place("/b") };
        let text = b"/home/me/.cargo/registry/src/x /home/me/.cargo/bin";
        assert_eq!(a.translate(text, &abroad).unwrap(), b"/else/registry/src/x /else/bin");
        let without = Place { repository: None, ..place("/b") };
        assert_eq!(a.translate(b"x=/w/a/lib", &without), None);
        assert_eq!(a.needles(), [Path::new("/w/a")]);
    }
}
