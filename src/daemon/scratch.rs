//! Directories outside of a mount in which compilers work, and the way of their results into it.
//!
//! ```text
//! {cache_dir}/scratch/<unit>/                         outputs of a compile, locked by whoever compiles
//! {cache_dir}/mounts/<id>/incremental/<crate>-<x>/    rustc's state of a crate's units, a directory each
//!     link                                            the path, in the mount, of the link that leads here
//! target/<profile>/incremental/<crate>-kache -> …/<crate>-<x>
//! ```
//! A unit's outputs are made in the same directory each time, and in each mount: rustc's state does not outlive another
//! name.
//!
//! The link is in charge: when `cargo clean` removes it, the state goes. A fork shows the link of its donor; whoever
//! finds the link of somebody else begins with hard links to that state (rustc never changes a file of it) and makes
//! a link of its own.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kache_fs::{Content, Placement, RelPath};
use kache_wrapper::args::Compile;
use kache_wrapper::lookup::{Plan, Store};
use kache_wrapper::scratch::{Scratch, is_plain, is_possible};

use super::engine::{Engine, Hosted};
use super::mounts::{self, below};
use crate::bench::Locked;

impl Engine {
    /// Where the compiler of this plan is to work, if that is better than in the mount.
    pub(super) fn scratch(&self, plan: &Plan) -> Option<Scratch> {
        let (hosted, _) = self.inside(&plan.compile.out_dir)?;
        if !is_possible(&plan.compile) {
            return None;
        }
        let home = home(self.cache_dir());
        let is_there = is_plain(home.as_os_str().as_bytes()) && fs::create_dir_all(&home).is_ok();
        if !is_there || !hosted.mount().is_beside(&home) {
            return None;
        }
        let incremental = match &plan.compile.incremental {
            Some(dir) if plan.store == Store::Edit => match self.state_of(dir, &plan.compile.crate_name) {
                Ok(state) => Some(state.join(plan.compile.stem())),
                Err(error) => {
                    tracing::warn!(%error, "incremental state stays in the mount");
                    return None;
                }
            },
            _ => None,
        };
        Some(Scratch::new(home.join(plan.compile.stem()), incremental))
    }

    /// Puts all crates that the compiler of this plan will read into its scratch directory. Returns the directories that
    /// it need not look into any more.
    pub(super) fn gather(&self, plan: &Plan) -> Result<Vec<PathBuf>> {
        let scratch = plan.scratch.as_ref().context("it has no scratch directory")?;
        self.check_scratch(&scratch.out)?;
        let files = plan.crates(self).map_err(anyhow::Error::from_boxed)?;
        let mut gathered = Vec::new();
        for dir in directories(&plan.compile) {
            let there = files.iter().filter(|file| file.parent() == Some(dir));
            let Some(there) = there.map(|file| self.inside(file)).collect::<Option<Vec<_>>>() else {
                continue;
            };
            if plan.compile.search.iter().any(|(kind, searched)| searched == dir && kind != "dependency") {
                bail!("{} is searched for other things, too", dir.display());
            }
            let to = scratch.crates(gathered.len());
            fs::create_dir_all(&to)?;
            for (hosted, at) in there {
                self.lend(&hosted, &at, &to.join(at.as_path().file_name().unwrap_or_default()))?;
            }
            gathered.push(dir.to_owned());
        }
        Ok(gathered)
    }

    /// Puts a file of a mount at a path beside the store, to be read.
    fn lend(&self, hosted: &Hosted, at: &RelPath, to: &Path) -> Result<()> {
        let mount = hosted.mount();
        let blob = mount.stat(at)?.blob;
        // That fetches a blob that is elsewhere.
        let mut opened = mount.open_file(at)?;
        match blob {
            Some(hash) => self.store.name_blob(hash.as_bytes(), to)?,
            None => drop(io::copy(&mut opened, &mut fs::File::create_new(to)?)?),
        }
        Ok(())
    }

    /// The directory for a crate's incremental state, for which cargo says `dir`.
    fn state_of(&self, dir: &Path, crate_name: &str) -> Result<PathBuf> {
        let (hosted, at) = self.inside(dir).context("incremental state is not in the mount")?;
        let all = states(self.cache_dir(), &hosted.dir);
        let _alone = hosted.states.lock();
        let link = at.join(OsString::from(format!("{crate_name}-kache")));
        let before = hosted.mount().read_link(&link).ok().map(|t| PathBuf::from(OsString::from_vec(t)));
        if let Some(state) = before.as_ref().filter(|s| s.parent() == Some(&all) && s.is_dir()) {
            return Ok(state.clone());
        }
        fs::create_dir_all(&all)?;
        let made = tempfile::Builder::new().prefix(&format!("{crate_name}-")).tempdir_in(&all)?;
        fs::write(made.path().join("link"), link.as_bytes())?;
        if let Some(donor) = before.filter(|donor| self.is_state(donor))
            && let Err(error) = share(&donor, made.path())
        {
            tracing::debug!(%error, "incremental state of the donor is not to be had");
        }
        let content = Content::Symlink(made.path().as_os_str().as_bytes().to_vec());
        hosted.mount().place(&[Placement { path: link, content, mode: 0o777, mtime: None }])?;
        hosted.sweep_alone(self.cache_dir());
        Ok(made.keep())
    }

