//! Lookups that may end at another machine's result.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kache_wrapper::build::{self, Build};
use kache_wrapper::cache::{self, Cache, Content, EntryKey, Invocation, Placement, Settings};
use kache_wrapper::finish::{self, Finished, Left};
use kache_wrapper::lookup::{self, Lookup, Miss, Role};

use super::engine::Engine;
use crate::remote::{self, Promised, Session, Sharing};

impl Engine {
    /// Looks an action up here, and if it is not here, where its builder shares results. `remote` is the builder's, not
    /// the daemon's.
    pub fn lookup(
        &self,
        inv: &Invocation,
        role: Role,
        settings: &Settings,
        remote: Option<&Sharing>,
    ) -> cache::Result<Lookup> {
        let look = || lookup::lookup(self, inv, settings, role);
        let Some(session) = self.session(remote) else { return look() };
        let build = build::of(self, inv, role)?;
        // In a mount outputs will be views.
        let dir = build::out_dir(self, inv, role);
        let mount = dir.and_then(|dir| self.inside(&dir)).map(|(hosted, _)| hosted);
        let lazy = mount.is_some();
        if let (Some(hosted), Some(remote)) = (&mount, remote) {
            self.own_by_build(hosted, inv, &remote.remote);
        }
        if let Some(build) = &build {
            session.learn(build, lazy, remote.and_then(|r| r.planner.as_ref()));
        }
        let mut found = look()?;
        if let Lookup::Miss(miss) = &found
            && miss.is_shared()
            && session.find(self, inv, miss, lazy)
        {
            found = look()?;
        }
        match &found {
            Lookup::Miss(miss) if lazy => session.bring_soon(self.not_here(&miss.reads(self)?)?),
            Lookup::Hit(hit) => remote::used(&self.store, build.as_ref(), &hit.key),
            _ => {}
        }
        Ok(found)
    }

    /// Blobs of files that are shown and would have to be fetched.
    fn not_here(&self, files: &[PathBuf]) -> cache::Result<Vec<Promised>> {
        let mut wanted = Vec::new();
        for file in files {
            if let Some(hash) = self.hash_file(file)?
                && !self.store.is_on_disk(&hash)
                && let Some((size, executable)) = self.store.fetchable(&hash)?
            {
                wanted.push((hash, size, executable));
            }
        }
        Ok(wanted)
    }

    /// Stores what an action made, and shares it in the background.
    pub fn finish(
        &self,
        inv: &Invocation,
        role: Role,
        miss: &Miss,
        left: &Left,
        remote: Option<&Sharing>,
    ) -> cache::Result<Finished> {
        let finished = finish::finish(self, inv, miss, left)?;
        self.share(&finished, remote, &|| build::of(self, inv, role))?;
        Ok(finished)
    }

    fn share(
        &self,
        finished: &Finished,
        remote: Option<&Sharing>,
        build: &dyn Fn() -> cache::Result<Option<Build>>,
    ) -> cache::Result<()> {
        if let Finished::Stored(key, _) = finished
            && let Some(session) = self.session(remote)
        {
            remote::stored(&self.store, remote.map(|r| &r.remote), key);
            remote::used(&self.store, build()?.as_ref(), key);
            session.upload_soon();
        }
        Ok(())
    }

    /// `None` when nothing is shared, or cannot be.
    fn session(&self, remote: Option<&Sharing>) -> Option<Arc<Session>> {
        self.remotes.session_if_any(remote.map(|r| &r.remote))
    }

    /// Brings here what is to be restored outside of mounts, unless making it again is quicker.
    pub(super) fn fetch(&self, key: &EntryKey, files: &[Placement]) -> cache::Result<()> {
        let blobs = files.iter().filter_map(|f| match &f.content {
            Content::Blob { hash, .. } => Some(*hash),
            Content::Bytes(_) => None,
        });
        // What nobody promised is for the store to miss.
        let promised =
            blobs.filter(|h| !self.store.is_on_disk(h) && self.store.fetchable(h).is_ok_and(|f| f.is_some()));
        let promised: Vec<_> = promised.collect();
        if promised.is_empty() {
            return Ok(());
        }
        let took = self.store.entry(key)?.map_or(0, |entry| entry.took_ms);
        Ok(self.remotes.fetch(&promised, Some(Instant::now() + Duration::from_millis(took)))?)
    }

    /// Tries again what failed, and what came while the last worker was about to end.
    pub(super) fn upload_waiting(&self) {
        self.remotes.upload_soon();
    }
}
