//! The cache as the daemon has it: the store, and in front of it the mounts it hosts.
//!
//! A path inside a mount is never asked of the kernel: that would be a question to ourselves. The mount's tree
//! answers, or its upper directory.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use blake3::Hash;
use kache_fs::{
    Content as FsContent, Keep, Kind, Leave, LinkPolicy, Mount, MountError, Options,
    Placement as FsPlacement, RelPath, SealError, Stat,
};
use kache_wrapper::cache::{
    self, Cache, Content, Entry, EntryKey, Event, FileId, Ingested, InvocationKey, LinkMode, Placement,
    Publication, Sharing,
};

use super::blobs::MountBlobs;
use super::forks::Occasion;
use super::mounts::Checkout;
use super::owner::Owner;
use super::protocol::{MountInfo, Response};
use super::socket;
use super::{adopt, cargo_locks, heal, link, mounts, scratch};
use crate::config::Config;
use crate::remote::Remotes;
use crate::snapshot::place::Place;
use crate::store::Store;
use crate::umask;

/// A file that nobody has written to for so long becomes a view in the background.
const QUIET: Duration = Duration::from_secs(5);
/// How long one round of background sealing may take.
const SEAL_BUDGET: Duration = Duration::from_millis(200);

/// A file that changes while it becomes a blob is tried so often again, after pauses that grow by this.
const SEAL_TRIES: u32 = 5;
const SEAL_PAUSE: Duration = Duration::from_millis(5);

/// Files that are named in a message.
const NAMED: usize = 5;

/// Numbers of mounts, far from those of devices.
static NEXT_ID: AtomicU64 = AtomicU64::new(1 << 48);

pub struct Engine {
    config: Config,
    pub(super) store: Arc<Store>,
    pub(super) remotes: Arc<Remotes>,
    mounts: RwLock<Vec<Arc<Hosted>>>,
    last_seal: Mutex<Instant>,
    resolved: Resolved,
}

pub(super) struct Hosted {
    pub(super) dir: PathBuf,
    /// Written only to unmount.
    mount: parking_lot::RwLock<Mount>,
    /// In place of a device number, for the inode numbers of this mount.
    id: u64,
    since: SystemTime,
    /// Nothing is left to seal until something changes.
    pub(super) sealed: AtomicBool,
    /// Which checkout it belongs to, once that is known.
    pub(super) place: Mutex<Option<Place>>,
    /// [`Mount::names`] at the time of the last snapshot.
    pub(super) taken: Mutex<Option<u64>>,
    /// Held while incremental state gets its link: state without one is removed.
    pub(super) states: parking_lot::Mutex<()>,
    /// Who uses it.
    pub(super) owner: Mutex<Option<Owner>>,
    /// Blobs that files were before, and may be needed by nobody any more.
    superseded: parking_lot::Mutex<Vec<[u8; 32]>>,
    /// Of the directory below.
    _locks: Vec<File>,
}

impl Engine {
    pub fn open(config: &Config) -> Result<Engine> {
        kache_fs::raise_file_limit();
        let store = Arc::new(config.open_store()?);
        store.keep_reserve();
        Ok(Engine {
            config: config.clone(),
            remotes: Arc::new(Remotes::new(Arc::clone(&store))),
            store,
            mounts: RwLock::new(Vec::new()),
            last_seal: Mutex::new(Instant::now()),
            resolved: Resolved::default(),
        })
    }

    /// Brings back the mounts that the last daemon had when it ended or died.
    pub fn recover(&self) {
        scratch::clear_away(&self.config.cache_dir);
        for aside in mounts::forgotten_aside(&self.config.cache_dir) {
            let forgotten =
                std::fs::remove_dir_all(&aside).map(|()| self.store.set_pins(&pin_owner(&aside), &[]));
            tracing::warn!(state = %aside.display(), ?forgotten, "a directory that was replaced is forgotten");
        }
        for dir in mounts::known(&self.config) {
            if mounts::is_elsewhere(&self.config.cache_dir, &dir) {
                tracing::info!(dir = %dir.display(), "mounted in another mount namespace; left alone");
                continue;
            }
            match mounts::checkout(&self.config.cache_dir, &dir) {
                Checkout::Here => {}
                Checkout::Elsewhere => {
                    tracing::warn!(dir = %dir.display(), "its disk is not here; what it shows is kept");
                    continue;
                }
                Checkout::Gone { forgotten: false } => {
                    tracing::warn!(dir = %dir.display(), "the directory is gone; what it shows is kept for a week");
                    continue;
                }
                Checkout::Gone { forgotten: true } => {
                    tracing::warn!(dir = %dir.display(), "the directory is gone; its mount is forgotten");
                    if let Err(error) = self.forget(&dir) {
                        tracing::warn!(dir = %dir.display(), "cannot forget a mount: {error:#}");
                    }
                    continue;
                }
            }
            self.meet_again(&dir);
            match self.mount(&dir) {
                Response::Mounted { files, .. } => {
                    tracing::info!(dir = %dir.display(), files, "mounted again")
                }
                other => tracing::warn!(dir = %dir.display(), ?other, "cannot mount again"),
            }
        }
    }

