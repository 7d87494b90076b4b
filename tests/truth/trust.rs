//! What kache must not believe, or change.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::support::{Checkout, World};
use crate::table::{Table, Variant};

const MANIFEST: &str = "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n";

fn project(world: &World, name: &str) -> Checkout {
    let files = [
        ("Cargo.toml", MANIFEST),
        ("src/lib.rs", "pub fn f() -> &'static str { \"OLDVALUE\" }\n"),
        ("src/main.rs", "fn main() { println!(\"{}\", app::f()); }\n"),
    ];
    world.project(name, &files).env("CARGO_INCREMENTAL", "0")
}

#[test]
fn a_private_umask() {
    let world = World::plain();
    let c = project(&world, "project");
    let modes =
        |c: &Checkout| c.sh("umask 077; cargo build -q --offline; stat -c '%a %n' target/debug/deps/*app*");
    let first = modes(&c);
    assert!(first.contains("600 "), "{first}");
    c.clean_plainly();
    assert_eq!(modes(&c), first);
}

/// What a script sets has no regard for the umask, and what it only writes has.
#[test]
fn permissions_that_a_script_sets() {
    let world = World::plain();
    let c = world.project(
        "project",
        &[
            ("Cargo.toml", "[package]\nname = \"modes\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
            ("src/main.rs", "fn main() {}\n"),
            (
                "build.rs",
                "use std::{fs, os::unix::fs::PermissionsExt, process::Command};\nfn main() {\n    \
                 println!(\"cargo:rerun-if-changed=build.rs\");\n    \
                 let out = std::path::PathBuf::from(std::env::var(\"OUT_DIR\").unwrap());\n    \
                 for (name, mode) in [(\"run.sh\", 0o755), (\"shared\", 0o666), (\"private\", 0o600), (\"fixed\", 0o444)] {\n        \
                 fs::write(out.join(name), name).unwrap();\n        \
                 fs::set_permissions(out.join(name), fs::Permissions::from_mode(mode)).unwrap();\n    }\n    \
                 for (name, mode) in [(\"dir\", 0o700), (\"empty\", 0o750)] {\n        \
                 fs::create_dir(out.join(name)).unwrap();\n        \
                 fs::set_permissions(out.join(name), fs::Permissions::from_mode(mode)).unwrap();\n    }\n    \
                 fs::copy(\"key\", out.join(\"key\")).unwrap();\n    \
                 fs::write(out.join(\"dir/x\"), \"x\").unwrap();\n    \
                 fs::write(out.join(\"names\"), out.to_str().unwrap()).unwrap();\n    \
                 fs::write(out.join(\"by_tool\"), \"x\").unwrap();\n    \
                 assert!(Command::new(\"chmod\").arg(\"750\").arg(out.join(\"names\")).arg(out.join(\"by_tool\")).status().unwrap().success());\n    \
                 fs::write(out.join(\"plain\"), \"x\").unwrap();\n}\n",
            ),
        ],
    );
    c.sh("echo secret > key; chmod 600 key");
    let modes = |wrapper: &str, umask: &str| {
        c.clean_plainly();
        c.sh(&format!(
            "umask {umask}; {wrapper} cargo build -q --offline; cd target/debug/build/*/out; stat -c '%a %n' *"
        ))
    };
    for umask in ["022", "077", "002"] {
        let plain = modes("env -u RUSTC_WRAPPER", umask);
        assert!(plain.contains("755 run.sh") && plain.contains("750 by_tool"), "{plain}");
        assert_eq!(modes("", umask), plain, "umask {umask}");
    }
}

/// A file above the checkout that somebody else wrote.
#[test]
fn settings_of_another_user() {
    if !nix::unistd::getuid().is_root() {
        return;
    }
    let world = World::plain();
    let c = project(&world, "shared/project");
    let (log, evil) = (world.root().join("evil.log"), world.root().join("shared/evil"));
    std::fs::write(&evil, format!("#!/bin/sh\necho ran >> {}\nexec \"$@\"\n", log.display())).unwrap();
    std::fs::set_permissions(&evil, std::fs::Permissions::from_mode(0o755)).unwrap();
    let settings = world.root().join("shared/.kache.toml");
    std::fs::write(&settings, format!("[cache]\nfallback = {evil:?}\n")).unwrap();
    for file in [&evil, &settings] {
        std::os::unix::fs::chown(file, Some(65534), Some(65534)).unwrap();
    }
    c.env("RUSTFLAGS", "--emit=asm").cargo_output(["build", "--offline"]);
    assert!(!log.exists(), "a program of another user ran");
}

/// A library that is a hard link is changed in place in one target directory, and keeps its time.
#[test]
fn a_file_is_changed_in_place() {
    let world = World::plain();
    let [one, two] = ["one", "two"].map(|name| project(&world, name).env("KACHE_CACHE_EXECUTABLES", "false"));
    one.cargo("build --offline").ok();
    let library = one.find("libapp-*.rlib").pop().expect("a library");
    let path = one.dir().join(library);
    let before = std::fs::metadata(&path).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let places: Vec<usize> = memchr::memmem::find_iter(&bytes, b"OLDVALUE").collect();
    assert!(!places.is_empty(), "the test is broken");
    for place in places {
        bytes[place..place + 8].copy_from_slice(b"NEWVALUE");
    }
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("a file to write");
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    drop(file);
    assert_eq!(std::fs::metadata(&path).unwrap().ino(), before.ino());
    two.cargo("build --offline").ok();
    assert_eq!(two.prints("target/debug/app"), "OLDVALUE\n");
}

/// Times ahead of the clock: everything is kept, and edits are seen.
#[test]
fn times_in_the_future() {
    Table::new()
        .add(
            Variant::new("app")
                .script("set(text(\"x\"));")
                .main("mod m; fn main() { println!(\"{} {}\", env!(\"V\"), m::N); }")
                .before("echo 1 > x; echo 'pub const N: u8 = 1;' > src/m.rs; find . -type f -exec touch -d '+1 hour' {} +")
                .change("echo 2 > x; echo 'pub const N: u8 = 2;' > src/m.rs; find . -type f -exec touch -d '+1 hour' {} +"),
        )
        .add(
            Variant::new("one")
                .main("mod m; fn main() { println!(\"{}\", m::N); }")
                .before("echo 'pub const N: u8 = 1;' > src/m.rs; touch -d '+1 hour' src/m.rs")
                .change("echo 'pub const N: u8 = 2;' > src/m.rs; touch -d '+1 hour' src/m.rs"),
        )
        .changes();
}

/// Content counts, whatever the times say.
#[test]
fn times_set_back() {
    Table::new()
        .add(
            Variant::new("app")
                .main("fn main() { println!(\"{}\", include_str!(\"../x\")); }")
                .before("echo 1 > x; touch -d 2001-01-01 x")
                .change("echo 2 > x; touch -d 2001-01-01 x"),
        )
        .add(
            Variant::new("swapped")
                .main("fn main() { println!(\"{}{}\", include_str!(\"../x\"), include_str!(\"../y\")); }")
                .before("echo 1 > x; echo 2 > y")
                .change("mv x z; mv y x; mv z y"),
        )
        .changes();
}
