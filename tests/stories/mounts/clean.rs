//! `cargo clean` and its relatives.

use crate::support::{World, by_root_and_user};

by_root_and_user!(
    cargo_clean_empties_the_mount_and_it_stays_well,
    kache_clean_has_no_error,
    a_linked_target_survives_cargo_clean,
    what_is_in_the_place_of_a_link_is_meant,
    watchers_learn_of_restored_files,
);

fn cargo_clean_empties_the_mount_and_it_stays_well(world: World) {
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    let cleaned = c.cargo_output(["clean"]);
    assert!(!cleaned.status.success(), "cargo cannot remove a mount point");
    assert_eq!(c.sh("ls -A target"), "");
    c.kache_prints("doctor");
    c.cargo("build").ok().all_hit();
}

fn kache_clean_has_no_error(world: World) {
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    c.kache_prints("clean");
    assert_eq!(c.sh("ls -A target"), "");
    c.cargo("build").ok().all_hit();
    c.kache_prints("umount");
    c.kache_prints("clean");
    assert!(!c.dir().join("target").exists());
    let refused = c.kache(&["clean", "."]);
    assert!(!refused.status.success() && c.dir().join("Cargo.toml").exists());
}

fn a_linked_target_survives_cargo_clean(world: World) {
    let c = world.checkout("project", "workspace");
    c.kache_prints("umount");
    c.sh("rm -rf target");
    c.kache_prints("mount --link");
    assert!(c.dir().join("target").is_symlink());
    c.cargo("build").ok();
    for _ in 0..2 {
        assert!(c.cargo_output(["clean"]).status.success());
        c.cargo("build").ok().all_hit();
        assert!(c.dir().join("target").is_symlink(), "the next build came back to the mount");
        let mounts = c.kache_json("mounts --json");
        assert!(mounts[0]["views"].as_u64().unwrap() > 5, "{mounts}");
        assert!(c.prints("target/debug/app").starts_with("base hello"));
    }
}

/// The compiler's own answers are remembered: cargo's first questions start none, and the link is back all the same.
fn what_is_in_the_place_of_a_link_is_meant(world: World) {
    let rustc = world.real_rustc();
    let c = world.checkout("project", "workspace").env("RUSTC", &rustc);
    c.kache_prints("umount");
    c.sh("rm -rf target");
    c.kache_prints("mount --link");
    c.cargo("build").ok();
    for _ in 0..2 {
        c.sh("cargo clean -q && cargo build -q");
        assert!(c.prints("target/debug/app").starts_with("base hello"));
        assert!(c.dir().join("target").is_symlink());
    }
    // At once: nobody remembers where the link led.
    c.sh("cargo build -q && rm target && mkdir target && cargo build -q");
    assert!(!c.dir().join("target").is_symlink());
    assert!(c.prints("target/debug/app").starts_with("base hello"));
}

fn watchers_learn_of_restored_files(world: World) {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    c.sh("find target -type f ! -name .cargo-lock -delete");
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK).expect("inotify");
    let interesting = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE;
    if inotify.add_watch(&c.dir().join("target/debug/deps"), interesting).is_err() {
        // Not even root may look into the mount of a user.
        return;
    }
    c.cargo("build").ok().all_hit();
    let mut names = Vec::new();
    while let Ok(events) = inotify.read_events() {
        names.extend(events.into_iter().filter_map(|e| e.name));
    }
    assert!(names.iter().any(|n| n.as_encoded_bytes().ends_with(b".rlib")), "{names:?}");
}
