//! A workspace with some of everything that a build may depend on, and what may change in it.

use super::support::Checkout;
use super::support::dice::Dice;
use super::{Site, Vars};

/// Files, as `(path below the site, text)`. The workspace is `work`; `outside` lies beside it.
const FILES: &[(&str, &str)] = &[
    (
        "work/Cargo.toml",
        "[workspace]\nmembers = [\"app\", \"base\", \"mac\", \"gen\", \"clib\", \"tool\", \"rev\", \"linked\", \"blob\", \"nest\"]\n\
         exclude = [\"inner\"]\nresolver = \"2\"\n",
    ),
    ("work/.gitignore", "target\n"),
    ("outside/Cargo.toml", "[package]\nname = \"outside\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
    (
        "outside/src/lib.rs",
        "pub fn place() -> (&'static str, u32) { (file!(), 1) }\npub trait Need {}\npub fn need<T: Need>(_: T) {}\n",
    ),
    (
        "work/base/src/lib.rs",
        "mod extra;\npub fn word() -> &'static str { \"word 0\" }\npub fn extra() -> u32 { extra::N }\n#[test] fn unit() { println!(\"{}\", word()); }\n",
    ),
    ("work/base/src/extra.rs", "pub const N: u32 = 0;\n"),
    (
        "work/mac/src/lib.rs",
        r#"use proc_macro::TokenStream;
use std::path::{Path, PathBuf};
fn path(i: TokenStream) -> PathBuf { Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join(i.to_string().trim_matches('"')) }
#[proc_macro] pub fn baked(i: TokenStream) -> TokenStream { format!("{:?}", std::env::var(i.to_string().trim_matches('"')).unwrap_or_default()).parse().unwrap() }
#[proc_macro] pub fn text(i: TokenStream) -> TokenStream { format!("{:?}", std::fs::read_to_string(path(i)).unwrap_or_default()).parse().unwrap() }
#[proc_macro] pub fn names(i: TokenStream) -> TokenStream {
    let mut all: Vec<String> = std::fs::read_dir(path(i)).into_iter().flatten().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    format!("{:?}", all.join(" ")).parse().unwrap()
}
"#,
    ),
    ("work/gen/src/lib.rs", "include!(concat!(env!(\"OUT_DIR\"), \"/table.rs\"));\n"),
    (
        "work/gen/build.rs",
        r#"fn main() {
    println!("cargo:rerun-if-changed=table.txt");
    println!("cargo:rerun-if-changed=data");
    println!("cargo:rerun-if-env-changed=GARDEN_WORD");
    let mut names: Vec<_> = std::fs::read_dir("data").unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    let text = format!("{} {names:?} {:?}", std::fs::read_to_string("table.txt").unwrap().trim(), std::env::var("GARDEN_WORD"));
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR").unwrap());
    std::fs::write(out.join("table.rs"), format!("pub const TABLE: &str = {text:?};\n")).unwrap();
    let profile = out.ancestors().nth(3).unwrap();
    std::fs::write(profile.join("side.txt"), &text).unwrap();
}
"#,
    ),
    ("work/gen/table.txt", "row 0\n"),
    ("work/gen/data/a", ""),
    (
        "work/clib/src/lib.rs",
        "unsafe extern \"C\" { fn clib() -> i32; }\npub fn value() -> i32 { unsafe { clib() } }\n",
    ),
    ("work/clib/c.c", "#include <value.h>\nint clib(void) { return VALUE; }\n"),
    ("work/cinclude/value.h", "#include \"inner.h\"\n"),
    ("work/cinclude/inner.h", "#define VALUE 0\n"),
    ("work/cfirst/none.h", ""),
    (
        "work/clib/build.rs",
        r#"use std::process::Command;
fn main() {
    println!("cargo:rerun-if-changed=c.c");
    let out = std::env::var("OUT_DIR").unwrap();
    let run = |c: &mut Command| assert!(c.status().unwrap().success());
    run(Command::new("cc").args(["-fPIC", "-c", "c.c", "-I../cfirst", "-I../cinclude", "-o", &format!("{out}/c.o")]));
    run(Command::new("ar").args(["crsD", &format!("{out}/libclib.a"), &format!("{out}/c.o")]));
    println!("cargo:rustc-link-search=native={out}\ncargo:rustc-link-lib=static=clib");
}
"#,
    ),
    ("work/tool/src/lib.rs", "pub const SAID: &str = env!(\"SAID\");\n"),
    (
        "work/tool/build.rs",
        "fn main() {\n    println!(\"cargo:rerun-if-changed=build.rs\");\n    let o = std::process::Command::new(\"sh\").args([\"-c\", \"garden-tool\"]).output().unwrap();\n    \
         println!(\"cargo:rustc-env=SAID={}\", String::from_utf8(o.stdout).unwrap().trim());\n}\n",
    ),
    ("work/rev/src/lib.rs", "pub const REV: &str = env!(\"REV\");\n"),
    (
        "work/rev/build.rs",
        "fn main() {\n    println!(\"cargo:rerun-if-changed=never-there\");\n    let o = std::process::Command::new(\"git\").args([\"log\", \"-1\", \"--format=%s\", \"--decorate=short\"]).output().unwrap();\n    \
         println!(\"cargo:rustc-env=REV={}\", String::from_utf8(o.stdout).unwrap().trim());\n}\n",
    ),
    (
        "work/linked/src/main.rs",
        "unsafe extern \"C\" { static MAGIC: u8; }\nfn main() { println!(\"{:#x}\", (&raw const MAGIC) as usize & 0xfff); }\n",
    ),
    (
        "work/linked/build.rs",
        "fn main() {\n    println!(\"cargo:rerun-if-changed=build.rs\");\n    println!(\"cargo:rustc-link-arg={}/app.ld\", std::env::var(\"CARGO_MANIFEST_DIR\").unwrap());\n}\n",
    ),
    ("work/linked/app.ld", "INCLUDE linked/consts.x\n"),
    ("work/linked/consts.x", "MAGIC = 0x100;\n"),
    (
        "work/blob/src/main.rs",
        "core::arch::global_asm!(\".section .rodata\", \".globl blob\", \"blob:\", \".incbin \\\"blob/data.bin\\\"\", \".byte 0\", \".text\");\n\
         unsafe extern \"C\" { static blob: u8; }\nfn main() { println!(\"{}\", unsafe { *std::hint::black_box(&raw const blob) }); }\n",
    ),
    ("work/blob/data.bin", "0"),
    (
        "work/nest/src/lib.rs",
        "pub const INNER: &str = include_str!(concat!(env!(\"OUT_DIR\"), \"/said\"));\n",
    ),
    (
        "work/nest/build.rs",
        r#"use std::process::Command;
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let out = std::env::var("OUT_DIR").unwrap();
    let mut cargo = Command::new(std::env::var("CARGO").unwrap());
    cargo.args(["build", "-q", "--offline", "--manifest-path", "../inner/Cargo.toml", "--target-dir", &format!("{out}/inner")]);
    assert!(cargo.env_remove("CARGO_BUILD_TARGET").status().unwrap().success());
    let said = Command::new(format!("{out}/inner/debug/inner")).output().unwrap();
    std::fs::write(format!("{out}/said"), said.stdout).unwrap();
}
"#,
    ),
    (
        "work/inner/Cargo.toml",
        "[package]\nname = \"inner\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n",
    ),
    ("work/inner/Cargo.lock", "version = 4\n\n[[package]]\nname = \"inner\"\nversion = \"0.1.0\"\n"),
    ("work/inner/src/main.rs", "fn main() { println!(\"inner 0\"); }\n"),
    ("work/app/files/a", "a"),
    ("work/app/assets/one.txt", "one 0\n"),
    ("work/app/assets/two.txt", "two 0\n"),
    ("work/app/templates/t.html", "template 0\n"),
    (
        "work/app/src/main.rs",
        r#"#![allow(unexpected_cfgs)]
mod lint;
const fn hash(s: &str) -> u64 {
    let (b, mut h, mut i) = (s.as_bytes(), 0xcbf29ce484222325u64, 0);
    while i < b.len() {
        h = (h ^ b[i] as u64).wrapping_mul(0x100000001b3);
        i += 1;
    }
    h
}
const PLACE: u64 = hash(env!("CARGO_MANIFEST_DIR"));
fn main() {
    println!("base {} {}", base::word(), base::extra());
    println!("outside {:?}", outside::place());
    println!("gen {}", gen_::TABLE);
    println!("c {}", clib::value());
    println!("tool {}", tool::SAID);
    println!("rev {}", rev::REV);
    println!("nest {}", nest::INNER);
    println!("macros {:?} {:?} {:?}", mac::baked!("GARDEN_BAKED"), mac::text!("templates/t.html"), mac::names!("files"));
    println!("assets {} {}", include_str!("../assets/one.txt"), include_str!("../assets/current.txt"));
    println!("env {:?} {} {}", option_env!("GARDEN_OPTION"), env!("CARGO_PKG_VERSION"), cfg!(garden));
    println!("here {} {PLACE:x} {}", env!("CARGO_MANIFEST_DIR"), lint::lint(&[1]));
}
#[test]
fn answers() {
    println!("{}", mac::text!("templates/t.html"));
}
"#,
    ),
    ("work/app/src/lint.rs", "pub fn lint(v: &[u8]) -> bool { v.is_empty() }\n"),
    (
        "work/app/tests/t.rs",
        "#[test]\nfn reads() { println!(\"{} {}\", base::word(), include_str!(\"../assets/two.txt\")); }\n",
    ),
];

