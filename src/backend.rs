//! Who answers the wrapper: the daemon when it is there and well, else this process on the store. Same code, same
//! answers.

use std::cell::{OnceCell, RefCell};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use kache_wrapper::build::{self, Build};
use kache_wrapper::cache::{self, Cache, EntryKey, Event, Invocation, Settings};
use kache_wrapper::finish::{self, Finished, Left};
use kache_wrapper::lookup::{self, Hit, Lookup, Miss, Plan, Role};

use crate::config::{self, Config};
use crate::daemon::client::{Client, SIGN_OF_LIFE};
use crate::daemon::protocol::{Body, Response};
use crate::daemon::start;
use crate::store::Store;

/// A daemon that is alive may hash a lot before it answers, but a build does not wait for ever.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(5);
/// … and some more when the daemon may have to download. It keeps the time itself; see [`kache_remote::gate`].
const REMOTE_PATIENCE: Duration = Duration::from_secs(120);
const FINISH_PATIENCE: Duration = Duration::from_secs(60);

pub struct Backend {
    config: Config,
    daemon: RefCell<Option<Client>>,
    store: OnceCell<Store>,
}

impl Backend {
    pub fn open(config: Config) -> Result<Backend> {
        let daemon = Client::connect_within(&config.cache_dir, SIGN_OF_LIFE);
        let backend = Backend { config, daemon: RefCell::new(daemon), store: OnceCell::new() };
        if backend.daemon.borrow().is_none() {
            // Without a daemon everything is needed here and now; better to know at once that it is not to be had.
            backend.store()?;
            if !backend.config.daemon_idle_timeout.is_zero() {
                start::spawn_if_absent(&backend.config);
            }
        }
        Ok(backend)
    }

    /// `spent`: how long this process has lived.
    pub fn lookup(&self, inv: &Invocation, role: Role, spent: Duration) -> cache::Result<Lookup> {
        let settings = match role {
            Role::Compiler => self.config.settings_for(inv.var("CARGO_MANIFEST_DIR")),
            Role::BuildScript => self.settings().clone(),
        };
        let spent_us = spent.as_micros() as u64;
        let shared = self.config.remote.is_some();
        let request =
            || Body::Lookup { inv: inv.clone(), role, settings: settings.clone(), spent_us, shared };
        match self.ask(request, if shared { REMOTE_PATIENCE } else { LOOKUP_PATIENCE }) {
            Some(Response::Lookup(found)) => Ok(found),
            Some(Response::Failed(why)) => Err(why.into()),
            _ => {
                let store = self.store()?;
                let found = lookup::lookup(store, inv, &settings, role)?;
                if let Lookup::Hit(hit) = &found {
                    self.used(store, &|| build::of(store, inv, role), &hit.key);
                }
                Ok(found)
            }
        }
    }

    /// What a build used ends up in its manifest, where results are shared.
    fn used(&self, store: &Store, build: &dyn Fn() -> cache::Result<Option<Build>>, key: &EntryKey) {
        if self.config.remote.is_some() {
            crate::remote::used(store, build().ok().flatten().as_ref(), key);
        }
    }

    /// To be uploaded later: `kache sync`, or the next daemon.
    fn stored(&self, store: &Store, build: &dyn Fn() -> cache::Result<Option<Build>>, finished: &Finished) {
        if let Finished::Stored(key, _) = finished {
            crate::remote::stored(store, self.config.remote.as_ref(), key);
            self.used(store, build, key);
        }
    }

    /// An output is there while the compiler still runs.
    pub fn announced(&self, plan: &Plan, path: &Path) -> cache::Result<()> {
        let request = || Body::Announced { plan: Box::new(plan.clone()), path: path.to_owned() };
        match self.ask(request, LOOKUP_PATIENCE) {
            Some(Response::Done) => Ok(()),
            Some(Response::Failed(why)) => Err(why.into()),
            _ => {
                let store = self.store()?;
                finish::announced(store, plan, path)?;
                Ok(store.flush()?)
            }
        }
    }

    /// Puts the crates that the compiler will read into its scratch directory. Returns the directories they are from.
    pub fn gather(&self, plan: &Plan) -> cache::Result<Vec<PathBuf>> {
        match self.ask(|| Body::Gather(Box::new(plan.clone())), LOOKUP_PATIENCE) {
            Some(Response::Gathered(dirs)) => Ok(dirs),
            Some(Response::Failed(why)) => Err(why.into()),
            _ => Err("the daemon is gone".into()),
        }
    }

