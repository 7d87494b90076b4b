//! Being right is not to cost hits: what depends on no path is a hit in a second checkout.

use std::process::Command;

use crate::support::World;
use crate::table::{Table, Variant, expands, libraries_of_the_toolchain, script};

fn table() -> Table {
    Table::new()
        .krate("mac", "use proc_macro::TokenStream;\n#[proc_macro] pub fn seven(_: TokenStream) -> TokenStream { \"7\".parse().unwrap() }\n\
            #[proc_macro_derive(Name)] pub fn name(i: TokenStream) -> TokenStream { let t = i.to_string(); let n = t.split_whitespace().nth(1).unwrap().trim_end_matches(';').to_owned(); \
            format!(\"impl {n} {{ fn name() -> &'static str {{ {n:?} }} }}\").parse().unwrap() }\n")
        .krate("base", "#[derive(Debug, Default)] pub struct Base(pub u8); pub fn generic<T: std::fmt::Debug>(t: T) -> String { format!(\"{t:?}\") }\n")
        .add(Variant::new("ordinary").uses("base").main("fn main() { println!(\"{}\", base::generic(base::Base(1))); }"))
        .add(Variant::new("modules").main("mod m; fn main() { println!(\"{}\", m::N); }").file("src/m.rs", "pub const N: u8 = 1;"))
        .add(Variant::new("text").main("fn main() { println!(\"{}\", include_str!(\"x.txt\")); }").file("src/x.txt", "x"))
        .add(Variant::new("panics").main("fn main() { let v: Vec<u8> = vec![]; println!(\"{}\", v.get(1).is_none()); std::process::exit(v.len() as i32); }"))
        .add(Variant::new("generated")
            .script("only_script(); fs::write(out().join(\"g.rs\"), \"pub fn g() -> u8 { 1 }\").unwrap();")
            .main("include!(concat!(env!(\"OUT_DIR\"), \"/g.rs\")); fn main() { println!(\"{}\", g()); }"))
        .add(Variant::new("generated_text")
            .script("only_script(); fs::write(out().join(\"g.txt\"), \"text\").unwrap();")
            .main("fn main() { println!(\"{}\", include_str!(concat!(env!(\"OUT_DIR\"), \"/g.txt\"))); }"))
        .add(script("hash_map", "only_script(); let m: std::collections::HashMap<u8, u8> = [(1, 2)].into(); set(m[&1].to_string());"))
        .add(script("measures", "only_script(); let t = std::time::Instant::now(); run(&[\"true\"]); eprintln!(\"{:?}\", t.elapsed()); set(\"1\");"))
        .add(Variant::new("by_manifest").main("fn main() { println!(\"{}\", include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/x\"))); }").file("x", "x"))
        .add(expands("by_macro", "seven!()"))
        .add(Variant::new("derived").uses("mac").main("#[derive(mac::Name)] struct S; fn main() { println!(\"{}\", S::name()); }"))
        .add(script("probes", "only_script(); set(prints(&[\"sh\", \"-c\", \"$RUSTC --version >/dev/null && echo yes\"]));"))
        .add(script("features", "only_script(); println!(\"cargo:rustc-cfg=story\"); set(env::var(\"CARGO_CFG_TARGET_OS\").unwrap());"))
        .add(Variant::new("with_c")
            .script("println!(\"cargo:rerun-if-changed=x.c\"); let o = out().join(\"x.o\"); run(&[\"cc\", \"-c\", \"x.c\", \"-Iinclude\", \"-o\", o.to_str().unwrap()]); \
                run(&[\"ar\", \"crsD\", out().join(\"libx.a\").to_str().unwrap(), o.to_str().unwrap()]); println!(\"cargo:rustc-link-search=native={}\\ncargo:rustc-link-lib=static=x\", out().display());")
            .file("x.c", "#include \"x.h\"\nint x(void) { return X; }")
            .file("include/x.h", "#define X 7")
            .main("unsafe extern \"C\" { fn x() -> i32; } fn main() { println!(\"{}\", unsafe { x() }); }"))
        .add(script("begins_anew", "only_script(); fs::remove_dir_all(out()).unwrap(); fs::create_dir_all(out()).unwrap(); fs::write(out().join(\"x\"), \"1\").unwrap(); \
                set(fs::read_dir(out()).unwrap().count().to_string());"))
        .add(script("steps_up", "only_script(); fs::create_dir_all(out().join(\"a/b\")).unwrap(); fs::write(out().join(\"x\"), \"1\").unwrap(); \
                set(fs::read_to_string(out().join(\"a/b/../../x\")).unwrap());"))
        .add(script("interpreters", "only_script(); set([&[\"make\", \"-s\", \"-f\", \"mk\"][..], &[\"sh\", \"-c\", \"echo $WORD\"], \
                &[\"perl\", \"-e\", \"print 1 if $ENV{WORD}\"]].map(prints).concat());")
            .file("mk", "ifdef WORD\nX=1\nendif\nall:\n\t@echo $X $(CC)"))
        .add(script("reads", "only_script(); set(text(\"data/x\"));").file("data/x", "x"))
        .add(script("variables", "println!(\"cargo:rerun-if-env-changed=NOT_SET\"); set(env::var(\"NOT_SET\").unwrap_or(\"no\".into()));"))
}

