//! Messages are those of plain cargo, to the letter.

use std::path::Path;

use crate::support::{Checkout, World};

/// Without what cargo does.
fn said(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let doing = [
        "Checking",
        "Finished",
        "Compiling",
        "Blocking",
        "Locking",
        "Running",
        "Adding",
        "Updating",
        "Dirty",
        "Fresh",
    ];
    text.lines()
        .filter(|l| !doing.iter().any(|w| l.trim_start().starts_with(w)))
        .collect::<Vec<_>>()
        .join("\n")
}

fn truth(c: &Checkout, words: &str) -> String {
    let target = c.world().root().join("plain");
    let output = c.plain_command().args(words.split(' ')).env("CARGO_TARGET_DIR", &target).output().unwrap();
    std::fs::remove_dir_all(target).unwrap();
    said(&output.stderr)
}

#[track_caller]
fn same(c: &Checkout, words: &str, part: &str) {
    let truth = truth(c, words);
    assert!(truth.contains(part), "the test is broken: no {part:?} in {truth}");
    for when in ["compiled", "again"] {
        c.clean_plainly();
        assert_eq!(said(c.cargo(words).stderr.as_bytes()), truth, "{when}");
    }
}

/// A program that depends on a member, a package elsewhere, and a published one.
fn project(world: &World) -> Checkout {
    const LIB: &str = "pub trait T {}\npub fn g<X: T>(_: X) {}\npub fn f(_: u8) {}\n";
    let package = |name: &str, more: &str| {
        format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n{more}")
    };
    let c = world.project(
        "project",
        &[
            ("Cargo.toml", &package("app", "[workspace]\nmembers = [\"member\"]\n[dependencies]\nmember = { path = \"member\" }\noutside = { path = \"../outside\" }\nvendored = \"0.1\"\n")),
            (".cargo/config.toml", "[source.crates-io]\nreplace-with = \"here\"\n[source.here]\ndirectory = \"../vendor\"\n"),
            ("src/main.rs", "fn main() {}\n"),
            ("member/Cargo.toml", &package("member", "")),
            ("member/src/lib.rs", LIB),
            ("../outside/Cargo.toml", &package("outside", "")),
            ("../outside/src/lib.rs", LIB),
            ("../vendor/vendored/Cargo.toml", &package("vendored", "")),
            ("../vendor/vendored/src/lib.rs", LIB),
            ("../vendor/vendored/.cargo-checksum.json", "{\"files\":{}}"),
        ],
    );
    c.env("CARGO_INCREMENTAL", "0").env("CARGO_BUILD_JOBS", "1")
}

#[test]
fn that_point_into_other_packages() {
    let world = World::plain();
    let c = project(&world);
    for name in ["member", "outside", "vendored"] {
        c.write("src/main.rs", format!("fn main() {{ {name}::f(\"\"); {name}::g(1u8); }}\n"));
        same(&c, "check --offline", "E0308");
    }
    c.write("src/main.rs", "fn main() { let _: Vec<u8> = vec![1u8].into_iter().map(|x| x as u16).collect(); String::from(1u8); }\n");
    same(&c, "check --offline", "E0277");
}

#[test]
fn of_packages_elsewhere() {
    let world = World::plain();
    let c = project(&world);
    let outside = Path::new("../outside/src/lib.rs");
    let text = c.read(outside.to_str().unwrap());
    c.write("../outside/src/lib.rs", format!("{text}pub fn unused() {{ let x = 1; }}\n"));
    same(&c, "build --offline", "unused variable");
    c.write("../outside/src/lib.rs", "pub fn f() { let x: u8 = \"\"; }\n");
    same(&c, "build --offline", "E0308");
}

#[test]
fn with_instantiations() {
    let world = World::plain();
    let c = project(&world);
    c.write("../outside/src/lib.rs", "pub const fn at<const N: usize>() -> usize { [1, 2][N] }\npub struct S<const N: usize>;\nimpl<const N: usize> S<N> { pub const V: usize = [1, 2][N]; }\npub fn f(_: u8) {}\n");
    c.write("src/main.rs", "fn main() { println!(\"{}\", outside::S::<7>::V); }\n");
    same(&c, "build --offline", "index out of bounds");
}