    fn forget(&self, dir: &Path) -> Result<()> {
        mounts::forget(&self.config.cache_dir, dir)?;
        Ok(self.store.set_pins(&pin_owner(dir), &[])?)
    }

    pub fn mount(&self, dir: &Path) -> Response {
        let answer = match self.try_mount(dir) {
            Ok(answer) => answer,
            Err(error) => Response::Failed(format!("{error:#}")),
        };
        // Before anybody looks whether it is fresh.
        self.drop_gone();
        answer
    }

    fn try_mount(&self, dir: &Path) -> Result<Response> {
        let mut all = self.mounts.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(hosted) = all.iter().find(|m| m.is_at(dir)).cloned() {
            if hosted.mount().is_serving() {
                return Ok(Response::Mounted { already: true, files: 0 });
            }
            all.retain(|m| !Arc::ptr_eq(m, &hosted));
        }
        // What lies in a mount of ours is not to be asked of the kernel.
        if let Some(outer) = all.iter().find(|m| dir.starts_with(&m.dir)) {
            bail!("it lies inside of another mount ({})", outer.dir.display());
        }
        if mounts::is_stale(dir) {
            kache_fs::unmount_lazily(dir).context("cannot unmount the dead mount there")?;
        }
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        self.check_apart(dir)?;
        let locks = cargo_locks::take(dir)?;
        let cache_dir = &self.config.cache_dir;
        if let Some(aside) = mounts::in_the_way(cache_dir, dir) {
            self.store.copy_pins(&pin_owner(dir), &pin_owner(&aside))?;
            mounts::set_aside(cache_dir, dir, &aside)?;
        }
        let (state, moved) = mounts::remember(cache_dir, dir)?;
        let mut options = Options::new(&state);
        // Root becomes others: tests that drop privileges, the user of a database. The kernel checks permissions.
        options.allow_other = nix::unistd::geteuid().is_root();
        let mount = match Mount::start(dir, &options, self.blobs()) {
            Ok(mount) => mount,
            Err(error) => {
                let _ = mounts::forget_if_unused(&self.config.cache_dir, dir);
                return Ok(explain(&error));
            }
        };
        if let Err(error) = adopt::links(&self.store, &mount, &pin_owner(dir)) {
            tracing::warn!(dir = %dir.display(), %error, "cannot tell blobs from other files there");
        }
        let files = mount.shown().len() as u64;
        let hosted = Arc::new(Hosted {
            dir: dir.to_owned(),
            mount: parking_lot::RwLock::new(mount),
            since: SystemTime::now(),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            sealed: false.into(),
            place: Mutex::default(),
            taken: Mutex::default(),
            states: parking_lot::Mutex::default(),
            owner: Mutex::default(),
            superseded: parking_lot::Mutex::default(),
            _locks: locks,
        });
        // Before the index takes in those that it does not know.
        self.check_shown(&hosted);
        self.pin(&hosted);
        if let Some(moved) = moved {
            self.store.set_pins(&pin_owner(&moved), &[])?;
        }
        all.push(hosted);
        Ok(Response::Mounted { already: false, files })
    }

