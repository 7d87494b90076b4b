//! Paths of a checkout, in whatever form they get into a result: another checkout has others.

use crate::support::World;
use crate::table::{Table, Variant, expands, libraries_of_the_toolchain, script};

const HASH: &str = "const fn hash(s: &str) -> u64 { let b = s.as_bytes(); let mut h = 0xcbf29ce484222325u64; let mut i = 0; \
    while i < b.len() { h = (h ^ b[i] as u64).wrapping_mul(0x100000001b3); i += 1; } h } ";

const ARGUMENTS: &str = r#"
use proc_macro::TokenStream;
#[proc_macro] pub fn argument(_: TokenStream) -> TokenStream {
    std::env::args().skip_while(|arg| arg != "--out-dir").nth(1).unwrap().len().to_string().parse().unwrap()
}
"#;
const PLACE: &str = r#"
use proc_macro::{Span, TokenStream};
#[proc_macro] pub fn place(_: TokenStream) -> TokenStream {
    Span::call_site().local_file().unwrap().as_os_str().len().to_string().parse().unwrap()
}
"#;

fn shows(name: &str, items: &str, value: &str) -> Variant {
    Variant::new(name).main(&format!("{HASH} {items} fn main() {{ println!(\"{{:?}}\", {value}); }}"))
}

fn table() -> Table {
    const MAC: &str = r#"
use proc_macro::TokenStream;
fn here() -> String { std::env::var("CARGO_MANIFEST_DIR").unwrap() }
#[proc_macro] pub fn hashed(_: TokenStream) -> TokenStream {
    use std::hash::*;
    let mut h = std::collections::hash_map::DefaultHasher::new();
    here().hash(&mut h);
    format!("{}u64", h.finish()).parse().unwrap()
}
#[proc_macro] pub fn length(_: TokenStream) -> TokenStream { format!("{}", here().len()).parse().unwrap() }
#[proc_macro] pub fn parts(_: TokenStream) -> TokenStream { format!("{:?}", here().split('/').collect::<Vec<_>>()).parse().unwrap() }
#[proc_macro] pub fn upper(_: TokenStream) -> TokenStream { format!("{:?}", here().to_uppercase()).parse().unwrap() }
#[proc_macro] pub fn directory(_: TokenStream) -> TokenStream {
    format!("{:?}", std::env::current_dir().unwrap().display().to_string().len()).parse().unwrap()
}
"#;
    Table::new()
        .krate("mac", MAC)
        .krate("arguments", ARGUMENTS)
        .krate("place", PLACE)
        .add(Variant::new("generates")
            .manifest("links = \"generates\"")
            .script("only_script(); println!(\"cargo:dir={}\", out().display());")
            .file("src/lib.rs", "pub const X: i32 = 0;")
            .main("fn main() {}")
            .look("pwd"))
        .add(script("of_dependency", "only_script(); set(env::var(\"DEP_GENERATES_DIR\").unwrap().len().to_string());").uses("generates"))
        .add(script("command_line", "only_script(); set(fs::read(\"/proc/self/cmdline\").unwrap().len().to_string());"))
        .add(script("current_program", "only_script(); set(env::current_exe().unwrap().parent().unwrap().as_os_str().len().to_string());"))
        .add(script("argument", "only_script(); set(env::args().next().unwrap().len().to_string());"))
        .add(Variant::new("of_macro").uses("arguments").main("fn main() { println!(\"{}\", arguments::argument!()); }"))
        .add(Variant::new("local_file").uses("place")
            .script("only_script(); fs::write(out().join(\"g.rs\"), \"pub const N: usize = place::place!();\").unwrap();")
            .main("include!(concat!(env!(\"OUT_DIR\"), \"/g.rs\")); fn main() { println!(\"{N}\"); }"))
        .add(shows("plain", "", "env!(\"CARGO_MANIFEST_DIR\")"))
        .add(shows("hashed", "const H: u64 = hash(env!(\"CARGO_MANIFEST_DIR\"));", "H"))
        .add(shows("hashed_with_more", "const H: u64 = hash(concat!(env!(\"CARGO_MANIFEST_DIR\"), \":\", module_path!()));", "H"))
        .add(shows("length", "const N: usize = env!(\"CARGO_MANIFEST_DIR\").len();", "N"))
        .add(shows("in_bytes", "const B: [u8; 24] = { let b = env!(\"CARGO_MANIFEST_DIR\").as_bytes(); let mut r = [0; 24]; let mut i = 0; while i < 24 { r[i] = b[b.len() - 24 + i] ^ 1; i += 1; } r };", "B"))
        .add(shows("of_script", "const N: usize = env!(\"OUT_DIR\").len();", "N").script("only_script();"))
        .add(script("out_length", "only_script(); set(out().to_str().unwrap().len().to_string());"))
        .add(script("here_hashed", "only_script(); use std::hash::*; let mut h = std::collections::hash_map::DefaultHasher::new(); here().hash(&mut h); set(h.finish().to_string());"))
        .add(script("canonical", "only_script(); set(fs::canonicalize(\".\").unwrap().to_str().unwrap());"))
        .add(script("by_pwd", "only_script(); set(prints(&[\"sh\", \"-c\", \"pwd | tr a-z A-Z\"]));"))
        .add(script("by_program", "only_script(); set(prints(&[\"pwd\"]).len().to_string());"))
        .add(script("by_realpath", "only_script(); set(prints(&[\"realpath\", \".\"]).to_uppercase());"))
        .add(script("by_link", "only_script(); set(prints(&[\"readlink\", \"/proc/self/cwd\"]).to_uppercase());"))
        .add(script("by_another", "only_script(); set(prints(&[\"sh\", \"-c\", \"readlink /proc/$$/cwd; true\"]).to_uppercase());"))
        .add(script("by_perl", "only_script(); set(prints(&[\"perl\", \"-MCwd\", \"-e\", \"print length(cwd())\"]));"))
        .add(script("by_cargo", "only_script(); let text = prints(&[&env::var(\"CARGO\").unwrap(), \"locate-project\", \"--offline\"]); set(text.len().to_string());"))
        .add(script("relative", "only_script(); let up: String = here().ancestors().map(|_| \"../\").collect(); set(up);").look("true; $D/relative; pwd | wc -c"))
        .add(expands("mac_hashed", "hashed!()"))
        .add(expands("mac_length", "length!()"))
        .add(Variant::new("mac_parts").uses("mac").main("fn main() { let all: &[&str] = &mac::parts!(); println!(\"{all:?}\"); }"))
        .add(expands("mac_upper", "upper!()"))
        .add(expands("mac_directory", "directory!()"))
}

