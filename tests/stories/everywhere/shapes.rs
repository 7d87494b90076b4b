//! Everything that cargo can make is cached, and works when it comes out of the cache.

use crate::support::{Checkout, World};

const LIB: &str = "[package]\nname = \"shape\"\nversion = \"1.0.0\"\nedition = \"2024\"\n";

/// Cold here, warm in a second checkout; `works` looks at both.
fn make(files: &[(&str, &str)], command: &str, works: impl Fn(&Checkout)) {
    let world = World::new();
    let first = world.project("first", files);
    let cold = first.cargo(command).ok();
    assert!(cold.events.iter().all(|e| e.outcome == "miss"), "{}", cold.account());
    works(&first);
    let second = world.project("second", files);
    second.cargo(command).ok().all_hit();
    works(&second);
    second.cargo(command).ok().fresh();
}

const C_CALLER: &str =
    "#include <stdio.h>\nint shape(void);\nint main(void) { printf(\"%d\\n\", shape()); return 0; }\n";
const C_SHAPE: &str = "#[unsafe(no_mangle)]\npub extern \"C\" fn shape() -> i32 {\n    6 * 7\n}\n";

#[test]
fn shared_library_for_c() {
    let manifest = format!("{LIB}\n[lib]\ncrate-type = [\"cdylib\"]\n");
    make(
        &[("Cargo.toml", &manifest), ("src/lib.rs", C_SHAPE), ("main.c", C_CALLER)],
        "build --release",
        |c| {
            c.sh("cc main.c -o main -Ltarget/release -lshape -Wl,-rpath,$PWD/target/release");
            assert_eq!(c.prints("main"), "42\n");
        },
    );
}

#[test]
fn static_library_for_c() {
    let manifest = format!("{LIB}\n[lib]\ncrate-type = [\"staticlib\", \"rlib\"]\n");
    make(
        &[("Cargo.toml", &manifest), ("src/lib.rs", C_SHAPE), ("main.c", C_CALLER)],
        "build --release",
        |c| {
            c.sh("cc main.c -o main target/release/libshape.a -lpthread -ldl -lm");
            assert_eq!(c.prints("main"), "42\n");
        },
    );
}

#[test]
fn rust_dynamic_library() {
    let files = [
        ("Cargo.toml", "[workspace]\nmembers = [\"dy\", \"app\"]\nresolver = \"3\"\n"),
        (
            "dy/Cargo.toml",
            "[package]\nname = \"dy\"\nversion = \"1.0.0\"\nedition = \"2024\"\n\n[lib]\ncrate-type = [\"dylib\"]\n",
        ),
        (".cargo/config.toml", "[build]\nrustflags = [\"-C\", \"prefer-dynamic\"]\n"),
        ("dy/src/lib.rs", "pub fn shape() -> i32 {\n    42\n}\n"),
        (
            "app/Cargo.toml",
            "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2024\"\n\n[dependencies]\ndy = { path = \"../dy\" }\n",
        ),
        ("app/src/main.rs", "fn main() {\n    println!(\"{}\", dy::shape());\n}\n"),
    ];
    make(&files, "run", |c| {
        let run = c.cargo("run").ok();
        assert_eq!(run.stdout, "42\n");
    });
}

#[test]
fn tests_and_benches_with_and_without_harness() {
    let manifest = format!(
        "{LIB}\n[[test]]\nname = \"own\"\nharness = false\n\n[[bench]]\nname = \"speed\"\nharness = false\n"
    );
    let files = [
        ("Cargo.toml", manifest.as_str()),
        ("src/lib.rs", "pub fn shape() -> i32 {\n    42\n}\n\n#[test]\nfn inside() {}\n"),
        ("tests/own.rs", "fn main() {\n    println!(\"own {}\", shape::shape());\n}\n"),
        ("tests/usual.rs", "#[test]\nfn usual() {\n    assert_eq!(shape::shape(), 42);\n}\n"),
        ("benches/speed.rs", "fn main() {\n    println!(\"speed {}\", shape::shape());\n}\n"),
    ];
    make(&files, "test --tests --benches", |c| {
        let run = c.cargo("test --tests --benches").ok();
        for line in ["own 42", "test usual ... ok", "test inside ... ok", "speed 42"] {
            assert!(run.stdout.contains(line), "{line}: {}", run.stdout);
        }
    });
}

#[test]
fn thin_lto_and_split_debug_information() {
    let profile = "\n[profile.release]\nlto = \"thin\"\ndebug = true\nsplit-debuginfo = \"packed\"\n";
    let manifest = format!("{LIB}{profile}");
    make(
        &[("Cargo.toml", manifest.as_str()), ("src/main.rs", "fn main() {\n    println!(\"42\");\n}\n")],
        "build --release",
        |c| {
            assert_eq!(c.prints("target/release/shape"), "42\n");
            assert_eq!(c.find("shape*.dwp").len(), 2, "in deps and beside the program");
        },
    );
}

#[test]
fn explicit_target() {
    let rustc = std::process::Command::new("rustc").arg("-vV").output().unwrap();
    let text = String::from_utf8(rustc.stdout).unwrap();
    let host = text.lines().find_map(|l| l.strip_prefix("host: ")).unwrap();
    make(
        &[("Cargo.toml", LIB), ("src/main.rs", "fn main() {\n    println!(\"42\");\n}\n")],
        &format!("build --target {host}"),
        |c| assert_eq!(c.prints(format!("target/{host}/debug/shape")), "42\n"),
    );
}

/// Coverage maps name real paths, so such results are for this checkout only.
#[test]
fn coverage_is_local() {
    let world = World::new();
    let files = [("Cargo.toml", LIB), ("src/main.rs", "fn main() {\n    println!(\"42\");\n}\n")];
    let first = world.project("first", &files).env("RUSTFLAGS", "-C instrument-coverage");
    first.cargo("build").ok();
    first.clean();
    first.cargo("build").ok().all_hit();
    let second = world.project("second", &files).env("RUSTFLAGS", "-C instrument-coverage");
    second.cargo("build").ok().missed(&["shape bin"]);
}

/// An executable comes back executable, a library does not become one.
#[test]
fn modes_are_kept() {
    let world = World::new();
    let c = world.checkout("project", "workspace");
    let modes = || {
        c.sh("find target -type f \\( -name 'lib*' -o -name app -o -name 'build-script-build' \\) -printf '%P %m\\n' | sort")
    };
    c.cargo("build").ok();
    let cold = modes();
    c.clean();
    c.cargo("build").ok().all_hit();
    let executable = |text: &str| -> Vec<(String, bool)> {
        text.lines()
            .map(|l| l.rsplit_once(' ').unwrap())
            .map(|(name, mode)| (name.to_owned(), u32::from_str_radix(mode, 8).unwrap() & 0o100 != 0))
            .collect()
    };
    assert!(executable(&cold).iter().any(|(name, x)| name == "debug/app" && *x));
    assert_eq!(executable(&modes()), executable(&cold));
}