/// A module that became ambiguous.
#[test]
fn of_modules_that_appear() {
    for (module, second) in [("build", "build/mod.rs"), ("lib_", "lib_/mod.rs"), ("other", "other/mod.rs")] {
        let world = World::plain();
        let c = project(&world);
        c.write("src/main.rs", format!("mod {module};\nfn main() {{ {module}::f() }}\n"));
        c.write(&format!("src/{module}.rs"), "pub fn f() {}\n");
        c.cargo("build --offline").ok();
        c.write(&format!("src/{second}"), "pub fn f() {}\n");
        same(&c, "build --offline", "E0761");
        std::fs::remove_file(c.dir().join(format!("src/{module}.rs"))).unwrap();
        c.clean_plainly();
        c.cargo("build --offline").ok();
    }
}

/// A macro lists modules by itself.
#[test]
fn of_modules_that_a_macro_finds() {
    let world = World::plain();
    let c = project(&world);
    let manifest = c.read("Cargo.toml");
    c.write(
        "Cargo.toml",
        format!("{manifest}mac = {{ path = \"mac\" }}\n").replace("[\"member\"]", "[\"member\", \"mac\"]"),
    );
    c.write(
        "mac/Cargo.toml",
        "[package]\nname = \"mac\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[lib]\nproc-macro = true\n",
    );
    c.write(
        "mac/src/lib.rs",
        "use proc_macro::TokenStream;\n#[proc_macro] pub fn all(_: TokenStream) -> TokenStream { let d = std::path::Path::new(&std::env::var(\"CARGO_MANIFEST_DIR\").unwrap()).join(\"src/all\"); \
         let mut n: Vec<_> = std::fs::read_dir(d).unwrap().map(|e| e.unwrap().path()).collect(); n.sort(); \
         n.iter().map(|p| format!(\"#[path = {p:?}] pub mod {};\", p.file_stem().unwrap().to_str().unwrap())).collect::<String>().parse().unwrap() }\n",
    );
    c.write("src/main.rs", "mod all { mac::all!(); }\nfn main() { all::a::f() }\n");
    c.write("src/all/a.rs", "pub fn f() {}\n");
    c.cargo("build --offline").ok();
    c.write("src/all/b.rs", "compile_error!(\"seen\");\n");
    same(&c, "build --offline", "seen");
    c.sh("rm src/all/b.rs; mv src/all/a.rs src/all/z.rs");
    same(&c, "build --offline", "E0433");
}

/// As wide as the terminal.
#[test]
fn in_terminals_of_different_widths() {
    let world = World::plain();
    let c = project(&world);
    let (a, b) = ("a".repeat(150), "b".repeat(100));
    c.write("src/main.rs", format!("fn main() {{ /*{a}*/ let unused_with_a_long_name = 1; /*{b}*/ }}\n"));
    let lines = |plain: bool, columns: u32| {
        let command = if plain { c.plain_command() } else { c.command("cargo") };
        let mut script = std::process::Command::new("script");
        let words = format!("stty cols {columns}; cargo build --offline");
        script.args(["-qec", &words, "/dev/null"]).current_dir(c.dir()).env_clear();
        script.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        script
            .env("TERM", "xterm")
            .env("CARGO_TERM_PROGRESS_WHEN", "never")
            .stdin(std::process::Stdio::null());
        if plain {
            script.env("CARGO_TARGET_DIR", world.root().join(format!("plain-{columns}")));
        }
        let output = script.output().expect("script starts");
        said(String::from_utf8_lossy(&output.stdout).replace('\r', "").as_bytes())
    };
    let [wide, narrow] = [200, 60].map(|n| lines(true, n));
    assert_ne!(wide, narrow, "the test is broken");
    for (columns, truth) in [(200, &wide), (60, &narrow), (200, &wide)] {
        c.clean_plainly();
        assert_eq!(lines(false, columns), *truth, "{columns} columns");
    }
}
