//! Who compiles: wrappers, compilers that are scripts, targets of one's own.

use crate::support::World;
use crate::table::{Table, Variant, script};

const TOOL: &str = "tool() { mkdir -p \"$(dirname \"$1\")\"; printf '#!/bin/bash\\n%s\\n' \"$2\" > \"$1\"; chmod +x \"$1\"; }; ";
const ADDED: &str = "#![allow(unexpected_cfgs)] fn main() { println!(\"{}\", cfg!(added)); }";
const PLAIN: &str = "exec \"$@\"";
const ADDS: &str = "case \"$*\" in *--crate-name*) exec \"$@\" --cfg added;; esac; exec \"$@\"";

/// A program that tells whether it was compiled with a `--cfg`; `first` and `then` are what a tool does.
fn told(name: &str, tool: &str, first: &str, then: &str) -> Variant {
    Variant::new(name)
        .main(ADDED)
        .before(&format!("{TOOL} tool {tool} '{first}'"))
        .change(&format!("{TOOL} tool {tool} '{then}'"))
        // What kache does not know it may leave alone.
        .not_stored()
}

#[test]
fn wrappers_of_the_workspace() {
    for wrapper in ["$T/bin/wswrap", "wswrap"] {
        Table::new()
            .in_path("$T/bin")
            .env("RUSTC_WORKSPACE_WRAPPER", wrapper)
            .add(told("app", "$T/bin/wswrap", PLAIN, ADDS))
            .changes();
    }
    // Another one of the same text; none; one that reads a file, a variable.
    Table::new()
        .env("RUSTC_WORKSPACE_WRAPPER", "$T/bin/w")
        .add(
            told("app", "$T/bin/w", "exec \"$@\" $(cat $T/flags 2>/dev/null)", "exec \"$@\" $(cat $T/flags)")
                .change("echo '--cfg added' > $T/flags"),
        )
        .changes();
    Table::new()
        .env("RUSTC_WORKSPACE_WRAPPER", "$T/bin/w")
        .add(told("app", "$T/bin/w", "exec \"$@\" $MORE_FLAGS", "").change("true").vars(
            "MORE_FLAGS",
            None,
            Some("--cfg added"),
        ))
        .changes();
    Table::new()
        .add(told("app", "$T/bin/w", ADDS, ADDS).vars("RUSTC_WORKSPACE_WRAPPER", None, Some("$T/bin/w")))
        .changes();
}

/// `RUSTC` is a script.
fn compiler(first: &str, change: &str) -> Table {
    let table = Table::new().env("RUSTC", "$T/tool/rustc");
    let real = table.world().real_rustc().display().to_string();
    let text = |t: &str| t.replace("REAL", &real);
    table.add(
        Variant::new("app")
            .main(ADDED)
            .before(&text(&format!("{TOOL} echo {PLAIN_REAL} > $T/which; tool $T/inner {PLAIN_REAL}; ln -s $T/inner $T/current; tool $T/other {ADDS_REAL}; tool $T/tool/rustc {first}")))
            .change(&text(&format!("{TOOL} {change}"))),
    )
}

const PLAIN_REAL: &str = "'exec REAL \"$@\"'";
const ADDS_REAL: &str =
    "'case \"$*\" in *--crate-name*) exec REAL \"$@\" --cfg added;; esac; exec REAL \"$@\"'";

#[test]
fn compilers_that_are_scripts() {
    compiler(PLAIN_REAL, &format!("tool $T/tool/rustc {ADDS_REAL}")).changes();
    // What it runs, what it reads, a link.
    compiler("'exec $T/inner \"$@\"'", &format!("tool $T/inner {ADDS_REAL}")).changes();
    compiler(
        "'f=; case \"$*\" in *--crate-name*) f=$(cat $T/flags 2>/dev/null);; esac; exec REAL \"$@\" $f'",
        "echo '--cfg added' > $T/flags",
    )
    .changes();
    compiler("'exec $T/current \"$@\"'", "ln -sfn $T/other $T/current").changes();
}

#[test]
fn a_compiler_script_that_reads_a_variable() {
    let table = Table::new().env("RUSTC", "$T/tool/rustc");
    let real = table.world().real_rustc().display().to_string();
    table
        .add(
            Variant::new("app")
                .main(ADDED)
                .before(&format!("{TOOL} tool $T/tool/rustc 'f=; case \"$*\" in *--crate-name*) f=$MORE_FLAGS;; esac; exec {real} \"$@\" $f'"))
                .vars("MORE_FLAGS", None, Some("--cfg added")),
        )
        .changes();
}

/// A script asks the compiler who it is.
#[test]
fn scripts_that_ask_the_compiler() {
    let table = Table::new().env("RUSTC", "$T/tool/rustc");
    let real = table.world().real_rustc().display().to_string();
    table
        .add(
            script("app", "only_script(); set(prints(&[&env::var(\"RUSTC\").unwrap(), \"--asked\"]));")
                .before(&format!("{TOOL} tool $T/tool/rustc 'case \"$1\" in --asked) cat $T/answer; exit;; esac; exec {real} \"$@\"'; echo 1 > $T/answer"))
                .change("echo 2 > $T/answer"),
        )
        .changes();
}