#[test]
fn of_a_checkout_at_another_depth() {
    table().changes_elsewhere("at/another/depth");
}

#[test]
fn optimized() {
    table().env("CARGO_PROFILE_DEV_OPT_LEVEL", "3").changes_elsewhere("longer-name-than-project");
}

/// Short paths become immediate values in machine code, in which nobody finds them.
#[test]
fn short_paths() {
    for (first, second) in [("a1", "a2"), ("ab/cd", "ab/ce"), ("abcdefg", "abcdefh")] {
        let root = tempfile::Builder::new().prefix("k").rand_bytes(2).tempdir_in("/").unwrap();
        let at = |name: &str| root.path().join(name).display().to_string();
        Table::new()
            .dir(&at(first))
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "3")
            .add(
                Variant::new("x").main(
                    "#[inline(never)] fn dir() -> std::path::PathBuf { std::path::PathBuf::from(env!(\"CARGO_MANIFEST_DIR\")) } \
                     fn main() { println!(\"{}\", dir().join(\"assets\").display()); }",
                ),
            )
            .add(Variant::new("y").main("fn main() { let s = String::from(env!(\"CARGO_MANIFEST_DIR\")); println!(\"{s}\"); }"))
            .changes_elsewhere(&at(second));
    }
}

/// Cargo must watch the files of this checkout, whatever its name.
#[test]
fn names_with_blanks() {
    for (first, second) in [
        ("my a", "my b"),
        ("a'b", "a c"),
        ("tab", "x  y"),
        ("plain", "quote\"d"),
        ("back\\slash", "line\nend"),
    ] {
        // The compiler's own list of files cannot be read back with such names.
        let is_read = !first.contains('\\');
        let table = || {
            Table::new()
                .dir(first)
                .add(Variant::new("text").main("fn main() { println!(\"{}\", include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/x\"))); }").before("echo 1 > x").change("echo 2 > x"))
                .add(
                    Variant::new("made")
                        .script("println!(\"cargo:rerun-if-changed=x\"); fs::write(out().join(\"g.rs\"), format!(\"pub const G: &str = {:?};\", text(\"x\"))).unwrap();")
                        .main("include!(concat!(env!(\"OUT_DIR\"), \"/g.rs\")); fn main() { println!(\"{G}\"); }")
                        .before("echo 1 > x")
                        .change("echo 2 > x"),
                )
                .stored(is_read)
        };
        table().changes_in_place_elsewhere(second);
    }
}

