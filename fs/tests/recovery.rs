//! What is left when nobody unmounts: the journal brings back the same tree.
//!
//! Long runs: `KACHE_KILL_ROUNDS=1000 KACHE_KILL_FIRST=7 cargo test -p kache-fs --test recovery`.

mod common;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use common::ops::{Maker, Op, World};
use common::process::Served;
use common::rng::{Rng, setting};
use common::same::{self, Placed};
use common::{Rig, bytes, check_blobs, errno, errno_of};
use kache_fs::{DirBlobs, Leave, LinkPolicy, Mount, MountError, MountState, Options};
use rustix::io::Errno;
use rustix::process::{Signal, kill_process};

const PATIENCE: Duration = Duration::from_secs(10);

/// A tree with something of everything.
fn furnish(rig: &Rig) {
    rig.view_with(
        "debug/deps/lib",
        &bytes(1, 10_000),
        0o640,
        Some(std::time::UNIX_EPOCH + Duration::new(77, 5)),
    );
    fs::hard_link(rig.path("debug/deps/lib"), rig.path("debug/uplifted")).unwrap();
    fs::write(rig.path("debug/upper"), "upper").unwrap();
    rig.sealed("debug/sealed", b"sealed");
    rig.view("debug/written", b"view");
    fs::write(rig.path("debug/written"), "written").unwrap();
    rig.view("debug/gone", b"gone");
    fs::remove_file(rig.path("debug/gone")).unwrap();
    rig.view("moving/a/b", b"moved with its directory");
    fs::rename(rig.path("moving"), rig.path("moved")).unwrap();
    rig.view("odd", b"odd");
    fs::rename(rig.path("odd"), rig.root().join(OsStr::from_bytes(b"\xff\n"))).unwrap();
    std::os::unix::fs::symlink("upper", rig.path("debug/link")).unwrap();
}

/// A copy that shares nothing, to compare with later.
fn remember(rig: &Rig) -> std::path::PathBuf {
    let copy = rig.base().join("copy");
    let done = std::process::Command::new("cp").arg("-a").arg(rig.root()).arg(&copy).status().unwrap();
    assert!(done.success());
    copy
}

#[test]
fn a_dropped_mount_comes_back() {
    let mut rig = Rig::new();
    furnish(&rig);
    let before = remember(&rig);
    let shown = rig.mount().shown();
    rig.forget();
    assert!(!rig.path("debug/deps/lib").exists(), "the bare directory has the upper's files only");
    assert!(kache_fs::has_journal(&rig.state()));
    rig.start();
    assert_eq!(same::differences(&rig.root(), &before), "");
    assert_eq!(rig.mount().shown(), shown);
    rig.stop(Leave::Files(LinkPolicy::Never));
    assert_eq!(same::differences(&rig.root(), &before), "");
}

#[test]
fn a_torn_journal_loses_only_what_is_torn() {
    let mut rig = Rig::new();
    furnish(&rig);
    let before = remember(&rig);
    rig.stop(Leave::Journal);
    let journal = rig.state().join("journal");
    let whole = fs::metadata(&journal).unwrap().len();
    OpenOptions::new().append(true).open(&journal).unwrap().write_all(&bytes(9, 100)).unwrap();
    rig.start();
    assert_eq!(same::differences(&rig.root(), &before), "");
    rig.view("last", b"the last thing that happens");
    rig.stop(Leave::Journal);
    let longer = fs::metadata(&journal).unwrap().len();
    assert!(longer > whole);
    OpenOptions::new().write(true).open(&journal).unwrap().set_len(longer - 1).unwrap();
    rig.start();
    assert_eq!(same::differences(&rig.root(), &before), "");
}

#[test]
fn a_journal_stays_short() {
    let rig = Rig::new();
    let name = |i: u64| format!("d/{i}-{}", "x".repeat(200));
    for round in 0..120 {
        for i in 0..20 {
            rig.view(&name(i), &round_bytes(round));
        }
    }
    let length = || fs::metadata(rig.state().join("journal")).unwrap().len();
    assert!(length() < 1 << 21, "{}", length());
    rig.mount().sync().unwrap();
    for i in 0..20 {
        assert_eq!(fs::read(rig.path(&name(i))).unwrap(), round_bytes(119));
    }
}

