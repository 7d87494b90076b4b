//! What build scripts make outside of their `OUT_DIR` is there after each build.

use crate::table::{Table, Variant, script};

/// A script that makes something in `dir` (an expression) unless it is there, which is removed before each build.
fn library(name: &str, dir: &str, remove: &str, more: &str) -> Variant {
    Variant::new(name)
        .script(&format!(
            "{more} let d: PathBuf = {dir}; if !d.join(\"lib{name}.a\").exists() {{ archive(&d, \"{name}\", \"4\"); }} \
             println!(\"cargo:rustc-link-search=native={{}}\\ncargo:rustc-link-lib=static={name}\", d.display());"
        ))
        .main(&format!("unsafe extern \"C\" {{ fn {name}() -> i32; }} fn main() {{ println!(\"{{}}\", unsafe {{ {name}() }}); }}"))
        .each(&format!("rm -rf {remove}"))
        .not_stored()
}

fn makes(name: &str, body: &str, main: &str, remove: &str) -> Variant {
    Variant::new(name)
        .script(&format!("only_script(); {body}"))
        .main(main)
        .each(&format!("rm -rf {remove}"))
        .not_stored()
}

fn table() -> Table {
    Table::new()
        .add(library("home", "Path::new(&env::var(\"HOME\").unwrap()).join(\".cache/home\")", "\"$HOME/.cache/home\"", "only_script();"))
        .add(library("home_undeclared", "Path::new(&env::var(\"HOME\").unwrap()).join(\".cache/hu\")", "\"$HOME/.cache/hu\"", ""))
        .add(library("temporary", "env::temp_dir().join(\"built\")", "\"$TMPDIR/built\"", "only_script();"))
        .add(makes(
            "path_in_program",
            "let d = Path::new(&env::var(\"HOME\").unwrap()).join(\".local/share\"); fs::create_dir_all(&d).unwrap(); fs::write(d.join(\"model\"), \"weights\").unwrap(); set(d.join(\"model\").to_str().unwrap());",
            "fn main() { println!(\"{:?}\", std::fs::read_to_string(env!(\"V\"))); }",
            "\"$HOME/.local\"",
        ))
        .add(makes(
            "web",
            "run(&[\"sh\", \"-c\", \"mkdir -p ../client/dist; cp ../client/page ../client/dist/index.html\"]);",
            "fn main() { println!(\"{}\", include_str!(\"../../client/dist/index.html\")); }",
            "../client/dist",
        ).before("mkdir ../client; echo one > ../client/page"))
        .add(makes(
            "modules",
            "let d = here().join(\"node_modules/x\"); fs::create_dir_all(&d).unwrap(); fs::write(d.join(\"style.css\"), \"red\").unwrap();",
            "fn main() { println!(\"{}\", include_str!(\"../node_modules/x/style.css\")); }",
            "node_modules",
        ))
        .add(makes("header", "fs::create_dir_all(\"../gen\").unwrap(); fs::write(\"../gen/api.h\", \"x\").unwrap();", "fn main() {}", "../gen").look("cat ../gen/api.h"))
        .add(makes("source", "fs::write(\"src/made.rs\", \"pub const N: i32 = 5;\").unwrap();", "mod made; fn main() { println!(\"{}\", made::N); }", "src/made.rs"))
        .add(makes("by_tool", "run(&[\"sh\", \"-c\", \"mkdir -p $PWD/../gen2; echo x > ../gen2/api.h\"]);", "fn main() {}", "../gen2").look("cat ../gen2/api.h"))
        .add(makes("renamed", "fs::create_dir_all(\"../gen3\").unwrap(); fs::write(out().join(\"t\"), \"x\").unwrap(); fs::rename(out().join(\"t\"), \"../gen3/api.h\").unwrap();", "fn main() {}", "../gen3").look("cat ../gen3/api.h"))
        .add(makes("link", "let _ = fs::remove_file(\"../latest\"); std::os::unix::fs::symlink(\"Cargo.toml\", \"../latest\").unwrap();", "fn main() {}", "../latest").look("readlink ../latest"))
        .add(makes("only_a_directory", "fs::create_dir_all(\"../made/dir\").unwrap();", "fn main() {}", "../made").look("ls -d ../made/dir"))
        .add(makes("removes", "let _ = fs::remove_file(\"../stale\");", "fn main() {}", "../none").each("touch ../stale").look("ls ../stale 2>&1 || true"))
}

#[test]
fn after_a_clean() {
    table().kept_here();
}

#[test]
fn in_another_checkout() {
    table().hits_elsewhere("other");
}

/// Something older is there, and the page that it was made of is another one.
#[test]
fn something_older_is_there() {
    Table::new()
        .add(
            makes(
                "web",
                "run(&[\"sh\", \"-c\", \"mkdir -p ../client/dist; cp ../client/page ../client/dist/index.html\"]);",
                "fn main() { println!(\"{}\", include_str!(\"../../client/dist/index.html\")); }",
                "/nonexistent",
            )
            .before("mkdir ../client; echo one > ../client/page")
            .change("echo two > ../client/page; echo zero > ../client/dist/index.html"),
        )
        .changes();
}

/// A script writes into the sources of those that depend on it.
#[test]
fn in_another_package() {
    Table::new()
        .add(script("maker", "only_script(); fs::write(here().join(\"../reader/src/made.rs\"), format!(\"pub const N: &str = {:?};\", text(\"word\"))).unwrap(); set(\"1\");")
            .file("src/lib.rs", "").before("echo 1 > word").change("echo 2 > word").look("cat word").not_stored())
        .add(Variant::new("reader").uses("maker").main("mod made; fn main() { println!(\"{}\", made::N); }").each("rm -f src/made.rs").not_stored())
        .changes();
}

/// The library of a dependency lies in the home directory.
#[test]
fn of_a_dependency() {
    Table::new()
        .add(
            library(
                "sys",
                "Path::new(&env::var(\"HOME\").unwrap()).join(\".cache/sys\")",
                "\"$HOME/.cache/sys\"",
                "only_script();",
            )
            .file(
                "src/lib.rs",
                "unsafe extern \"C\" { fn sys() -> i32; } pub fn f() -> i32 { unsafe { sys() } }",
            )
            .main("fn main() { println!(\"{}\", sys::f()); }"),
        )
        .add(Variant::new("user").uses("sys").main("fn main() { println!(\"{}\", sys::f()); }"))
        .kept_here();
}
