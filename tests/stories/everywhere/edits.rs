//! I change something: exactly what depends on it is compiled, and the program is what a fresh plain build makes.
//!
//! `CI` is set, so that edits are compiled for the cache; what happens without it is the story of `incremental`.

use crate::support::{Checkout, Run, World};

struct Story {
    checkout: Checkout,
    command: String,
}

impl Story {
    /// A project that is built and cached.
    fn begin(command: &str) -> Story {
        let world = World::new();
        let checkout = world.checkout("project", "workspace").env("CI", "1");
        let story = Story { checkout, command: command.to_owned() };
        story.checkout.cargo(command).ok();
        story
    }

    fn program(&self) -> String {
        self.checkout.prints("target/debug/app")
    }

    /// The build after an edit: these units miss, and the program is right.
    #[track_caller]
    fn rebuild(&self, missed: &[&str]) -> Run {
        let run = self.checkout.cargo(&self.command).ok();
        run.missed(missed);
        self.is_right();
        run
    }

    #[track_caller]
    fn is_right(&self) {
        let plain = self.checkout.plain(&self.command);
        assert_eq!(self.program(), self.checkout.prints(plain.join("debug/app")));
    }

    /// After the edit was taken back: everything is known again.
    #[track_caller]
    fn back(&self) {
        let run = self.checkout.cargo(&self.command).ok();
        run.all_hit();
        self.is_right();
    }
}

#[test]
fn source_of_a_dependency() {
    let s = Story::begin("build");
    s.checkout.edit("base/src/words.rs", "hello", "good day");
    s.rebuild(&["base lib", "app bin"]);
    assert!(s.program().contains("base good day, world"));
    s.checkout.edit("base/src/words.rs", "good day", "hello");
    s.back();
}

#[test]
fn source_of_the_program() {
    let s = Story::begin("build");
    s.checkout.edit("app/src/main.rs", "native {}", "from C: {}");
    s.rebuild(&["app bin"]);
    s.checkout.edit("app/src/main.rs", "from C: {}", "native {}");
    s.back();
}

#[test]
fn source_of_a_proc_macro() {
    let s = Story::begin("build");
    s.checkout.edit("macros/src/lib.rs", "len().to_string()", "len().pow(2).to_string()");
    s.rebuild(&["macros proc-macro", "app bin"]);
    assert!(s.program().contains("macro 25 "));
}

#[test]
fn a_module_moves() {
    let s = Story::begin("build");
    let dir = s.checkout.dir().join("base/src");
    std::fs::create_dir(dir.join("words")).unwrap();
    std::fs::rename(dir.join("words.rs"), dir.join("words/mod.rs")).unwrap();
    s.checkout.edit("base/src/words/mod.rs", "hello", "moved");
    s.rebuild(&["base lib", "app bin"]);
    assert!(s.program().contains("base moved, world"));
}

#[test]
fn input_of_a_build_script() {
    let s = Story::begin("build");
    s.checkout.write("generated/table.txt", "one\ntwo\nthree\n");
    s.rebuild(&["generated lib", "app bin"]);
    assert!(s.program().contains("three"));
    s.checkout.write("generated/table.txt", "one\ntwo\n");
    s.back();
}

#[test]
fn build_script_itself() {
    let s = Story::begin("build");
    s.checkout.edit("generated/build.rs", "{l:?}", "\\\"<{l}>\\\"");
    s.rebuild(&["build_script_build build-script", "generated lib", "app bin"]);
    assert!(s.program().contains("<one>"));
}

#[test]
fn variable_of_a_build_script() {
    let mut s = Story::begin("build");
    s.checkout = s.checkout.env("STORY_BUILD_VAR", "set");
    s.rebuild(&["generated lib", "app bin"]);
    assert!(s.program().contains("\"set\""));
    s.checkout = s.checkout.without_env("STORY_BUILD_VAR");
    s.back();
}

#[test]
fn variable_of_the_source() {
    let mut s = Story::begin("build");
    s.checkout = s.checkout.env("STORY_OPTION", "set");
    s.rebuild(&["app bin"]);
    assert!(s.program().contains("env 1.0.0 Some(\"set\")"));
    s.checkout = s.checkout.env("STORY_OPTION", "other");
    s.rebuild(&["app bin"]);
    s.checkout = s.checkout.without_env("STORY_OPTION");
    s.back();
}

/// Cargo is not told of it, so it asks only after a clean; then the answer must not be the old one.
#[test]
fn variable_that_only_a_proc_macro_reads() {
    let mut s = Story::begin("build");
    s.checkout.clean();
    s.checkout = s.checkout.env("STORY_MACRO_VAR", "set");
    s.rebuild(&["app bin"]);
    assert!(s.program().contains("macro 5 set"));
    s.checkout.clean();
    s.checkout = s.checkout.env("STORY_MACRO_VAR", "other");
    s.rebuild(&["app bin"]);
    s.checkout.clean();
    s.checkout = s.checkout.without_env("STORY_MACRO_VAR");
    s.back();
}

#[test]
fn variable_that_nobody_reads() {
    let mut s = Story::begin("build");
    s.checkout.clean();
    s.checkout = s.checkout.env("STORY_OF_NOBODY", "set");
    s.back();
}

#[test]
fn included_file() {
    let s = Story::begin("build");
    s.checkout.write("app/data/message.txt", "another message\n");
    s.rebuild(&["app bin"]);
    assert!(s.program().contains("file another message"));
    s.checkout.write("app/data/message.txt", "a message\n");
    s.back();
}

