//! Whose a mount is: in whose environment and with whose settings its files are shared.
//!
//! A daemon has no environment of its own that counts, and a mount outlives both builds and daemons. So the last one
//! who mounted, forked or built there is remembered: in memory with all that they said, on disk without what is secret.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use kache_remote::Settings;
use kache_wrapper::atomic;
use kache_wrapper::cache::Invocation;

use super::engine::{Engine, Hosted};
use super::mounts;
use crate::config::{Config, is_credential, is_public};

/// Builds say the same hundreds of times.
const FRESH: Duration = Duration::from_secs(5);

#[derive(Clone)]
pub(super) struct Owner {
    /// Without arguments.
    pub inv: Invocation,
    pub remote: Option<Settings>,
    since: Instant,
}

impl Engine {
    /// Remembers, also for the next daemon, who uses a mount.
    pub(super) fn own(&self, hosted: &Hosted, inv: &Invocation) {
        let remote = crate::backend::config(inv).remote;
        self.own_with(hosted, inv, remote);
    }

    /// The same for a build that has looked its settings up already.
    pub(super) fn own_by_build(&self, hosted: &Hosted, inv: &Invocation, remote: &Settings) {
        let known = hosted.owner.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !known.is_some_and(|o| o.since.elapsed() < FRESH && o.remote.as_ref() == Some(remote)) {
            let inv = Invocation { argv: Vec::new(), ..inv.clone() };
            self.own_with(hosted, &inv, Some(remote.clone()));
        }
    }

    fn own_with(&self, hosted: &Hosted, inv: &Invocation, remote: Option<Settings>) {
        if let Some(settings) = &remote {
            self.meet(settings);
        }
        if let Err(error) = save(self.cache_dir(), &hosted.dir, inv) {
            tracing::warn!(dir = %hosted.dir.display(), %error, "cannot note whose mount it is");
        }
        let owner = Owner { inv: inv.clone(), remote, since: Instant::now() };
        *hosted.owner.lock().unwrap_or_else(PoisonError::into_inner) = Some(owner);
    }

    /// A remote that views may come from.
    pub(super) fn meet(&self, settings: &Settings) {
        self.remotes.session_if_any(Some(settings));
    }

    /// The remote of whoever used a mount when the last daemon lived, as far as files and the environment say without
    /// secrets. Those who have theirs in the environment bring them with their next question.
    pub(super) fn meet_again(&self, dir: &Path) {
        let Some((cwd, vars)) = load(self.cache_dir(), dir) else { return };
        let env = |name: &str| vars.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        match Config::load(&env, &cwd).map(|config| config.remote) {
            Ok(Some(settings)) => self.meet(&settings),
            Ok(None) => {}
            Err(error) => tracing::warn!(dir = %dir.display(), "{error:#}"),
        }
    }
}

impl Hosted {
    pub(super) fn owner(&self) -> Option<Owner> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

type Saved = (PathBuf, Vec<(OsString, OsString)>);

fn file(cache_dir: &Path, dir: &Path) -> PathBuf {
    mounts::state_dir(cache_dir, dir).join("owner")
}

/// A remote whose secrets are in the environment is not noted: the next daemon could do nothing with it.
fn save(cache_dir: &Path, dir: &Path, inv: &Invocation) -> std::io::Result<()> {
    let file = file(cache_dir, dir);
    if inv.env.iter().any(|(name, value)| is_credential(name) && !value.is_empty()) {
        return match std::fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    let told = inv.env.iter().filter(|(name, value)| is_public(name, value)).cloned().collect();
    let saved: Saved = (inv.cwd.clone(), told);
    let bytes = postcard::to_stdvec(&saved).map_err(std::io::Error::other)?;
    if std::fs::read(&file).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    atomic::write(&file, &bytes)
}

fn load(cache_dir: &Path, dir: &Path) -> Option<Saved> {
    postcard::from_bytes(&std::fs::read(file(cache_dir, dir)).ok()?).ok()
}
