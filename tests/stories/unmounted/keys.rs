//! What other caches got wrong: results that look alike and are not.

use crate::support::{Checkout, World};

const MANIFEST: &str = "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2024\"\n";

fn program(world: &World, main: &str) -> Checkout {
    world.project("project", &[("Cargo.toml", MANIFEST), ("src/main.rs", main)]).env("CI", "1")
}

#[test]
fn two_crates_of_one_name() {
    let world = World::plain();
    let lib =
        |version: &str| format!("[package]\nname = \"twin\"\nversion = \"{version}\"\nedition = \"2024\"\n");
    let source = "pub fn version() -> &'static str {\n    env!(\"CARGO_PKG_VERSION\")\n}\n";
    let manifest = format!(
        "{MANIFEST}\n[dependencies]\none = {{ package = \"twin\", path = \"one\" }}\ntwo = {{ package = \"twin\", path = \"two\" }}\n"
    );
    let files = [
        ("Cargo.toml", manifest.as_str()),
        ("src/main.rs", "fn main() {\n    println!(\"{} {}\", one::version(), two::version());\n}\n"),
        ("one/Cargo.toml", &lib("1.0.0")),
        ("one/src/lib.rs", source),
        ("two/Cargo.toml", &lib("2.0.0")),
        ("two/src/lib.rs", source),
    ];
    for name in ["first", "second"] {
        let c = world.project(name, &files);
        let run = c.cargo("build").ok();
        assert_eq!(run.events.iter().filter(|e| e.unit == "twin lib").count(), 2, "{}", run.account());
        assert_eq!(c.prints("target/debug/app"), "1.0.0 2.0.0\n");
        c.cargo("build").ok().fresh();
    }
}

/// A linker is known by what it is, not by its name.
#[test]
fn the_linker_changes_under_its_name() {
    let world = World::plain();
    let c = program(&world, "fn main() {\n    println!(\"42\");\n}\n");
    let linker = |extra: &str| {
        c.write("bin/story-cc", format!("#!/bin/sh\n# {extra}\nexec cc \"$@\"\n"));
        c.sh("chmod +x bin/story-cc");
    };
    let c = c.env("RUSTFLAGS", format!("-C linker={}/bin/story-cc", c.dir().display()));
    linker("one");
    c.cargo("build").ok().missed(&["app bin"]);
    c.clean();
    c.cargo("build").ok().all_hit();
    linker("two");
    c.clean();
    c.cargo("build").ok().missed(&["app bin"]);
    linker("one");
    c.clean();
    c.cargo("build").ok().all_hit();
}

/// A script that the linker is given is an input that rustc does not report.
#[test]
fn a_linker_script_changes() {
    let world = World::plain();
    let c = program(&world, "fn main() {\n    println!(\"42\");\n}\n");
    c.write("extra.ld", "PROVIDE(story_symbol = 1);\n");
    let c = c.env("RUSTFLAGS", format!("-C link-arg={}/extra.ld", c.dir().display()));
    c.cargo("build").ok();
    c.clean();
    c.cargo("build").ok().all_hit();
    c.write("extra.ld", "PROVIDE(story_symbol = 2);\n");
    c.clean();
    c.cargo("build").ok().missed(&["app bin"]);
}

#[test]
fn unstable_options() {
    let world = World::plain();
    let c = program(&world, "fn main() {\n    println!(\"42\");\n}\n").env("RUSTC_BOOTSTRAP", "1");
    let shared = c.env("RUSTFLAGS", "-Z share-generics=yes");
    shared.cargo("build").ok().missed(&["app bin"]);
    c.clean();
    shared.cargo("build").ok().all_hit();
    c.clean();
    c.env("RUSTFLAGS", "-Z share-generics=no").cargo("build").ok().missed(&["app bin"]);
    c.clean();
    // What writes files of its own is none of our business.
    let profiled = c.env("RUSTFLAGS", "-Z self-profile=target/profile").cargo("build").ok();
    assert_eq!(profiled.units_count("pass"), 1, "{}", profiled.account());
}

/// Saved while the compiler reads: nobody knows which text it saw.
#[test]
fn an_input_changes_during_the_compile() {
    let world = World::plain();
    let c = program(&world, "fn main() {\n    println!(\"42\");\n}\n");
    c.write(
        "bin/rustc",
        format!(
            "#!/bin/sh\n'{}' \"$@\" || exit\ncase \"$*\" in *src/main.rs*) echo '// saved' >> src/main.rs;; esac\n",
            world.shim().display()
        ),
    );
    c.sh("chmod +x bin/rustc");
    let racing = c.env("RUSTC", c.dir().join("bin/rustc"));
    let run = racing.cargo("build").ok();
    assert_eq!(run.units_count("unstored"), 1, "{}", run.account());
    assert_eq!(c.kache_json("stats --json")["store"]["entries"], 0);
}

#[test]
fn executables_can_be_left_out() {
    let world = World::plain();
    let first = world.checkout("first", "workspace").env("KACHE_CACHE_EXECUTABLES", "false");
    first.cargo("build").ok();
    first.clean();
    let run = first.cargo("build").ok();
    assert!(run.units("hit").contains("base lib"), "{}", run.account());
    assert_eq!(run.compiled, ["app"]);
}

/// Another wrapper takes what kache does not.
#[test]
fn a_fallback_wrapper_gets_what_passes() {
    let world = World::plain();
    let c = program(&world, "fn main() {\n    println!(\"42\");\n}\n");
    c.write(
        "bin/other",
        format!("#!/bin/sh\necho \"$*\" >> '{}/other.log'\nexec \"$@\"\n", c.dir().display()),
    );
    c.sh("chmod +x bin/other");
    let c = c.env("KACHE_FALLBACK", c.dir().join("bin/other"));
    c.cargo("build").ok().missed(&["app bin"]);
    let log = c.read("other.log");
    assert!(log.contains("-vV"), "{log}");
    assert!(!log.contains("--crate-name app"), "{log}");
}
