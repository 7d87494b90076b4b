//! All files of a package, as cargo lists them: a build script that declares nothing runs again when the newest of them
//! is another or has another time (`PathSource::last_modified_file` in cargo's `sources/path.rs`).
//!
//! Cargo takes the first of those with the newest time, in the order of the directories; so the order counts here.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// A package with more files than this is not looked through.
const MAX_FILES: usize = 20_000;

/// A package as it is now.
#[derive(Debug, PartialEq, Eq)]
pub struct Package {
    /// All files, relative to its directory; more than cargo compares.
    pub files: BTreeSet<PathBuf>,
    /// What cargo has in the fingerprint of the build script.
    pub text: String,
}

/// `None` where it is not clear what cargo would see.
pub fn look(root: &Path) -> Option<Package> {
    let filter = Filter::of(root)?;
    let tracked = match filter.include {
        Some(_) => None,
        None => in_git(root)?,
    };
    let mut walk = Walk { root, tracked, files: Vec::new() };
    walk.dir(Path::new(""))?;
    let mut newest: Option<((i64, i64), &PathBuf)> = None;
    for (file, time) in walk.files.iter().filter(|(f, _)| filter.is_in(f)) {
        if newest.is_none_or(|(t, _)| *time > t) {
            newest = Some((*time, file));
        }
    }
    let ((seconds, nanos), path) = newest?;
    let text = format!("{seconds}.{nanos:09}s ({})", path.to_str()?);
    Some(Package { text, files: walk.files.into_iter().map(|(f, _)| f).collect() })
}

struct Walk<'a> {
    root: &'a Path,
    /// What git has or would take in; `None` where cargo does not ask git.
    tracked: Option<BTreeSet<PathBuf>>,
    /// With seconds and nanoseconds.
    files: Vec<(PathBuf, (i64, i64))>,
}

impl Walk<'_> {
    fn dir(&mut self, dir: &Path) -> Option<()> {
        let at_root = dir.as_os_str().is_empty();
        for entry in fs::read_dir(self.root.join(dir)).ok()? {
            let entry = entry.ok()?;
            let path = dir.join(entry.file_name());
            let kind = entry.file_type().ok()?;
            if kind.is_dir() {
                let skipped = at_root && (entry.file_name() == "target" || entry.file_name() == ".git")
                    || entry.path().join("Cargo.toml").exists();
                // A submodule, which cargo looks into by other rules.
                if self.tracked.as_ref().is_some_and(|t| t.contains(&path)) {
                    return None;
                }
                if !skipped {
                    self.dir(&path)?;
                }
            } else if self.tracked.as_ref().is_none_or(|t| t.contains(&path)) {
                // A symbolic link may lead anywhere.
                if !kind.is_file() || self.files.len() > MAX_FILES {
                    return None;
                }
                let meta = entry.metadata().ok()?;
                self.files.push((path, (meta.mtime(), meta.mtime_nsec())));
            }
        }
        Some(())
    }
}

/// What git has of a package, and what it would take in. `Some(None)` where there is no git that knows the package.
fn in_git(root: &Path) -> Option<Option<BTreeSet<PathBuf>>> {
    if !root.ancestors().any(|d| d.join(".git").exists()) {
        return Some(None);
    }
    let list = |args: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C")
            .arg(root)
            .args(["ls-files", "-z"])
            .args(args)
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        let output = git.output().ok().filter(|o| o.status.success())?;
        let names = output.stdout.split(|b| *b == 0).filter(|n| !n.is_empty());
        Some(names.map(|n| PathBuf::from(OsStr::from_bytes(n))).collect::<BTreeSet<_>>())
    };
    let all = list(&["--cached", "--others", "--exclude-standard"])?;
    // Cargo asks only a repository that has the package.
    let known = all.contains(Path::new("Cargo.toml")) && list(&["Cargo.toml"])?.len() == 1;
    Some(known.then_some(all))
}

/// `include` and `exclude` of a manifest.
struct Filter {
    include: Option<Gitignore>,
    exclude: Gitignore,
}

impl Filter {
    fn of(root: &Path) -> Option<Filter> {
        let manifest: toml::Table = fs::read_to_string(root.join("Cargo.toml")).ok()?.parse().ok()?;
        let package = manifest.get("package")?;
        let rules = |name: &str| -> Option<(bool, Gitignore)> {
            let mut builder = GitignoreBuilder::new(root);
            let list = match package.get(name) {
                None => return Some((false, Gitignore::empty())),
                // Inherited from the workspace.
                Some(value) => value.as_array()?,
            };
            for rule in list {
                builder.add_line(None, rule.as_str()?).ok()?;
            }
            Some((!list.is_empty(), builder.build().ok()?))
        };
        let (given, include) = rules("include")?;
        Some(Filter { include: given.then_some(include), exclude: rules("exclude")?.1 })
    }

    fn is_in(&self, file: &Path) -> bool {
        if file == Path::new("Cargo.toml") || file == Path::new("Cargo.lock") {
            return true;
        }
        match &self.include {
            Some(include) => include.matched_path_or_any_parents(file, false).is_ignore(),
            None => !self.exclude.matched_path_or_any_parents(file, false).is_ignore(),
        }
    }
}
