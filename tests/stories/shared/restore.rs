//! What one machine has built, another one restores.

use crate::s3::{SECRET_KEY, Server};
use crate::support::{Checkout, World};

/// A checkout on a machine of its own, that shares through the server.
pub fn machine(world: &World, name: &str, server: &Server) -> Checkout {
    machine_with(world.checkout(name, "workspace"), server)
}

/// The same with a checkout of any project.
pub fn machine_with(checkout: Checkout, server: &Server) -> Checkout {
    let mut checkout = checkout.env("KACHE_DAEMON_IDLE_TIMEOUT", "10m");
    for (name, value) in server.env() {
        checkout = checkout.env(name, value);
    }
    checkout
}

pub fn start_daemon(checkout: &Checkout) {
    checkout.kache_prints("daemon start");
}

#[test]
fn a_second_machine_compiles_nothing() {
    let server = Server::start();
    let (one, two) = (World::plain(), World::plain());
    let first = machine(&one, "first", &server);
    let built = first.cargo("build").ok();
    assert!(built.units("hit").is_empty() && built.units_count("miss") > 5, "{}", built.account());
    first.kache_prints("sync");

    let second = machine(&two, "another/place", &server);
    start_daemon(&second);
    second.cargo("build").ok().all_hit();
    assert_eq!(second.prints("target/debug/app"), first.prints("target/debug/app"));

    // And what is here now needs no remote any more.
    server.seen();
    second.clean();
    second.cargo("build").ok().all_hit();
    assert_eq!(server.seen(), []);
}

#[test]
fn an_edit_is_compiled_and_shared_in_turn() {
    let server = Server::start();
    let (one, two) = (World::plain(), World::plain());
    let first = machine(&one, "first", &server).env("CI", "1");
    first.cargo("build").ok();
    first.kache_prints("sync");
    let second = machine(&two, "second", &server).env("CI", "1");
    start_daemon(&second);
    second.cargo("build").ok().all_hit();
    second.edit("app/src/main.rs", "fn main() {", "fn main() {\n    println!(\"edited\");");
    second.cargo("build").ok().missed(&["app bin"]);
    second.kache_prints("sync");

    // The first machine knows the unit, but not with this content.
    start_daemon(&first);
    first.edit("app/src/main.rs", "fn main() {", "fn main() {\n    println!(\"edited\");");
    first.cargo("build").ok().all_hit();
    assert!(first.prints("target/debug/app").starts_with("edited"));
}