fn round_bytes(round: u64) -> Vec<u8> {
    bytes(round % 7, 100)
}

#[test]
fn what_was_done_to_the_bare_directory_counts() {
    let mut rig = Rig::new();
    for name in ["overwritten", "kept", "dir/below", "gone/below", "covered"] {
        rig.view(name, name.as_bytes());
    }
    rig.stop(Leave::Journal);
    fs::write(rig.path("overwritten"), "newer").unwrap();
    fs::remove_dir_all(rig.path("gone")).unwrap();
    fs::create_dir(rig.path("covered")).unwrap();
    fs::write(rig.path("dir/beside"), "beside").unwrap();
    rig.start();
    let read = |name: &str| fs::read_to_string(rig.path(name)).unwrap();
    assert_eq!(read("overwritten"), "newer");
    assert_eq!(read("kept"), "kept");
    assert_eq!(read("dir/below"), "dir/below");
    assert_eq!(read("dir/beside"), "beside");
    assert!(!rig.path("gone").exists());
    assert!(fs::metadata(rig.path("covered")).unwrap().is_dir());
    rig.forget();
    rig.start();
    assert_eq!(fs::read_to_string(rig.path("overwritten")).unwrap(), "newer");
}

#[test]
fn one_journal_has_one_user() {
    let rig = Rig::new();
    let other = rig.base().join("other");
    fs::create_dir(&other).unwrap();
    let second = Mount::start(&other, &Options::new(rig.state()), rig.blobs.clone());
    assert!(matches!(second, Err(MountError::InUse(_))), "{second:?}");
}

#[test]
fn a_dead_mount_is_recognised_and_replaced() {
    let mut rig = Rig::unmounted();
    let mut served = Served::start(&rig.root(), &rig.state(), &rig.base().join("blobs"));
    let hash = rig.blobs.insert(b"view").unwrap();
    served.ask(&format!("view d/view 644 4 {hash}")).unwrap().unwrap();
    fs::write(rig.path("d/upper"), "upper").unwrap();
    let file = File::create(rig.path("d/synced")).unwrap();
    (&file).write_all(b"synced").unwrap();
    file.sync_all().unwrap();
    served.ask("seal d/synced").unwrap().unwrap();
    assert_eq!(kache_fs::mount_state(&rig.root(), PATIENCE), MountState::Live);

    served.kill();
    assert_eq!(kache_fs::mount_state(&rig.root(), PATIENCE), MountState::Stale);
    assert_eq!(errno(fs::read(rig.path("d/upper"))), errno_of(Errno::NOTCONN));
    let refused = Mount::start(&rig.root(), &Options::new(rig.state()), rig.blobs.clone());
    assert!(matches!(refused, Err(MountError::Stale(_))), "{refused:?}");
    let refused = kache_fs::dissolve_unmounted(&rig.root(), &rig.state(), rig.blobs.clone(), Leave::Journal);
    assert!(matches!(refused, Err(MountError::Stale(_))), "{refused:?}");

    drop(file);
    kache_fs::unmount_lazily(&rig.root()).unwrap();
    assert_eq!(kache_fs::mount_state(&rig.root(), PATIENCE), MountState::None);
    rig.start();
    for name in ["view", "upper", "synced"] {
        assert_eq!(fs::read_to_string(rig.path("d").join(name)).unwrap(), name);
    }
    assert_eq!(rig.blob_of("d/view"), Some(hash));
    assert_eq!(rig.blob_of("d/synced"), Some(blake3::hash(b"synced")));
}

