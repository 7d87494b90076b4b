//! The daemon process: one per cache directory, serving wrappers and commands until nobody needs it.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use kache_wrapper::cache::{Cache, Event, Invocation, Outcome};
use kache_wrapper::claim::open_lock_file;
use kache_wrapper::finish;
use kache_wrapper::lookup::{Lookup, Work};
use kache_wrapper::script;

use super::callers::Callers;
use super::engine::Engine;
use super::protocol::{self, ALIVE, Body, Request, Response, Status, VERSION};
use super::{signals, socket};
use crate::config::Config;
use crate::remote::Sharing;
use crate::store::sys;

/// Locked by the daemon of a cache directory as long as it lives.
const LOCK: &str = "daemon.lock";

/// How often the daemon looks after itself.
const TICK: Duration = Duration::from_millis(500);
/// Threads that are kept waiting for clients.
const MAX_IDLE: usize = 8;
/// A client that is silent for so long is not coming back.
const CLIENT_PATIENCE: Duration = Duration::from_secs(3600);

struct Server {
    engine: Engine,
    callers: Callers,
    started: Instant,
    requests: AtomicU64,
    active: AtomicUsize,
    /// Threads that wait for a client.
    idle: AtomicUsize,
    last_request: std::sync::Mutex<Instant>,
}

/// What becomes of mounts when the daemon is told to end by a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtEnd {
    /// The next daemon shows them again.
    Journal,
    /// Real directories.
    Files,
}

/// Serves until told to stop, or until it has had nothing to do for `daemon_idle_timeout`.
///
/// `prepare` is called once when everything is ready; it may decide against serving.
pub fn run(config: &Config, at_end: AtEnd, prepare: impl FnOnce(&Engine) -> Result<bool>) -> Result<()> {
    let Some(instance) = wait_for_place(&config.cache_dir)? else {
        bail!("a daemon for {} is running already (`kache daemon status`)", config.cache_dir.display());
    };
    return_large_memory();
    sys::lift_limits();
    let bed = signals::watch()?;
    let Some(path) = socket::path(&config.cache_dir) else {
        bail!("the cache directory's path is too long for a socket, and /tmp/kache-UID is not private");
    };
    // We hold the instance lock, so whatever is there belongs to a dead daemon.
    let _ = std::fs::remove_file(&path);
    let listener =
        UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;

    let server = Arc::new(Server {
        engine: Engine::open(config)?,
        callers: Callers::default(),
        started: Instant::now(),
        requests: AtomicU64::new(0),
        active: AtomicUsize::new(0),
        last_request: std::sync::Mutex::new(Instant::now()),
        idle: AtomicUsize::new(0),
    });
    server.engine.recover();
    let prepared = prepare(&server.engine);
    let is_ours = || is_still(&instance, &config.cache_dir.join(LOCK));
    if matches!(prepared, Ok(true)) {
        serve(&server, &Arc::new(listener), &bed, config.daemon_idle_timeout, &is_ours);
    }
    // In a new directory at that place another daemon may listen.
    if is_ours() {
        let _ = std::fs::remove_file(&path);
        socket::leave(&path);
    }
    let ended = if at_end == AtEnd::Files { server.engine.end_all() } else { Ok(()) };
    server.engine.shutdown();
    prepared.and(ended)
}

/// `is_ours`: the cache directory is the one we were started for. When somebody has removed it, it is over as soon as
/// nobody waits for us.
fn serve(
    server: &Arc<Server>,
    listener: &Arc<UnixListener>,
    bed: &signals::Bed,
    idle_timeout: Duration,
    is_ours: &dyn Fn() -> bool,
) {
    wait_for_clients(server, listener);
    while !signals::ending() {
        bed.sleep(TICK);
        // There was no thread to be had.
        if server.idle.load(Ordering::SeqCst) == 0 {
            wait_for_clients(server, listener);
        }
        server.engine.tick();
        server.engine.snapshot_quiet();
        let idle = server.last_request.lock().is_ok_and(|t| t.elapsed() > idle_timeout);
        let is_free = server.active.load(Ordering::SeqCst) == 0;
        // Without its cache directory a mount has nothing to show but its upper, which is what stays.
        if is_free && (!is_ours() || idle && server.engine.is_idle()) {
            break;
        }
    }
}

