//! The remote has troubles; builds have none.

use std::time::Duration;

use super::restore::{machine, start_daemon};
use crate::s3::{Fault, Server};
use crate::support::World;

/// Warnings for people about a remote that was given up.
fn warnings(world: &World) -> usize {
    let log = std::fs::read_to_string(world.cache().join("kache.log")).unwrap_or_default();
    log.lines().filter(|l| l.contains("left alone")).count()
}

/// A machine with something to restore, a server that misbehaves, and a build that is right all the same. Returns how
/// many warnings there were, and whether anything was restored.
fn build_with(fault: Fault) -> (usize, bool) {
    let server = Server::start();
    let (one, two) = (World::plain(), World::plain());
    let first = machine(&one, "first", &server);
    first.cargo("build").ok();
    first.kache_prints("sync");
    server.misbehave(fault);
    let second = machine(&two, "second", &server).env("KACHE_S3_TIMEOUT", "1s");
    start_daemon(&second);
    let run = second.cargo("build").ok();
    assert_eq!(second.prints("target/debug/app"), first.prints("target/debug/app"));
    assert_eq!(run.units_count("unstored"), 0, "{}", run.account());
    // Nothing of it stays: with a remote that is well, the next build of a fresh checkout is right as well.
    server.misbehave(Fault::None);
    second.clean();
    second.cargo("build").ok().all_hit();
    (warnings(&two), run.units_count("hit") > 0)
}

#[test]
fn refused() {
    assert_eq!(build_with(Fault::Status(403, "AccessDenied")), (1, false));
}

#[test]
fn broken() {
    assert_eq!(build_with(Fault::Status(500, "InternalError")), (1, false));
}

#[test]
fn the_wrong_time() {
    assert_eq!(build_with(Fault::Status(403, "RequestTimeTooSkewed")), (1, false));
}

#[test]
fn no_bucket() {
    assert_eq!(build_with(Fault::Status(404, "NoSuchBucket")), (1, false));
}

#[test]
fn connections_reset() {
    assert_eq!(build_with(Fault::Reset), (1, false));
}

#[test]
fn silence() {
    assert_eq!(build_with(Fault::Stall), (1, false));
}

#[test]
fn silence_in_the_middle() {
    assert_eq!(build_with(Fault::StallInBody), (1, false));
}

#[test]
fn truncated() {
    assert_eq!(build_with(Fault::Truncate), (1, false));
}

#[test]
fn cut_short() {
    assert!(!build_with(Fault::Shorten).1);
}

#[test]
fn wrong_bytes() {
    assert!(!build_with(Fault::Corrupt).1);
}

#[test]
fn some_latency_is_no_trouble() {
    let (warnings, restored) = build_with(Fault::Latency(Duration::from_millis(20)));
    assert!(warnings <= 1 && restored);
}

#[test]
fn nobody_there() {
    let world = World::plain();
    let server = Server::start();
    for endpoint in ["http://127.0.0.1:1", "http://kache.invalid"] {
        let checkout = machine(&world, &endpoint[7..10], &server).env("KACHE_S3_ENDPOINT", endpoint);
        start_daemon(&checkout);
        checkout.cargo("build").ok();
        checkout.kache_prints("purge");
    }
    assert!(warnings(&world) <= 2 && warnings(&world) > 0);
}
