//! A mounted overlay, as the program holds it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use blake3::Hash;
use fuser::{BackgroundSession, Config, Session, SessionACL};
use rustix::fs::FlockOperation;

use crate::adapter::{Adapter, Negotiated, Notify};
use crate::blobs::Blobs;
use crate::error::Result;
use crate::journal;
use crate::kernel::{self, Manner, MountError, MountState};
use crate::overlay::{
    Keep, LinkPolicy, Materialized, Overlay, Placement, SealError, SealTicket, Sealed, Stat, Statistics,
    WalkEntry,
};
use crate::path::RelPath;
use crate::pool::Pool;

/// How to mount.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the journal lives: a directory for this mount alone, made if missing. Not inside of the target.
    pub state_dir: PathBuf,
    /// Threads that read requests. Slow requests get others.
    pub threads: usize,
    /// Let other users in (root only, or with `user_allow_other` in /etc/fuse.conf). Permissions are checked either way.
    pub allow_other: bool,
}

impl Options {
    /// The usual options.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        let cores = thread::available_parallelism().map_or(2, usize::from);
        Options { state_dir: state_dir.into(), threads: cores.clamp(2, 4), allow_other: false }
    }
}

/// What an unmount leaves behind.
#[derive(Clone, Copy)]
pub enum Leave<'a> {
    /// A complete real directory: every view becomes an ordinary file.
    Files(LinkPolicy),
    /// What the upper has, and of the views those that somebody wants to keep, as files.
    Only(&'a Keep),
    /// The upper and the journal: mounting again shows the same tree.
    Journal,
}

impl<'a> Leave<'a> {
    fn files(self) -> Option<(LinkPolicy, Option<&'a Keep>)> {
        match self {
            Leave::Files(policy) => Some((policy, None)),
            Leave::Only(keep) => Some((LinkPolicy::Never, Some(keep))),
            Leave::Journal => None,
        }
    }
}

/// A mounted overlay. Dropping it unmounts (lazily if it is in use) and leaves the journal.
pub struct Mount {
    dir: PathBuf,
    options: Options,
    blobs: Arc<dyn Blobs>,
    overlay: Arc<Overlay>,
    pool: Arc<Pool>,
    session: Option<BackgroundSession>,
    /// As the kernel numbers the mount.
    device: Option<String>,
    negotiated: Arc<OnceLock<Negotiated>>,
    _lock: File,
}

impl std::fmt::Debug for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mount").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// How long an answer of a mount that is there already may take.
const PATIENCE: Duration = Duration::from_secs(2);

impl Mount {
    /// Mounts an overlay over a directory, whose present content becomes its upper. When this returns, it serves.
    pub fn start(
        dir: &Path,
        options: &Options,
        blobs: Arc<dyn Blobs>,
    ) -> std::result::Result<Self, MountError> {
        let dir = kernel::absolute(dir)?;
        match kernel::mount_state(&dir, PATIENCE) {
            MountState::None => {}
            MountState::Stale => return Err(MountError::Stale(dir)),
            MountState::Live | MountState::Silent => return Err(MountError::AlreadyMounted(dir)),
        }
        if !fs::metadata(&dir)?.is_dir() {
            return Err(MountError::NotADirectory(dir));
        }
        let lock = lock_state(&options.state_dir)?;
        let overlay = Arc::new(Overlay::open(&dir, &options.state_dir, blobs.clone())?);
        let (pool, negotiated) = Default::default();
        let options = options.clone();
        let (session, device) = (None, None);
        let mut mount =
            Mount { dir, options, blobs, overlay, pool, session, device, negotiated, _lock: lock };
        mount.attach()?;
        Ok(mount)
    }

