//! What one machine has built, another one mounts: it has nothing to build, and downloads what it opens.

use super::restore::machine;
use crate::s3::{Fault, Seen, Server};
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

#[test]
fn a_fresh_clone_on_another_machine_has_nothing_to_build() {
    let server = Server::start();
    let (one, two) = (mounted(), mounted());
    let first = donor(&one, &server);
    let second = machine(&two, "deeper/second", &server);
    assert!(mount(&second).contains("9 of 9 units fresh"));
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
    let server = Server::start();
    let (one, two) = (mounted(), mounted());
    donor(&one, &server);
    let second = machine(&two, "second", &server);
    mount(&second);
    server.seen();
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
fn what_came_from_elsewhere_can_be_forked_again() {
    let server = Server::start();
    let (one, two) = (mounted(), mounted());
    donor(&one, &server);
    let second = machine(&two, "second", &server);
    mount(&second);
    server.seen();
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
