//! What one machine has built, another one mounts: it has nothing to build, and downloads what it opens.

use super::restore::{machine, machine_with};
use crate::s3::{ACCESS_KEY, BUCKET, Fault, SECRET_KEY, Seen, Server};
use crate::support::world::Who;
use crate::support::{Checkout, World};

fn mounted() -> World {
    World::mounted_by(Who::Root)
}

/// A machine that has built in a mount, and shared a snapshot of it.
fn donor(world: &World, server: &Server) -> Checkout {
    let first = machine(world, "first", server);
    first.cargo("build").ok();
    first.kache_prints("sync");
    assert_eq!(server.objects("/snapshots/").len(), 1);
    server.seen();
    first
}

/// Mounts on another machine; what kache says.
fn mount(checkout: &Checkout) -> String {
    checkout.kache_prints("mount target")
}

fn about(seen: &[Seen], part: &str) -> usize {
    seen.iter().filter(|s| s.path.contains(part)).count()
}

/// One machine has built; a second one has mounted what it made.
fn forked() -> (Server, [World; 2], Checkout) {
    let server = Server::start();
    let worlds = [mounted(), mounted()];
    donor(&worlds[0], &server);
    let second = machine(&worlds[1], "second", &server);
    mount(&second);
    server.seen();
    (server, worlds, second)
}

#[test]
fn a_fresh_clone_on_another_machine_has_nothing_to_build() {
    let server = Server::start();
    let (one, two) = (mounted(), mounted());
    let first = donor(&one, &server);
    let second = machine(&two, "deeper/second", &server);
    let mounted = mount(&second);
    assert!(mounted.contains("9 of 9 units fresh"), "{mounted}");
    second.cargo("build").ok().fresh();
    let seen = server.seen();
    assert_eq!((seen.len(), about(&seen, "snapshots")), (2, 2), "a list and the snapshot: {seen:?}");
    assert!(seen.iter().map(|s| s.bytes).sum::<u64>() < 100_000, "{seen:?}");

    assert_eq!(second.prints("target/debug/app"), first.prints("target/debug/app"));
    let seen = server.seen();
    assert_eq!((seen.len(), about(&seen, "blobs")), (1, 1), "the program: {seen:?}");
}

#[test]
fn an_edit_downloads_what_the_compiler_reads() {
    let server = Server::start();
    let (one, two) = (mounted(), mounted());
    donor(&one, &server);
    let second = machine(&two, "second", &server);
    mount(&second);
    second.edit("app/src/main.rs", "native {}", "nativ {}");
    let run = second.cargo("build").ok();
    assert_eq!(run.compiled, ["app"], "{}", run.account());
    assert!(second.prints("target/debug/app").contains("nativ "));
    second.cargo("build").ok().fresh();
    // Macros and build scripts were not needed for that.
    let blobs = about(&server.seen(), "blobs");
    assert!(blobs > 0 && blobs < server.objects("/blobs/").len(), "{blobs}");
}