    /// A daemon that has its own files in a mount of its own waits for itself.
    fn check_apart(&self, dir: &Path) -> Result<()> {
        let cache = &self.config.cache_dir;
        let socket = socket::path(cache);
        let ours = [Some(cache.as_path()), socket.as_deref()].into_iter().flatten();
        for own in ours.filter_map(|path| path.canonicalize().ok()) {
            if own.ancestors().any(|above| is_same_dir(above, dir)) {
                bail!(
                    "the cache ({}) lies inside of it; set KACHE_CACHE_DIR to another place",
                    own.display()
                );
            }
        }
        let inside = dir.ancestors().any(|above| is_same_dir(above, cache));
        if inside && link::of(dir).is_none() {
            bail!("it lies inside of the cache ({})", cache.display());
        }
        Ok(())
    }

    pub fn umount(&self, dir: &Path, discard: bool) -> Response {
        let Some(hosted) = self.find(dir) else {
            return Response::Failed(format!("{} is not mounted", dir.display()));
        };
        if !discard && let Err(error) = self.take(&hosted, Occasion::Passing) {
            tracing::debug!(dir = %dir.display(), %error, "no snapshot");
        }
        match self.end(&hosted, discard) {
            Ok(None) => Response::Done,
            Ok(Some(word)) => Response::DoneBut(word),
            Err(error) => Response::Failed(format!("{error:#}")),
        }
    }

    pub fn check(&self, dir: &Path) -> Response {
        let Some(hosted) = self.find(dir) else { return Response::NotMounted };
        match hosted.mount().disagreements() {
            Ok(paths) => Response::Disagreements(paths.iter().map(|p| p.as_path().to_owned()).collect()),
            Err(error) => Response::Failed(error.to_string()),
        }
    }

    pub fn clean(&self, dir: &Path) -> Response {
        let Some(hosted) = self.find(dir) else { return Response::NotMounted };
        match hosted.clear() {
            Ok(()) => {
                self.pin(&hosted);
                Response::Done
            }
            Err(error) => Response::Failed(error.to_string()),
        }
    }

    /// Unmounts for good: the directory is complete afterwards (or empty of views), the state is forgotten. Returns what a
    /// person should know.
    fn end(&self, hosted: &Arc<Hosted>, discard: bool) -> Result<Option<String>> {
        self.drop_gone();
        let keep = keep(&self.store);
        let leave = if discard { Leave::Only(&keep) } else { Leave::Files(LinkPolicy::WhereAllowed) };
        self.check_kept(&hosted.mount(), discard.then_some(&keep))?;
        let mut sound: Vec<[u8; 32]> = hosted.mount().shown().iter().map(|h| *h.as_bytes()).collect();
        sound.retain(|hash| !discard && self.store.looks_sound(hash));
        let done = hosted.mount.write().unmount(leave, false)?;
        scratch::bring_back(&self.config.cache_dir, &hosted.dir);
        if discard {
            mounts::forget_freshness(&hosted.dir);
        }
        adopt::note_new_links(&self.store, &hosted.dir, &sound);
        self.mounts.write().unwrap_or_else(PoisonError::into_inner).retain(|m| !Arc::ptr_eq(m, hosted));
        self.forget(&hosted.dir)?;
        if done.lost > 0 {
            bail!("it is unmounted, but {} files are gone: their blobs are missing or damaged", done.lost);
        }
        let stays =
            link::bring_home(&hosted.dir).context("it is unmounted, but its files stay in the cache")?;
        Ok(stays.map(|at| format!("its files stay in {}, for the project is on another disk", at.display())))
    }

    /// Fails when a file would be lost that is to stay.
    fn check_kept(&self, mount: &Mount, keep: Option<&Keep>) -> Result<()> {
        let mut names: BTreeMap<u64, (Hash, u64, Vec<RelPath>)> = BTreeMap::new();
        for file in mount.walk()? {
            if let Some(hash) = file.stat.blob {
                let known = names.entry(file.stat.ino);
                known.or_insert_with(|| (hash, file.stat.size, Vec::new())).2.push(file.path);
            }
        }
        let mut lost = Vec::new();
        for (hash, size, paths) in names.into_values() {
            if keep.is_none_or(|keep| keep(&hash, &paths)) && !self.store.can_show(hash.as_bytes(), size)? {
                lost.extend(paths);
            }
        }
        if lost.is_empty() {
            return Ok(());
        }
        let named: Vec<String> = lost.iter().take(NAMED).map(ToString::to_string).collect();
        let more = if lost.len() > NAMED { ", …" } else { "" };
        bail!(
            "{} files cannot be read any more, for their blobs are missing or damaged; \
             remove them first (their units are built again), then unmount: {}{more}",
            lost.len(),
            named.join(", "),
        )
    }