#[test]
fn the_directory_of_a_dead_mount_can_be_completed() {
    let rig = Rig::unmounted();
    let mut served = Served::start(&rig.root(), &rig.state(), &rig.base().join("blobs"));
    let hash = rig.blobs.insert(b"view").unwrap();
    served.ask(&format!("view d/view 755 4 {hash}")).unwrap().unwrap();
    served.kill();
    kache_fs::unmount_lazily(&rig.root()).unwrap();
    let leave = Leave::Files(LinkPolicy::Never);
    kache_fs::dissolve_unmounted(&rig.root(), &rig.state(), rig.blobs.clone(), leave).unwrap();
    assert_eq!(fs::read(rig.path("d/view")).unwrap(), b"view");
}

/// What was under way when the process was killed.
#[derive(Debug, Clone)]
enum Step {
    Op(Op),
    Place(Placed),
    /// A line for the process: a seal, which nobody can see.
    Invisible(String),
}

struct Kills {
    maker: Maker,
    mounted: World,
    plain: World,
    blobs: DirBlobs,
    seed: u64,
}

impl Kills {
    fn step(&mut self) -> Step {
        let plain = self.plain.root.clone();
        let choice = self.maker.rng.below(100);
        if choice >= 45 {
            return Step::Op(self.maker.op(&plain));
        }
        let path = self.maker.path(&plain);
        // The process takes words; and a parent that is made and then not used is no fault.
        let plain_name = path.iter().all(u8::is_ascii_graphic);
        if !plain_name || !same::is_straight(&plain, &path) || choice < 2 {
            return Step::Invisible("quiet".into());
        }
        if choice < 20 {
            return Step::Invisible(format!("seal {}", String::from_utf8(path).unwrap()));
        }
        let mode = self.maker.mode();
        Step::Place(Placed { path, seed: self.maker.rng.below(5), length: 5000, mode, seconds: None })
    }

    /// False when the process has died over it.
    fn take(&mut self, served: &mut Served, step: &Step) -> bool {
        match step {
            Step::Op(op) => {
                let mounted = self.mounted.apply(op);
                let state = || kache_fs::mount_state(&self.mounted.root, PATIENCE);
                // Of a process that is dying, some things in /proc are gone before it is.
                if mounted == Err(Errno::ACCESS) && state() == MountState::Stale {
                    return false;
                }
                if matches!(mounted, Err(Errno::NOTCONN | Errno::CONNABORTED | Errno::IO)) {
                    let state = state();
                    assert_eq!(state, MountState::Stale, "seed {}: {op:?} {mounted:?}", self.seed);
                    return false;
                }
                let plain = self.plain.apply(op);
                assert_eq!(mounted, plain, "seed {}: {op:?}", self.seed);
            }
            Step::Place(placed) => {
                let hash = self.blobs.insert(&bytes(placed.seed, placed.length)).unwrap();
                let path = String::from_utf8(placed.path.clone()).unwrap();
                let Some(in_place) = self.is_there(placed, hash) else { return false };
                let line = format!("view {path} {:o} {} {hash}", placed.mode, placed.length);
                let Some(answer) = served.ask(&line) else { return false };
                let plain = placed.apply(&self.plain.root, in_place);
                assert_eq!(
                    answer.is_ok(),
                    plain.is_ok(),
                    "seed {}: {placed:?} {answer:?} {plain:?}",
                    self.seed
                );
            }
            Step::Invisible(line) => return served.ask(line).is_some(),
        }
        true
    }

    /// Does the mount show these very bytes as a view of one name? `None` if nobody answers.
    fn is_there(&self, placed: &Placed, hash: blake3::Hash) -> Option<bool> {
        let path = self.mounted.at(&placed.path);
        match rustix::fs::lstat(&path) {
            Ok(stat) => Some(stat.st_nlink == 1 && common::blob_of(&path) == Some(hash)),
            Err(Errno::NOTCONN | Errno::CONNABORTED) => None,
            Err(_) => Some(false),
        }
    }

