//! Which snapshots there are, and how long they stay.

use super::support::World;
use super::worktree::{built, copy, forked};

#[test]
fn snapshots_are_listed_pinned_and_removed() {
    let world = World::new();
    let donor = built(&world, "build");
    donor.kache_prints("snapshot");
    let list = donor.kache_json("snapshot list --json");
    let id = list[0]["id"].as_str().expect("an id").to_owned();
    donor.kache_prints(&format!("snapshot pin {}", &id[..6]));
    // The same directory, changed: the newer one replaces what is not pinned.
    for text in ["one", "two"] {
        donor.edit("app/src/main.rs", "native ", &format!("{text} native "));
        donor.cargo("build").ok();
        donor.kache_prints("snapshot");
    }
    let list = donor.kache_json("snapshot list --json");
    assert_eq!(list.as_array().expect("a list").len(), 2);
    assert!(list.as_array().expect("a list").iter().any(|s| s["id"] == id.as_str() && s["pinned"] == true));
    donor.kache_prints(&format!("snapshot unpin {id}"));
    donor.kache_prints(&format!("snapshot rm {id}"));
    let list = donor.kache_json("snapshot list --json");
    assert!(list.as_array().expect("a list").iter().all(|s| s["id"] != id.as_str()));
}

#[test]
fn gc_leaves_what_a_pinned_snapshot_needs_and_takes_others() {
    let world = World::new();
    let donor = built(&world, "build");
    let other = copy(&donor, "other");
    donor.kache_prints("snapshot");
    let list = donor.kache_json("snapshot list --json");
    let id = list[0]["id"].as_str().expect("an id").to_owned();
    donor.kache_prints(&format!("snapshot pin {id}"));
    if world.mounted() {
        donor.kache_prints("umount --discard");
    }
    donor.kache_prints("gc --max-size 1MB");
    other.kache_prints(&format!("fork --from {id}"));
    other.cargo("build").ok().fresh();
    donor.kache_prints(&format!("snapshot unpin {id}"));
    donor.kache_prints("gc --max-size 1MB");
    let list = donor.kache_json("snapshot list --json");
    assert_eq!(list.as_array().expect("a list").len(), 0);
    // Where there is a mount, it needs its views still.
    other.cargo("build").ok().fresh();
}

#[test]
fn what_a_fork_saved_is_in_the_statistics() {
    let world = World::new();
    let donor = built(&world, "build");
    forked(&donor, "other");
    let forks = donor.kache_json("stats --json")["forks"].clone();
    assert_eq!(forks["forks"], 1);
    assert!(forks["fresh"].as_u64().expect("a number") > 5);
    assert!(forks["saved_ms"].as_u64().expect("a number") > 0);
}

#[test]
fn nothing_is_forked_over_something() {
    let world = World::new();
    let donor = built(&world, "build");
    let other = copy(&donor, "other");
    other.cargo("check").ok();
    donor.kache_prints("snapshot");
    let refused = other.kache(&["fork"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not empty"));
    other.cargo("check").ok().fresh();
}

#[test]
fn another_project_is_not_forked() {
    let world = World::new();
    let donor = built(&world, "build");
    donor.kache_prints("snapshot");
    let files = [
        ("Cargo.toml", "[package]\nname = \"alien\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
        ("Cargo.lock", "version = 4\n\n[[package]]\nname = \"alien\"\nversion = \"0.1.0\"\n"),
        ("src/main.rs", "fn main() {}\n"),
    ];
    let alien = world.project("alien", &files);
    let refused = alien.kache(&["fork"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no snapshot"));
}
