//! From `kache mount` to `kache umount`.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Checkout, World, by_root_and_user};

by_root_and_user!(
    a_target_is_mounted_built_in_and_unmounted,
    what_is_there_stays,
    views_can_be_dropped,
    a_mount_on_a_mount_is_one,
    sigterm_keeps_what_is_shown,
    a_new_program_takes_over,
    another_version_takes_over,
    a_daemon_without_work_ends,
    a_daemon_whose_directory_was_removed_ends_and_leaves_the_next_one_alone,
    a_daemon_that_hangs_is_passed_by,
);

const EXPECTED: &str = "base hello, world\n";

fn runs(c: &Checkout) {
    assert!(c.prints("target/debug/app").starts_with(EXPECTED));
}

fn mount_of(c: &Checkout) -> serde_json::Value {
    let all = c.kache_json("mounts --json");
    let here = c.dir().join("target");
    let found = all.as_array().unwrap().iter().find(|m| m["dir"] == here.to_str().unwrap());
    found.cloned().unwrap_or_else(|| panic!("{} is not among {all}", here.display()))
}

fn a_target_is_mounted_built_in_and_unmounted(world: World) {
    let first = world.checkout("first", "workspace");
    first.cargo("build").ok();
    let c = world.checkout("second", "workspace");
    c.cargo("build").ok().all_hit();
    let mount = mount_of(&c);
    assert!(mount["views"].as_u64().unwrap() > 5 && mount["alive"] == true, "{mount}");
    assert!(mount["own_bytes"].as_u64().unwrap() < mount["shown_bytes"].as_u64().unwrap() / 4, "{mount}");
    let library = &c.find("libbase-*.rlib")[0];
    let shown = c.sh(&format!("getfattr --only-values -n user.kache.blob '{}'", library.display()));
    let blob = world.cache().join("store/blobs").join(&shown[..2]).join(&shown);
    assert_eq!(c.bytes(library), c.bytes(&blob));

    c.kache_prints("umount");
    assert!(c.kache_json("mounts --json").as_array().unwrap().len() == 1, "the first one stays");
    runs(&c);
    c.cargo("build").ok().fresh();
    // A tool that edits what it finds does not reach the store.
    c.sh("chmod u+w target/debug/app && printf more >> target/debug/app");
    c.kache_prints("doctor --verify");
}

fn what_is_there_stays(world: World) {
    let c = world.checkout("project", "workspace");
    c.kache_prints("umount");
    c.cargo("build").ok();
    c.kache_prints("mount");
    c.cargo("build").ok().fresh();
    runs(&c);
    c.kache_prints("umount");
    c.cargo("build").ok().fresh();
    runs(&c);
}

fn views_can_be_dropped(world: World) {
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    c.kache_prints("umount --discard");
    assert_eq!(c.find("lib*.rlib"), Vec::<std::path::PathBuf>::new());
    c.cargo("build").ok().all_hit();
    runs(&c);
}

fn a_mount_on_a_mount_is_one(world: World) {
    let c = world.checkout("project", "workspace");
    assert!(c.kache_prints("mount").contains("already"));
    assert!(c.kache_prints("mount target").contains("already"));
    assert_eq!(c.kache_json("mounts --json").as_array().unwrap().len(), 1);
    let other = c.kache(&["umount", "somewhere/else"]);
    assert!(!other.status.success() && String::from_utf8_lossy(&other.stderr).contains("not mounted"));
}

fn sigterm_keeps_what_is_shown(world: World) {
    let checkouts = ["first", "second"].map(|name| world.checkout(name, "workspace"));
    checkouts.iter().for_each(|c| drop(c.cargo("build").ok()));
    let terminate = || {
        let daemon = world.daemon();
        kill(Pid::from_raw(daemon), Signal::SIGTERM).unwrap();
        world.wait_for_end(daemon);
    };
    terminate();
    for c in &checkouts {
        assert!(crate::support::namespace::mounts_below(c.dir()).is_empty());
    }
    for c in &checkouts {
        // Cargo waits until it is there again.
        c.cargo("build").ok().fresh();
        runs(c);
    }
    terminate();
    for c in &checkouts {
        let c = c.env("KACHE_DAEMON_IDLE_TIMEOUT", "0");
        c.kache_prints("umount");
        c.cargo("build").ok().fresh();
        runs(&c);
    }
}

