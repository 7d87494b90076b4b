//! `cargo clean` and its relatives.

use crate::support::{World, by_root_and_user};

by_root_and_user!(
    cargo_clean_empties_the_mount_and_it_stays_well,
    kache_clean_has_no_error,
    a_linked_target_survives_cargo_clean,
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
