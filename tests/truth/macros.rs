//! Files and directories that macros read behind the compiler's back.

use crate::table::{Table, Variant, expands};

const MACROS: &str = r##"
use proc_macro::TokenStream;
use std::path::{Path, PathBuf};

fn quoted(text: impl AsRef<str>) -> TokenStream {
    format!("{:?}", text.as_ref().trim()).parse().unwrap()
}

fn path(i: TokenStream) -> PathBuf {
    Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join(i.to_string().trim_matches('"'))
}

fn walk(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { walk(&path, all) } else { all.push(path) }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![];
    walk(dir, &mut all);
    all.sort();
    all
}

/// Each file by `include_str!`, so that the compiler knows of those that are there.
#[proc_macro]
pub fn embed(i: TokenStream) -> TokenStream {
    let all: Vec<String> = files(&path(i)).iter().map(|p| format!("include_str!({p:?})")).collect();
    format!("[{}].concat().replace('\\n', \" \") as String", all.join(",")).parse().unwrap()
}

#[proc_macro]
pub fn names(i: TokenStream) -> TokenStream {
    let dir = path(i);
    quoted(format!("{:?}", files(&dir).iter().map(|p| p.strip_prefix(&dir).unwrap()).collect::<Vec<_>>()))
}

#[proc_macro]
pub fn texts(i: TokenStream) -> TokenStream {
    quoted(files(&path(i)).iter().map(|p| std::fs::read_to_string(p).unwrap()).collect::<String>())
}

#[proc_macro]
pub fn text(i: TokenStream) -> TokenStream {
    quoted(std::fs::read_to_string(path(i)).unwrap_or_else(|e| e.kind().to_string()))
}

#[proc_macro]
pub fn exists(i: TokenStream) -> TokenStream {
    quoted(path(i).exists().to_string())
}

#[proc_macro]
pub fn kind(i: TokenStream) -> TokenStream {
    let meta = std::fs::symlink_metadata(path(i)).unwrap();
    quoted(format!("{:?} {}", meta.file_type().is_dir(), if meta.is_file() { meta.len() } else { 0 }))
}

#[proc_macro]
pub fn real(i: TokenStream) -> TokenStream {
    let path = std::fs::canonicalize(path(i)).unwrap();
    quoted(path.file_name().unwrap().to_str().unwrap())
}

/// The nearest, here or in any directory above.
#[proc_macro]
pub fn nearest(i: TokenStream) -> TokenStream {
    let name = i.to_string().trim_matches('"').to_owned();
    let here = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap());
    let found = here.ancestors().map(|d| d.join(&name)).find(|p| p.is_file());
    quoted(found.map(|p| std::fs::read_to_string(p).unwrap()).unwrap_or_default())
}

#[proc_macro]
pub fn left_by_script(i: TokenStream) -> TokenStream {
    let out = PathBuf::from(std::env::var("OUT_DIR").unwrap());
    quoted(std::fs::read_to_string(out.join(i.to_string().trim_matches('"'))).unwrap())
}

#[proc_macro]
pub fn cat(i: TokenStream) -> TokenStream {
    let o = std::process::Command::new("sh").args(["-c", "cat \"$0\""]).arg(path(i)).output().unwrap();
    quoted(String::from_utf8_lossy(&o.stdout))
}

#[proc_macro]
pub fn by_library(i: TokenStream) -> TokenStream {
    quoted(reads::all(&path(i)))
}

/// Relative to where the compiler runs.
#[proc_macro]
pub fn from_here(i: TokenStream) -> TokenStream {
    quoted(std::fs::read_to_string(i.to_string().trim_matches('"')).unwrap_or_default())
}
"##;

/// The macros, one of which reads by a library of its own.
fn table() -> Table {
    Table::new()
        .krate(
            "reads",
            "pub fn all(p: &std::path::Path) -> String { std::fs::read_to_string(p).unwrap_or_default() }",
        )
        .krate_using("mac", "reads", MACROS)
}

fn directory(name: &str, call: &str, change: &str) -> Variant {
    expands(name, call).before("mkdir -p files/sub; echo a > files/a; echo s > files/sub/s").change(change)
}