fn a_new_program_takes_over(world: World) {
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    let old = world.daemon();
    // As an upgrade does it: another program under the same name.
    let installed = world.root().join("bin/kache");
    c.sh("mkdir -p ../bin && cp \"$RUSTC_WRAPPER\" ../bin/kache");
    let kache = |args: &str| {
        let output = c.command(&installed).args(args.split(' ')).output().unwrap();
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    };
    kache("daemon restart");
    let before = world.daemon();
    assert_ne!(before, old);
    c.sh("cp ../bin/kache ../bin/new && mv ../bin/new ../bin/kache");
    kache("mount");
    assert_ne!(world.daemon(), before, "the old program still serves");
    c.cargo("build").ok().fresh();
    runs(&c);
}

/// Whatever the first command after an upgrade is.
fn another_version_takes_over(world: World) {
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    let other = world.root().join("other");
    c.sh("LC_ALL=C sed 's/protocol [0-9]/protocol !/g' \"$RUSTC_WRAPPER\" > ../other && chmod 755 ../other");
    let kache = |args: &str| {
        let output = c.command(&other).args(args.split(' ')).output().unwrap();
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let before = std::cell::Cell::new(world.daemon());
    let replaced = |by: &str| {
        let now = world.daemon();
        assert_ne!(now, before.get(), "{by}");
        before.set(now);
    };
    // A question replaces nothing.
    let asked = c.command(&other).arg("mounts").output().unwrap();
    let told = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(!asked.status.success() && told.contains("kache daemon restart"), "{told}");
    assert_eq!(world.daemon(), before.get());
    kache("snapshot");
    replaced("snapshot");
    c.cargo("build").ok().fresh();
    assert!(c.kache_prints("snapshot").starts_with("snapshot "));
    replaced("snapshot");
    kache("clean");
    replaced("clean");
    c.cargo("build").ok().all_hit();
    c.kache_prints("refresh");
    replaced("refresh");
    kache("umount");
    replaced("umount");
    c.cargo("build").ok().fresh();
    runs(&c);
}

fn a_daemon_without_work_ends(world: World) {
    let c = world.checkout("project", "workspace").env("KACHE_DAEMON_IDLE_TIMEOUT", "1s");
    c.kache_prints("daemon stop");
    c.kache_prints("daemon start");
    let began = Instant::now();
    while c.kache(&["daemon", "status"]).status.success() {
        assert!(began.elapsed() < Duration::from_secs(60), "it does not end");
        // Asking is work, too.
        std::thread::sleep(Duration::from_millis(2500));
    }
    c.kache_prints("mount");
    std::thread::sleep(Duration::from_millis(2500));
    c.cargo("build").ok();
    assert!(c.kache(&["daemon", "status"]).status.success(), "it has a mount to serve");
}

fn a_daemon_whose_directory_was_removed_ends_and_leaves_the_next_one_alone(world: World) {
    let c = world.checkout("project", "workspace");
    c.kache_prints("umount");
    let first = Pid::from_raw(world.daemon());
    kill(first, Signal::SIGSTOP).unwrap();
    std::fs::remove_dir_all(world.cache()).unwrap();
    c.kache_prints("daemon start");
    kill(first, Signal::SIGCONT).unwrap();
    world.wait_for_end(first.as_raw());
    assert!(c.kache(&["daemon", "status"]).status.success(), "the socket of the next one is gone");
    c.cargo("build").ok();
    runs(&c);
}

fn a_daemon_that_hangs_is_passed_by(world: World) {
    let c = world.checkout("project", "workspace");
    c.kache_prints("umount");
    c.cargo("build").ok();
    let daemon = Pid::from_raw(world.daemon());
    c.clean_plainly();
    kill(daemon, Signal::SIGSTOP).unwrap();
    let output = c.cargo_output(["build"]);
    kill(daemon, Signal::SIGCONT).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    runs(&c);
}