    /// Is this the state of some mount of ours?
    fn is_state(&self, dir: &Path) -> bool {
        let mounts = self.cache_dir().join("mounts");
        let is_ours = dir.ancestors().nth(3) == Some(&mounts)
            && dir.parent().is_some_and(|d| d.ends_with("incremental"));
        is_ours && fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir())
    }

    fn check_scratch(&self, dir: &Path) -> Result<()> {
        if !dir.starts_with(home(self.cache_dir())) {
            bail!("{} is no scratch directory", dir.display());
        }
        Ok(())
    }

    /// Moves what a compiler has made into the mount.
    pub(super) fn collect(&self, from: &Path, to: &Path, names: &[OsString]) -> Result<()> {
        let (hosted, at) = self.inside(to).with_context(|| format!("{} is not mounted", to.display()))?;
        self.check_scratch(from)?;
        let placements: Vec<Placement> = names
            .iter()
            .map(|name| Placement {
                path: at.join(name.clone()),
                content: Content::Moved(from.join(name)),
                mode: 0,
                mtime: None,
            })
            .collect();
        // What the compiler still has under another name is shown early, and loses that link when it ends. The kernel must
        // not look before: nobody tells it of links that go elsewhere.
        let is_alone =
            |name: &&OsString| fs::symlink_metadata(from.join(name)).is_ok_and(|meta| meta.nlink() == 1);
        let settled: Vec<RelPath> = names.iter().filter(is_alone).map(|name| at.join(name.clone())).collect();
        hosted.mount().place(&placements)?;
        hosted.tell_watchers(settled.iter());
        hosted.sealed.store(false, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }
}

/// Where a compile finds crates, in the order of its command line.
fn directories(compile: &Compile) -> Vec<&Path> {
    let searched = compile.search.iter().filter(|(kind, _)| kind == "dependency");
    let direct = compile.externs.iter().filter_map(|file| file.parent());
    let mut all: Vec<&Path> = Vec::new();
    for dir in searched.map(|(_, dir)| dir.as_path()).chain(direct) {
        if !all.contains(&dir) {
            all.push(dir);
        }
    }
    all
}

impl Hosted {
    /// Removes state to which no link leads any more.
    pub(super) fn sweep(&self, cache_dir: &Path) {
        let _alone = self.states.lock();
        self.sweep_alone(cache_dir);
    }

    fn sweep_alone(&self, cache_dir: &Path) {
        for dir in below(&states(cache_dir, &self.dir)) {
            let leads_here = link_to(&dir).is_some_and(|link| {
                self.mount().read_link(&link).is_ok_and(|target| target == dir.as_os_str().as_bytes())
            });
            if !leads_here {
                let _ = fs::remove_dir_all(dir);
            }
        }
    }
}

/// Removes what killed compilers have left.
pub fn clear_away(cache_dir: &Path) {
    for dir in below(&home(cache_dir)) {
        if let Ok(Some(_locked)) = Locked::take(&dir) {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// Puts the incremental state of a mount that has ended where cargo expects it.
pub fn bring_back(cache_dir: &Path, dir: &Path) {
    for state in below(&states(cache_dir, dir)) {
        let Some(link) = link_to(&state).map(|link| dir.join(link.as_path())) else { continue };
        if !fs::read_link(&link).is_ok_and(|target| target == state) {
            continue;
        }
        let _ = fs::remove_file(&link);
        for unit in below(&state) {
            if let (Some(name), Some(parent)) = (unit.file_name(), link.parent()) {
                // On another file system it is not worth its copy.
                let _ = fs::rename(&unit, parent.join(name));
            }
        }
    }
}

fn home(cache_dir: &Path) -> PathBuf {
    cache_dir.join("scratch")
}

fn states(cache_dir: &Path, dir: &Path) -> PathBuf {
    mounts::state_dir(cache_dir, dir).join("incremental")
}

fn link_to(state: &Path) -> Option<RelPath> {
    let bytes = fs::read(state.join("link")).ok()?;
    RelPath::new(Path::new(OsStr::from_bytes(&bytes))).ok()
}

/// Gives `to` what `from` has, by hard links. Lock files are made anew: a lock is on the file, not on its name.
fn share(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if source.as_os_str().as_bytes().ends_with(b"-working") {
                continue;
            }
            fs::create_dir(&target)?;
            share(&source, &target)?;
        } else if kind.is_file() && target.extension() == Some(OsStr::new("lock")) {
            fs::File::create(&target)?;
        } else if kind.is_file() && !target.exists() {
            fs::hard_link(&source, &target)?;
        }
    }
    Ok(())
}