/// Build scripts of a build with kache, run again without it or with another wrapper.
#[test]
fn another_wrapper_later() {
    let world = World::plain();
    let c = world.project(
        "project",
        &[
            ("Cargo.toml", "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
            ("build.rs", "fn main() { println!(\"cargo:rerun-if-changed=x\\ncargo:rustc-env=V={}\", std::process::id()); }\n"),
            ("src/main.rs", "fn main() { println!(\"{}\", env!(\"V\")); }\n"),
            ("x", "1"),
            ("w", "#!/bin/sh\nexec \"$@\"\n"),
        ],
    );
    c.sh("chmod +x w");
    c.cargo("build --offline").ok();
    let first = c.prints("target/debug/app");
    c.write("x", "1");
    let run = c.env("RUSTC_WRAPPER", c.dir().join("w")).cargo("build --offline").ok();
    assert_ne!(c.prints("target/debug/app"), first, "the script did not run: {}", run.account());
    c.write("x", "1");
    let run = c.without_env("RUSTC_WRAPPER").cargo("build --offline").ok();
    assert!(run.scripts.is_empty(), "{}", run.account());
}

#[test]
fn cargo_fix() {
    let world = World::plain();
    let c = world.project(
        "project",
        &[
            ("Cargo.toml", "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
            ("src/main.rs", "fn main() { let mut x = 1; println!(\"{x}\"); }\n"),
        ],
    );
    c.cargo("build --offline").ok();
    c.cargo("fix --allow-no-vcs --offline").ok();
    assert!(c.read("src/main.rs").contains("let x = 1"), "{}", c.read("src/main.rs"));
}

/// The JSON of a target, found in a directory or named by its path, and what it names.
#[test]
fn targets_of_ones_own() {
    const LIB: &str = "#![feature(no_core, lang_items, rustc_attrs)]\n#![no_core]\n#![allow(internal_features)]\n\
        #[lang = \"pointee_sized\"] pub trait PointeeSized {}\n#[lang = \"meta_sized\"] pub trait MetaSized: PointeeSized {}\n\
        #[lang = \"sized\"] pub trait Sized: MetaSized {}\n#[lang = \"copy\"] pub trait Copy {}\nimpl Copy for u8 {}\n\
        #[unsafe(no_mangle)] pub extern \"C\" fn story(x: u8) -> u8 { x }";
    let spec = "rustc -Zunstable-options --print target-spec-json --target x86_64-unknown-none | grep -v is-builtin | sed 's/\"llvm-target\"/\"frame-pointer\": \"always\", \"llvm-target\"/'";
    for target in ["story", "$T/specs/story.json"] {
        let table = Table::new();
        let words = format!(
            "build --offline -Zjson-target-spec --target {}",
            target.replace("$T", &table.world().root().display().to_string())
        );
        table
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUST_TARGET_PATH", "$T/specs")
            .env("RUSTFLAGS", "-Zunstable-options")
            .words(&words)
            .add(
                Variant::new("own")
                    .file("src/lib.rs", LIB)
                    .before(&format!("mkdir $T/specs; {spec} > $T/specs/story.json"))
                    .change("sed -i 's/\"frame-pointer\": \"always\"/\"frame-pointer\": \"may-omit\"/' $T/specs/story.json")
                    .look("objdump -d $W/target/story/debug/libown.rlib | grep -q 'push.*%rbp' && echo frame || ls $W/target/story/debug/libown.rlib"),
            )
            .changes();
    }
}

/// What the JSON of a target names is read, too.
#[test]
fn linker_scripts_of_targets() {
    const MAIN: &str = "#![feature(no_core, lang_items, rustc_attrs)]\n#![no_core]\n#![no_main]\n#![allow(internal_features)]\n\
        #[lang = \"pointee_sized\"] pub trait PointeeSized {}\n#[lang = \"meta_sized\"] pub trait MetaSized: PointeeSized {}\n\
        #[lang = \"sized\"] pub trait Sized: MetaSized {}\n#[unsafe(no_mangle)] pub extern \"C\" fn _start() { loop {} }";
    let spec = "rustc -Zunstable-options --print target-spec-json --target x86_64-unknown-none \
        | grep -v -e is-builtin -e linker -e relocation-model -e position-independent \
        | sed \"s|\\\"llvm-target\\\"|\\\"linker\\\": \\\"ld\\\", \\\"linker-flavor\\\": \\\"gnu\\\", \\\"pre-link-args\\\": {\\\"gnu\\\": [\\\"-T$T/app.ld\\\"]}, \\\"llvm-target\\\"|\"";
    let magic = |n: u32| {
        format!(
            "printf 'MAGIC = {n};\\nENTRY(_start)\\nSECTIONS {{ . = 0x400000; .text : {{ *(.text*) }} /DISCARD/ : {{ *(.eh_frame*) }} }}\\n' > $T/app.ld"
        )
    };
    let table = Table::new();
    let words =
        format!("build --offline -Zjson-target-spec --target {}/story.json", table.world().root().display());
    table
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Zunstable-options")
        .words(&words)
        .add(
            Variant::new("own")
                .main(MAIN)
                .before(&format!("{spec} > $T/story.json; {}", magic(17)))
                .change(&magic(34))
                .look("nm $W/target/story/debug/own | grep MAGIC"),
        )
        .changes();
}
