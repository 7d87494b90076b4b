//! In a mount, what nobody opens is not downloaded.

use std::path::PathBuf;

use super::restore::machine;
use crate::s3::{Fault, Server};
use crate::support::world::Who;
use crate::support::{Checkout, World};

/// A mounted checkout whose every file came from elsewhere, and the program's object on the server.
fn restored(server: &Server, one: &World, two: &World) -> (Checkout, PathBuf) {
    restored_with(server, one, two, |_| ())
}

fn restored_with(
    server: &Server,
    one: &World,
    two: &World,
    prepare: impl Fn(&Checkout),
) -> (Checkout, PathBuf) {
    let first = machine(one, "first", server);
    prepare(&first);
    first.cargo("build").ok();
    first.kache_prints("sync");
    let program = blake3::hash(&first.bytes("target/debug/app")).to_hex().to_string();
    let object = server.objects(&format!("blobs/{}/{program}", &program[..2])).remove(0);
    server.seen();
    let second = machine(two, "second", server);
    prepare(&second);
    second.cargo("build").ok().all_hit();
    (second, object)
}

fn downloads_of(server: &Server, object: &std::path::Path) -> usize {
    let name = object.file_name().unwrap().to_str().unwrap();
    server.seen().iter().filter(|s| s.method == "GET" && s.path.contains(name)).count()
}

/// Waits until the daemon has taken away what it cannot show.
fn wait_until_gone(checkout: &Checkout, path: &str) {
    checkout.sh(&format!("for i in $(seq 200); do [ -e {path} ] || exit 0; sleep 0.1; done; exit 1"));
}

#[test]
fn the_first_reader_downloads_and_nobody_else() {
    let server = Server::start();
    let (one, two) = (World::plain(), World::mounted_by(Who::Root));
    let (second, object) = restored(&server, &one, &two);
    let shown = second.sh("stat -c %s target/debug/app");
    assert_eq!(
        shown.trim().parse::<u64>().unwrap(),
        std::fs::metadata(one.root().join("first/target/debug/app")).unwrap().len()
    );
    assert_eq!(downloads_of(&server, &object), 0, "the build and stat need no program");
    second.cargo("build").ok().fresh();
    assert_eq!(server.seen(), [], "cargo looks at names and times only");
    assert!(!second.prints("target/debug/app").is_empty());
    second.prints("target/debug/app");
    assert_eq!(downloads_of(&server, &object), 1);
}

#[test]
fn a_blob_that_is_gone_is_an_error_once_and_then_compiled() {
    let server = Server::start();
    let (one, two) = (World::plain(), World::mounted_by(Who::Root));
    let (second, object) = restored(&server, &one, &two);
    std::fs::remove_file(&object).unwrap();
    let read = second.command("cat").arg("target/debug/app").output().unwrap();
    assert!(!read.status.success() && read.stdout.is_empty());
    assert!(String::from_utf8_lossy(&read.stderr).contains("Input/output error"));
    wait_until_gone(&second, "target/debug/app");
    let run = second.cargo("build").ok();
    assert_eq!(run.compiled, ["app"], "{}", run.account());
    assert!(!second.prints("target/debug/app").is_empty());
}

#[test]
fn a_blob_that_is_wrong_is_never_shown() {
    let server = Server::start();
    let (one, two) = (World::plain(), World::mounted_by(Who::Root));
    let (second, _) = restored(&server, &one, &two);
    server.misbehave(Fault::Corrupt);
    let read = second.command("cat").arg("target/debug/app").output().unwrap();
    assert!(!read.status.success() && read.stdout.is_empty());
    server.misbehave(Fault::None);
    wait_until_gone(&second, "target/debug/app");
    second.cargo("build").ok();
    assert!(!second.prints("target/debug/app").is_empty());
}

#[test]
fn a_remote_that_is_away_for_a_moment_costs_an_error_and_no_more() {
    let server = Server::start();
    let (one, two) = (World::plain(), World::mounted_by(Who::Root));
    let (second, _) = restored(&server, &one, &two);
    server.misbehave(Fault::Status(503, "SlowDown"));
    assert!(!second.command("cat").arg("target/debug/app").output().unwrap().status.success());
    server.misbehave(Fault::None);
    assert!(!second.prints("target/debug/app").is_empty());
}

#[test]
fn a_large_file_comes_in_parts() {
    let server = Server::start();
    let (one, two) = (World::plain(), World::mounted_by(Who::Root));
    let mut noise = vec![0; 20 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let (second, object) = restored_with(&server, &one, &two, |checkout| {
        checkout.write("app/data/noise", &noise);
        let used = "fn main() {\n    println!(\"{}\", std::hint::black_box(include_bytes!(\"../data/noise\")).len());";
        checkout.edit("app/src/main.rs", "fn main() {", used);
    });
    assert_eq!(downloads_of(&server, &object), 0);
    server.misbehave_at("bytes=16777216-", Fault::Status(503, "SlowDown"));
    let read = second.command("cat").arg("target/debug/app").output().unwrap();
    assert!(!read.status.success() && read.stdout.is_empty());
    server.misbehave_at("bytes=8388608-", Fault::Truncate);
    server.seen();
    let all = std::fs::read(one.root().join("first/target/debug/app")).unwrap();
    assert!(second.bytes("target/debug/app") == all);
    let parts = std::fs::metadata(&object).unwrap().len().div_ceil(8 << 20);
    assert_eq!(downloads_of(&server, &object) as u64, parts + 1, "one broke off");
    assert!(second.prints("target/debug/app").contains("20971520"));
}