const PACKAGES: &[(&str, &str)] = &[
    (
        "app",
        "base = { path = \"../base\" }\nmac = { path = \"../mac\" }\ngen_ = { path = \"../gen\", package = \"gen\" }\nclib = { path = \"../clib\" }\n\
             tool = { path = \"../tool\" }\nrev = { path = \"../rev\" }\nnest = { path = \"../nest\" }\noutside = { path = \"../../outside\" }\n",
    ),
    ("base", ""),
    ("mac", "[lib]\nproc-macro = true\n"),
    ("gen", ""),
    ("clib", ""),
    ("tool", ""),
    ("rev", ""),
    ("linked", ""),
    ("blob", ""),
    ("nest", ""),
];

/// Puts the workspace into a new site.
pub fn lay_out(site: &Checkout) {
    for (name, more) in PACKAGES {
        let depends = if more.starts_with('[') { "" } else { "[dependencies]\n" };
        let manifest =
            format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n{depends}{more}");
        site.write(&format!("../work/{name}/Cargo.toml"), manifest);
    }
    for (path, text) in FILES {
        site.write(&format!("../{path}"), text);
    }
    site.sh(
        "ln -s one.txt app/assets/current.txt; git init -q -b main .; git add -A; git commit -qm 'commit 0'",
    );
    std::fs::create_dir_all(site.world().root().join("tools/first")).expect("our own directory");
    tool(site, "tools", 0);
}