#[test]
fn what_a_compiler_will_read_is_on_its_way_before_it_asks() {
    let (server, [_one, _two], second) = forked();
    // It does not come so far as to read anything.
    second.edit("app/src/main.rs", "fn main() {", "fn main( {");
    assert!(!second.cargo("build").success);
    let began = std::time::Instant::now();
    while about(&server.seen(), "blobs") == 0 {
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "nothing came");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn machines_go_on_from_where_others_were() {
    let server = Server::start();
    let (one, two, three) = (mounted(), mounted(), mounted());
    donor(&one, &server);
    let edit = |c: &Checkout| c.edit("app/src/main.rs", "native {}", "nativ {}");
    let second = machine(&two, "second", &server).env("CI", "1");
    mount(&second);
    edit(&second);
    second.cargo("build").ok();
    second.kache_prints("sync");
    assert_eq!(server.objects("/snapshots/").len(), 2);
    let third = machine(&three, "third", &server);
    edit(&third);
    let said = third.kache_prints("fork --verbose");
    assert!(said.contains("9 of 9 units fresh"), "{said}");
    third.cargo("build").ok().fresh();
    assert!(third.prints("target/debug/app").contains("nativ "));
}

#[test]
fn what_came_from_elsewhere_can_be_forked_again() {
    let (server, [_one, two], second) = forked();
    // A snapshot of what was never opened downloads nothing.
    second.kache_prints("snapshot");
    assert_eq!(about(&server.seen(), "blobs"), 0);
    let third = machine(&two, "third", &server).env("KACHE_LOCAL_ONLY", "1");
    assert!(third.kache_prints("mount target").contains("9 of 9 units fresh"));
    third.cargo("build").ok().fresh();
    assert!(!third.prints("target/debug/app").is_empty());
}

#[test]
fn a_snapshot_that_is_not_what_it_should_be_is_left_alone() {
    let server = Server::start();
    let (one, two, three) = (mounted(), mounted(), mounted());
    let first = donor(&one, &server);
    let expected = first.prints("target/debug/app");
    let right = |checkout: &Checkout| {
        checkout.cargo("build").ok();
        assert_eq!(checkout.prints("target/debug/app"), expected);
    };

    // Not signed, where that is required.
    let strict = machine(&two, "strict", &server)
        .env("KACHE_TRUSTED_KEYS", "ab".repeat(32))
        .env("KACHE_REQUIRE_SIGNED", "true");
    assert!(!mount(&strict).contains("forked"));
    right(&strict);

    // Damaged.
    let object = server.objects("/snapshots/").remove(0);
    let mut bytes = std::fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&object, bytes).unwrap();
    let second = machine(&three, "second", &server);
    assert!(!mount(&second).contains("forked"));
    right(&second);
}

#[test]
fn blobs_that_are_gone_are_made_again() {
    let server = Server::start();
    let (one, two) = (mounted(), mounted());
    let first = donor(&one, &server);
    for blob in server.objects("/blobs/") {
        std::fs::remove_file(blob).unwrap();
    }
    let second = machine(&two, "second", &server);
    assert!(mount(&second).contains("9 of 9 units fresh"));
    second.edit("app/src/main.rs", "native {}", "nativ {}");
    // A compiler that cannot read what it needs fails; what it could not read is not shown again.
    second.sh("for i in $(seq 20); do cargo build && exit 0; sleep 0.6; done; exit 1");
    let expected = first.prints("target/debug/app").replace("native ", "nativ ");
    assert_eq!(second.prints("target/debug/app"), expected);
}

#[test]
fn a_remote_that_is_away_is_no_reason_not_to_mount() {
    let server = Server::start();
    let (one, two) = (mounted(), mounted());
    let first = donor(&one, &server);
    server.misbehave(Fault::Status(403, "AccessDenied"));
    let second = machine(&two, "second", &server);
    assert!(!mount(&second).contains("forked"));
    second.cargo("build").ok();
    assert_eq!(second.prints("target/debug/app"), first.prints("target/debug/app"));
}

