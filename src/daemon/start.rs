//! Starting a daemon that outlives its starter and inherits nothing from it.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use kache_wrapper::claim::open_lock_file;

use super::client::{Client, is_hung_up};
use super::protocol::{Body, Response, Status, VERSION};
use super::{mounts, server};
use crate::config::Config;
use crate::store::{Store, sys};

/// A daemon that did not come up is not tried again for so long.
const RETRY: Duration = Duration::from_secs(10);

/// Starts a daemon in the background, without waiting for it.
pub fn spawn(config: &Config) -> Result<()> {
    // Nothing is written into a directory that is not ours.
    Store::create_dirs_in(&config.cache_dir)?;
    let exe = std::env::current_exe().context("cannot find the kache program itself")?;
    let mut command = sys::detached(&exe);
    command
        .args(["daemon", "run"])
        .env_clear()
        .envs(inherited())
        .env("KACHE_CACHE_DIR", &config.cache_dir)
        .env("KACHE_DAEMON_IDLE_TIMEOUT", config.daemon_idle_timeout.as_secs().to_string())
        .stderr(log(config).map_or_else(Stdio::null, Stdio::from));
    command.spawn().context("cannot start the daemon")?;
    Ok(())
}

/// Starts a daemon for those who come later, at most one try at a time and never in the way.
pub fn spawn_if_absent(config: &Config) {
    let tried = config.cache_dir.join("daemon.tried");
    let age = std::fs::metadata(&tried).and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
    if age.is_some_and(|age| age < RETRY) || Store::create_dirs_in(&config.cache_dir).is_err() {
        return;
    }
    if open_lock_file(&tried).is_ok_and(|file| file.set_modified(SystemTime::now()).is_ok()) {
        spawn_if_free(config);
    }
}

fn spawn_if_free(config: &Config) {
    if matches!(server::single_instance(&config.cache_dir), Ok(Some(_)))
        && let Err(error) = spawn(config)
    {
        tracing::warn!(%error, "cannot start the daemon");
    }
}

/// Cargo is about to touch a target directory. If a daemon had mounts and is gone, the next one brings them back first.
pub fn bring_back(config: &Config) {
    const PATIENCE: Duration = Duration::from_secs(5);
    if config.daemon_idle_timeout.is_zero() || mounts::known(config).is_empty() {
        return;
    }
    let_die(config);
    if Client::connect(&config.cache_dir).is_none() {
        spawn_if_free(config);
    }
    // It answers when all is there.
    if let Ok(mut client) = wait(&config.cache_dir, PATIENCE)
        && client.sees_our_files()
    {
        let _ = client.ask(Body::Status, PATIENCE);
    }
}

/// Helps a daemon to its end that was killed while one of its threads waited for another: without, nothing but a new start of
/// the machine would free its mounts and its place.
fn let_die(config: &Config) {
    let pid = std::fs::read_to_string(config.cache_dir.join("daemon.lock")).unwrap_or_default();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    // Its first thread has ended, or was killed and waits.
    const KILL: u64 = 1 << (libc::SIGKILL - 1);
    let is_killed = u64::from_str_radix(field("SigPnd:"), 16).is_ok_and(|pending| pending & KILL != 0);
    let is_dying = field("State:").starts_with('Z') || is_killed;
    if pid.is_empty() || !is_dying || matches!(server::single_instance(&config.cache_dir), Ok(Some(_))) {
        return;
    }
    mounts::known(config).iter().for_each(|dir| kache_fs::abort(&mounts::state_dir(&config.cache_dir, dir)));
    let _ = wait_until_gone(config, Instant::now() + Duration::from_secs(5));
}