    /// Makes all mounts real directories. Those that cannot be stay mounted, and are named.
    pub fn end_all(&self) -> Result<()> {
        let mut failed = Vec::new();
        for hosted in self.all() {
            if let Err(error) = self.end(&hosted, false) {
                failed.push(format!("{}: {error:#}", hosted.dir.display()));
            }
        }
        if failed.is_empty() { Ok(()) } else { bail!("cannot unmount {}", failed.join("; ")) }
    }

    /// Ends. The next daemon finds the mounts as they are.
    pub fn shutdown(&self) {
        for hosted in self.all() {
            // What cargo knows of the compiler goes with the mount: then it asks, and whoever answers brings that back first.
            let is_known = |path: &RelPath| path.as_bytes() == b".rustc_info.json";
            if let Err(error) = hosted.mount().seal_quiet(Duration::ZERO, SEAL_BUDGET, &is_known) {
                tracing::warn!(dir = %hosted.dir.display(), %error, "cannot seal what cargo knows of the compiler");
            }
            self.pin(&hosted);
            if let Err(error) = hosted.mount.write().unmount(Leave::Journal, true) {
                tracing::warn!(dir = %hosted.dir.display(), %error, "cannot unmount in order");
            }
        }
        // The next daemon gets the journals only when nobody has them, and threads that wait for clients end late.
        self.mounts.write().unwrap_or_else(PoisonError::into_inner).clear();
        if let Err(error) = self.store.flush() {
            tracing::warn!(%error, "cannot write to the index");
        }
    }

    fn blobs(&self) -> Arc<dyn kache_fs::Blobs> {
        Arc::new(MountBlobs { store: Arc::clone(&self.store), remotes: Some(Arc::clone(&self.remotes)) })
    }

    pub fn mounts(&self) -> Vec<MountInfo> {
        self.all().iter().map(|m| m.info(&self.store)).collect()
    }

    pub fn count_mounts(&self) -> usize {
        self.all().len()
    }

    pub fn is_idle(&self) -> bool {
        self.all().is_empty() && self.remotes.is_idle()
    }

    /// Background work, about twice a second.
    pub fn tick(&self) {
        self.drop_gone();
        self.upload_waiting();
        self.relink_gone();
        for hosted in self.all() {
            self.seal_quiet(&hosted);
            self.drop_superseded(&hosted);
        }
        if let Err(error) = self.store.flush() {
            tracing::warn!(%error, "cannot write to the index");
        }
    }

    /// `cargo clean` removed the link to a mount: an empty mount takes its place.
    fn relink(&self, hosted: &Hosted, link: &Path) {
        let emptied = hosted.clear();
        let linked = std::os::unix::fs::symlink(&hosted.dir, link);
        tracing::info!(link = %link.display(), ?emptied, ?linked, "linked an emptied mount again");
    }

    /// When cargo asks its first question, before it touches the target directory.
    pub fn expect_cargo(&self) {
        self.drop_gone();
        self.relink_gone();
    }

    fn relink_gone(&self) {
        for hosted in self.all() {
            if let Some(link) = link::of(&hosted.dir).filter(|l| link::is_gone(l)) {
                self.relink(&hosted, &link);
            }
        }
    }

    fn seal_quiet(&self, hosted: &Hosted) {
        let idle = hosted.mount().idle();
        if idle < QUIET {
            hosted.sealed.store(false, Ordering::Relaxed);
            return;
        }
        if hosted.sealed.load(Ordering::Relaxed) {
            return;
        }
        if let Ok(mut last) = self.last_seal.lock() {
            if last.elapsed() < SEAL_BUDGET * 2 {
                return;
            }
            *last = Instant::now();
        }
        match hosted.mount().seal_quiet(QUIET, SEAL_BUDGET, &|path| is_worth_sealing(path)) {
            Ok(done) => {
                hosted.sealed.store(done.complete, Ordering::Relaxed);
                if done.complete {
                    hosted.sweep(&self.config.cache_dir);
                    scratch::clear_away(&self.config.cache_dir);
                }
                if done.files > 0 {
                    self.pin(hosted);
                }
            }
            Err(error) => {
                tracing::warn!(dir = %hosted.dir.display(), %error, "cannot seal quiet files");
                hosted.sealed.store(true, Ordering::Relaxed);
            }
        }
    }