    /// Either it has happened or not; a write may have happened in part.
    fn settle(&mut self, step: &Step) {
        let (mounted, plain) = (self.mounted.root.clone(), self.plain.root.clone());
        let first = same::differences(&mounted, &plain);
        if first.is_empty() {
            return;
        }
        match step {
            Step::Op(op) => _ = self.plain.apply(op),
            Step::Place(placed) => _ = placed.apply(&plain, false),
            Step::Invisible(_) => {}
        }
        if let Step::Op(
            Op::WriteWhole { path, .. }
            | Op::Truncate { path, .. }
            | Op::Mkdir { path, .. }
            | Op::Mknod { path, .. }
            | Op::Chown { path, .. },
        ) = step
        {
            adopt(&self.mounted.at(path), &self.plain.at(path));
        }
        // What comes and goes in the upper unseen stamps its directory, for a moment.
        if let Step::Invisible(_)
        | Step::Op(Op::WriteWhole { .. } | Op::Truncate { .. } | Op::SetXattr { .. }) = step
        {
            adopt_dir_times(&mounted, &plain);
        }
        let second = same::differences(&mounted, &plain);
        assert_eq!(second, "", "seed {}: neither before nor after {step:?}\nbefore:\n{first}", self.seed);
    }
}

/// What had not been confirmed yet may be half done: bytes and permissions are taken over.
fn adopt(from: &Path, to: &Path) {
    let (Ok(stat), Ok(there)) = (fs::metadata(from), fs::metadata(to)) else { return };
    if stat.is_file() && there.is_file() {
        fs::write(to, fs::read(from).unwrap()).unwrap();
    }
    chown(to, Some(stat.uid()), Some(stat.gid())).unwrap();
    adopt_time(&stat, to);
    fs::set_permissions(to, fs::Permissions::from_mode(stat.mode() & 0o7777)).unwrap();
}

/// By path: opening a fifo would wait.
fn adopt_time(from: &fs::Metadata, to: &Path) {
    let time = rustix::fs::Timespec { tv_sec: from.mtime(), tv_nsec: from.mtime_nsec() };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, to, &times, rustix::fs::AtFlags::empty()).unwrap();
}

fn adopt_dir_times(from: &Path, to: &Path) {
    for name in same::paths(to) {
        let (from, to) = (from.join(OsStr::from_bytes(&name)), to.join(OsStr::from_bytes(&name)));
        if let Ok(stat) = fs::symlink_metadata(from)
            && stat.is_dir()
            && fs::symlink_metadata(&to).unwrap().is_dir()
        {
            adopt_time(&stat, &to);
        }
    }
}

#[test]
fn a_kill_at_any_moment_leaves_the_tree_before_or_after_the_operation() {
    let first = setting("KACHE_KILL_FIRST", 1);
    let rig = Rig::unmounted();
    let blobs = rig.base().join("blobs");
    let plain = rig.base().join("plain");
    fs::create_dir(&plain).unwrap();
    let mut kills = Kills {
        maker: Maker { rng: Rng::new(first), paths_only: true },
        mounted: World::new(rig.root()),
        plain: World::new(plain),
        blobs: DirBlobs::new(&blobs).unwrap(),
        seed: first,
    };
    for _ in 0..setting("KACHE_KILL_ROUNDS", 60) {
        let mut served = Served::start(&rig.root(), &rig.state(), &blobs);
        let pid = served.pid();
        let moment = Duration::from_micros(kills.maker.rng.below(20_000));
        let step = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(moment);
                // Not waited for yet, so that the number is still its own.
                kill_process(pid, Signal::KILL).unwrap();
            });
            loop {
                let step = kills.step();
                if !kills.take(&mut served, &step) {
                    break step;
                }
            }
        });
        served.kill();
        kache_fs::unmount_lazily(&rig.root()).unwrap();
        let again = Served::start(&rig.root(), &rig.state(), &blobs);
        kills.settle(&step);
        drop(again);
    }
    check_blobs(&blobs);
    let leave = Leave::Files(LinkPolicy::Never);
    kache_fs::dissolve_unmounted(&rig.root(), &rig.state(), rig.blobs.clone(), leave).unwrap();
    assert_eq!(same::differences(&rig.root(), &kills.plain.root), "");
}
