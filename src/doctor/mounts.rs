//! Daemon and mounts: alive, in order, or left behind by a crash?

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kache_fs::{MountState, mount_state};

use super::{Check, Options, Tell};
use crate::config::Config;
use crate::daemon::client::Client;
use crate::daemon::mounts::{self, Checkout};
use crate::daemon::protocol::{Body, MountInfo, Response, VERSION};

/// A healthy mount answers a stat within microseconds.
const PATIENCE: Duration = Duration::from_secs(2);

pub fn examine(config: &Config, options: &Options, tell: &Tell<'_>) {
    tell(fuse());
    tell(daemon(config));
    let live = live(config);
    for mount in &live {
        tell(examine_live(config, mount));
    }
    for dir in left_behind(config, &live) {
        tell(examine_dead(config, options, &dir));
    }
}

fn fuse() -> Check {
    const NAME: &str = "fuse";
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if let Err(e) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        return Check::warn(
            NAME,
            format!("/dev/fuse: {e}"),
            "mounts are not possible here; builds restore by reflink, hard link or copy",
        );
    }
    if !nix::unistd::geteuid().is_root() && !on_path("fusermount3") {
        return Check::warn(
            NAME,
            "fusermount3 is not installed",
            "install the package fuse3 to mount without root",
        );
    }
    Check::ok(NAME, format!("/dev/fuse opens; Linux {}", kernel.trim()))
}

fn on_path(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|d| d.join(program).is_file())
}

fn daemon(config: &Config) -> Check {
    const NAME: &str = "daemon";
    let Some(mut client) = Client::connect(&config.cache_dir) else {
        return Check::ok(NAME, "not running (not needed without mounts)");
    };
    if !client.sees_our_files() {
        return Check::warn(
            NAME,
            "another mount namespace's (or root directory's): its files are not those that are seen here",
            "builds go on without it; to use one here, give this place a cache directory of its own",
        );
    }
    match client.ask(Body::Status, PATIENCE) {
        Ok(Response::Status(s)) if s.version != VERSION => {
            Check::warn(NAME, format!("process {} is {}", s.pid, s.version), "`kache daemon restart`")
        }
        Ok(Response::Status(s)) => {
            let memory = crate::cli::format::bytes(s.resident);
            Check::ok(NAME, format!("process {}, {} mounts, {memory}", s.pid, s.mounts))
        }
        Ok(other) => Check::fail(NAME, format!("unexpected answer: {other:?}"), "`kache daemon restart`"),
        Err(e) => Check::fail(
            NAME,
            format!("does not answer: {e}"),
            "end it by its process id; mounts come back with `kache mount`",
        ),
    }
}

fn live(config: &Config) -> Vec<MountInfo> {
    match Client::connect(&config.cache_dir).map(|mut c| c.ask(Body::Mounts, PATIENCE)) {
        Some(Ok(Response::Mounts(mounts))) => mounts,
        _ => Vec::new(),
    }
}

fn examine_live(config: &Config, mount: &MountInfo) -> Check {
    const NAME: &str = "mount";
    let dir = mount.dir.display();
    match mount_state(&mount.dir, PATIENCE) {
        MountState::Live => {}
        state => return Check::fail(NAME, format!("{dir}: {state:?}"), "`kache daemon restart`"),
    }
    let began = Instant::now();
    if let Err(e) = std::fs::metadata(&mount.dir) {
        return Check::fail(NAME, format!("{dir}: {e}"), "`kache daemon restart`");
    }
    let stat = began.elapsed();
    if mount.missing > 0 {
        let detail = format!("{dir}: {} views whose blobs are missing", mount.missing);
        return Check::fail(NAME, detail, "`kache clean` empties it; the next build restores it");
    }
    let check = Body::CheckMount { dir: mount.dir.clone() };
    match Client::connect(&config.cache_dir).map(|mut c| c.ask(check, PATIENCE * 5)) {
        Some(Ok(Response::Disagreements(paths))) if paths.is_empty() => {}
        Some(Ok(Response::Disagreements(paths))) => {
            let (count, first) = (paths.len(), paths[0].display());
            let detail = format!("{dir}: journal and tree do not agree on {count} files, first {first}");
            return Check::fail(NAME, detail, "`kache umount` and `kache mount` write the journal anew");
        }
        other => {
            let detail = format!("{dir}: cannot be examined: {other:?}");
            return Check::fail(NAME, detail, "`kache daemon restart`");
        }
    }
    let (files, views, protocol) = (mount.files, mount.views, &mount.protocol);
    let (with, stat) = (mount.capabilities.join(", "), stat.as_micros());
    let detail = format!("{dir}: alive, {files} files, {views} of them views; a stat takes {stat} µs");
    Check::ok(NAME, format!("{detail}; FUSE {protocol} ({with})"))
}

/// Directories with state, or with a mount of ours on them, that no daemon serves.
fn left_behind(config: &Config, live: &[MountInfo]) -> Vec<PathBuf> {
    let mut dirs = mounts::known(config);
    dirs.retain(|d| !live.iter().any(|m| m.dir == *d));
    dirs
}

fn examine_dead(config: &Config, options: &Options, dir: &Path) -> Check {
    const NAME: &str = "mount";
    let shown = dir.display();
    if mounts::is_elsewhere(&config.cache_dir, dir) {
        let remedy = "look at it from there; `kache mount` here makes it this one's";
        return Check::warn(NAME, format!("{shown}: of another mount namespace"), remedy);
    }
    let checkout = mounts::checkout(&config.cache_dir, dir);
    if checkout == Checkout::Elsewhere {
        let remedy = "nothing to do: what it shows is kept until its disk is back";
        return Check::warn(NAME, format!("{shown}: its disk is not here"), remedy);
    }
    let gone = checkout != Checkout::Here;
    let what = match (gone, mount_state(dir, PATIENCE)) {
        (true, _) => "its checkout was deleted or moved; what it shows is kept for a week",
        (_, MountState::Stale) => "dead: its daemon is gone",
        (_, MountState::Silent) => "does not answer",
        (_, MountState::Live) => "served by somebody who is not our daemon",
        (_, MountState::None) => "not mounted, its tree is kept for the next `kache mount`",
    };
    if options.fix_mounts {
        let fixed = if gone {
            mounts::forget(&config.cache_dir, dir).map_err(Into::into)
        } else {
            mounts::recover_without_daemon(config, dir, false).map(drop)
        };
        return match fixed {
            Ok(()) => {
                Check::ok(NAME, format!("{shown}: {what}; fixed, the directory is complete without it"))
            }
            Err(e) => Check::fail(NAME, format!("{shown}: {what}; {e:#}"), "see the message"),
        };
    }
    let remedy = "`kache mount` there brings it back; `kache umount` or `kache doctor --fix` ends it";
    Check::fail(NAME, format!("{shown}: {what}"), remedy)
}