    /// What a file was before it was written again is of no use to anybody but a build.
    fn drop_superseded(&self, hosted: &Hosted) {
        let mut superseded = std::mem::take(&mut *hosted.superseded.lock());
        superseded.extend(hosted.mount().take_superseded().iter().map(|h| *h.as_bytes()));
        superseded.retain(|hash| !self.store.is_output(hash).unwrap_or(true));
        if superseded.is_empty() {
            return;
        }
        self.pin(hosted);
        match self.store.remove_superseded(&superseded) {
            Ok(true) => {}
            // Somebody works with the store: next time.
            Ok(false) => hosted.superseded.lock().extend(superseded),
            Err(error) => tracing::warn!(%error, "cannot remove what files were before"),
        }
    }

    /// Tells gc what a mount shows.
    pub(super) fn pin(&self, hosted: &Hosted) {
        let shown: Vec<[u8; 32]> = hosted.mount().shown().iter().map(|h| *h.as_bytes()).collect();
        let pinned = self.store.set_pins(&pin_owner(&hosted.dir), &shown);
        if let Err(error) = pinned.and_then(|()| self.store.register_blobs(&shown)) {
            tracing::warn!(%error, "cannot pin what a mount shows");
        }
    }

    pub(super) fn cache_dir(&self) -> &Path {
        &self.config.cache_dir
    }

    pub(super) fn find(&self, dir: &Path) -> Option<Arc<Hosted>> {
        self.all().into_iter().find(|m| m.is_at(dir))
    }

    pub(super) fn all(&self) -> Vec<Arc<Hosted>> {
        self.mounts.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The mount that a path lies in, and the path there.
    pub(super) fn inside(&self, path: &Path) -> Option<(Arc<Hosted>, RelPath)> {
        let all = self.mounts.read().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return None;
        }
        let found = |path: &Path| {
            all.iter().find_map(|m| {
                let inner = path.strip_prefix(&m.dir).ok()?;
                Some((Arc::clone(m), RelPath::new(inner).ok()?))
            })
        };
        found(path).or_else(|| found(&self.resolved.get(path.parent()?)?.join(path.file_name()?)))
    }
}

/// Directories as the kernel knows them: `target` may be a symbolic link to a mount. Asked again every second, and the
/// links on the way each time: whoever removes one and makes a directory in its place means that directory.
#[derive(Default)]
struct Resolved(Mutex<HashMap<PathBuf, Resolution>>);

#[derive(Clone)]
struct Resolution {
    at: Instant,
    real: Option<PathBuf>,
    /// Symbolic links among the directories of the path, and where they lead.
    links: Vec<(PathBuf, PathBuf)>,
}

impl Resolved {
    const AGE: Duration = Duration::from_secs(1);

    fn get(&self, dir: &Path) -> Option<PathBuf> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known().get(dir).cloned();
        if let Some(found) = found.filter(Resolution::holds) {
            return found.real;
        }
        let resolution = Resolution::of(dir);
        let real = resolution.real.clone();
        let mut all = known();
        if all.len() > 1000 {
            all.clear();
        }
        all.insert(dir.to_owned(), resolution);
        real
    }
}

impl Resolution {
    fn of(dir: &Path) -> Resolution {
        let real = dir.canonicalize().ok();
        let links = match &real {
            // Nothing on the way is a link.
            Some(real) if real == dir => Vec::new(),
            _ => dir.ancestors().filter_map(|d| Some((d.to_owned(), std::fs::read_link(d).ok()?))).collect(),
        };
        Resolution { at: Instant::now(), real, links }
    }

    fn holds(&self) -> bool {
        self.at.elapsed() < Resolved::AGE
            && self.links.iter().all(|(link, to)| std::fs::read_link(link).is_ok_and(|now| now == *to))
    }
}

impl Hosted {
    /// Is this its directory, also after a directory around it was renamed?
    fn is_at(&self, dir: &Path) -> bool {
        self.dir == dir || (!dir.starts_with(&self.dir) && self.mount().dir_now() == dir)
    }

