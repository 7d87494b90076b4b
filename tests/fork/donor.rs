//! The donor goes its own way, or goes away.

use super::support::{Checkout, World};
use super::worktree::{built, copy, fork, forked, same_as_plain};

/// Nothing that cargo or rustc would follow names the donor any more.
fn names_nothing_of(fork: &Checkout, donor: &Checkout) {
    let needle = donor.dir().display().to_string();
    let found = fork.sh(&format!("grep -rlF --exclude-dir=incremental '{needle}/' target || test $? = 1"));
    assert_eq!(found, "", "files that name the donor");
}

#[test]
fn the_donor_can_be_deleted() {
    let world = World::new();
    let donor = built(&world, "build");
    let other = forked(&donor, "other");
    names_nothing_of(&other, &donor);
    if world.mounted() {
        donor.kache_prints("umount");
    }
    std::fs::remove_dir_all(donor.dir()).expect("our own directory");
    other.cargo("build").ok().fresh();
    other.edit("base/src/words.rs", "hello", "alone");
    other.cargo("build").ok();
    assert!(other.prints("target/debug/app").contains("alone"));
    same_as_plain(&other);
}

#[test]
fn what_happens_to_the_donor_does_not_happen_to_the_fork() {
    let world = World::new();
    let donor = built(&world, "build");
    let other = forked(&donor, "other");
    let before = other.bytes("target/debug/app");
    donor.edit("base/src/words.rs", "hello", "changed");
    let while_it = |does: &(dyn Fn() + Sync)| {
        std::thread::scope(|scope| {
            scope.spawn(does);
            other.cargo("build").ok().fresh();
        });
        other.cargo("build").ok().fresh();
    };
    while_it(&|| drop(donor.cargo("build").ok()));
    assert!(donor.prints("target/debug/app").contains("changed"));
    while_it(&|| donor.clean());
    while_it(&|| drop(donor.cargo("build").ok()));
    if world.mounted() {
        while_it(&|| drop(donor.kache_prints("umount")));
    }
    assert!(before == other.bytes("target/debug/app"));
    other.cargo("test").ok();
}

#[test]
fn a_snapshot_outlives_its_donor() {
    let world = World::new();
    let donor = built(&world, "build");
    let other = copy(&donor, "other");
    if world.mounted() {
        donor.kache_prints("umount");
    } else {
        donor.kache_prints("snapshot");
    }
    std::fs::remove_dir_all(donor.dir()).expect("our own directory");
    let id = other.kache_json("snapshot list --json")[0]["id"].as_str().expect("an id").to_owned();
    other.kache_prints(&format!("fork --from {id}"));
    other.cargo("build").ok().fresh();
}

#[test]
fn a_fork_of_a_mount_while_it_builds_is_consistent() {
    let world = World::new();
    let donor = built(&world, "build");
    let other = copy(&donor, "other");
    donor.edit("base/src/words.rs", "hello", "changed");
    std::thread::scope(|scope| {
        let build = scope.spawn(|| donor.cargo("build").ok());
        fork(&donor, &other);
        build.join().expect("a build");
    });
    other.cargo("build").ok();
    same_as_plain(&other);
    assert!(other.prints("target/debug/app").contains("hello"));
}