#[test]
fn feature() {
    let mut s = Story::begin("build");
    s.command = "build --features loud".into();
    s.rebuild(&["base lib", "app bin"]);
    assert!(s.program().contains("HELLO, WORLD!!"));
    s.command = "build".into();
    s.checkout.clean();
    s.back();
}

#[test]
fn version_of_a_package() {
    let s = Story::begin("build");
    s.checkout.edit("app/Cargo.toml", "version = \"1.0.0\"", "version = \"1.0.1\"");
    s.rebuild(&["app bin"]);
    assert!(s.program().contains("env 1.0.1"));
}

#[test]
fn a_new_dependency() {
    let s = Story::begin("build");
    for (path, text) in [
        ("extra/Cargo.toml", "[package]\nname = \"extra\"\nversion = \"1.0.0\"\nedition = \"2024\"\n"),
        ("extra/src/lib.rs", "pub const EXTRA: u8 = 7;\n"),
    ] {
        s.checkout.write(path, text);
    }
    s.checkout.edit("Cargo.toml", "members = [", "members = [\"extra\", ");
    s.checkout.edit(
        "base/Cargo.toml",
        "[features]",
        "[dependencies]\nextra = { path = \"../extra\" }\n\n[features]",
    );
    s.checkout.edit(
        "base/src/words.rs",
        "\"hello\"",
        "[\"hello\", \"seven\"][usize::from(extra::EXTRA == 7)]",
    );
    s.rebuild(&["extra lib", "base lib", "app bin"]);
    assert!(s.program().contains("base seven, world"));
}

#[test]
fn rustc_flags() {
    let mut s = Story::begin("build");
    s.checkout = s.checkout.env("RUSTFLAGS", "--cfg story");
    let run = s.checkout.cargo("build").ok();
    assert!(run.units("hit").is_empty(), "{}", run.account());
    assert!(s.program().contains("cfg true"));
    s.is_right();
    s.checkout = s.checkout.without_env("RUSTFLAGS");
    s.checkout.clean();
    s.back();
}

#[test]
fn profile() {
    let s = Story::begin("build");
    s.checkout.edit(
        "Cargo.toml",
        "[profile.release]",
        "[profile.dev]\ndebug-assertions = false\n\n[profile.release]",
    );
    let run = s.checkout.cargo("build").ok();
    // Build scripts and proc macros have a profile of their own.
    let all = ["base lib", "generated lib", "native lib", "app bin"];
    assert!(all.iter().all(|u| run.units("miss").contains(u)), "{}", run.account());
    assert!(s.program().contains("debug false"));
    s.is_right();
}

#[test]
fn native_code() {
    let s = Story::begin("build");
    s.checkout.edit("native/story.c", "42", "43");
    s.rebuild(&["native lib", "app bin"]);
    assert!(s.program().contains("native 43"));
    s.checkout.edit("native/story.c", "43", "42");
    s.back();
}

/// The library is replaced where it lies, under the same name, and no source says so.
#[test]
fn native_library_rebuilt_in_place() {
    let world = World::new();
    let make = |c: &Checkout, answer: u32| {
        c.write("c/out.c", format!("int outside(void) {{ return {answer}; }}\n"));
        c.sh("cc -c c/out.c -o c/out.o && rm -f c/liboutside.a && ar crsD c/liboutside.a c/out.o && touch build.rs");
    };
    let c = world
        .project(
            "project",
            &[
                ("Cargo.toml", "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2024\"\n"),
                (
                    "build.rs",
                    "fn main() {\n    println!(\"cargo::rerun-if-changed=build.rs\");\n    \
                     println!(\"cargo::rustc-link-search=native={}/c\", std::env::var(\"CARGO_MANIFEST_DIR\").unwrap());\n    \
                     println!(\"cargo::rustc-link-lib=static=outside\");\n}\n",
                ),
                (
                    "src/main.rs",
                    "unsafe extern \"C\" {\n    fn outside() -> i32;\n}\n\nfn main() {\n    println!(\"{}\", unsafe { outside() });\n}\n",
                ),
            ],
        )
        .env("CI", "1");
    make(&c, 1);
    c.cargo("build").ok();
    assert_eq!(c.prints("target/debug/app"), "1\n");
    make(&c, 2);
    c.clean();
    c.cargo("build").ok().missed(&["app bin"]);
    assert_eq!(c.prints("target/debug/app"), "2\n");
    make(&c, 1);
    c.clean();
    c.cargo("build").ok().all_hit();
    assert_eq!(c.prints("target/debug/app"), "1\n");
}

#[test]
fn salt() {
    let s = Story::begin("build");
    s.checkout.clean();
    let salted = s.checkout.env("KACHE_KEY_SALT", "another");
    assert!(salted.cargo("build").ok().units("hit").is_empty());
    s.checkout.clean();
    s.back();
}

#[test]
fn variable_of_the_configuration() {
    let s = Story::begin("build");
    let story = s.checkout.env("KACHE_KEY_ENV_VARS", "STORY_OF_NOBODY");
    s.checkout.clean();
    story.cargo("build").ok();
    s.checkout.clean();
    assert!(story.env("STORY_OF_NOBODY", "1").cargo("build").ok().units("hit").is_empty());
    s.checkout.clean();
    story.cargo("build").ok().all_hit();
}
