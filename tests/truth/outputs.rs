//! What a build leaves besides its programs is there after a hit, too.

use crate::support::World;
use crate::support::world::Who;
use crate::table::{Table, Variant};

const LIST: &str = "cd \"$D\"; find . -maxdepth 3 '(' -path './deps/NAME-*' -o -path ./build -o -path ./.fingerprint -o -path ./incremental ')' -prune -o -name '*NAME*' -type f ! -name '*.d' -print | sort; ";

/// A script that leaves files whose names hold that of the package.
fn leaves(name: &str, body: &str) -> Variant {
    let body = body.replace("NAME", name);
    let look = format!("{} \"$D/{name}\"", LIST.replace("NAME", name));
    Variant::new(name)
        .script(&format!("only_script(); let d = profile(); {body}"))
        .main(
            &r#"fn main() {
                let d = std::env::current_exe().unwrap();
                println!("{:?}", std::fs::read_to_string(d.with_file_name("NAME.dat")));
            }"#
            .replace("NAME", name),
        )
        .look(&look)
        // To run it each time is right, too.
        .not_stored()
}

fn beside_the_program() -> Table {
    Table::new()
        .add(leaves("file", "fs::write(d.join(\"NAME.dat\"), \"x\").unwrap();"))
        .add(leaves("copied", "fs::write(out().join(\"x\"), \"copied\").unwrap(); fs::copy(out().join(\"x\"), d.join(\"NAME.dat\")).unwrap();"))
        .add(leaves("linked", "fs::write(out().join(\"x\"), \"linked\").unwrap(); let _ = fs::remove_file(d.join(\"NAME.dat\")); fs::hard_link(out().join(\"x\"), d.join(\"NAME.dat\")).unwrap();"))
        .add(leaves("directory", "fs::create_dir_all(d.join(\"assets/NAME\")).unwrap(); fs::write(d.join(\"assets/NAME/NAME.jar\"), \"x\").unwrap();"))
        .add(leaves("in_deps", "fs::write(d.join(\"deps/NAME.so\"), \"x\").unwrap();"))
        .add(leaves("in_examples", "fs::create_dir_all(d.join(\"examples\")).unwrap(); fs::write(d.join(\"examples/NAME.dat\"), \"x\").unwrap();"))
        .add(leaves("by_tool", "run(&[\"cp\", \"Cargo.toml\", d.join(\"NAME.dat\").to_str().unwrap()]);"))
        .add(leaves("archive", "archive(&d.join(\"gn_out/obj\"), \"archive\", \"7\"); println!(\"cargo:rustc-link-search=native={}\\ncargo:rustc-link-lib=static=archive\", d.join(\"gn_out/obj\").display());")
            .main("unsafe extern \"C\" { fn archive() -> i32; } fn main() { println!(\"{}\", unsafe { archive() }); }"))
        .add(leaves("above", "fs::write(d.parent().unwrap().join(\"NAME.json\"), \"x\").unwrap();").look("cat \"$W/target/above.json\""))
}

#[test]
fn files_of_scripts() {
    beside_the_program().hits_elsewhere("other");
}

/// The same in the same place.
#[test]
fn files_of_scripts_after_a_clean() {
    let table = beside_the_program();
    table.kept_here();
}

/// A library's script leaves the file, a program reads it.
#[test]
fn files_of_a_dependency() {
    Table::new()
        .add(leaves("sys", "fs::write(d.join(\"sys.dat\"), \"x\").unwrap();").file("src/lib.rs", ""))
        .add(
            Variant::new("user")
                .uses("sys")
                .main("fn main() { println!(\"{:?}\", std::fs::read_to_string(std::env::current_exe().unwrap().with_file_name(\"sys.dat\"))); }"),
        )
        .kept_here();
}

/// Only the file is deleted, and the script is touched: cargo runs it.
#[test]
fn a_file_is_made_again() {
    Table::new()
        .add(
            leaves("again", "fs::write(d.join(\"NAME.dat\"), text(\"x\")).unwrap(); println!(\"cargo:rerun-if-changed=x\");")
                .before("echo 1 > x")
                .change("echo 2 > x; rm -f \"$D/again.dat\""),
        )
        .changes_in_place();
}

