//! Lints depend on more than sources.

use crate::support::{Checkout, World};

const LINTS: &str = "pub fn f(v: &Vec<u8>) -> bool { v.len() == 0 }\npub fn g(x: u32, y: u32) -> String { format!(\"{} {}\", x, y) }\n\
    pub fn h(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8, g: u8, h: u8) -> u8 { a + b + c + d + e + f + g + h }\n";

fn project(world: &World) -> Checkout {
    let member = |name: &str| {
        format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\nrust-version = \"1.56\"\n"
        )
    };
    world
        .project(
            "project",
            &[
                ("Cargo.toml", "[workspace]\nmembers = [\"a\", \"b\"]\nresolver = \"2\"\n"),
                ("a/Cargo.toml", &(member("a") + "[dependencies]\nb = { path = \"../b\" }\n")),
                ("b/Cargo.toml", &member("b")),
                ("a/src/lib.rs", LINTS),
                ("b/src/lib.rs", LINTS),
            ],
        )
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_BUILD_JOBS", "1")
}

/// What cargo says, without what it does.
fn said(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let kept = text.lines().filter(|l| {
        !["Checking", "Finished", "Compiling", "Blocking", "Locking"]
            .iter()
            .any(|w| l.trim_start().starts_with(w))
    });
    kept.collect::<Vec<_>>().join("\n")
}

fn truth(c: &Checkout, words: &str) -> String {
    let target = c.world().root().join("plain");
    let mut cargo = c.plain_command();
    let output = cargo.args(words.split(' ')).env("CARGO_TARGET_DIR", &target).output().unwrap();
    std::fs::remove_dir_all(target).unwrap();
    said(&output.stderr)
}

/// `first`, then the change, then `second`: these warnings, and hits when nothing changed.
fn warns(first: &str, change: impl FnOnce(&Checkout) -> Checkout, second: &str) {
    let world = World::plain();
    let c = project(&world);
    let before = truth(&c, first);
    assert_eq!(said(c.cargo(first).stderr.as_bytes()), before, "first");
    let changed = change(&c);
    c.clean_plainly();
    let after = truth(&changed, second);
    assert_ne!(before, after, "the test is broken: the change does not show");
    assert_eq!(said(changed.cargo(second).stderr.as_bytes()), after, "after the change");
    c.clean_plainly();
    let again = changed.cargo(second);
    assert_eq!(said(again.stderr.as_bytes()), after, "nothing changed");
    again.all_hit();
}

const WORDS: &str = "clippy --offline -- -W clippy::uninlined_format_args";

#[test]
fn a_higher_version_allows_more_lints() {
    warns(
        WORDS,
        |c| {
            c.edit("a/Cargo.toml", "1.56", "1.85");
            c.clone()
        },
        WORDS,
    );
}

#[test]
fn only_the_package_itself() {
    warns("clippy --offline -p a --no-deps", Clone::clone, "clippy --offline -p b --no-deps");
    warns("clippy --offline -p b", Clone::clone, "clippy --offline -p a --no-deps");
}

#[test]
fn links_to_documentation() {
    warns(WORDS, |c| c.env("CLIPPY_DISABLE_DOCS_LINKS", "1"), WORDS);
}

#[test]
fn settings() {
    let words = "clippy --offline";
    warns(
        words,
        |c| {
            c.write("clippy.toml", "too-many-arguments-threshold = 20\n");
            c.clone()
        },
        words,
    );
    warns(
        words,
        |c| {
            c.write("b/.clippy.toml", "too-many-arguments-threshold = 20\n");
            c.clone()
        },
        words,
    );
    warns(
        words,
        |c| {
            c.write("conf/clippy.toml", "too-many-arguments-threshold = 20\n");
            c.env("CLIPPY_CONF_DIR", c.dir().join("conf"))
        },
        words,
    );
}

#[test]
fn arguments_of_clippy() {
    warns("clippy --offline", Clone::clone, "clippy --offline -- -A clippy::ptr_arg");
    warns(
        "clippy --offline",
        |c| c.env("CLIPPY_ARGS", "-Aclippy::len_zero__CLIPPY_HACKERY__"),
        "clippy --offline -- -A clippy::len_zero",
    );
}

#[test]
fn after_a_check() {
    warns("check --offline", Clone::clone, "clippy --offline");
}
