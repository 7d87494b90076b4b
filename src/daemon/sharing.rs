//! Lookups that may end at another machine's result.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kache_wrapper::build::{self, Build};
use kache_wrapper::cache::{self, Cache, Content, EntryKey, Invocation, Placement, Settings};
use kache_wrapper::compile::Ran;
use kache_wrapper::finish::{self, Finished};
use kache_wrapper::lookup::{self, Answer, Lookup};
use kache_wrapper::script::outputs::Found;
use kache_wrapper::script::{self, ScriptLookup, ScriptPlan};

use super::engine::Engine;
use crate::remote::{self, Promised, Session, Sharing};

impl Engine {
    /// Looks a compile up here, and if it is not here, where its builder shares results. `remote` is the builder's, not
    /// the daemon's.
    pub fn lookup(
        &self,
        inv: &Invocation,
        settings: &Settings,
        remote: Option<&Sharing>,
    ) -> cache::Result<Lookup> {
        let look = || lookup::lookup(self, inv, settings);
        let Some(session) = self.session(remote) else { return look() };
        let mut args = inv.argv.iter();
        let dir = args.find(|a| *a == "--out-dir").and_then(|_| args.next());
        self.find_anywhere(inv, &session, remote, build::of(self, inv)?, dir, &look)
    }

    /// The same for a run of a build script.
    pub fn script_lookup(
        &self,
        inv: &Invocation,
        settings: &Settings,
        remote: Option<&Sharing>,
    ) -> cache::Result<ScriptLookup> {
        let look = || script::lookup(self, inv, settings);
        let Some(session) = self.session(remote) else { return look() };
        let dir = inv.env.iter().find(|(name, _)| name == "OUT_DIR").map(|(_, dir)| dir);
        self.find_anywhere(inv, &session, remote, script::build(self, inv)?, dir, &look)
    }

    /// `dir` is where outputs will go.
    fn find_anywhere<T: Answer>(
        &self,
        inv: &Invocation,
        session: &Arc<Session>,
        remote: Option<&Sharing>,
        build: Option<Build>,
        dir: Option<&OsString>,
        look: &dyn Fn() -> cache::Result<T>,
    ) -> cache::Result<T> {
        // In a mount they will be views.
        let mount = dir.and_then(|dir| self.inside(&inv.cwd.join(dir))).map(|(hosted, _)| hosted);
        let lazy = mount.is_some();
        if let (Some(hosted), Some(remote)) = (&mount, remote) {
            self.own_by_build(hosted, inv, &remote.remote);
        }
        if let Some(build) = &build {
            session.learn(build, lazy, remote.and_then(|r| r.planner.as_ref()));
        }
        let mut found = look()?;
        if found.wanted().is_some_and(|wanted| session.find(self, inv, wanted, lazy)) {
            found = look()?;
        }
        if lazy {
            session.bring_soon(self.not_here(&found.reads(self)?)?);
        }
        if let Some(hit) = found.hit() {
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

    /// Stores what a compile made, and shares it in the background.
    pub fn finish(
        &self,
        inv: &Invocation,
        plan: &lookup::Plan,
        ran: &Ran,
        remote: Option<&Sharing>,
    ) -> cache::Result<Finished> {
        let finished = finish::finish(self, inv, plan, ran)?;
        self.share(&finished, remote, &|| build::of(self, inv))?;
        Ok(finished)
    }

    /// The same for what a build script did. `left`: it ran over the remains of an earlier run.
    pub fn script_finish(
        &self,
        inv: &Invocation,
        plan: &ScriptPlan,
        ran: &Ran,
        found: &[Found],
        left: bool,
        remote: Option<&Sharing>,
    ) -> cache::Result<Finished> {
        let finished = script::finish(self, inv, plan, ran, found, left)?;
        self.share(&finished, remote, &|| script::build(self, inv))?;
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
