//! The remote has troubles; builds have none.

use std::time::{Duration, Instant};

use super::restore::{machine, machine_with, start_daemon};
use crate::s3::{Fault, Server};
use crate::support::{Checkout, Run, World};

/// What people were told.
fn warnings(world: &World) -> Vec<String> {
    let log = std::fs::read_to_string(world.cache().join("kache.log")).unwrap_or_default();
    log.lines().map(str::to_owned).collect()
}

/// A machine with something to restore, and a server from which another one has brought it all.
fn shared(server: &Server, world: &World) -> Checkout {
    let first = machine(world, "first", server);
    first.cargo("build").ok();
    first.kache_prints("sync");
    first
}

/// A build of a second machine with a server that misbehaves where `part` is in the name of an object; it is right all
/// the same.
fn build_with(part: &'static str, fault: Fault) -> (Run, Vec<String>) {
    let server = Server::start();
    let (one, two) = (World::plain(), World::plain());
    let first = shared(&server, &one);
    let second = machine(&two, "second", &server).env("KACHE_S3_TIMEOUT", "1s");
    start_daemon(&second);
    server.misbehave_at(part, fault);
    let run = second.cargo("build").ok();
    assert_eq!(second.prints("target/debug/app"), first.prints("target/debug/app"));
    assert_eq!(run.units_count("unstored"), 0, "{}", run.account());
    let told = warnings(&two);
    // Nothing of it stays: with a remote that is well, the next build of a fresh checkout is right as well.
    server.misbehave(Fault::None);
    second.clean();
    second.cargo("build").ok().all_hit();
    (run, told)
}

/// The remote is given up: everything is compiled, and one warning says why.
#[track_caller]
fn is_given_up(fault: Fault, why: &str) {
    helps_nobody("", fault, why);
}

/// The same when only objects, not answers to other questions, are not what they should be.
#[track_caller]
fn is_not_believed(fault: Fault) {
    helps_nobody("/v1/", fault, "it was not used");
}

#[track_caller]
fn helps_nobody(part: &'static str, fault: Fault, why: &str) {
    let (run, told) = build_with(part, fault);
    assert_eq!(run.units_count("hit"), 0, "{}", run.account());
    assert!(told.len() == 1 && told[0].contains(why), "{told:?}");
}

#[test]
fn refused() {
    is_given_up(Fault::Status(403, "AccessDenied"), "the credentials are wrong or lack the permission");
}

#[test]
fn broken() {
    is_given_up(Fault::Status(500, "InternalError"), "500 InternalError");
}

#[test]
fn the_wrong_time() {
    is_given_up(Fault::Status(403, "RequestTimeTooSkewed"), "set the clock");
}

#[test]
fn no_bucket() {
    is_given_up(Fault::Status(404, "NoSuchBucket"), "does not exist");
}

#[test]
fn connections_reset() {
    is_given_up(Fault::Reset, "left alone");
}

#[test]
fn silence() {
    is_given_up(Fault::Stall, "left alone");
}

#[test]
fn silence_in_the_middle() {
    is_given_up(Fault::StallInBody, "left alone");
}

#[test]
fn truncated() {
    is_given_up(Fault::Truncate, "left alone");
}

#[test]
fn too_short() {
    is_not_believed(Fault::Shorten);
}

#[test]
fn too_long() {
    is_not_believed(Fault::Lengthen);
}

#[test]
fn wrong_bytes() {
    is_not_believed(Fault::Corrupt);
}

#[test]
fn latency_is_no_trouble() {
    for ms in [0, 20, 200] {
        let (run, told) = build_with("", Fault::Latency(Duration::from_millis(ms)));
        run.all_hit();
        assert_eq!(told, [""; 0], "{ms} ms");
    }
}

/// Everything is known from the manifest, and no blob comes.
#[test]
fn nothing_but_a_good_beginning() {
    let faults =
        [Fault::Stall, Fault::StallInBody, Fault::Reset, Fault::Status(503, "SlowDown"), Fault::Corrupt];
    for fault in faults {
        let (run, told) = build_with("/blobs/", fault);
        assert!(run.units_count("miss") > 0, "{fault:?}: {}", run.account());
        assert_eq!(told.len(), 1, "{fault:?}: {told:?}\n{}", run.account());
    }
}

#[test]
fn nobody_there() {
    let server = Server::start();
    for (endpoint, why) in [
        ("http://127.0.0.1:1", "the connection was refused"),
        ("http://kache.invalid", "its name cannot be resolved"),
    ] {
        let world = World::plain();
        let checkout = machine(&world, "first", &server).env("KACHE_S3_ENDPOINT", endpoint);
        start_daemon(&checkout);
        checkout.cargo("build").ok();
        let told = warnings(&world);
        assert!(told.len() == 1 && told[0].contains(why), "{told:?}");
    }
}

/// Questions in vain take no more than a second and a twentieth of the build, however many there would be to ask.
#[test]
fn a_slow_remote_that_has_nothing_is_left_alone() {
    const LATENCY: Duration = Duration::from_millis(200);
    const CRATES: usize = 60;
    let (server, world) = (Server::start(), World::plain());
    let names: Vec<String> = (0..CRATES).map(|n| format!("c{n}")).collect();
    let mut files =
        vec![("Cargo.toml".to_owned(), format!("[workspace]\nresolver = \"3\"\nmembers = {names:?}\n"))];
    for name in &names {
        let manifest = format!("[package]\nname = \"{name}\"\nversion = \"1.0.0\"\nedition = \"2024\"\n");
        files.push((format!("{name}/Cargo.toml"), manifest));
        files.push((format!("{name}/src/lib.rs"), format!("pub fn {name}() {{}}\n")));
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let checkout = machine_with(world.project("many", &files), &server).env("KACHE_REMOTE_MODE", "readonly");
    start_daemon(&checkout);
    server.misbehave(Fault::Latency(LATENCY));
    let began = Instant::now();
    let run = checkout.cargo("build").ok();
    let took = began.elapsed();
    assert_eq!(run.units_count("miss"), CRATES, "{}", run.account());
    let lanes = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    let allowed = Duration::from_secs(1) + took / 20;
    // The last question of each lane began in time.
    let most = lanes * (allowed.as_millis() / LATENCY.as_millis() + 1) as u32;
    let asked = server.seen().len();
    assert!(asked as u32 <= most, "{asked} requests, {most} allowed in {took:?}");
    let told = warnings(&world);
    assert!(told.len() <= 1 && told.iter().all(|t| t.contains("left alone")), "{told:?}");
    assert_eq!(told.is_empty(), asked >= CRATES, "{asked} requests: {told:?}");
}
