//! A checkout as its files tell: workspace, repository, commit, and the identity that all checkouts of a project share.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::place::{Place, normal};
use super::take::About;

/// Commits of history that are looked through for the nearest ancestor.
const HISTORY: usize = 5_000;

impl Place {
    /// The checkout that a target directory belongs to. `hint`: a directory in it, for targets that lie elsewhere.
    /// `None` if there is no cargo workspace.
    pub fn of(target: &Path, hint: Option<&Path>) -> Option<Place> {
        let workspace = target.parent().and_then(workspace_above).or_else(|| workspace_above(hint?))?;
        let cargo_home = cargo_home()?;
        Some(Place {
            repository: workspace.ancestors().find(|d| d.join(".git").exists()).map(Path::to_owned),
            cargo_home: fs::canonicalize(&cargo_home).unwrap_or(cargo_home),
            target: target.to_owned(),
            workspace,
        })
    }
}

pub fn cargo_home() -> Option<PathBuf> {
    let set = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    set.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
}

/// The nearest directory with a `Cargo.lock`, else the nearest with a `[workspace]`, else with a `Cargo.toml`.
pub fn workspace_above(dir: &Path) -> Option<PathBuf> {
    let packages = || dir.ancestors().filter(|d| d.join("Cargo.toml").is_file());
    let is_workspace =
        |d: &&Path| fs::read_to_string(d.join("Cargo.toml")).is_ok_and(|t| t.contains("[workspace"));
    packages()
        .find(|d| d.join("Cargo.lock").is_file())
        .or_else(|| packages().find(is_workspace))
        .or_else(|| packages().next())
        .map(Path::to_owned)
}

/// Identity and commit of the checkout at `place`.
pub fn about(place: &Place) -> About {
    let mut hash = blake3::Hasher::new();
    let mut add = |text: &[u8]| {
        hash.update(&(text.len() as u64).to_le_bytes()).update(text);
    };
    let git = place.repository.as_deref().and_then(Git::of);
    match &git {
        Some(git) => {
            add(b"git");
            add(&git.identity());
            // Several workspaces may live in one repository.
            let repository = place.repository.as_deref().unwrap_or(&place.workspace);
            add(place.workspace.strip_prefix(repository).unwrap_or(&place.workspace).as_os_str().as_bytes());
        }
        None => {
            add(b"packages");
            for name in packages(&place.workspace) {
                add(name.as_bytes());
            }
        }
    }
    let identity = *hash.finalize().as_bytes();
    About { identity, commit: git.and_then(|g| g.head()).unwrap_or_default() }
}

/// What is checked out, and when that last changed (nanoseconds since the Unix epoch). Empty without a repository.
pub fn head(place: &Place) -> (String, i64) {
    let Some(git) = place.repository.as_deref().and_then(Git::of) else { return (String::new(), 0) };
    let time = |path: PathBuf| {
        let meta = fs::metadata(path).ok()?;
        Some(meta.mtime() * 1_000_000_000 + meta.mtime_nsec())
    };
    let moved = time(git.dir.join("logs/HEAD")).or_else(|| time(git.dir.join("HEAD")));
    (git.head().unwrap_or_default(), moved.unwrap_or(i64::MAX))
}

/// Names of the packages in `Cargo.lock` that come from no registry; without one, the name in `Cargo.toml`.
fn packages(workspace: &Path) -> BTreeSet<String> {
    let parse =
        |name: &str| -> Option<toml::Table> { fs::read_to_string(workspace.join(name)).ok()?.parse().ok() };
    let name_of = |p: &toml::Value| Some(p.get("name")?.as_str()?.to_owned());
    let locked = parse("Cargo.lock").and_then(|lock| {
        let list = lock.get("package")?.as_array()?.clone();
        Some(list.iter().filter(|p| p.get("source").is_none()).filter_map(name_of).collect())
    });
    locked
        .unwrap_or_else(|| parse("Cargo.toml").and_then(|t| name_of(t.get("package")?)).into_iter().collect())
}

/// A repository, read without starting git.
struct Git {
    /// Of this working tree.
    dir: PathBuf,
    /// Shared by all working trees.
    common: PathBuf,
}

