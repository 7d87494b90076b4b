//! What is known of mounts on disk: one state directory each, which outlives the daemon.
//!
//! `{cache_dir}/mounts/<id>/dir` holds the mounted path; the journal of the mount's tree lies beside it (kache-fs).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use kache_fs::MountState;
use kache_wrapper::atomic;

use super::view;
use crate::config::Config;
use crate::store::sys;

/// Where a mount of `dir` keeps its state.
pub fn state_dir(cache_dir: &Path, dir: &Path) -> PathBuf {
    let id = blake3::hash(dir.as_os_str().as_bytes()).to_hex();
    cache_dir.join("mounts").join(&id[..16])
}

/// Remembers that `dir`, which is not mounted yet, is to be. A state that this very directory has left elsewhere becomes its
/// own; returned with it is what that was called.
pub fn remember(cache_dir: &Path, dir: &Path) -> io::Result<(PathBuf, Option<PathBuf>)> {
    let state = state_dir(cache_dir, dir);
    let identity = identity(dir);
    let mut moved = None;
    if !state.join("dir").exists()
        && let Some(old) = identity.as_ref().and_then(|identity| left_by(cache_dir, &state, identity))
    {
        let before = if is_aside(cache_dir, &old) { Some(old.clone()) } else { dir_of(&old) };
        tracing::warn!(dir = %dir.display(), ?before, "a moved checkout");
        std::fs::rename(&old, &state)?;
        moved = before;
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&state)?;
    if let Some(identity) = identity {
        atomic::write(&state.join(IDENTITY), identity.to_string().as_bytes())?;
    }
    let _ = std::fs::remove_file(state.join(GONE));
    atomic::write(&state.join(SEEN_FROM), here().as_bytes())?;
    atomic::write(&state.join("dir"), dir.as_os_str().as_bytes())?;
    Ok((state, moved))
}

/// A state of this path that another directory has left: its name when it is set aside.
pub fn in_the_way(cache_dir: &Path, dir: &Path) -> Option<PathBuf> {
    let state = state_dir(cache_dir, dir);
    let known = known_identity(&state)?;
    let name = format!("{}-{known}", state.file_name()?.to_string_lossy()).replace(' ', "-");
    (identity(dir)? != known).then(|| state.with_file_name(name))
}

/// Makes room for another directory of the same path.
pub fn set_aside(cache_dir: &Path, dir: &Path, aside: &Path) -> io::Result<()> {
    tracing::warn!(dir = %dir.display(), "another directory was mounted there; what it shows is kept for a week");
    std::fs::rename(state_dir(cache_dir, dir), aside)?;
    atomic::write(&aside.join(GONE), b"")
}

/// States of directories in whose places are others, and for so long that nobody asks for them.
pub fn forgotten_aside(cache_dir: &Path) -> Vec<PathBuf> {
    let mut all = below(&cache_dir.join("mounts"));
    all.retain(|state| is_aside(cache_dir, state) && is_over(state));
    all
}

fn is_aside(cache_dir: &Path, state: &Path) -> bool {
    dir_of(state).is_some_and(|dir| state_dir(cache_dir, &dir) != state)
}

fn dir_of(state: &Path) -> Option<PathBuf> {
    std::fs::read(state.join("dir")).ok().map(|bytes| PathBuf::from(OsString::from_vec(bytes)))
}

/// In a state directory: which directory it belongs to, wherever it is.
const IDENTITY: &str = "identity";
/// In a state directory: since when its checkout is known to be gone.
const GONE: &str = "gone";
/// A checkout that is gone may come back for so long.
const GRACE: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Debug, PartialEq, Eq)]
struct Identity {
    /// Of the file system.
    fsid: u64,
    ino: u64,
    /// Nanoseconds since the Unix epoch at its birth, 0 where file systems do not say: numbers are used again.
    born: u64,
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x} {:x} {:x}", self.fsid, self.ino, self.born)
    }
}

/// Of a directory that is not mounted.
fn identity(dir: &Path) -> Option<Identity> {
    let meta = std::fs::metadata(dir).ok()?;
    let born = meta.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    Some(Identity { fsid: fsid(dir)?, ino: meta.ino(), born: born.map_or(0, |d| d.as_nanos() as u64) })
}

#[allow(clippy::useless_conversion)] // The type differs between systems.
fn fsid(dir: &Path) -> Option<u64> {
    nix::sys::statvfs::statvfs(dir).ok().map(|fs| u64::from(fs.filesystem_id()))
}

fn known_identity(state: &Path) -> Option<Identity> {
    let text = std::fs::read_to_string(state.join(IDENTITY)).ok()?;
    let mut numbers = text.split(' ').map(|hex| u64::from_str_radix(hex, 16).ok());
    Some(Identity { fsid: numbers.next()??, ino: numbers.next()??, born: numbers.next()?? })
}

