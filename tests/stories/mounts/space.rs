//! What mounts hold and give back, and where there can be none.

use crate::support::{Who, World, by_root_and_user};

by_root_and_user!(collection_spares_what_a_mount_shows, four_checkouts_take_the_room_of_one);

fn collection_spares_what_a_mount_shows(world: World) {
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    c.kache_prints("gc --max-size 1");
    c.kache_prints("purge");
    assert!(c.prints("target/debug/app").starts_with("base hello"));
    c.cargo("build").ok().fresh();
    c.kache_prints("doctor --verify");
    c.kache_prints("umount --discard");
    c.kache_prints("purge");
    assert_eq!(c.kache_json("stats --json")["store"]["blobs"], 0);
}

fn four_checkouts_take_the_room_of_one(world: World) {
    let used = || -> u64 {
        let du = world.command("du").args(["-s", "-B1", "cache"]).output().unwrap();
        String::from_utf8(du.stdout).unwrap().split('\t').next().unwrap().parse().unwrap()
    };
    let first = world.checkout("first", "workspace");
    first.cargo("build").ok();
    let one = used();
    for name in ["second", "third", "fourth"] {
        let c = world.checkout(name, "workspace");
        c.cargo("build").ok().all_hit();
    }
    let mounts = first.kache_json("mounts --json");
    let own: u64 = mounts.as_array().unwrap().iter().skip(1).map(|m| m["own_bytes"].as_u64().unwrap()).sum();
    let shown = mounts[0]["shown_bytes"].as_u64().unwrap();
    assert!(own < shown / 2, "three more targets took {own} bytes of their own, one shows {shown}");
    assert!(used() < one + one / 5, "the cache grew from {one} to {} bytes", used());
}

#[test]
fn a_deleted_checkout_gives_its_room_back() {
    let world = World::mounted_by(Who::Root);
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    c.kache_prints("purge");
    assert!(c.kache_json("stats --json")["store"]["blobs"].as_u64().unwrap() > 5, "the mount shows them");
    crate::support::namespace::detach(&c.dir().join("target"));
    std::fs::remove_dir_all(c.dir()).unwrap();
    let elsewhere = world.empty_checkout(&world.root().join("elsewhere"));
    elsewhere.kache_prints("daemon restart");
    elsewhere.kache_prints("purge");
    assert!(elsewhere.kache_json("stats --json")["store"]["blobs"].as_u64().unwrap() > 5, "it may come back");
    elsewhere.sh("touch -d '8 days ago' \"$KACHE_CACHE_DIR\"/mounts/*/gone");
    elsewhere.kache_prints("daemon restart");
    elsewhere.kache_prints("purge");
    assert_eq!(elsewhere.kache_json("stats --json")["store"]["blobs"], 0);
}

#[test]
fn where_nothing_can_be_mounted_builds_go_on() {
    let world = World::mounted_by(Who::Root);
    let c = world.checkout("project", "workspace");
    c.kache_prints("umount");
    // Only for this test's processes: see `namespace`.
    c.kache_prints("daemon stop");
    crate::support::namespace::show_read_only("/dev/null".as_ref(), "/dev/fuse".as_ref());
    let refused = c.kache(&["mount"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("refused") && said.contains("Builds go on"), "{said}");
    assert!(c.kache(&["mount", "--if-available"]).status.success());
    c.cargo("build").ok();
    assert!(c.prints("target/debug/app").starts_with("base hello"));
}

/// Files that were restored by hard link before there was a mount are views after it, and nobody gets at the store.
#[test]
fn hard_links_of_a_target_become_views() {
    let world = World::mounted_by(Who::Root);
    let c = world.checkout("project", "workspace");
    c.kache_prints("umount");
    c.cargo("build").ok();
    c.sh("rm -rf target");
    c.cargo("build").ok().all_hit();
    let linked = c.sh("find target -name 'libbase-*.rlib' -links +1");
    assert!(!linked.is_empty(), "restored by hard link on this file system");
    c.kache_prints("mount");
    let views =
        c.sh("getfattr -R -n user.kache.blob target/debug/deps 2>/dev/null | grep -c ^user.kache.blob");
    assert!(views.trim().parse::<u32>().unwrap() > 3, "{views}");
    c.cargo("build").ok().fresh();
    c.sh("for f in target/debug/deps/lib*.rlib; do chmod u+w $f; echo more >> $f; done");
    c.kache_prints("doctor --verify");
}

/// A target whose files are hard links to blobs is an ordinary one for a compiler without kache.
#[test]
fn without_kache_a_restored_target_can_be_built_in() {
    let world = World::plain();
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    c.clean();
    c.cargo("build").ok().all_hit();
    c.edit("base/src/words.rs", "hello", "bye");
    let output = c.without_env("RUSTC_WRAPPER").cargo_output(["build"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(c.prints("target/debug/app").starts_with("base bye"));
    c.kache_prints("doctor --verify");
}