#[test]
fn in_a_second_checkout() {
    table().hits_elsewhere("other");
}

#[test]
fn at_another_depth() {
    table().hits_elsewhere("at/another/depth/with-a-long-name");
}

#[test]
fn with_temporary_files_elsewhere() {
    // A directory that is there, and no part of the checkouts.
    table().env("TMPDIR", "$T/homes").hits_elsewhere("other");
}

#[test]
fn with_the_standard_library_as_a_library() {
    table()
        .env("RUSTFLAGS", "-Cprefer-dynamic")
        .env("LD_LIBRARY_PATH", &libraries_of_the_toolchain())
        .hits_elsewhere("other");
}

#[test]
fn after_a_clean() {
    table().kept_here();
}

#[test]
fn with_settings_of_the_checkout() {
    table().env("CARGO_WORKSPACE_DIR", "$T/project").env("SOMETHING_ELSE", "1").hits_elsewhere("other");
}

/// A registry in a directory, with one more package. `more`: of its manifest, where it may depend on one other.
fn publish(world: &World, name: &str, more: &str, files: &[(&str, &str)]) -> String {
    let registry = world.root().join("registry");
    let dir = registry.join(format!("{name}-1.0.0"));
    for (path, text) in files {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    std::fs::write(
        dir.join("Cargo.toml"),
        format!("[package]\nname = \"{name}\"\nversion = \"1.0.0\"\nedition = \"2021\"\n{more}"),
    )
    .unwrap();
    let used = more.split_once("[dependencies]\n").and_then(|(_, line)| line.split(' ').next());
    let used = used.map(|used| {
        format!(
            r#"{{"name":"{used}","req":"^1","features":[],"optional":false,"default_features":true,"target":null,"kind":"normal"}}"#
        )
    });
    let script = format!(
        "tar --mtime=2006-07-24 --owner=0 --group=0 -czf {name}-1.0.0.crate {name}-1.0.0; rm -r {name}-1.0.0; mkdir -p index/{a}/{b}; \
         sum=$(sha256sum {name}-1.0.0.crate | cut -d' ' -f1); \
         echo '{{\"name\":\"{name}\",\"vers\":\"1.0.0\",\"deps\":[{used}],\"features\":{{}},\"yanked\":false,\"cksum\":\"'$sum'\"}}' > index/{a}/{b}/{name}",
        a = &name[..2],
        b = &name[2..4],
        used = used.unwrap_or_default(),
    );
    assert!(Command::new("sh").args(["-ec", &script]).current_dir(&registry).status().unwrap().success());
    format!("[source.crates-io]\nreplace-with = \"here\"\n[source.here]\nlocal-registry = {registry:?}\n")
}

const USER: &str = "[package]\nname = \"user\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\n";

/// Everybody has a CARGO_HOME of their own, and the package compiles C.
#[test]
fn of_a_published_package() {
    let world = World::plain();
    let config = publish(
        &world,
        "stone",
        "",
        &[
            ("x.c", "int stone(void) { return 7; }\n"),
            (
                "src/lib.rs",
                "unsafe extern \"C\" { fn stone() -> i32; }\npub fn f() -> i32 { unsafe { stone() } }\n",
            ),
            (
                "build.rs",
                "use std::process::Command;\nfn main() {\n    println!(\"cargo:rerun-if-changed=x.c\\ncargo:rerun-if-env-changed=CC\");\n    let out = std::env::var(\"OUT_DIR\").unwrap();\n    \
                 let run = |c: &mut Command| assert!(c.status().unwrap().success());\n    run(Command::new(std::env::var(\"CC\").unwrap_or(\"cc\".into())).args([\"-fPIC\", \"-c\", \"x.c\", \"-o\", &format!(\"{out}/x.o\")]));\n    \
                 run(Command::new(\"ar\").args([\"crsD\", &format!(\"{out}/libstone.a\"), &format!(\"{out}/x.o\")]));\n    \
                 println!(\"cargo:rustc-link-search=native={out}\\ncargo:rustc-link-lib=static=stone\");\n}\n",
            ),
        ],
    );
    let manifest = format!("{USER}stone = \"1\"\n");
    let files = [
        ("Cargo.toml", &*manifest),
        ("src/main.rs", "fn main() { println!(\"{}\", stone::f()); }\n"),
        (".cargo/config.toml", &*config),
    ];
    let first = world.project("first", &files);
    first.cargo("build").ok();
    let second = world.project("second", &files);
    let run = second.cargo("build").ok();
    run.all_hit();
    assert!(run.scripts.iter().all(|e| e.outcome == "hit"), "{}", run.account());
    assert_eq!(second.prints("target/debug/user"), "7\n");
    // CARGO_HOME is reached by a link.
    let link = world.root().join("home-link");
    std::os::unix::fs::symlink(
        second.command("x").get_envs().find(|(n, _)| *n == "CARGO_HOME").unwrap().1.unwrap(),
        &link,
    )
    .unwrap();
    second.clean_plainly();
    second.env("CARGO_HOME", &link).cargo("build").ok().all_hit();
}

/// Its macro asks cargo where it is, and cargo reads settings wherever they may be.
#[test]
fn of_a_published_package_whose_macro_asks_cargo() {
    let world = World::plain();
    publish(
        &world,
        "asks",
        "[lib]\nproc-macro = true\n",
        &[(
            "src/lib.rs",
            "#[proc_macro] pub fn known(_: proc_macro::TokenStream) -> proc_macro::TokenStream {\n    \
             let o = std::process::Command::new(std::env::var(\"CARGO\").unwrap()).args([\"locate-project\", \"--offline\"]).output().unwrap();\n    \
             o.status.success().to_string().parse().unwrap()\n}\n",
        )],
    );
    let config = publish(
        &world,
        "uses",
        "[dependencies]\nasks = \"1\"\n",
        &[("src/lib.rs", "pub fn f() -> bool { asks::known!() }\n")],
    );
    let manifest = format!("{USER}uses = \"1\"\n");
    let files = [
        ("Cargo.toml", &*manifest),
        ("src/main.rs", "fn main() { println!(\"{}\", uses::f()); }\n"),
        (".cargo/config.toml", &*config),
    ];
    let home = world.root().join("home");
    world.project("first", &files).env("CARGO_HOME", &home).cargo("build").ok();
    let second = world.project("second", &files).env("CARGO_HOME", &home);
    second.cargo("build").ok().all_hit();
    assert_eq!(second.prints("target/debug/user"), "true\n");
}

/// CARGO_HOME lies in a repository, which the script of a published package asks about.
#[test]
fn of_a_published_package_in_a_repository() {
    let world = World::plain();
    let config = publish(
        &world,
        "gitver",
        "",
        &[
            ("src/lib.rs", "pub fn v() -> &'static str { env!(\"VER\") }\n"),
            (
                "build.rs",
                "fn main() { println!(\"cargo:rerun-if-changed=build.rs\"); let o = std::process::Command::new(\"git\").args([\"rev-parse\", \"HEAD\"]).output().unwrap(); \
                 println!(\"cargo:rustc-env=VER={}\", String::from_utf8(o.stdout).unwrap().trim()); }\n",
            ),
        ],
    );
    let manifest = format!("{USER}gitver = \"1\"\n");
    let files = [
        ("Cargo.toml", &*manifest),
        ("src/main.rs", "fn main() { println!(\"{}\", gitver::v()); }\n"),
        (".cargo/config.toml", &*config),
        (".gitignore", "target\n.cargo-home\n"),
    ];
    let c = world.project("project", &files);
    let home = c.dir().join(".cargo-home");
    let c = c.env("CARGO_HOME", home);
    let commit = "git -c user.name=a -c user.email=a@a commit -q --allow-empty -m x; git rev-parse HEAD";
    let one = c.sh(&format!("git init -q .; {commit}"));
    c.cargo("build").ok();
    assert_eq!(c.prints("target/debug/user"), one);
    let two = c.sh(commit);
    c.clean_plainly();
    c.cargo("build").ok();
    let plain = c.plain("build");
    assert_eq!(c.prints(plain.join("debug/user")), two, "the test is broken");
    assert_eq!(c.prints("target/debug/user"), two);
}