#[test]
fn directories() {
    table()
        .add(directory("added", "embed!(\"files\")", "echo b > files/b"))
        .add(directory("removed", "embed!(\"files\")", "rm files/a"))
        .add(directory("renamed", "names!(\"files\")", "mv files/a files/z"))
        .add(directory("deeper", "embed!(\"files\")", "echo t > files/sub/t"))
        .add(directory("new_directory", "embed!(\"files\")", "mkdir files/new; echo n > files/new/n"))
        .add(directory("edited", "texts!(\"files\")", "echo other > files/sub/s"))
        .add(directory(
            "edited_and_old",
            "texts!(\"files\")",
            "echo z > files/a; touch -d 2001-01-01 files/a",
        ))
        .add(directory(
            "exchanged",
            "texts!(\"files\")",
            "mv files/a x; mv files/sub/s files/a; mv x files/sub/s",
        ))
        .add(directory("link_to_a_file", "names!(\"files\")", "ln -s a files/l"))
        .add(directory("link_to_a_directory", "names!(\"files\")", "ln -s ../src files/l"))
        .add(directory("becomes_a_file", "names!(\"files\")", "rm -r files/sub; echo s > files/sub"))
        .add(expands("appears", "names!(\"late\")").change("mkdir late; echo x > late/x"))
        .add(directory("goes", "names!(\"files\")", "rm -r files"))
        .add(
            expands("outside", "names!(\"../beside\")").before("mkdir ../beside").change("touch ../beside/x"),
        )
        .changes();
}

#[test]
fn files() {
    table()
        .add(expands("edited", "text!(\"NOTES.md\")").before("echo 1 > NOTES.md").change("echo 2 > NOTES.md"))
        .add(
            expands("same_size_and_time", "text!(\"conf.toml\")")
                .before("echo a=1 > conf.toml; touch -d 2001-01-01 conf.toml")
                .change("echo a=2 > conf.toml; touch -d 2001-01-01 conf.toml"),
        )
        .add(expands("appears", "text!(\"late.json\")").change("echo 1 > late.json"))
        .add(expands("goes", "text!(\"early.json\")").before("echo 1 > early.json").change("rm early.json"))
        .add(expands("exists", "exists!(\"flag\")").change("touch flag"))
        .add(expands("exists_no_more", "exists!(\"flag\")").before("touch flag").change("rm flag"))
        .add(expands("size", "kind!(\"data\")").before("echo 1 > data").change("echo 22 > data"))
        .add(expands("directory", "kind!(\"data\")").before("echo 1 > data").change("rm data; mkdir data"))
        .add(
            expands("link", "text!(\"current\")")
                .before("echo 1 > one; echo 2 > two; ln -s one current")
                .change("ln -sfn two current"),
        )
        .add(
            expands("canonical", "real!(\"current\")")
                .before("touch one two; ln -s one current")
                .change("ln -sfn two current"),
        )
        .add(
            expands("link_in_the_way", "text!(\"conf/x\")")
                .before("mkdir a b; echo a > a/x; echo b > b/x; ln -s a conf")
                .change("ln -sfn b conf"),
        )
        .add(expands("by_tool", "cat!(\"data\")").before("echo 1 > data").change("echo 2 > data"))
        .add(expands("library", "by_library!(\"data\")").before("echo 1 > data").change("echo 2 > data"))
        .add(expands("manifest", "text!(\"Cargo.toml\")").change("echo '# 2' >> Cargo.toml"))
        .add(
            expands("source", "text!(\"src/other.rs\")")
                .before("echo // 1 > src/other.rs")
                .change("echo // 2 > src/other.rs"),
        )
        .add(
            expands("from_here", "from_here!(\"here.txt\")")
                .before("echo 1 > \"$W/here.txt\"")
                .change("echo 2 > \"$W/here.txt\""),
        )
        .changes();
}

