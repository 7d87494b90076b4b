//! A branch is checked out and back: what has its old content again is fresh again. Only mounts can do that.

use super::support::World;
use super::support::world::Mode;
use super::worktree::same_as_plain;

fn world() -> World {
    match World::new() {
        world if world.mounted() => world,
        _ => World::in_mode(Mode::Mounted),
    }
}

#[test]
fn old_content_with_new_times_is_fresh_again() {
    let world = world();
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    c.kache_prints("snapshot");
    c.sh("find . -path ./target -prune -o -type f -exec touch {} +");
    let said = c.kache_prints("mount --refresh");
    assert!(said.contains("refreshed"), "{said}");
    c.cargo("build").ok().fresh();
    // And the next edit is seen.
    c.edit("base/src/words.rs", "hello", "edited");
    c.cargo("build").ok().only("edit", &["base lib", "app bin"]);
    same_as_plain(&c);
}

#[test]
fn new_content_is_not() {
    let world = world();
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    c.kache_prints("snapshot");
    c.edit("generated/table.txt", "\n", "\nmore\n");
    c.edit("app/src/main.rs", "native {}", "other {}");
    c.sh("touch native/story.c base/src/lib.rs");
    c.kache_prints("refresh");
    let run = c.cargo("build").ok();
    assert!(!run.compiled.contains(&"base".to_owned()), "{}", run.account());
    assert!(run.compiled.contains(&"app".to_owned()), "{}", run.account());
    same_as_plain(&c);
}

#[test]
fn what_was_built_since_the_snapshot_is_left_to_cargo() {
    let world = world();
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    c.kache_prints("snapshot");
    c.edit("base/src/words.rs", "hello", "second");
    c.cargo("build").ok();
    // Back, without a build: what is built is the second.
    c.edit("base/src/words.rs", "second", "hello");
    c.kache_prints("refresh");
    c.cargo("build").ok();
    same_as_plain(&c);
}

#[test]
fn the_hook_does_it_after_a_checkout() {
    let world = world();
    let c = world.checkout("project", "workspace");
    let git = "git -c user.name=a -c user.email=a@b -c init.defaultBranch=one";
    c.write(".gitignore", "target\n");
    c.sh(&format!("{git} init -q && git add . && {git} commit -qm one && git branch two"));
    c.kache_prints("init --git-hook");
    c.sh("git checkout -q two");
    c.edit("base/src/words.rs", "hello", "two");
    c.sh(&format!("{git} commit -qam two && git checkout -q one"));
    c.cargo("build").ok();
    c.kache_prints("snapshot");
    c.sh("git checkout -q two && git checkout -q one");
    c.cargo("build").ok().fresh();
    c.sh("git checkout -q two");
    c.cargo("build").ok();
    assert!(c.prints("target/debug/app").contains("two"));
}

/// As archives and `git-restore-mtime` leave files: another content, and a time long before the build.
#[test]
fn new_content_with_old_times_is_noticed() {
    let world = world();
    let c = world.checkout("project", "workspace");
    let old = || c.sh("find . -path ./target -prune -o -type f -exec touch -d 2020-01-01 {} +");
    old();
    c.cargo("build").ok();
    c.kache_prints("snapshot");
    // The second time of what was built after the snapshot.
    for (before, after) in [("hello", "second"), ("second", "third")] {
        c.edit("base/src/words.rs", before, after);
        old();
        c.kache_prints("refresh");
        c.cargo("build").ok();
        assert!(c.prints("target/debug/app").contains(after));
    }
    same_as_plain(&c);
}