    /// Files that the compiler made elsewhere move to where cargo expects them.
    pub fn collect(&self, from: &Path, to: &Path, names: &[OsString]) -> cache::Result<()> {
        let request = || Body::Collect { from: from.to_owned(), to: to.to_owned(), names: names.to_vec() };
        match self.ask(request, FINISH_PATIENCE) {
            Some(Response::Done) => Ok(()),
            Some(Response::Failed(why)) => Err(why.into()),
            _ => Err("the daemon is gone".into()),
        }
    }

    pub fn finish(&self, inv: &Invocation, role: Role, miss: &Miss, left: Left) -> cache::Result<Finished> {
        let request = || Body::Finish {
            inv: inv.clone(),
            role,
            miss: Box::new(miss.clone()),
            left: Box::new(left.clone()),
            shared: self.config.remote.is_some(),
        };
        match self.ask(request, FINISH_PATIENCE) {
            Some(Response::Finished(finished)) => Ok(finished),
            Some(Response::Failed(why)) => Err(why.into()),
            _ => {
                let store = self.store()?;
                let finished = finish::finish(store, inv, miss, &left)?;
                self.stored(store, &|| build::of(store, inv, role), &finished);
                Ok(finished)
            }
        }
    }

    /// A directory for what is gone when this process ends.
    pub fn scratch_dir(&self) -> PathBuf {
        self.config.cache_dir.join("scratch")
    }

    /// Where what observing needs is kept.
    pub fn trace_dir(&self) -> PathBuf {
        self.config.trace_dir()
    }

    pub fn settings(&self) -> &Settings {
        &self.config.settings
    }

    /// Was something published for this invocation since the plan was made?
    pub fn has_news(&self, miss: &Miss) -> bool {
        match self.ask(|| Body::HasNews(miss.news()), LOOKUP_PATIENCE) {
            Some(Response::News(news)) => news,
            _ => self.store().is_ok_and(|store| miss.news().is_any(store).unwrap_or(false)),
        }
    }

    /// A daemon that answered has noted its hit itself.
    pub fn note_hit(&self, hit: &Hit, inv: &Invocation, wall: Duration) {
        if self.daemon.borrow().is_none()
            && let Ok(store) = self.store()
        {
            store.event(&hit.event(inv, wall));
        }
        self.flush();
    }

    pub fn event(&self, event: Event) {
        if let Some(client) = self.daemon.borrow_mut().as_mut()
            && client.tell(Body::Event(event.clone())).is_ok()
        {
            return;
        }
        if let Ok(store) = self.store() {
            store.event(&event);
        }
    }

    pub fn locks_dir(&self) -> PathBuf {
        Store::locks_dir_in(&self.config.cache_dir)
    }

    /// Another wrapper for what kache passes through.
    pub fn fallback(&self) -> Option<&OsStr> {
        self.config.fallback.as_deref().map(OsStr::new)
    }

    /// Ends what this process has to write.
    pub fn close(&self) {
        // Whoever looks at the statistics after a build finds all of it there.
        if let Some(client) = self.daemon.borrow_mut().take() {
            client.close();
        }
        self.flush();
    }

    fn flush(&self) {
        if let Some(store) = self.store.get()
            && let Err(error) = store.flush()
        {
            tracing::warn!(%error, "cannot write to the index");
        }
    }

    /// For a person who looks into kache's log.
    pub fn warn(&self, message: &str) {
        crate::log::warn(&self.config.cache_dir, message);
    }

    /// `None` when there is no daemon, or it does not answer in time: then it is left alone by this process.
    fn ask(&self, body: impl FnOnce() -> Body, patience: Duration) -> Option<Response> {
        let mut daemon = self.daemon.borrow_mut();
        let answer = daemon.as_mut()?.ask(body(), patience);
        match answer {
            Ok(Response::OtherVersion(_)) | Err(_) => {
                *daemon = None;
                None
            }
            Ok(answer) => Some(answer),
        }
    }

    fn store(&self) -> Result<&Store> {
        if let Some(store) = self.store.get() {
            return Ok(store);
        }
        let dir = &self.config.cache_dir;
        let store = self
            .config
            .open_store()
            .with_context(|| format!("cannot open the store in {}", dir.display()))?;
        Ok(self.store.get_or_init(|| store))
    }
}

/// Configuration as the caller of the compiler has it; bad values do not stop a build.
pub fn config(inv: &Invocation) -> Config {
    config_of(&|name: &str| inv.var(name).map(OsStr::to_owned), &inv.cwd)
}

pub fn config_of(env: config::Env, cwd: &Path) -> Config {
    Config::load(env, cwd).unwrap_or_else(|error| {
        let config = Config::default_for(env);
        crate::log::warn(&config.cache_dir, &format!("{error:#}; using defaults"));
        config
    })
}
