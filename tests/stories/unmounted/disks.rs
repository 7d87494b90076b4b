//! My cache and my target lie on whatever file systems they lie on: the cheapest safe way is taken, and nothing that
//! happens in a target reaches the store.

use std::collections::BTreeSet;
use std::fs;

use crate::support::{Checkout, Run, World, disk};

fn modes(run: &Run) -> BTreeSet<&str> {
    run.events.iter().filter_map(|e| e.link_mode.as_deref()).collect()
}

/// Cache and checkout both on one file system.
fn both_on(kind: &str) -> (World, Checkout) {
    let world = World::plain();
    let disk = disk::mount(&world, kind, if kind == "xfs" { 400 } else { 200 });
    let c = world.checkout("disk/project", "workspace").env("KACHE_CACHE_DIR", disk.join("cache"));
    c.cargo("build").ok();
    c.clean();
    (world, c)
}

fn reflinks(kind: &str) {
    let (_world, c) = both_on(kind);
    let run = c.cargo("build").ok();
    run.all_hit();
    assert_eq!(modes(&run), BTreeSet::from(["reflink"]), "{}", run.account());
    assert_eq!(c.sh("find \"$KACHE_CACHE_DIR/store/blobs\" -type f -links +1"), "");
    // They are files of their own: whoever writes into them harms nobody.
    for rlib in c.find("*.rlib") {
        let path = c.dir().join(rlib);
        fs::write(&path, "overwritten").unwrap();
    }
    c.kache_prints("doctor --verify");
    c.clean();
    c.cargo("build").ok().all_hit();
    assert!(c.prints("target/debug/app").contains("native 42"));
}

#[test]
fn btrfs() {
    reflinks("btrfs");
}

#[test]
fn xfs() {
    reflinks("xfs");
}

#[test]
fn ext4_links_what_nobody_edits_and_copies_the_rest() {
    let (world, c) = both_on("ext4");
    let run = c.cargo("build").ok();
    run.all_hit();
    for event in &run.events {
        let expected = if event.unit == "app bin" { "copy" } else { "hardlink" };
        assert_eq!(event.link_mode.as_deref(), Some(expected), "{event:?}");
    }
    // Links share their times, so a second target does not get one.
    let rlib = c.dir().join(&c.find("libbase*.rlib")[0]);
    let before = fs::metadata(&rlib).unwrap().modified().unwrap();
    let second =
        world.checkout("disk/second", "workspace").env("KACHE_CACHE_DIR", world.root().join("disk/cache"));
    second.cargo("build").ok().all_hit();
    assert_eq!(fs::metadata(&rlib).unwrap().modified().unwrap(), before);
    second.cargo("build").ok().fresh();
    c.cargo("build").ok().fresh();
}

#[test]
fn across_file_systems_bytes_are_copied() {
    let world = World::plain();
    let disk = disk::mount(&world, "tmpfs", 200);
    let c = world.checkout("project", "workspace").env("KACHE_CACHE_DIR", disk.join("cache"));
    c.cargo("build").ok();
    c.clean();
    let run = c.cargo("build").ok();
    run.all_hit();
    assert_eq!(modes(&run), BTreeSet::from(["copy"]), "{}", run.account());
    c.cargo("build").ok().fresh();
    assert!(c.prints("target/debug/app").contains("native 42"));
}

/// The compiler, `strip` and a clumsy script all write where a hit put a file.
#[test]
fn nothing_written_in_a_target_reaches_the_store() {
    let (_world, c) = both_on("ext4");
    let c = c.env("CI", "1");
    c.cargo("build").ok().all_hit();
    c.sh("strip target/debug/app");
    c.edit("base/src/words.rs", "hello", "edited");
    c.edit("macros/src/lib.rs", "len()", "len().pow(2)");
    c.edit("native/story.c", "42", "43");
    c.cargo("build").ok();
    assert!(c.prints("target/debug/app").contains("native 43"));
    c.kache_prints("doctor --verify");
    for (file, new, old) in [
        ("base/src/words.rs", "edited", "hello"),
        ("macros/src/lib.rs", "len().pow(2)", "len()"),
        ("native/story.c", "43", "42"),
    ] {
        c.edit(file, new, old);
    }
    c.cargo("build").ok().all_hit();
    assert!(c.prints("target/debug/app").contains("base hello"));
    assert!(c.sh("nm target/debug/app").contains("story_answer"), "the stored program is not stripped");
}