/// As `.env`, `.git` and configurations are looked for.
#[test]
fn the_nearest() {
    table()
        .add(
            expands("nearer", "nearest!(\"one.env\")")
                .before("echo far > \"$T/one.env\"")
                .change("echo near > \"$W/one.env\""),
        )
        .add(
            expands("nearest", "nearest!(\"two.env\")")
                .before("echo far > \"$W/two.env\"")
                .change("echo near > two.env"),
        )
        .add(
            expands("gone", "nearest!(\"three.env\")")
                .before("echo far > \"$T/three.env\"; echo near > three.env")
                .change("rm three.env"),
        )
        .add(
            expands("edited", "nearest!(\"four.env\")")
                .before("echo 1 > \"$T/four.env\"")
                .change("echo 2 > \"$T/four.env\""),
        )
        .changes();
}

/// What documentation of migration and template crates tells to write into `build.rs`.
#[test]
fn a_build_script_makes_cargo_compile_again() {
    table()
        .add(
            expands("migrations", "texts!(\"migrations\")")
                .script("println!(\"cargo:rerun-if-changed=migrations\");")
                .before("mkdir migrations; echo one > migrations/1")
                .change("echo two > migrations/2"),
        )
        .add(
            expands("less_migrations", "names!(\"migrations\")")
                .script("println!(\"cargo::rerun-if-changed=migrations\");")
                .before("mkdir migrations; touch migrations/1 migrations/2")
                .change("rm migrations/2"),
        )
        .add(
            expands("schema", "left_by_script!(\"schema.json\")")
                .script("println!(\"cargo:rerun-if-changed=s.json\"); fs::copy(\"s.json\", out().join(\"schema.json\")).unwrap();")
                .before("echo 1 > s.json")
                .change("echo 2 > s.json"),
        )
        .add(
            expands("template", "text!(\"t.html\")")
                .script("println!(\"cargo:rerun-if-changed=t.html\");")
                .before("echo 1 > t.html")
                .change("echo 2 > t.html"),
        )
        .add(
            expands("anything", "text!(\"data/x\")").script("").before("mkdir data; echo 1 > data/x").change("echo 2 > data/x"),
        )
        .changes_in_place();
}

#[test]
fn in_another_checkout() {
    table()
        .add(directory("added", "embed!(\"files\")", "echo b > files/b"))
        .add(directory("removed", "names!(\"files\")", "rm files/a"))
        .add(expands("edited", "text!(\"n.md\")").before("echo 1 > n.md").change("echo 2 > n.md"))
        .add(
            expands("nearest", "nearest!(\".env\")")
                .before("echo far > \"$T/.env\"")
                .change("echo 2 > \"$W/.env\""),
        )
        .changes_elsewhere("at/another/depth");
}

/// Cargo itself does not know of these, so only what it rebuilds by itself can be asked for.
#[test]
fn in_a_fork() {
    table()
        .add(
            directory("added", "embed!(\"files\")", "echo b > files/b")
                .script("println!(\"cargo:rerun-if-changed=files\");"),
        )
        .add(
            expands("edited", "text!(\"n.md\")")
                .script("println!(\"cargo:rerun-if-changed=n.md\");")
                .before("echo 1 > n.md")
                .change("echo 2 > n.md; touch -d 2001-01-01 n.md"),
        )
        .changes_in_a_fork("other");
}

/// What the compiler is told to track is a directory, too.
#[test]
fn tracked_directories() {
    const TRACKED: &str = r#"
#![feature(proc_macro_tracked_path)]
use proc_macro::TokenStream;

#[proc_macro]
pub fn names(i: TokenStream) -> TokenStream {
    let dir = std::path::Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join(i.to_string().trim_matches('"'));
    proc_macro::tracked::path(dir.to_str().unwrap());
    let mut all: Vec<String> = std::fs::read_dir(&dir).unwrap()
        .map(|e| std::fs::read_to_string(e.unwrap().path()).unwrap()).collect();
    all.sort();
    format!("{:?}", all.concat()).parse().unwrap()
}
"#;
    Table::new()
        .env("RUSTC_BOOTSTRAP", "1")
        .krate("mac", TRACKED)
        .add(
            expands("added", "names!(\"files\")")
                .before("mkdir files; echo a > files/a")
                .change("echo b > files/b"),
        )
        .add(
            expands("edited", "names!(\"files\")")
                .before("mkdir files; echo a > files/a")
                .change("echo b > files/a"),
        )
        .add(
            expands("removed", "names!(\"files\")")
                .before("mkdir files; echo a > files/a")
                .change("rm files/a"),
        )
        .changes();
}