    fn attach(&mut self) -> std::result::Result<(), MountError> {
        let adapter = Adapter::new(self.overlay.clone(), self.pool.clone(), self.negotiated.clone());
        let connection =
            kernel::mount(&self.dir, &source(&self.options.state_dir), self.options.allow_other)?;
        let session = serve(adapter, connection, &self.options).map_err(|error| {
            let _ = kernel::unmount(&self.dir, Manner::Lazy);
            let too_old = rustix::io::Errno::PROTONOSUPPORT.raw_os_error();
            if error.raw_os_error() == Some(too_old) { MountError::TooOld } else { MountError::Io(error) }
        })?;
        self.overlay.set_kernel(Box::new(Notify(session.notifier())));
        self.session = Some(session);
        // The last one lies on top.
        self.device = kernel::mounted().into_iter().rfind(|m| m.dir == self.dir).map(|m| m.device);
        Ok(())
    }

    /// Mounts again what was unmounted a moment ago, from its journal.
    fn attach_again(&mut self) -> std::result::Result<(), MountError> {
        self.overlay = Arc::new(Overlay::open(&self.dir, &self.options.state_dir, self.blobs.clone())?);
        (self.pool, self.negotiated) = Default::default();
        self.attach()
    }

    /// Unmounts, then leaves behind what is asked for. With `force`, also if it is in use: its users then get errors (or,
    /// without privilege, go on with what they have open). When it fails, it is still mounted, or is so again.
    pub fn unmount(
        &mut self,
        leave: Leave<'_>,
        force: bool,
    ) -> std::result::Result<Materialized, MountError> {
        let mut leave = leave;
        let is_mounted = self.session.is_some();
        if is_mounted {
            check_room(&self.overlay, leave)?;
            self.dir = self.dir_now();
            let lazily = self.detach(force)?;
            if lazily && let Leave::Files(policy) = &mut leave {
                // Somebody may still write through it; that must not reach a blob.
                *policy = LinkPolicy::Never;
            }
        }
        let done = dissolve(&self.overlay, &self.options.state_dir, leave);
        if done.is_err()
            && is_mounted
            && let Err(error) = self.attach_again()
        {
            tracing::error!(dir = %self.dir.display(), %error, "cannot mount again what could not be unmounted");
        }
        done
    }

    /// Returns whether it had to be lazy.
    fn detach(&mut self, force: bool) -> std::result::Result<bool, MountError> {
        let deadline = Instant::now() + Duration::from_millis(if force { 200 } else { 1000 });
        let mut lazily = false;
        while self.is_serving() {
            let dir = self.dir_now();
            match kernel::unmount(&dir, Manner::Polite) {
                Ok(()) => break,
                // Somebody else has unmounted it, and the session is about to notice.
                Err(MountError::NotMounted(_)) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(MountError::Busy(_)) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(20));
                }
                Err(MountError::Busy(_)) if force => {
                    write_back(&dir);
                    kernel::unmount(&dir, Manner::Lazy)?;
                    lazily = true;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        self.end_session();
        Ok(lazily)
    }

    /// Waits (not for ever: a lazy unmount may leave users behind) for the requests under way.
    fn end_session(&mut self) {
        let Some(session) = self.session.take() else { return };
        let deadline = Instant::now() + Duration::from_secs(2);
        while !session.guard.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        if session.guard.is_finished() {
            let _ = session.join();
            self.pool.drain();
        }
    }

    /// Does the kernel still send requests? Not after somebody else unmounted it.
    pub fn is_serving(&self) -> bool {
        self.session.as_ref().is_some_and(|s| !s.guard.is_finished())
    }

    /// The directory that was mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where it is now: somebody may have renamed a directory around it.
    pub fn dir_now(&self) -> PathBuf {
        let found = kernel::mounted().into_iter().find(|m| Some(&m.device) == self.device.as_ref());
        found.map_or_else(|| self.dir.clone(), |m| m.dir)
    }

    /// What the kernel and the overlay agreed on.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.get()
    }

    /// Is `dir` on the file system of the mounted directory, so that files can move from there?
    pub fn is_beside(&self, dir: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(dir).is_ok_and(|meta| meta.dev() == self.overlay.device())
    }

    /// Views about which memory and journal do not agree: a crash would show something else. Empty when all is well.
    pub fn disagreements(&self) -> Result<Vec<RelPath>> {
        self.overlay.disagreements()
    }