#[test]
fn a_new_daemon_knows_where_views_come_from() {
    let server = Server::start();
    let (one, two) = (mounted(), mounted());
    let first = donor(&one, &server);
    let second = machine(&two, "second", &server);
    mount(&second);
    server.seen();
    second.kache_prints("daemon restart");
    assert_eq!(second.prints("target/debug/app"), first.prints("target/debug/app"));
    assert_eq!(about(&server.seen(), "blobs"), 1);
    let found = second.command("grep").args(["-rlF", SECRET_KEY]).arg(two.cache()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}

#[test]
fn a_new_daemon_that_nobody_tells_anything_looks_where_the_last_one_was_told() {
    let server = Server::start();
    let (one, two) = (mounted(), mounted());
    let first = donor(&one, &server);
    let second = two.checkout("second", "workspace");
    second.sh("mkdir -p ~/.config/kache");
    let endpoint = server.endpoint();
    let config = format!(
        "[cache.remote]\nbucket = \"{BUCKET}\"\nendpoint = \"{endpoint}\"\n\
         access_key = \"{ACCESS_KEY}\"\nsecret_key = \"{SECRET_KEY}\"\n"
    );
    std::fs::write(two.root().join("homes/second/.config/kache/config.toml"), config).unwrap();
    assert!(mount(&second).contains("9 of 9 units fresh"));
    let pid = two.daemon();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    two.wait_for_end(pid);
    // Somebody else's home, and no word of a remote.
    assert!(two.kache("daemon start").status.success());
    assert_eq!(second.prints("target/debug/app"), first.prints("target/debug/app"));
}

#[test]
fn what_a_macro_may_have_read_must_be_the_same() {
    let server = Server::start();
    let (one, two) = (mounted(), mounted());
    let first = machine(&one, "first", &server).env("STORY_MACRO_VAR", "one");
    first.cargo("build").ok();
    first.kache_prints("sync");
    let second = machine(&two, "second", &server).env("STORY_MACRO_VAR", "two");
    let said = second.kache_prints("fork --verbose");
    assert!(said.contains("a variable that it may have read differs"), "{said}");
    second.cargo("build").ok();
    let plain = second.plain("build");
    assert_eq!(second.prints("target/debug/app"), second.prints(plain.join("debug/app")));
    assert!(second.prints("target/debug/app").contains("two"));
}

/// A repository with one commit for each text, that has the project's address.
fn repository(checkout: &Checkout) {
    checkout.sh("echo target > .gitignore
         git init -q -b main && git config user.email a@b && git config user.name n
         git remote add origin https://example.org/project.git && git add . && git commit -qm one");
}

#[test]
fn the_nearest_commit_is_taken() {
    let server = Server::start();
    let (one, two) = (mounted(), mounted());
    let first = machine(&one, "first", &server).env("CI", "1");
    repository(&first);
    let commit = |text: &str| {
        first.edit("app/src/main.rs", "fn main() {", &format!("fn main() {{\n    println!(\"{text}\");"));
        first.sh("git commit -qam more");
        first.cargo("build").ok();
        first.kache_prints("sync");
    };
    first.cargo("build").ok();
    first.kache_prints("sync");
    let base = first.sh("git rev-parse HEAD");
    commit("another branch");
    first.sh(&format!("git checkout -q -b topic {base}"));
    commit("this branch");
    first.sh("git commit -q --allow-empty -m last && git checkout -q main");
    commit("later on the other branch");
    assert_eq!(server.objects("/snapshots/").len(), 4);

    let dir = two.root().join("second");
    let second = machine_with(two.empty_checkout(&dir), &server);
    second.sh(&format!(
        "git init -q && git fetch -q {0} topic main && git checkout -q FETCH_HEAD
         git remote add origin git@example.org:project",
        first.dir().display()
    ));
    let said = mount(&second);
    assert!(said.contains("9 of 9 units fresh"), "{said}");
    second.cargo("build").ok().fresh();
    assert!(second.prints("target/debug/app").starts_with("this branch"));
}

#[test]
fn a_checkout_with_changes_is_shared_when_asked_only() {
    let server = Server::start();
    let world = mounted();
    let first = machine(&world, "first", &server).env("CI", "1");
    repository(&first);
    first.edit("app/src/main.rs", "fn main() {", "fn main() {\n    println!(\"edited\");");
    first.cargo("build").ok();
    first.kache_prints("umount target");
    first.kache_prints("sync");
    assert!(server.objects("/snapshots/").is_empty());
    first.kache_prints("snapshot target");
    first.kache_prints("sync");
    assert_eq!(server.objects("/snapshots/").len(), 1);
}

#[test]
fn collection_leaves_what_a_mount_shows_and_forgets_what_nobody_does() {
    let server = Server::start();
    let (one, two) = (mounted(), mounted());
    let first = donor(&one, &server);
    let second = machine(&two, "second", &server);
    mount(&second);
    second.kache_prints("gc --max-size 1");
    assert_eq!(second.prints("target/debug/app"), first.prints("target/debug/app"));
    second.kache_prints("gc --max-size 1");
    second.cargo("build").ok().fresh();
    second.kache_prints("mounts");
}

#[test]
fn without_a_mount_all_of_it_is_downloaded_at_once() {
    let server = Server::start();
    let (one, two) = (mounted(), World::plain());
    let first = donor(&one, &server);
    let second = machine(&two, "second", &server);
    assert!(second.kache_prints("fork").contains("9 of 9 units fresh"));
    server.seen();
    second.env("KACHE_LOCAL_ONLY", "1").cargo("build").ok().fresh();
    assert_eq!(second.prints("target/debug/app"), first.prints("target/debug/app"));
    assert_eq!(server.seen(), []);
}