/// The state of this very directory under another path, where it is not any more.
fn left_by(cache_dir: &Path, state: &Path, identity: &Identity) -> Option<PathBuf> {
    below(&cache_dir.join("mounts")).into_iter().find(|other| {
        let is_there = || dir_of(other).is_some_and(|dir| self::identity(&dir).as_ref() == Some(identity));
        other != state && known_identity(other).as_ref() == Some(identity) && !is_there()
    })
}

/// What has become of the checkout around a mounted directory.
#[derive(Debug, PartialEq, Eq)]
pub enum Checkout {
    Here,
    /// Its file system is here, without it. `forgotten`: for so long, or with so little to lose, that nobody asks for it.
    Gone {
        forgotten: bool,
    },
    /// Its file system is not here.
    Elsewhere,
}

pub fn checkout(cache_dir: &Path, dir: &Path) -> Checkout {
    let state = state_dir(cache_dir, dir);
    let known = known_identity(&state);
    // Below a dead mount is what was mounted.
    if is_stale(dir) || (known.is_none() || known == identity(dir)) && dir.parent().is_some_and(Path::is_dir)
    {
        return Checkout::Here;
    }
    let above = dir.ancestors().find(|d| d.is_dir()).and_then(fsid);
    if known.is_none_or(|known| above != Some(known.fsid)) {
        return Checkout::Elsewhere;
    }
    if !state.join(GONE).exists()
        && let Err(error) = atomic::write(&state.join(GONE), b"")
    {
        tracing::warn!(%error, "cannot note since when a checkout is gone");
    }
    Checkout::Gone { forgotten: is_over(&state) || !kache_fs::has_journal(&state) }
}

fn is_over(state: &Path) -> bool {
    let since = std::fs::metadata(state.join(GONE)).and_then(|m| m.modified()).ok();
    since.and_then(|at| at.elapsed().ok()).is_some_and(|age| age > GRACE)
}

/// In a state directory: from which mount namespace, in which run of the machine.
const SEEN_FROM: &str = "seen-from";

fn here() -> String {
    format!("{:x} {:x}", sys::boot_id(), view::namespace().unwrap_or(0))
}

/// Was `dir` mounted in another mount namespace, as of another container? Then what is at that path here is something
/// else, and whether it exists says nothing. After a new start of the machine there are only new namespaces, and it is
/// taken for ours.
pub fn is_elsewhere(cache_dir: &Path, dir: &Path) -> bool {
    let Ok(then) = std::fs::read_to_string(state_dir(cache_dir, dir).join(SEEN_FROM)) else { return false };
    let here = here();
    then != here && then.split(' ').next() == here.split(' ').next()
}

/// Forgets a mount whose directory is complete without it.
pub fn forget(cache_dir: &Path, dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(state_dir(cache_dir, dir)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Directories with state: mounted now, or to be mounted again.
pub fn known(config: &Config) -> Vec<PathBuf> {
    known_in(&config.cache_dir)
}

fn known_in(cache_dir: &Path) -> Vec<PathBuf> {
    let states = below(&cache_dir.join("mounts"));
    let mut dirs: Vec<PathBuf> =
        states.iter().filter(|s| !is_aside(cache_dir, s)).filter_map(|s| dir_of(s)).collect();
    dirs.sort();
    dirs
}

/// Forgets a mount that did not come about, unless an earlier one left something there.
pub fn forget_if_unused(cache_dir: &Path, dir: &Path) -> io::Result<()> {
    if kache_fs::has_journal(&state_dir(cache_dir, dir)) { Ok(()) } else { forget(cache_dir, dir) }
}

/// Is there a mount whose daemon is dead?
pub fn is_stale(dir: &Path) -> bool {
    matches!(kache_fs::mount_state(dir, Duration::from_secs(2)), MountState::Stale)
}

/// Directories in a directory; none if it is not there.
pub(super) fn below(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

/// Makes cargo ask for everything in a directory from which views were dropped: what it remembers of them (in
/// `<profile>/.fingerprint` or `<target>/<profile>/.fingerprint`) is no longer true.
pub fn forget_freshness(dir: &Path) {
    for profile in below(dir).into_iter().flat_map(|d| below(&d).into_iter().chain([d])) {
        let _ = std::fs::remove_dir_all(profile.join(".fingerprint"));
    }
}

/// Unmounts what a dead daemon has left at `dir` and makes the directory complete. False when there is nothing.
pub fn recover_without_daemon(config: &Config, dir: &Path, discard: bool) -> Result<bool> {
    let stale = is_stale(dir);
    if stale {
        kache_fs::unmount_lazily(dir)
            .with_context(|| format!("cannot unmount the dead mount at {}", dir.display()))?;
    }
    let state = state_dir(&config.cache_dir, dir);
    if !state.join("dir").exists() || in_the_way(&config.cache_dir, dir).is_some() {
        return Ok(stale);
    }
    super::engine::dissolve(config, dir, &state, discard)?;
    super::scratch::bring_back(&config.cache_dir, dir);
    if discard {
        forget_freshness(dir);
    }
    forget(&config.cache_dir, dir)?;
    Ok(true)
}