#[test]
fn what_waits_for_upload_survives_the_end_of_the_daemon() {
    let server = Server::start();
    let (one, two) = (World::plain(), World::plain());
    let first = machine(&one, "first", &server);
    server.misbehave(crate::s3::Fault::Status(503, "SlowDown"));
    start_daemon(&first);
    first.cargo("build").ok();
    let status = first.kache_json("daemon status --json");
    let pid = nix::unistd::Pid::from_raw(status["pid"].as_i64().unwrap() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert!(!first.kache(&["sync"]).status.success(), "uploads that failed are not kept quiet");
    assert!(first.kache(&["sync", "--allow-partial"]).status.success());

    server.misbehave(crate::s3::Fault::None);
    assert!(first.kache_prints("sync --dry-run").contains("would upload"));
    first.kache_prints("sync");
    let second = machine(&two, "second", &server);
    start_daemon(&second);
    second.cargo("build").ok().all_hit();
}

#[test]
fn entries_from_before_the_remote_are_shared_on_request() {
    let server = Server::start();
    let (one, two) = (World::plain(), World::plain());
    let first = machine(&one, "first", &server);
    first.env("KACHE_LOCAL_ONLY", "1").cargo("build").ok();
    assert_eq!(server.seen(), []);
    first.kache_prints("sync");
    assert!(server.objects("/entries/").is_empty());
    first.kache_prints("sync --all");
    let second = machine(&two, "second", &server);
    start_daemon(&second);
    second.cargo("build").ok().all_hit();
}

#[test]
fn a_reader_uploads_nothing() {
    let server = Server::start();
    let world = World::plain();
    let reader = machine(&world, "reader", &server).env("KACHE_REMOTE_MODE", "readonly");
    start_daemon(&reader);
    reader.cargo("build").ok();
    reader.kache_prints("sync --all");
    assert!(server.objects("/v1/").is_empty());
    assert!(server.seen().iter().all(|s| s.method == "GET"));
}

#[test]
fn what_a_stranger_signed_is_not_used_where_signatures_are_required() {
    let server = Server::start();
    let (one, two, three) = (World::plain(), World::plain(), World::plain());
    let stranger = machine(&one, "stranger", &server);
    stranger.cargo("build").ok();
    stranger.kache_prints("sync");

    let key = stranger.kache_prints("signing-key");
    let main = machine(&two, "main", &server)
        .env("KACHE_SIGNING_KEY", key.trim())
        .env("KACHE_REQUIRE_SIGNED", "true")
        .env("KACHE_S3_PREFIX", "");
    start_daemon(&main);
    let built = main.cargo("build").ok();
    assert!(built.units("hit").is_empty(), "{}", built.account());

    // The public key is all that a reader needs.
    let public = main.kache_prints("signing-key --public");
    let main = main.env("KACHE_S3_PREFIX", "signed");
    main.kache_prints("sync --all");
    let reader = machine(&three, "reader", &server)
        .env("KACHE_TRUSTED_KEYS", public.trim())
        .env("KACHE_REQUIRE_SIGNED", "true")
        .env("KACHE_S3_PREFIX", "signed");
    start_daemon(&reader);
    reader.cargo("build").ok().all_hit();
}

#[test]
fn secrets_stay_secret() {
    let server = Server::start();
    let world = World::plain();
    let checkout = machine(&world, "first", &server).env("KACHE_LOG", "trace");
    start_daemon(&checkout);
    server.misbehave(crate::s3::Fault::Status(403, "AccessDenied"));
    checkout.cargo("build").ok();
    let sync = checkout.kache(&["sync"]);
    let config = checkout.kache_prints("config") + &checkout.kache_prints("config --json");
    let said = [sync.stdout, sync.stderr, config.into_bytes()].concat();
    assert!(!String::from_utf8_lossy(&said).contains(SECRET_KEY));
    checkout.kache_prints("daemon stop");
    let found = checkout.command("grep").args(["-rlF", SECRET_KEY]).arg(world.cache()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}

#[test]
fn a_build_is_learned_in_a_few_requests() {
    let server = Server::start();
    let (one, two) = (World::plain(), World::plain());
    let first = machine(&one, "first", &server);
    first.cargo("build").ok();
    first.kache_prints("sync");
    let second = machine(&two, "second", &server);
    start_daemon(&second);
    server.seen();
    second.cargo("build").ok().all_hit();
    let seen = server.seen();
    let about = |part: &str| seen.iter().filter(|s| s.path.contains(part)).count();
    assert_eq!(about("manifests"), 2, "a list and the manifest: {seen:?}");
    assert_eq!(about("records") + about("entries"), 0, "{seen:?}");
}

#[test]
fn everything_can_be_fetched_before_it_is_needed() {
    let server = Server::start();
    let (one, two) = (World::plain(), World::plain());
    let first = machine(&one, "first", &server);
    first.cargo("build").ok();
    first.kache_prints("sync");
    let second = machine(&two, "second", &server);
    assert!(second.kache_prints("sync --pull --dry-run").contains("would download"));
    second.kache_prints("sync --pull");
    second.env("KACHE_LOCAL_ONLY", "1").cargo("build").ok().all_hit();
    let summary = second.kache_prints("report --format github");
    assert!(summary.contains("**9** of 9 units restored"), "{summary}");
}

#[test]
fn doctor_says_what_is_wrong_with_the_remote() {
    let server = Server::start();
    let world = World::plain();
    let checkout = machine(&world, "first", &server);
    let remote = |c: &Checkout| {
        let report: serde_json::Value =
            serde_json::from_slice(&c.kache(&["doctor", "--json"]).stdout).unwrap();
        let checks = report["checks"].as_array().unwrap().clone();
        checks.into_iter().find(|c| c["name"] == "remote").unwrap()
    };
    assert_eq!(remote(&checkout)["state"], "ok");
    let wrong = remote(&checkout.env("KACHE_S3_SECRET_KEY", "wrong"));
    assert!(wrong["state"] == "fail" && wrong["remedy"].as_str().unwrap().contains("credentials"), "{wrong}");
    let missing = remote(&checkout.env("KACHE_S3_BUCKET", "missing"));
    assert!(missing["detail"].as_str().unwrap().contains("does not exist"), "{missing}");
}

/// A planner of this test's own, ended with it.
pub struct Planner(std::process::Child, String);

impl Planner {
    pub fn endpoint(&self) -> &str {
        &self.1
    }

    pub fn start(checkout: &Checkout) -> Planner {
        use std::io::BufRead;
        let mut command = checkout.command(checkout.world().kache_program());
        command.args(["planner", "--listen", "127.0.0.1:0"]).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let endpoint = line.trim().rsplit_once(' ').unwrap().1.to_owned();
        Planner(child, endpoint)
    }
}

impl Drop for Planner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_planner_helps_where_it_can_and_is_not_needed() {
    let server = Server::start();
    let (one, two, three) = (World::plain(), World::plain(), World::plain());
    let first = machine(&one, "first", &server).env("KACHE_PLANNER_TOKEN", "t");
    let planner = Planner::start(&first);
    let first = first.env("KACHE_PLANNER_ENDPOINT", planner.endpoint());
    first.cargo("build").ok();
    first.kache_prints("sync");
    // Without manifests, only the planner knows what to fetch ahead.
    for manifest in server.objects("/manifests/") {
        std::fs::remove_file(manifest).unwrap();
    }
    let with = |world: &World, token: &str| {
        let it = machine(world, "second", &server).env("KACHE_PLANNER_TOKEN", token);
        let it = it.env("KACHE_PLANNER_ENDPOINT", planner.endpoint());
        start_daemon(&it);
        it.cargo("build").ok().all_hit();
    };
    with(&two, "t");
    with(&three, "wrong");
    let log = |world: &World| std::fs::read_to_string(world.cache().join("daemon.log")).unwrap_or_default();
    assert!(!log(&two).contains("planner"), "{}", log(&two));
    assert!(log(&three).contains("the planner did not help"), "{}", log(&three));
}