/// What a daemon may take over from the one who happens to start it: nothing that belongs to a build.
fn inherited() -> impl Iterator<Item = (String, std::ffi::OsString)> {
    ["HOME", "PATH", "USER", "LOGNAME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "TMPDIR", "KACHE_CONFIG"]
        .into_iter()
        .filter_map(|name| std::env::var_os(name).map(|v| (name.to_owned(), v)))
}

fn log(config: &Config) -> Option<std::fs::File> {
    let mut open = std::fs::OpenOptions::new();
    open.create(true).append(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    open.open(config.cache_dir.join("daemon.log")).ok()
}

/// A connection to a running daemon of this version and this program, started (or replaced) when there is none.
pub fn ensure_current(config: &Config) -> Result<Client> {
    match connect(config, is_current)? {
        Some(client) => Ok(client),
        None => {
            spawn(config)?;
            wait(&config.cache_dir, Duration::from_secs(10))
        }
    }
}

/// A connection to the running daemon, which is replaced when it is of another version; `None` when there is none.
///
/// # Errors
/// The daemon sees other files than we do. It stays, with all it holds: it is others' who see what it sees.
pub fn running(config: &Config) -> Result<Option<Client>> {
    connect(config, |status| status.version == VERSION)
}

/// The same for somebody to whom a daemon that sees other files is none: nothing here is mounted by it.
pub fn hosting(config: &Config) -> Result<Option<Client>> {
    match Client::connect(&config.cache_dir) {
        Some(client) if !client.sees_our_files() => Ok(None),
        _ => running(config),
    }
}

/// Whatever daemon there is that sees our files, to be asked and left alone. One of another version says so.
pub fn present(config: &Config) -> Option<Client> {
    Client::connect(&config.cache_dir).filter(Client::sees_our_files)
}

fn connect(config: &Config, is_good: impl Fn(&Status) -> bool) -> Result<Option<Client>> {
    let_die(config);
    let Some(mut client) = Client::connect(&config.cache_dir) else { return Ok(None) };
    reject_elsewhere(config, &client)?;
    match client.ask(Body::Status, Duration::from_secs(5)) {
        Ok(Response::Status(status)) if is_good(&status) => Ok(Some(client)),
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            Err(error).context("the daemon does not answer")
        }
        // An older or newer program, or a daemon that does not answer in words we know.
        _ => {
            drop(client);
            restart(config).map(Some)
        }
    }
}

fn reject_elsewhere(config: &Config, client: &Client) -> Result<()> {
    if !client.sees_our_files() {
        bail!(
            "the daemon of {} sees other files than this process: it is in another mount namespace or has another root \
             directory. Builds here go on without it; for mounts, use another cache directory (KACHE_CACHE_DIR), or end \
             it (`kache daemon stop`)",
            config.cache_dir.display()
        );
    }
    Ok(())
}

/// Does the daemon run the program that lies at its path now?
fn is_current(status: &Status) -> bool {
    status.version == VERSION && !status.exe.as_os_str().to_string_lossy().ends_with(" (deleted)")
}

/// Ends a running daemon, which keeps what its mounts show, and starts one that brings them back.
pub fn restart(config: &Config) -> Result<Client> {
    if let Some(mut client) = Client::connect(&config.cache_dir) {
        reject_elsewhere(config, &client)?;
        match client.ask(Body::Restart, Duration::from_secs(10)) {
            // It was ending already.
            Err(error) if is_hung_up(&error) => {}
            other => drop(other.context("the old daemon does not answer")?),
        }
        wait_until_gone(config, Instant::now() + Duration::from_secs(30))?;
    }
    spawn(config)?;
    wait(&config.cache_dir, Duration::from_secs(10))
}

/// Waits for the instance lock to be free.
pub fn wait_until_gone(config: &Config, deadline: Instant) -> Result<()> {
    while Instant::now() < deadline {
        if server::single_instance(&config.cache_dir)?.is_some() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("the daemon does not end; see {}", config.cache_dir.join("daemon.log").display())
}

fn wait(cache_dir: &Path, limit: Duration) -> Result<Client> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(client) = Client::connect(cache_dir) {
            return Ok(client);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    bail!("the daemon did not start; see {}", cache_dir.join("daemon.log").display())
}