/// A path of this checkout that stands in a file means the same for another checkout.
#[test]
fn that_stand_in_files() {
    let world = World::plain();
    let c = world.project(
        "one",
        &[
            ("Cargo.toml", "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
            ("build.rs", "fn main() { let text = std::fs::read_to_string(\"routes\").unwrap(); println!(\"cargo:rustc-env=V={text}\"); \
                std::fs::write(std::env::var(\"OUT_DIR\").unwrap() + \"/g.rs\", format!(\"const G: &str = {text:?};\")).unwrap(); }\n"),
            ("src/main.rs", "include!(concat!(env!(\"OUT_DIR\"), \"/g.rs\")); fn main() { println!(\"{} {}\", env!(\"V\"), G); }\n"),
        ],
    );
    let route = format!("{}/index.html", c.dir().display());
    c.write("routes", &route);
    assert_eq!(c.sh("cargo run -q --offline").trim(), format!("{route} {route}"));
    let other = world.empty_checkout(&world.root().join("another"));
    other.sh("cp -R ../one/Cargo.toml ../one/build.rs ../one/routes ../one/src .");
    assert_eq!(other.sh("cargo run -q --offline").trim(), format!("{route} {route}"));
}

/// What users say about paths beats what kache says.
#[test]
fn remapped_by_the_user() {
    for flags in ["--remap-path-prefix=$T=~", "--remap-path-prefix=/=/x/"] {
        Table::new()
            .env("RUSTFLAGS", flags)
            .add(
                Variant::new("made")
                    .script("only_script(); fs::write(out().join(\"g.rs\"), \"pub fn at() -> &'static str { file!() }\").unwrap();")
                    .main("include!(concat!(env!(\"OUT_DIR\"), \"/g.rs\")); fn main() { println!(\"{}\", at()); }"),
            )
            .add(
                Variant::new("by_path")
                    .script("only_script(); fs::write(out().join(\"m.rs\"), \"pub fn at() -> String { std::panic::Location::caller().file().into() }\").unwrap(); println!(\"cargo:rustc-env=M={}\", out().join(\"m.rs\").display());")
                    .main("mod m { include!(env!(\"M\")); } fn main() { println!(\"{}\", m::at()); }"),
            )
            .changes_elsewhere("b/deeper");
    }
}

/// The program finds the standard library relative to itself.
#[test]
fn relative_library_paths() {
    Table::new()
        .env("RUSTFLAGS", "-Cprefer-dynamic -Crpath")
        .add(
            Variant::new("runs")
                .main("fn main() { println!(\"runs\"); }")
                .look("readelf -d \"$D/runs\" | grep -oi 'path.*'; \"$D/runs\""),
        )
        .changes_elsewhere("deep/er/b");
}

/// A target directory that is a link: scripts may ask where it really lies.
#[test]
fn a_linked_target_directory() {
    Table::new()
        .add(
            Variant::new("real")
                .script("only_script(); let o = fs::canonicalize(out()).unwrap(); fs::write(o.join(\"g.rs\"), \"pub const G: u32 = 1;\").unwrap(); println!(\"cargo:rustc-env=GEN={}\", o.join(\"g.rs\").display());")
                .main("include!(env!(\"GEN\")); fn main() { println!(\"{} {}\", G, env!(\"GEN\")); }"),
        )
        .linked_targets()
        .changes_elsewhere("other");
}

/// Compressed metadata of a dynamic library holds a path.
#[test]
fn in_a_dynamic_library() {
    Table::new()
        .env("RUSTFLAGS", "-Cprefer-dynamic")
        .add(
            Variant::new("dy")
                .manifest("[lib]\ncrate-type = [\"dylib\"]")
                .file("src/lib.rs", "pub const DIR: &str = env!(\"CARGO_MANIFEST_DIR\");")
                .main("fn main() { println!(\"{}\", dy::DIR); }")
                .look("LD_LIBRARY_PATH=\"$D:$D/deps:$(rustc --print target-libdir)\" \"$D/dy\""),
        )
        .add(
            Variant::new("user")
                .uses("dy")
                .main("fn main() { println!(\"{}\", dy::DIR); }")
                .look("LD_LIBRARY_PATH=\"$D:$D/deps:$(rustc --print target-libdir)\" \"$D/user\""),
        )
        .changes_elsewhere("other");
}

/// Tests find their files by `file!()`, also where the package lies outside of its workspace.
#[test]
fn the_file_macro_outside_of_the_workspace() {
    use crate::support::World;
    let world = World::plain();
    let c = world.project(
        "ws/inner",
        &[
            ("Cargo.toml", "[workspace]\nresolver = \"2\"\nmembers = [\"../../beside\"]\n"),
            ("../../beside/Cargo.toml", "[package]\nname = \"beside\"\nversion = \"0.1.0\"\nedition = \"2021\"\nworkspace = \"../ws/inner\"\n"),
            ("../../beside/src/lib.rs", "#[track_caller] pub fn whence() -> &'static str { std::panic::Location::caller().file() }\n"),
            (
                "../../beside/tests/t.rs",
                "use std::path::Path;\n#[test] fn own() { let p = Path::new(env!(\"CARGO_MANIFEST_DIR\")).join(file!()); assert!(p.exists(), \"no {}\", p.display()); }\n\
                 #[test] fn caller() { let p = Path::new(env!(\"CARGO_MANIFEST_DIR\")).join(beside::whence()); assert!(p.exists(), \"no {}\", p.display()); }\n\
                 #[test] fn writes() { let p = Path::new(env!(\"CARGO_MANIFEST_DIR\")).join(file!()).with_extension(\"snap\"); std::fs::write(&p, \"x\").unwrap(); }\n",
            ),
        ],
    );
    let results = |out: &[u8]| {
        let text = String::from_utf8_lossy(out).into_owned();
        let mut lines: Vec<String> = text
            .lines()
            .filter(|l| l.starts_with("test "))
            .map(|l| l.split("; finished").next().unwrap().to_owned())
            .collect();
        lines.sort();
        lines
    };
    let mut plain = c.plain_command();
    plain.args(["test", "--no-fail-fast", "--offline"]).env("CARGO_TARGET_DIR", world.root().join("plain"));
    let truth = results(&plain.output().unwrap().stdout);
    assert!(truth.len() > 4, "the test is broken: {truth:?}");
    for _ in 0..2 {
        assert_eq!(results(c.cargo("test --no-fail-fast --offline").stdout.as_bytes()), truth);
        c.clean_plainly();
    }
    c.cargo("test --no-run --offline").ok();
    // The package lies outside of the checkout, whose account does not have it.
    let report = c.kache_prints("report --limit 3");
    assert!(report.lines().all(|line| line.starts_with("hit")), "{report}");
}

/// Macros and scripts that take what they ask for from the standard library as a library.
#[test]
fn with_the_standard_library_as_a_library() {
    Table::new()
        .env("RUSTFLAGS", "-Cprefer-dynamic")
        .env("LD_LIBRARY_PATH", &libraries_of_the_toolchain())
        .krate("arguments", ARGUMENTS)
        .krate("place", PLACE)
        .add(script("argument", "only_script(); set(env::args().next().unwrap().len().to_string());"))
        .add(Variant::new("of_macro").uses("arguments").main("fn main() { println!(\"{}\", arguments::argument!()); }"))
        .add(
            Variant::new("local_file")
                .uses("place")
                .script("only_script(); fs::write(out().join(\"g.rs\"), \"pub const N: usize = place::place!();\").unwrap();")
                .main("include!(concat!(env!(\"OUT_DIR\"), \"/g.rs\")); fn main() { println!(\"{N}\"); }"),
        )
        .changes_elsewhere("deep/er/b");
}