fn tool(site: &Checkout, dir: &str, n: u64) {
    let path = format!("{}/{dir}/garden-tool", site.world().root().display());
    site.sh(&format!("printf '#!/bin/sh\\necho {dir} {n}\\n' > {path}; chmod +x {path}"));
}

/// Changes something. The description, and whether cargo itself would notice in the same target directory: what it does
/// not know of (or judges by a time that went back) it builds only after a clean.
pub fn edit(site: &mut Site, vars: &mut Vars, dice: &mut Dice) -> (String, bool) {
    let n = dice.below(1000);
    let c = &site.checkout;
    let (seen, unseen) = (true, false);
    let sh = |script: &str| {
        c.sh(script);
    };
    let flip = |path: &str, text: &str| {
        let path = c.dir().join(path);
        if path.exists() {
            std::fs::remove_file(path).expect("our own file")
        } else {
            std::fs::write(path, text).expect("our own file")
        }
    };
    match dice.below(34) {
        0 => (edited(c, "base/src/lib.rs", "word ", n), seen),
        1 => (edited(c, "app/assets/one.txt", "one ", n), seen),
        2 => (edited(c, "gen/table.txt", "row ", n), seen),
        3 => (edited(c, "app/templates/t.html", "template ", n), unseen),
        4 => (edited(c, "inner/src/main.rs", "inner ", n), unseen),
        5 => (edited(c, "cinclude/inner.h", "VALUE ", n), unseen),
        6 => (edited(c, "linked/consts.x", "0x", 100 + n % 800), unseen),
        7 => {
            c.write("blob/data.bin", [b'0' + (n % 10) as u8]);
            (format!("blob/data.bin: {}", n % 10), unseen)
        }
        8 => {
            edited(c, "app/assets/two.txt", "two ", n);
            sh("touch -d 2001-01-01 app/assets/two.txt");
            (format!("app/assets/two.txt: {n}, of 2001"), unseen)
        }
        9 => {
            let name = n % 5;
            flip(&format!("app/files/{name}"), "");
            (format!("app/files/{name} appears or goes"), unseen)
        }
        10 => {
            flip("cfirst/value.h", &format!("#define VALUE {n}\n"));
            ("cfirst/value.h appears in front or goes".into(), unseen)
        }
        11 => {
            let name = n % 5;
            flip(&format!("gen/data/{name}"), "");
            (format!("gen/data/{name} appears or goes"), seen)
        }
        12 => {
            tool(c, "tools", n);
            (format!("the tool is {n}"), unseen)
        }
        13 => {
            let first = c.world().root().join("tools/first/garden-tool");
            if first.exists() {
                std::fs::remove_file(first).expect("our own file")
            } else {
                tool(c, "tools/first", n)
            }
            ("a tool in front appears or goes".into(), unseen)
        }
        14 => (vars.set("GARDEN_WORD", n % 3), seen),
        15 => (vars.set("GARDEN_OPTION", n % 3), seen),
        16 => (vars.set("GARDEN_BAKED", n % 3), unseen),
        17 => (vars.flag("RUSTFLAGS", "--cfg garden"), seen),
        18 => {
            sh(&format!("git commit -q --allow-empty -m 'commit {n}'"));
            (format!("git commit {n}"), seen)
        }
        19 => {
            sh("git checkout -q -B other HEAD; git commit -q --amend --allow-empty -m amended");
            ("git amends on another branch".into(), seen)
        }
        20 => (edited(c, "../outside/src/lib.rs", "file!(), ", n), seen),
        21 => {
            sh(
                "[ -e base/src/extra.rs ] && { mkdir base/src/extra; mv base/src/extra.rs base/src/extra/mod.rs; } || { mv base/src/extra/mod.rs base/src/extra.rs; rmdir base/src/extra; }",
            );
            ("base/src/extra moves".into(), seen)
        }
        22 => {
            sh(&format!(
                "f=$(ls base/src/extra.rs base/src/extra/mod.rs 2>/dev/null | head -1); echo 'pub const N: u32 = {n};' > $f"
            ));
            (format!("base/src/extra is {n}"), seen)
        }
        23 => {
            sh(
                "[ $(readlink app/assets/current.txt) = one.txt ] && ln -sfn two.txt app/assets/current.txt || ln -sfn one.txt app/assets/current.txt",
            );
            ("app/assets/current.txt leads elsewhere".into(), unseen)
        }
        24 => {
            sh("find . ../outside -path ./target -prune -o -path ./.git -prune -o -type f -exec touch {} +");
            ("everything is touched".into(), seen)
        }
        25 => {
            sh(
                "find . ../outside -path ./target -prune -o -path ./.git -prune -o -type f -exec touch -d 2002-02-02 {} +",
            );
            ("everything is of 2002".into(), seen)
        }
        26 => {
            let text = [
                "pub fn lint(v: &[u8]) -> bool { v.is_empty() }\n",
                "pub fn lint(v: &[u8]) -> bool { v.len() == 0 }\n",
                "pub fn lint(v: &[u8]) -> bool { let unused = 1; v.is_empty() }\n",
            ];
            c.write("app/src/lint.rs", text[n as usize % 3]);
            (format!("app/src/lint.rs: {}", n % 3), seen)
        }
        27 => {
            let text = "pub fn lint(v: &[u8]) -> bool { outside::need(1u8); v }\n";
            c.write("app/src/lint.rs", text);
            ("app/src/lint.rs has errors".into(), seen)
        }
        28 => {
            let manifest = c.read("base/Cargo.toml");
            let old = manifest.lines().find(|l| l.starts_with("version")).expect("a version").to_owned();
            c.write("base/Cargo.toml", manifest.replace(&old, &format!("version = \"0.{n}.0\"")));
            (format!("base is 0.{n}.0"), seen)
        }
        29 => {
            let workspace = c.read("Cargo.toml");
            let text = match workspace.split_once("\n[profile") {
                Some((rest, _)) => format!("{rest}\n"),
                None => format!("{workspace}\n[profile.dev.package.base]\nopt-level = 1\n"),
            };
            c.write("Cargo.toml", text);
            ("a profile changes".into(), seen)
        }
        30 => {
            let text = c.read("clib/c.c");
            c.write("clib/c.c", format!("{text}/* {n} */\n"));
            (format!("clib/c.c has {n}"), seen)
        }
        31 => {
            sh("cp -r app/files app/files.new; rm -r app/files; mv app/files.new app/files");
            ("app/files is another directory with the same files".into(), seen)
        }
        32 => {
            let text = c.read("app/tests/t.rs");
            c.write("app/tests/t.rs", format!("{text}#[test] fn t{n}_{}() {{}}\n", text.len()));
            ("another test".into(), seen)
        }
        _ => {
            // The same bytes by another way: saved by an editor that renames.
            sh(
                "for f in base/src/lib.rs app/assets/one.txt gen/table.txt; do cp $f $f.new; mv $f.new $f; done",
            );
            ("files are saved unchanged".into(), seen)
        }
    }
}

/// Replaces the number after a word.
fn edited(c: &Checkout, path: &str, word: &str, n: u64) -> String {
    let text = c.read(path);
    let at = text.find(word).unwrap_or_else(|| panic!("{path} has no {word}")) + word.len();
    let end = text[at..].find(|ch: char| !ch.is_ascii_digit()).map_or(text.len(), |e| at + e);
    c.write(path, format!("{}{n}{}", &text[..at], &text[end..]));
    format!("{path}: {word}{n}")
}
