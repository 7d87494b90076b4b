//! Packages of a registry lie in each machine's own CARGO_HOME.

use std::path::Path;
use std::process::Command;

use super::restore::machine_with;
use crate::s3::Server;
use crate::support::world::Who;
use crate::support::{Checkout, World};

/// A registry in a directory, with a few packages.
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
        registry.publish(
            "stone",
            "use std::process::Command;\n\nfn main() {\n    println!(\"cargo::rerun-if-changed=build.rs\");\n    \
             let out = std::env::var(\"OUT_DIR\").unwrap();\n    \
             std::fs::write(format!(\"{out}/stone.c\"), \"int stone(void) { return 7; }\").unwrap();\n    \
             let run = |command: &mut Command| assert!(command.status().unwrap().success());\n    \
             run(Command::new(\"cc\").args([\"-g\", \"-c\", &format!(\"{out}/stone.c\"), \"-o\", &format!(\"{out}/stone.o\")]));\n    \
             run(Command::new(\"ar\").args([\"crs\", &format!(\"{out}/libstone.a\"), &format!(\"{out}/stone.o\")]));\n    \
             println!(\"cargo::rustc-link-search=native={out}\\ncargo::rustc-link-lib=static=stone\");\n}\n",
            "mod c { unsafe extern \"C\" { pub safe fn stone() -> i32; } }\npub fn stone() -> i32 { c::stone() }\n",
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

    /// A program that depends on some of the packages.
    fn checkout(&self, world: &World, name: &str, depends: &[&str], main: &str) -> Checkout {
        let config = format!(
            "[source.crates-io]\nreplace-with = \"here\"\n[source.here]\nlocal-registry = \"{}\"\n",
            self.path().display()
        );
        let depends: String = depends.iter().map(|package| format!("{package} = \"1\"\n")).collect();
        let manifest = format!("[package]\nname = \"user\"\nedition = \"2021\"\n[dependencies]\n{depends}");
        let files = [("Cargo.toml", &*manifest), ("src/main.rs", main), (".cargo/config.toml", &*config)];
        world.project(name, &files)
    }

    fn machine(&self, world: &World, name: &str, server: &Server) -> Checkout {
        let main = "fn main() { println!(\"{} {}\", leaf::word(), nest::PLACE) }\n";
        machine_with(self.checkout(world, name, &["leaf", "nest"], main), server)
    }
}

/// What C compilers write for debuggers names `OUT_DIR`, and no program reads it.
#[test]
fn debug_information_of_c_does_not_bind_a_package_to_a_checkout() {
    let (registry, world) = (Registry::new(), World::plain());
    let main = "fn main() { println!(\"{}\", stone::stone()) }\n";
    let checkout = |name: &str| registry.checkout(&world, name, &["stone"], main);
    let (first, second) = (checkout("first"), checkout("second"));
    first.cargo("build").ok();
    let out = first.find("stone.o").remove(0);
    assert!(memchr::memmem::find(&first.bytes(out), b"/first/target").is_some());
    let run = second.cargo("build").ok();
    assert!(run.compiled.is_empty() && run.events.iter().all(|e| e.outcome != "miss"), "{}", run.account());
    assert_eq!(second.prints("target/debug/user"), "7\n");
    // Its own C code is looked at by who works there.
    first.sh("rm -r target && tar -xzf \"$1\"/stone-1.0.0.crate && mv stone-1.0.0 stone"
        .replace("$1", registry.path().to_str().unwrap())
        .as_str());
    let depends = "stone = { path = \"stone\" }";
    for c in [&first, &second] {
        c.edit("Cargo.toml", "stone = \"1\"", depends);
    }
    second.sh("cp -r ../first/stone .");
    first.cargo("build").ok();
    let run = second.cargo("build").ok();
    assert_eq!(run.compiled, ["stone", "user"], "its library is another: {}", run.account());
}

#[test]
fn what_does_not_name_their_place_is_fresh_elsewhere() {
    let (server, registry) = (Server::start(), Registry::new());
    let (one, two) = (World::mounted_by(Who::Root), World::mounted_by(Who::Root));
    let first = registry.machine(&one, "first", &server);
    first.kache_prints("mount target");
    first.cargo("build").ok();
    first.kache_prints("sync");
    assert!(first.prints("target/debug/user").starts_with("made /"));

    let second = registry.machine(&two, "second", &server);
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
