//! Packages of a registry lie in each machine's own CARGO_HOME.

use std::path::Path;
use std::process::Command;

use super::restore::machine_with;
use crate::s3::Server;
use crate::support::world::Who;
use crate::support::{Checkout, World};

/// A registry in a directory, with two packages.
struct Registry(tempfile::TempDir);

impl Registry {
    fn new() -> Registry {
        let registry = Registry(tempfile::tempdir().unwrap());
        registry.publish(
            "leaf",
            "fn main() {\n    println!(\"cargo::rerun-if-changed=src\");\n    \
             let out = std::env::var(\"OUT_DIR\").unwrap();\n    \
             std::fs::write(format!(\"{out}/word.rs\"), \"\\\"made\\\"\").unwrap();\n}\n",
            "pub fn word() -> &'static str { include!(concat!(env!(\"OUT_DIR\"), \"/word.rs\")) }\n",
        );
        registry.publish(
            "nest",
            "fn main() { println!(\"cargo::rerun-if-changed=build.rs\"); }\n",
            "pub const PLACE: &str = env!(\"CARGO_MANIFEST_DIR\");\n",
        );
        registry
    }

    fn publish(&self, name: &str, build: &str, lib: &str) {
        let dir = self.0.path().join(format!("{name}-1.0.0"));
        std::fs::create_dir_all(dir.join("src")).unwrap();
        let manifest = format!("[package]\nname = \"{name}\"\nversion = \"1.0.0\"\nedition = \"2021\"\n");
        std::fs::write(dir.join("Cargo.toml"), manifest).unwrap();
        std::fs::write(dir.join("build.rs"), build).unwrap();
        std::fs::write(dir.join("src/lib.rs"), lib).unwrap();
        let script = format!(
            "tar --mtime=2006-07-24 --owner=0 --group=0 -czf {name}-1.0.0.crate {name}-1.0.0
             rm -r {name}-1.0.0
             mkdir -p index/{a}/{b}
             sum=$(sha256sum {name}-1.0.0.crate | cut -d' ' -f1)
             echo '{{\"name\":\"{name}\",\"vers\":\"1.0.0\",\"deps\":[],\"features\":{{}},\"yanked\":false,\"cksum\":\"'$sum'\"}}' \
                > index/{a}/{b}/{name}",
            a = &name[..2],
            b = &name[2..4],
        );
        assert!(
            Command::new("sh").args(["-ec", &script]).current_dir(self.0.path()).status().unwrap().success()
        );
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn checkout(&self, world: &World, name: &str, server: &Server) -> Checkout {
        let config = format!(
            "[source.crates-io]\nreplace-with = \"here\"\n[source.here]\nlocal-registry = \"{}\"\n",
            self.path().display()
        );
        let checkout = world.project(
            name,
            &[
                ("Cargo.toml", "[package]\nname = \"user\"\nedition = \"2021\"\n[dependencies]\nleaf = \"1\"\nnest = \"1\"\n"),
                ("src/main.rs", "fn main() { println!(\"{} {}\", leaf::word(), nest::PLACE) }\n"),
                (".cargo/config.toml", &config),
            ],
        );
        machine_with(checkout, server)
    }
}

#[test]
fn what_does_not_name_their_place_is_fresh_elsewhere() {
    let (server, registry) = (Server::start(), Registry::new());
    let (one, two) = (World::mounted_by(Who::Root), World::mounted_by(Who::Root));
    let first = registry.checkout(&one, "first", &server);
    first.kache_prints("mount target");
    first.cargo("build").ok();
    first.kache_prints("sync");
    assert!(first.prints("target/debug/user").starts_with("made /"));

    let second = registry.checkout(&two, "second", &server);
    second.cargo("fetch").ok();
    let said = second.kache_prints("fork --verbose");
    assert!(said.contains("5 of 7 units fresh"), "{said}");
    let run = second.cargo("build").ok();
    let compiles = |name: &str| run.stderr.contains(&format!("Compiling {name} "));
    assert!(compiles("nest") && compiles("user") && !compiles("leaf"), "{}", run.account());
    let home = two.root().join("homes/second/cargo");
    assert_eq!(second.prints("target/debug/user"), second.prints(second.plain("build").join("debug/user")));
    assert!(second.prints("target/debug/user").contains(home.to_str().unwrap()));
    second.cargo("build").ok().fresh();
}