/// Starts a thread that serves one client after the other. There is always one that waits: a thread that gets a
/// client and leaves none waiting starts the next. Starting a thread for each client would cost a tenth of a hit.
fn wait_for_clients(server: &Arc<Server>, listener: &Arc<UnixListener>) {
    let (server, listener) = (Arc::clone(server), Arc::clone(listener));
    server.idle.fetch_add(1, Ordering::SeqCst);
    let counted = Arc::clone(&server);
    let started = std::thread::Builder::new().name("kache-client".into()).spawn(move || {
        loop {
            let client = listener.accept();
            if server.idle.fetch_sub(1, Ordering::SeqCst) == 1 {
                wait_for_clients(&server, &listener);
            }
            match client {
                Ok((stream, _)) => server.converse(stream),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
            if server.idle.fetch_add(1, Ordering::SeqCst) >= MAX_IDLE {
                server.idle.fetch_sub(1, Ordering::SeqCst);
                return;
            }
        }
    });
    if let Err(error) = started {
        counted.idle.fetch_sub(1, Ordering::SeqCst);
        tracing::warn!(%error, "cannot start a thread");
    }
}

impl Server {
    fn converse(&self, mut stream: UnixStream) {
        let us = nix::unistd::getuid().as_raw();
        if !socket::peer_uid(&stream).is_ok_and(|uid| uid == us) {
            return;
        }
        let _ = stream.set_read_timeout(Some(CLIENT_PATIENCE));
        while let Ok(request) = protocol::receive::<Request>(&mut stream) {
            if let Body::Event(event) = request.body {
                self.note(event);
                continue;
            }
            let is_last = matches!(request.body, Body::Stop | Body::Restart);
            self.active.fetch_add(1, Ordering::SeqCst);
            let mut ends = false;
            let answered = stream.write_all(&[ALIVE]).and_then(|()| {
                let response = self.answer_in_any_case(request);
                ends = is_last && matches!(response, Response::Done);
                protocol::send(&mut stream, &response)
            });
            self.active.fetch_sub(1, Ordering::SeqCst);
            self.requests.fetch_add(1, Ordering::Relaxed);
            if let Ok(mut last) = self.last_request.lock() {
                *last = Instant::now();
            }
            if ends {
                // Not before the answer is out: the process may be gone at once.
                signals::end();
            }
            if answered.is_err() {
                return;
            }
        }
    }

    /// A panic is the end of one request.
    fn answer_in_any_case(&self, request: Request) -> Response {
        catch_unwind(AssertUnwindSafe(|| self.answer(request)))
            .unwrap_or_else(|_| Response::Failed("the daemon has panicked; see its log".into()))
    }

    fn answer(&self, request: Request) -> Response {
        if request.version != VERSION && !matches!(request.body, Body::Status | Body::Stop | Body::Restart) {
            return Response::OtherVersion(VERSION.into());
        }
        crate::umask::work_for(request.umask);
        let engine = &self.engine;
        match request.body {
            Body::Lookup { inv, role, settings, spent_us, shared } => {
                let began = Instant::now();
                match engine.lookup(&inv, role, &settings, self.sharing(&inv, shared).as_deref()) {
                    Ok(mut found) => {
                        match &mut found {
                            // A hit is noted here and now: the caller has nothing to say after it.
                            Lookup::Hit(hit) => {
                                let spent = Duration::from_micros(spent_us);
                                engine.event(&hit.event(&inv, began.elapsed() + spent));
                            }
                            Lookup::Miss(miss) => {
                                if let Work::Compile(plan) = &mut miss.work {
                                    plan.scratch = engine.scratch(plan);
                                }
                            }
                            // Cargo's first questions come before it touches the target directory.
                            Lookup::Told(_) => engine.expect_cargo(),
                            Lookup::Pass { .. } => {}
                        }
                        Response::Lookup(found)
                    }
                    Err(error) => Response::Failed(error.to_string()),
                }
            }
            Body::HasNews(news) => Response::News(news.is_any(engine).unwrap_or(false)),
            Body::Announced { plan, path } => match finish::announced(engine, &plan, &path) {
                Ok(()) => Response::Done,
                Err(error) => Response::Failed(error.to_string()),
            },
            Body::Gather(plan) => match engine.gather(&plan) {
                Ok(dirs) => Response::Gathered(dirs),
                Err(error) => Response::Failed(format!("{error:#}")),
            },
            Body::Collect { from, to, names } => match engine.collect(&from, &to, &names) {
                Ok(()) => Response::Done,
                Err(error) => Response::Failed(format!("{error:#}")),
            },
            Body::Finish { inv, role, miss, left, shared } => {
                let remote = self.sharing(&inv, shared);
                match engine.finish(&inv, role, &miss, &left, remote.as_deref()) {
                    Ok(finished) => Response::Finished(finished),
                    Err(error) => Response::Failed(error.to_string()),
                }
            }
            Body::Event(event) => {
                self.note(event);
                Response::Done
            }
            Body::Flush => match engine.flush() {
                Ok(()) => Response::Done,
                Err(error) => Response::Failed(error.to_string()),
            },
            Body::Mount { dir } => engine.mount(&dir),
            Body::Umount { dir, discard } => engine.umount(&dir, discard),
            Body::Clean { dir } => engine.clean(&dir),
            Body::Tree(request, inv) => engine.tree(request, &inv),
            Body::Hello(inv) => {
                if let Some(settings) = crate::backend::config(&inv).remote {
                    engine.meet(&settings);
                }
                Response::Done
            }
            Body::Mounts => Response::Mounts(engine.mounts()),
            Body::CheckMount { dir } => engine.check(&dir),
            Body::Status => Response::Status(self.status()),
            // The next daemon takes over the mounts as they are.
            Body::Restart => Response::Done,
            Body::Stop => match engine.end_all() {
                Ok(()) => Response::Done,
                Err(error) => Response::Failed(format!("{error:#}")),
            },
        }
    }

    /// The remote of whoever asks: theirs are the environment and the project's file, not the daemon's.
    fn sharing(&self, inv: &Invocation, shared: bool) -> Option<Arc<Sharing>> {
        shared.then(|| self.callers.sharing(inv)).flatten()
    }

    /// Events are told, not asked: there is no answer.
    fn note(&self, event: Event) {
        if event.outcome == Outcome::Pass && event.kind != script::KIND {
            self.engine.expect_cargo();
        }
        self.engine.event(&event);
    }

    fn status(&self) -> Status {
        Status {
            version: VERSION.into(),
            pid: std::process::id(),
            exe: std::env::current_exe().unwrap_or_default(),
            uptime_s: self.started.elapsed().as_secs(),
            mounts: self.engine.count_mounts() as u64,
            resident: resident().unwrap_or(0),
            requests: self.requests.load(Ordering::Relaxed),
        }
    }
}

/// Large allocations are to be mappings of their own, always. Each thread of a mount has a buffer of 16 MiB of which it
/// touches little; from memory that was used before it would have to be cleared, and so be there, all of it.
fn return_large_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets a parameter of the allocator, before there are other threads.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}

/// Bytes of memory of this process.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    text.split(' ').nth(1)?.parse::<u64>().ok().map(|pages| pages * 4096)
}

/// Is the file at `path` the one that we hold locked?
fn is_still(held: &File, path: &Path) -> bool {
    let id = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    held.metadata().ok().map(id) == std::fs::symlink_metadata(path).ok().map(id)
}

/// Others take the lock for a moment, to see whether there is a daemon.
fn wait_for_place(cache_dir: &Path) -> Result<Option<File>> {
    const PATIENCE: Duration = Duration::from_millis(500);
    let began = Instant::now();
    loop {
        match single_instance(cache_dir)? {
            None if began.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(5)),
            other => return Ok(other),
        }
    }
}

/// Holds the lock of the one daemon of a cache directory; `None` when another has it.
pub fn single_instance(cache_dir: &Path) -> Result<Option<File>> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(cache_dir)?;
    let path = cache_dir.join(LOCK);
    let mut file = open_lock_file(&path).with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            write!(file, "{}", std::process::id())?;
            file.set_modified(SystemTime::now())?;
            Ok(Some(file))
        }
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
    }
}