    /// A path inside of this mount, from an absolute one.
    pub fn relative(&self, path: &Path) -> Option<RelPath> {
        RelPath::new(path.strip_prefix(&self.dir).ok()?).ok()
    }

    /// Puts views and small files at their paths, replacing what is there, making parents where missing.
    pub fn place(&self, placements: &[Placement]) -> Result<()> {
        self.overlay.place(placements)
    }

    /// Removes a file, or a directory with all that is in it. What is not there is removed already.
    pub fn remove(&self, path: &RelPath) -> Result<()> {
        self.overlay.remove(path)
    }

    /// Sets modification times, all at once. Returns how many of the paths exist.
    pub fn set_mtimes(&self, times: &[(RelPath, SystemTime)]) -> Result<usize> {
        self.overlay.set_mtimes(times)
    }

    /// What a path is. Symbolic links are not followed.
    pub fn stat(&self, path: &RelPath) -> Result<Stat> {
        self.overlay.stat(path)
    }

    /// Opens a regular file for reading, without going through the mount.
    pub fn open_file(&self, path: &RelPath) -> Result<File> {
        self.overlay.open_file(path)
    }

    /// Target of a symbolic link.
    pub fn read_link(&self, path: &RelPath) -> Result<Vec<u8>> {
        self.overlay.read_link(path)
    }

    /// The whole tree at one moment, parents before their children.
    pub fn walk(&self) -> Result<Vec<WalkEntry>> {
        self.overlay.walk()
    }

    /// Opens a finished upper file, to be hashed and then committed.
    pub fn begin_seal(&self, path: &RelPath) -> std::result::Result<SealTicket, SealError> {
        self.overlay.begin_seal(path)
    }

    /// Makes the file a blob and its names a view of it; `Changed` if anything has happened to it since the beginning.
    /// `link_ok`: may become a hard link to the blob after an unmount.
    pub fn commit_seal(
        &self,
        ticket: SealTicket,
        hash: Hash,
        size: u64,
        link_ok: bool,
    ) -> std::result::Result<(), SealError> {
        self.overlay.commit_seal(ticket, hash, size, link_ok)
    }

    /// Hashes and seals one file.
    pub fn seal(&self, path: &RelPath, link_ok: bool) -> std::result::Result<(Hash, u64), SealError> {
        let ticket = self.begin_seal(path)?;
        let (hash, size) = (ticket.hash()?, ticket.size);
        self.commit_seal(ticket, hash, size, link_ok)?;
        Ok((hash, size))
    }

    /// Seals files that nobody has changed for `older_than`, until `budget` is used up. `wanted` may leave files out.
    pub fn seal_quiet(
        &self,
        older_than: Duration,
        budget: Duration,
        wanted: &dyn Fn(&RelPath) -> bool,
    ) -> std::result::Result<Sealed, SealError> {
        self.overlay.seal_quiet(older_than, budget, wanted)
    }

    /// Time since a program last changed anything through the mount.
    pub fn idle(&self) -> Duration {
        self.overlay.idle()
    }

    /// Another number whenever something has got a name or lost it, through the mount or from outside.
    pub fn names(&self) -> u64 {
        self.overlay.names()
    }

    /// Counts of files and bytes. Looks at every file.
    pub fn statistics(&self) -> Result<Statistics> {
        self.overlay.statistics()
    }

    /// The blobs that the mount shows. They must not be removed.
    pub fn shown(&self) -> Vec<Hash> {
        self.overlay.shown()
    }

    /// Blobs whose views were written or removed since the last call. This mount may show them elsewhere still.
    pub fn take_superseded(&self) -> Vec<Hash> {
        self.overlay.take_superseded()
    }

    /// The present time on the clock that files are stamped with.
    pub fn now(&self) -> Result<SystemTime> {
        self.overlay.now().map(crate::overlay::system_time)
    }