/// A program with a file that is written when it is linked, compiled, or expanded.
fn side(name: &str, options: &str, file: &str) -> Variant {
    let args: String = options
        .split(' ')
        .filter(|o| !o.is_empty())
        .map(|o| {
            format!(
                "println!(\"cargo:rustc-link-arg={}\", here().parent().unwrap().display());",
                o.replace("$W", "{}")
            )
        })
        .collect();
    Variant::new(name)
        .main("fn main() { println!(\"runs\"); }")
        .script(&format!("only_script(); {args}"))
        .each(&format!("rm -rf \"{file}\"; mkdir -p \"$W/side\" \"$W/target\""))
        .look(&format!("\"$D/{name}\"; test -s \"{file}\" && echo \"$(basename {file}) is there\""))
        .not_stored()
}

#[test]
fn files_of_linkers() {
    Table::new()
        .add(side("map", "-Wl,-Map=$W/side/map.map", "$W/side/map.map"))
        .add(side("map_in_target", "-Wl,-Map=$W/target/own.map", "$W/target/own.map"))
        .add(side("dependencies", "-Wl,--dependency-file=$W/side/d.dep", "$W/side/d.dep"))
        .add(
            side("map_relative", "", "$W/side/relative.map")
                .script("only_script(); println!(\"cargo:rustc-link-arg=-Wl,-Map=side/relative.map\");"),
        )
        .add(side("list", "-Wl,--Map=$W/side/list.txt", "$W/side/list.txt"))
        .kept_here();
}

#[test]
fn files_of_macros() {
    const MAC: &str = "use proc_macro::TokenStream;\n#[proc_macro] pub fn export(i: TokenStream) -> TokenStream { \
        let p = i.to_string(); let p = std::path::Path::new(p.trim_matches('\"')); std::fs::create_dir_all(p.parent().unwrap()).unwrap(); std::fs::write(p, \"x\").unwrap(); TokenStream::new() }\n";
    let exports = |name: &str, path: &str| {
        Variant::new(name)
            .uses("mac")
            .main(&format!("mac::export!(\"{path}\"); fn main() {{}}"))
            .each(&format!("rm -f \"$W/{path}\""))
            .look(&format!("cat \"$W/{path}\""))
            .not_stored()
    };
    Table::new()
        .krate("mac", MAC)
        .add(exports("in_target", "target/bindings/api.ts"))
        .add(exports("in_workspace", "bindings/api.ts"))
        .add(exports("in_profile", "target/debug/api2.ts"))
        .kept_here();
}

/// Of the compiler, for its developers.
#[test]
fn files_of_unstable_options() {
    for (flags, pattern) in [
        ("-Zmetrics-dir=$T/side", "$T/side/*"),
        ("-Cremark=all -Zremark-dir=$T/side -Cdebuginfo=1 -Copt-level=2", "$T/side/*"),
        ("-Zdump-mono-stats=$T/side", "$T/side/*"),
        ("-Zdump-mir=main -Zdump-mir-dir=$T/side", "$T/side/*"),
        ("-Zself-profile=$T/side", "$T/side/*"),
    ] {
        Table::new()
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", flags)
            .add(
                Variant::new("side")
                    .main("fn f(n: usize) -> usize { (0..n).map(|x| x * 3).sum() } fn main() { println!(\"{}\", f(std::env::args().count())); }")
                    .each("rm -rf $T/side; mkdir $T/side")
                    .look(&format!("\"$D/side\"; test -n \"$(ls -d {pattern} 2>/dev/null)\" && echo files"))
                    .not_stored(),
            )
            .kept_here();
    }
}

/// In a mounted target directory, which is emptied.
#[test]
fn in_a_mount() {
    let world = World::mounted_by(Who::Root);
    let c = world.project(
        "project",
        &[
            ("Cargo.toml", "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
            (
                "build.rs",
                "fn main() {\n    println!(\"cargo:rerun-if-changed=build.rs\");\n    let out = std::path::PathBuf::from(std::env::var(\"OUT_DIR\").unwrap());\n    \
                 std::fs::write(out.ancestors().nth(3).unwrap().join(\"side.dat\"), \"x\").unwrap();\n}\n",
            ),
            (
                "src/main.rs",
                "fn main() { println!(\"{:?}\", std::fs::read_to_string(std::env::current_exe().unwrap().with_file_name(\"side.dat\"))); }\n",
            ),
        ],
    );
    for when in ["first", "emptied", "by kache"] {
        c.cargo("build --offline").ok();
        assert_eq!(c.prints("target/debug/app"), "Ok(\"x\")\n", "{when}");
        if when == "first" { c.clean() } else { drop(c.kache_prints("clean")) }
    }
}