    fn info(&self, store: &Store) -> MountInfo {
        let mount = self.mount();
        let stats = mount.statistics().unwrap_or_default();
        let agreed = mount.negotiated();
        MountInfo {
            dir: mount.dir_now(),
            files: stats.files,
            views: stats.views,
            shown_bytes: stats.bytes_shown,
            own_bytes: stats.bytes_upper,
            since_ms: self.since.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64),
            alive: mount.is_serving(),
            protocol: agreed.map(|n| format!("{}.{}", n.protocol.0, n.protocol.1)).unwrap_or_default(),
            capabilities: agreed.map(|n| n.capabilities.clone()).unwrap_or_default(),
            missing: mount.shown().iter().filter(|h| is_lost(store, h.as_bytes())).count() as u64,
        }
    }

    /// Also for who has it already, while somebody waits to unmount.
    pub(super) fn mount(&self) -> parking_lot::RwLockReadGuard<'_, Mount> {
        self.mount.read_recursive()
    }

    /// Removes everything.
    pub(super) fn clear(&self) -> kache_fs::Result<()> {
        let mount = self.mount();
        for entry in mount.walk()? {
            if entry.path.components().count() == 1 {
                mount.remove(&entry.path)?;
            }
        }
        Ok(())
    }

    /// Makes the directories above a path, for a caller whose umask leaves them other modes than a mount gives by itself.
    fn make_parents(&self, path: &RelPath) -> cache::Result<()> {
        const USUAL: u32 = 0o755;
        if umask::dir_mode() == USUAL {
            return Ok(());
        }
        let Some(parent) = path.as_path().parent().filter(|p| !p.as_os_str().is_empty()) else {
            return Ok(());
        };
        let parent = RelPath::new(parent)?;
        if self.stat(&parent)?.is_some() {
            return Ok(());
        }
        self.make_parents(&parent)?;
        let made =
            FsPlacement { path: parent, content: FsContent::Directory, mode: umask::dir_mode(), mtime: None };
        Ok(self.mount().place(&[made])?)
    }

    /// Tells those who watch directories of the mount (inotify) that files were put there, which the kernel has not seen:
    /// they learn of a file that was open for writing and is closed, as after a compiler's own write. Nothing is written.
    pub(super) fn tell_watchers<'a>(&self, paths: impl Iterator<Item = &'a RelPath>) {
        use std::os::unix::fs::OpenOptionsExt;
        for path in paths {
            // While a program is open for writing nobody can start it.
            if path.as_path().extension().is_none() {
                continue;
            }
            let mut open = std::fs::OpenOptions::new();
            open.write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
            // One that runs, is read-only or gone again: then there is nothing to tell.
            let _ = open.open(self.dir.join(path.as_path()));
        }
    }

    /// `None` when there is no such path.
    fn stat(&self, path: &RelPath) -> cache::Result<Option<Stat>> {
        match self.mount().stat(path) {
            Ok(stat) => Ok(Some(stat)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl Cache for Engine {
    fn stat(&self, path: &Path) -> cache::Result<Option<FileId>> {
        match self.inside(path) {
            None => self.store.stat(path),
            Some((hosted, inner)) => match hosted.stat(&inner)? {
                Some(stat) if stat.kind == Kind::Symlink => self.store.stat(path),
                found => Ok(found.map(|s| file_id(&hosted, &s))),
            },
        }
    }

    fn is_link(&self, path: &Path) -> cache::Result<bool> {
        match self.inside(path) {
            None => self.store.is_link(path),
            Some((hosted, inner)) => Ok(hosted.stat(&inner)?.is_some_and(|s| s.kind == Kind::Symlink)),
        }
    }

    fn read(&self, path: &Path) -> cache::Result<Option<Vec<u8>>> {
        match self.inside(path) {
            None => self.store.read(path),
            Some((hosted, inner)) => match hosted.stat(&inner)? {
                None => Ok(None),
                Some(stat) if stat.kind == Kind::Symlink => self.store.read(path),
                Some(stat) => {
                    let mut bytes = Vec::with_capacity(stat.size as usize);
                    hosted.mount().open_file(&inner)?.read_to_end(&mut bytes)?;
                    Ok(Some(bytes))
                }
            },
        }
    }

    fn hash_file(&self, path: &Path) -> cache::Result<Option<[u8; 32]>> {
        match self.inside(path) {
            None => self.store.hash_file(path),
            Some((hosted, inner)) => match hosted.stat(&inner)? {
                None => Ok(None),
                Some(Stat { blob: Some(hash), size, .. }) => {
                    let hash = *hash.as_bytes();
                    if !self.store.can_show(&hash, size)? {
                        self.remotes.give_up(&hash);
                        return Err(damaged().into());
                    }
                    Ok(Some(hash))
                }
                Some(stat) if stat.kind == Kind::Symlink => self.store.hash_file(path),
                Some(_) => Ok(Some(self.store.hash_open(&hosted.mount().open_file(&inner)?)?)),
            },
        }
    }

    fn fact(&self, space: &'static str, key: &[u8; 32]) -> cache::Result<Option<Vec<u8>>> {
        self.store.fact(space, key)
    }

    fn set_fact(&self, space: &'static str, key: &[u8; 32], value: &[u8]) -> cache::Result<()> {
        self.store.set_fact(space, key, value)
    }

    fn flush(&self) -> cache::Result<()> {
        Ok(self.store.flush()?)
    }

    fn records(&self, invocation: &InvocationKey) -> cache::Result<Vec<Vec<u8>>> {
        self.store.records(invocation)
    }

    fn entry(&self, key: &EntryKey) -> cache::Result<Option<Entry>> {
        self.store.entry(key)
    }

    fn restore(&self, key: &EntryKey, files: &[Placement]) -> cache::Result<LinkMode> {
        let mut outside = Vec::new();
        let mut inside: Vec<(Arc<Hosted>, Vec<FsPlacement>)> = Vec::new();
        for file in files {
            let Some((hosted, inner)) = self.inside(&file.path) else {
                outside.push(file.clone());
                continue;
            };
            hosted.make_parents(&inner)?;
            let placement = self.placement(inner, &file.content)?;
            match inside.iter_mut().find(|(h, _)| Arc::ptr_eq(h, &hosted)) {
                Some((_, list)) => list.push(placement),
                None => inside.push((hosted, vec![placement])),
            }
        }
        let mut mode = LinkMode::View;
        for (hosted, list) in inside {
            let shown = list.iter().filter_map(|p| match &p.content {
                FsContent::View { hash, .. } => Some(*hash.as_bytes()),
                _ => None,
            });
            self.store.pin_soon(&pin_owner(&hosted.dir), shown)?;
            hosted.mount().place(&list)?;
            hosted.tell_watchers(list.iter().map(|p| &p.path));
            hosted.sealed.store(false, Ordering::Relaxed);
            self.store.used(&key.0);
        }
        if !outside.is_empty() {
            self.fetch(key, &outside)?;
            mode = mode.max(self.store.restore(key, &outside)?);
        }
        Ok(mode)
    }

    fn ingest(
        &self,
        path: &Path,
        executable: bool,
        sharing: Sharing,
        needles: &[&[u8]],
    ) -> cache::Result<Ingested> {
        let Some((hosted, inner)) = self.inside(path) else {
            return self.store.ingest(path, executable, sharing, needles);
        };
        let mut tries = 0;
        loop {
            let ticket = match hosted.mount().begin_seal(&inner) {
                Ok(ticket) => ticket,
                Err(SealError::AlreadyView) => return self.scan_view(&hosted, &inner, needles),
                Err(error) => return Err(error.into()),
            };
            let scanned = crate::store::scan_at(ticket.file(), needles)?;
            let (hash, size) = (scanned.hash, scanned.size);
            self.store.pin_soon(&pin_owner(&hosted.dir), [*hash.as_bytes()])?;
            match hosted.mount().commit_seal(ticket, hash, size, sharing == Sharing::Link) {
                // The kernel hands on what a process wrote a moment after that process has ended.
                Err(SealError::Changed | SealError::InUse) if tries < SEAL_TRIES => {
                    tries += 1;
                    std::thread::sleep(SEAL_PAUSE * tries);
                }
                Err(error) => return Err(error.into()),
                Ok(()) => {
                    self.store.register_blob(hash.as_bytes())?;
                    return Ok(Ingested { hash: *hash.as_bytes(), size, contains: scanned.contains });
                }
            }
        }
    }

    fn publish(&self, publication: &Publication) -> cache::Result<()> {
        self.store.publish(publication)
    }

    fn event(&self, event: &Event) {
        self.store.event(event);
    }

    fn locks_dir(&self) -> PathBuf {
        self.store.locks_dir()
    }
}

impl Engine {
    fn placement(&self, path: RelPath, content: &Content) -> cache::Result<FsPlacement> {
        Ok(match content {
            Content::Blob { hash, size, executable, sharing } => {
                let hash = Hash::from_bytes(*hash);
                // A view of nothing would be a build that fails later.
                if !self.store.can_show(hash.as_bytes(), *size)? {
                    return Err(damaged().into());
                }
                FsPlacement {
                    path,
                    content: FsContent::View { hash, size: *size, link_ok: *sharing == Sharing::Link },
                    mode: umask::file_mode(*executable),
                    mtime: None,
                }
            }
            Content::Bytes(bytes) => {
                let mode = umask::file_mode(false);
                FsPlacement { path, content: FsContent::Bytes(bytes.clone()), mode, mtime: None }
            }
        })
    }

    /// The compiler's output is a view already: somebody restored it meanwhile.
    fn scan_view(&self, hosted: &Hosted, inner: &RelPath, needles: &[&[u8]]) -> cache::Result<Ingested> {
        let scanned = crate::store::scan_at(&hosted.mount().open_file(inner)?, needles)?;
        Ok(Ingested { hash: *scanned.hash.as_bytes(), size: scanned.size, contains: scanned.contains })
    }
}

fn is_same_dir(a: &Path, b: &Path) -> bool {
    let id = |path: &Path| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    id(a).is_some() && id(a) == id(b)
}

fn damaged() -> &'static str {
    "a blob is missing or damaged"
}

/// Neither here nor to be fetched.
fn is_lost(store: &Store, hash: &[u8; 32]) -> bool {
    !store.is_on_disk(hash) && !store.fetchable(hash).is_ok_and(|f| f.is_some())
}

/// Identity of a file in a mount. Its inode numbers are the mount's own.
fn file_id(hosted: &Hosted, stat: &Stat) -> FileId {
    let nanos = |t: SystemTime| t.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64);
    FileId {
        dev: hosted.id,
        ino: stat.ino,
        size: stat.size,
        mtime_ns: nanos(stat.mtime),
        ctime_ns: nanos(stat.ctime),
        is_dir: stat.kind == Kind::Directory,
        executable: stat.mode & 0o111 != 0,
    }
}

pub(super) fn pin_owner(dir: &Path) -> String {
    format!("mount {}", dir.display())
}

/// Not: lock files, and what is small and changes with every build anyway is fine to seal too.
pub(super) fn is_worth_sealing(path: &RelPath) -> bool {
    let name = path.as_path().file_name().unwrap_or_default();
    !cargo_locks::NAMES.iter().any(|lock| name == *lock)
}

/// In words, what to do where mounting is impossible.
fn explain(error: &MountError) -> Response {
    let unavailable = matches!(
        error,
        MountError::NoDevice
            | MountError::DeviceRefused(_)
            | MountError::NoHelper
            | MountError::Refused { .. }
            | MountError::TooOld
    );
    if unavailable { Response::Unavailable(error.to_string()) } else { Response::Failed(error.to_string()) }
}

/// Views that no build brings back.
fn keep(store: &Arc<Store>) -> impl Fn(&Hash, &[RelPath]) -> bool + use<> {
    let store = Arc::clone(store);
    move |hash, names| !heal::is_product(names) || !store.is_output(hash.as_bytes()).unwrap_or(false)
}

/// Makes a directory complete (or, with `discard`, drops what builds bring back) from the journal that a dead daemon left.
pub fn dissolve(config: &Config, dir: &Path, state: &Path, discard: bool) -> Result<()> {
    let store = Arc::new(config.open_store()?);
    let keep = keep(&store);
    let leave = if discard { Leave::Only(&keep) } else { Leave::Files(LinkPolicy::WhereAllowed) };
    let done = kache_fs::dissolve_unmounted(dir, state, Arc::new(MountBlobs { store, remotes: None }), leave)
        .with_context(|| format!("cannot complete {}", dir.display()))?;
    if done.lost > 0 {
        tracing::error!(dir = %dir.display(), files = done.lost, "files are gone: their blobs are missing or damaged");
    }
    Ok(())
}
