//! What build scripts did on one machine need not be done again on another.

use super::restore::{machine_with, start_daemon};
use crate::s3::Server;
use crate::support::world::Who;
use crate::support::{Checkout, World};

/// Leaves a deep tree with links, an executable and an empty directory; with `binary` also its own path in a form that
/// cannot be replaced.
const SCRIPT: &str = r##"
use std::os::unix::fs::{PermissionsExt, symlink};
fn main() {
    println!("cargo::rerun-if-changed=input.txt");
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").unwrap());
    let input = std::fs::read_to_string("input.txt").unwrap();
    std::fs::write(out.join("gen.rs"), format!("pub const TEXT: &str = {input:?};")).unwrap();
    std::fs::create_dir_all(out.join("lib/empty")).unwrap();
    std::fs::write(out.join("lib/libx.so.1.2"), vec![7; 100_000]).unwrap();
    let _ = std::fs::remove_file(out.join("lib/libx.so"));
    symlink("libx.so.1.2", out.join("lib/libx.so")).unwrap();
    let _ = std::fs::remove_file(out.join("lib64"));
    symlink("lib", out.join("lib64")).unwrap();
    let _ = std::fs::remove_file(out.join("lib/up"));
    symlink("../tool", out.join("lib/up")).unwrap();
    std::fs::write(out.join("tool"), "#!/bin/sh\necho a tool\n").unwrap();
    std::fs::set_permissions(out.join("tool"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(out.join("root.txt"), format!("prefix={}\n", out.display())).unwrap();
    if input.contains("binary") {
        let mut bytes = vec![0, 1];
        bytes.extend_from_slice(out.to_str().unwrap().as_bytes());
        std::fs::write(out.join("binary"), bytes).unwrap();
    }
    if input.contains("away") {
        let _ = std::fs::remove_file(out.join("away"));
        symlink("/usr/share", out.join("away")).unwrap();
    }
    println!("cargo::metadata=root={}", out.display());
}
"##;

fn project(world: &World, name: &str, server: &Server, input: &str) -> Checkout {
    let checkout = world.project(
        name,
        &[
            ("Cargo.toml", "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2024\"\n"),
            ("build.rs", SCRIPT),
            ("input.txt", input),
            (
                "src/main.rs",
                "include!(concat!(env!(\"OUT_DIR\"), \"/gen.rs\"));\nfn main() {\n    println!(\"{TEXT}\");\n}\n",
            ),
        ],
    );
    // A build script that is being edited is compiled incrementally, and then it is another program.
    machine_with(checkout, server).env("CI", "1")
}

/// What kache says about runs of scripts in this world.
fn runs(checkout: &Checkout) -> Vec<String> {
    let all = checkout.kache_json("report --format json");
    let runs = all.as_array().unwrap().iter().filter(|e| e["kind"] == "build-script-run");
    runs.map(|e| e["outcome"].as_str().unwrap().to_owned()).collect()
}

/// Everything in `OUT_DIR`, with modes and where links lead, and what is in it.
fn out_dir(checkout: &Checkout) -> String {
    let shown = checkout.sh(
        "cd target/debug/build/app-*/out && find . -printf '%p %y %m %l\\n' | sort && find . -type f | sort | xargs sha256sum",
    );
    shown.replace(&*checkout.dir().to_string_lossy(), "HERE")
}

/// Builds and shares.
fn sharing(world: &World, server: &Server, input: &str) -> Checkout {
    let first = project(world, "first", server, input);
    first.cargo("build").ok();
    first.kache_prints("sync");
    first
}

/// One machine builds and shares, another one builds.
fn shared(input: &str, two: &World) -> (Checkout, Checkout, Server, World) {
    let server = Server::start();
    let one = World::plain();
    let first = sharing(&one, &server, input);
    let second = project(two, "another/place", &server, input);
    start_daemon(&second);
    second.cargo("build").ok();
    assert_eq!(second.prints("target/debug/app"), first.prints("target/debug/app"));
    (first, second, server, one)
}

#[test]
fn a_run_is_restored_with_links_modes_and_directories() {
    let two = World::plain();
    let (first, second, server, _one) = shared("hello", &two);
    assert_eq!(runs(&second), ["hit"]);
    let root = second.sh("cat target/debug/build/app-*/out/root.txt");
    assert!(root.contains(&*second.dir().to_string_lossy()), "{root}");
    let same = "sed -i s/=.*// target/debug/build/app-*/out/root.txt";
    first.sh(same);
    second.sh(same);
    assert_eq!(out_dir(&second), out_dir(&first));
    assert_eq!(
        second.sh("cd target/debug/build/app-*/out && lib/up && ls lib64"),
        "a tool\nempty\nlibx.so\nlibx.so.1.2\nup\n"
    );

    // It is here now.
    server.seen();
    second.clean();
    second.cargo("build").ok().all_hit();
    assert_eq!(runs(&second), ["hit", "hit"]);
    assert_eq!(server.seen(), []);
    // And the manifest has it: nothing was asked for by itself.
    let three = World::plain();
    let third = project(&three, "third", &server, "hello");
    start_daemon(&third);
    third.cargo("build").ok().all_hit();
    let asked = server.seen();
    assert!(!asked.iter().any(|s| s.path.contains("/entries/") || s.path.contains("/records/")), "{asked:?}");
}

#[test]
fn in_a_mount_only_what_is_opened_is_downloaded() {
    let two = World::mounted_by(Who::Root);
    let (first, second, server, _one) = shared("hello", &two);
    assert_eq!(runs(&second), ["hit"]);
    let library = first.bytes(first.sh("echo target/debug/build/app-*/out/lib/libx.so.1.2").trim());
    let name = blake3::hash(&library).to_hex().to_string();
    let downloads = || server.seen().iter().filter(|s| s.method == "GET" && s.path.contains(&name)).count();
    assert_eq!(second.sh("stat -Lc %s target/debug/build/app-*/out/lib64/libx.so"), "100000\n");
    assert_eq!(downloads(), 0);
    assert_eq!(second.bytes(second.sh("echo target/debug/build/app-*/out/lib64/libx.so").trim()), library);
    assert_eq!(downloads(), 1);
    assert_eq!(second.sh("target/debug/build/app-*/out/lib/up"), "a tool\n");
}

#[test]
fn a_run_that_is_bound_to_its_checkout_stays_here() {
    for input in ["binary", "away"] {
        let two = World::plain();
        let (first, second, ..) = shared(input, &two);
        assert_eq!(runs(&second), ["miss"], "{input}");
        // On the machine itself it is a hit.
        first.clean();
        first.cargo("build").ok();
        assert_eq!(runs(&first), ["miss", "hit"], "{input}");
    }
}

#[test]
fn a_link_of_an_earlier_run_is_not_written_through() {
    let server = Server::start();
    let (one, two) = (World::plain(), World::plain());
    sharing(&one, &server, "hello");
    let second = project(&two, "second", &server, "away");
    start_daemon(&second);
    second.cargo("build").ok();
    // Where the result has a directory, there is a link to somewhere else.
    let out = "cd target/debug/build/app-*/out";
    second.sh(&format!("mkdir target/elsewhere && {out} && rm -r lib && ln -s ../../../../elsewhere lib"));
    second.write("input.txt", "hello");
    second.cargo("build").ok();
    assert_eq!(runs(&second), ["miss", "unstored"]);
    second.sh(&format!("{out} && rm lib"));
    second.write("input.txt", "hello");
    second.cargo("build").ok();
    assert_eq!(runs(&second), ["miss", "unstored", "hit"]);
    assert_eq!(second.sh(&format!("{out} && readlink lib/libx.so && ! ls away")), "libx.so.1.2\n");
}