impl Git {
    fn of(tree: &Path) -> Option<Git> {
        let dot = tree.join(".git");
        let dir = match fs::read_to_string(&dot) {
            Ok(text) => normal(&tree.join(text.strip_prefix("gitdir:")?.trim())),
            Err(_) if dot.is_dir() => dot,
            Err(_) => return None,
        };
        let common = match fs::read_to_string(dir.join("commondir")) {
            Ok(text) => normal(&dir.join(text.trim())),
            Err(_) => dir.clone(),
        };
        Some(Git { dir, common })
    }

    /// The same for all working trees, and for clones from the same place.
    fn identity(&self) -> Vec<u8> {
        let config = fs::read_to_string(self.common.join("config")).unwrap_or_default();
        let url = config.lines().skip_while(|l| l.trim() != "[remote \"origin\"]").skip(1).find_map(|line| {
            let (name, value) = line.split_once('=')?;
            (name.trim() == "url").then(|| same_for_all(value.trim()))
        });
        match url {
            Some(url) => url.into_bytes(),
            None => {
                let common = fs::canonicalize(&self.common).unwrap_or_else(|_| self.common.clone());
                common.as_os_str().as_bytes().to_vec()
            }
        }
    }

    fn head(&self) -> Option<String> {
        let head = fs::read_to_string(self.dir.join("HEAD")).ok()?;
        let Some(name) = head.trim().strip_prefix("ref: ") else { return hex(&head) };
        let loose = fs::read_to_string(self.common.join(name)).ok();
        loose.and_then(|text| hex(&text)).or_else(|| {
            let packed = fs::read_to_string(self.common.join("packed-refs")).ok()?;
            packed.lines().find_map(|line| {
                let (id, found) = line.split_once(' ')?;
                (found == name).then(|| hex(id))?
            })
        })
    }
}

/// `git@host:project.git` and `https://user:secret@host/project` are one place.
fn same_for_all(url: &str) -> String {
    let url = url.trim_end_matches('/').trim_end_matches(".git");
    let (host, path) = match url.split_once("://") {
        Some(("file", _)) => return url.to_owned(),
        Some((_, rest)) => rest.split_once('/').unwrap_or((rest, "")),
        None => match url.split_once(':') {
            Some((host, path)) if !host.contains('/') => (host, path),
            _ => return url.to_owned(),
        },
    };
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    let host = host.split(':').next().unwrap_or(host);
    format!("{host}/{}", path.trim_start_matches('/'))
}

fn hex(text: &str) -> Option<String> {
    let text = text.trim();
    (text.len() >= 40 && text.bytes().all(|b| b.is_ascii_hexdigit())).then(|| text.to_owned())
}

/// Commits that lead to what is checked out in `tree`, nearest first. Empty if git cannot tell.
pub fn history(tree: &Path) -> Vec<String> {
    let asked = Command::new("git")
        .arg("-C")
        .arg(tree)
        .args(["rev-list", "--topo-order", &format!("--max-count={HISTORY}"), "HEAD"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    match asked {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

/// Do files that git tracks differ from the commit? Without git nothing is known, and nothing is against it.
pub fn is_modified(tree: &Path) -> bool {
    let asked = Command::new("git")
        .arg("-C")
        .arg(tree)
        .args(["--no-optional-locks", "status", "--porcelain", "--untracked-files=no"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    asked.is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
}

/// `rustc -vV` of the compiler that builds in `dir`; empty if it cannot be asked.
pub fn toolchain(dir: &Path) -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| OsStr::new("rustc").to_owned());
    match Command::new(rustc).arg("-vV").current_dir(dir).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_repository_has_many_addresses() {
        for url in [
            "git@github.com:owner/project.git",
            "https://github.com/owner/project",
            "https://user:secret@github.com/owner/project.git/",
            "ssh://git@github.com:22/owner/project",
        ] {
            assert_eq!(same_for_all(url), "github.com/owner/project", "{url}");
        }
        for path in ["/srv/git/project", "../project", "file:///srv/project", "project"] {
            assert_eq!(same_for_all(&format!("{path}.git")), path);
        }
    }
}
