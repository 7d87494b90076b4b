//! Lookups that may end at another machine's result.

use std::path::PathBuf;
use std::sync::Arc;

use kache_wrapper::build;
use kache_wrapper::cache::{self, Cache, Content, Invocation, Placement, Settings};
use kache_wrapper::compile::Ran;
use kache_wrapper::finish::{self, Finished};
use kache_wrapper::lookup::{self, Lookup};

use super::engine::{Engine, Hosted};
use crate::remote::{self, Promised, Session, Sharing};

impl Engine {
    /// Looks an invocation up here, and if it is not here, where its builder shares results. `remote` is the
    /// builder's, not the daemon's.
    pub fn lookup(
        &self,
        inv: &Invocation,
        settings: &Settings,
        remote: Option<&Sharing>,
    ) -> cache::Result<Lookup> {
        let Some(session) = self.session(remote) else { return lookup::lookup(self, inv, settings) };
        let build = build::of(self, inv)?;
        let mount = self.mount_of_build(inv);
        let lazy = mount.is_some();
        if let (Some(hosted), Some(remote)) = (&mount, remote) {
            self.own_by_build(hosted, inv, &remote.remote);
        }
        if let Some(build) = &build {
            let planner = remote.and_then(|r| r.planner.as_ref());
            session.learn(build, lazy, planner);
        }
        let mut found = lookup::lookup(self, inv, settings)?;
        if let Lookup::Miss(plan) = &found
            && plan.store == lookup::Store::Yes
            && session.find(self, inv, plan, lazy)
        {
            found = lookup::lookup(self, inv, settings)?;
        }
        if let Lookup::Miss(plan) = &found
            && lazy
        {
            session.bring_soon(self.not_here(&plan.reads(self)?)?);
        }
        if let Lookup::Hit(hit) = &found {
            remote::used(&self.store, build.as_ref(), &hit.key);
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

    /// The mount that outputs will be views in.
    fn mount_of_build(&self, inv: &Invocation) -> Option<Arc<Hosted>> {
        let mut args = inv.argv.iter();
        let dir = args.find(|a| *a == "--out-dir").and_then(|_| args.next())?;
        Some(self.inside(&inv.cwd.join(dir))?.0)
    }

    /// Stores what a compile made, and shares it in the background.
    pub fn finish(
        &self,
        inv: &Invocation,
        plan: &lookup::Plan,
        ran: &Ran,
        remote: Option<&Sharing>,
    ) -> cache::Result<Finished> {
        let finished = finish::finish(self, inv, plan, ran)?;
        if let Finished::Stored(key, _) = &finished
            && let Some(session) = self.session(remote)
        {
            remote::stored(&self.store, remote.map(|r| &r.remote), key);
            remote::used(&self.store, build::of(self, inv)?.as_ref(), key);
            session.upload_soon();
        }
        Ok(finished)
    }

    /// `None` when nothing is shared, or cannot be.
    fn session(&self, remote: Option<&Sharing>) -> Option<Arc<Session>> {
        match self.remotes.session(&remote?.remote) {
            Ok(session) => Some(session),
            Err(error) => {
                tracing::warn!("the remote cannot be used: {error:#}");
                None
            }
        }
    }

    /// Brings here what is to be restored outside of mounts.
    pub(super) fn fetch(&self, files: &[Placement]) -> kache_remote::Result<()> {
        let blobs = files.iter().filter_map(|f| match &f.content {
            Content::Blob { hash, .. } => Some(*hash),
            Content::Bytes(_) => None,
        });
        // What nobody promised is for the store to miss.
        let promised =
            blobs.filter(|h| !self.store.is_on_disk(h) && self.store.fetchable(h).is_ok_and(|f| f.is_some()));
        self.remotes.fetch(&promised.collect::<Vec<_>>())
    }

    /// Tries again what failed, and what came while the last worker was about to end.
    pub(super) fn upload_waiting(&self) {
        self.remotes.upload_soon();
    }

    /// Takes views away whose blobs were promised by a remote that does not have them: cargo finds the unit stale, and
    /// it is compiled.
    pub(super) fn drop_gone(&self) {
        let gone = self.remotes.take_gone();
        if gone.is_empty() {
            return;
        }
        for hosted in self.all() {
            let mount = hosted.mount();
            let Ok(files) = mount.walk() else { continue };
            for file in files.iter().filter(|f| f.stat.blob.is_some_and(|h| gone.contains(h.as_bytes()))) {
                let removed = mount.remove(&file.path);
                tracing::warn!(path = ?file.path, dir = %hosted.dir.display(), ?removed, "its blob is gone");
            }
        }
    }
}