    /// Makes the journal durable, and short if it is long.
    pub fn sync(&self) -> Result<()> {
        self.overlay.compact()?;
        self.overlay.sync_journal()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.session.is_some()
            && let Err(error) = self.detach(true)
        {
            tracing::warn!(dir = %self.dir.display(), %error, "cannot unmount");
        }
        let _ = self.overlay.sync_journal();
    }
}

/// Finishes what an unmount (or a dead daemon) has left: the journal of a directory that is not mounted.
pub fn dissolve_unmounted(
    dir: &Path,
    state_dir: &Path,
    blobs: Arc<dyn Blobs>,
    leave: Leave<'_>,
) -> std::result::Result<Materialized, MountError> {
    let dir = kernel::absolute(dir)?;
    match kernel::mount_state(&dir, PATIENCE) {
        MountState::None => {}
        MountState::Stale => return Err(MountError::Stale(dir)),
        MountState::Live | MountState::Silent => return Err(MountError::AlreadyMounted(dir)),
    }
    let _lock = lock_state(state_dir)?;
    let overlay = Overlay::open(&dir, state_dir, blobs)?;
    check_room(&overlay, leave)?;
    dissolve(&overlay, state_dir, leave)
}

/// Two mounts do not have one state.
fn source(state_dir: &Path) -> String {
    let state = state_dir.file_name().unwrap_or_default().to_string_lossy();
    format!("kache-{}", state.replace(|c: char| !c.is_ascii_alphanumeric(), "-"))
}

/// For a mount whose server was killed and does not end: whoever waits for it gets an error.
pub fn abort(state_dir: &Path) {
    kernel::abort(&source(state_dir));
}

/// Does a state directory hold a journal with views in it?
pub fn has_journal(state_dir: &Path) -> bool {
    journal::Journal::exists(state_dir)
}

/// Is there room for the files that an unmount leaves?
fn check_room(overlay: &Overlay, leave: Leave<'_>) -> std::result::Result<(), MountError> {
    let Some((policy, keep)) = leave.files() else { return Ok(()) };
    let (needed, free) = overlay.room_for_files(policy, keep)?;
    if needed > free { Err(MountError::NoRoom { needed, free }) } else { Ok(()) }
}

fn dissolve(
    overlay: &Overlay,
    state_dir: &Path,
    leave: Leave<'_>,
) -> std::result::Result<Materialized, MountError> {
    let Some((policy, keep)) = leave.files() else {
        overlay.sync_journal()?;
        return Ok(Materialized::default());
    };
    let report = overlay.materialize(policy, keep)?;
    // On one disk, nothing is on it before what was done before; on two, the journal goes last.
    if rustix::fs::stat(state_dir).is_ok_and(|stat| stat.st_dev != overlay.device()) {
        overlay.sync_upper()?;
    }
    journal::remove(state_dir)?;
    Ok(report)
}

/// What programs have stored through memory maps reaches us while we still answer.
fn write_back(dir: &Path) {
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let synced = rustix::fs::open(dir, flags, rustix::fs::Mode::empty()).and_then(rustix::fs::syncfs);
    if let Err(error) = synced {
        tracing::warn!(dir = %dir.display(), %error, "what was stored through memory maps may be lost");
    }
}

/// Two processes on one journal would destroy it.
fn lock_state(state_dir: &Path) -> std::result::Result<File, MountError> {
    fs::create_dir_all(state_dir)?;
    let lock = File::options().create(true).truncate(false).write(true).open(state_dir.join("lock"))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(MountError::InUse(state_dir.to_owned())),
        Err(error) => Err(MountError::Io(error.into())),
    }
}

fn serve(
    adapter: Adapter,
    connection: std::os::fd::OwnedFd,
    options: &Options,
) -> io::Result<BackgroundSession> {
    let mut config = Config::default();
    config.n_threads = Some(options.threads.max(1));
    let acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    Session::from_fd(adapter, connection, acl, config)?.spawn()
}

/// Raises this process's limit of open files as far as it may: a mount holds one for each file that was unlinked while
/// in use, and some more.
pub fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
