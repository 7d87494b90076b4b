//! Build scripts that run cargo.

use crate::support::World;
use crate::table::{Table, Variant};

/// A program that embeds another one, which its script builds in `target`, declaring what `declared` says.
fn embeds(name: &str, target: &str, declared: &str) -> Variant {
    Variant::new(name)
        .script(&format!(
            r#"{declared}
            let to: PathBuf = {target};
            let cargo = env::var("CARGO").unwrap();
            run(&[&cargo, "build", "-q", "--offline", "--manifest-path", "inner/Cargo.toml", "--target-dir", to.to_str().unwrap()]);
            fs::copy(to.join("debug/inner"), out().join("inner.bin")).unwrap();"#
        ))
        .file("inner/Cargo.toml", "[package]\nname = \"inner\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n")
        .file("inner/Cargo.lock", "version = 4\n\n[[package]]\nname = \"inner\"\nversion = \"0.1.0\"")
        .main(
            r#"fn main() {
                use std::os::unix::fs::PermissionsExt;
                let p = std::env::temp_dir().join(format!("inner-{}", std::process::id()));
                std::fs::write(&p, include_bytes!(concat!(env!("OUT_DIR"), "/inner.bin"))).unwrap();
                std::fs::set_permissions(&p, std::fs::Permissions::from_mode(0o755)).unwrap();
                let o = std::process::Command::new(&p).output().unwrap();
                std::fs::remove_file(&p).unwrap();
                print!("{}", String::from_utf8_lossy(&o.stdout));
            }"#,
        )
        .each("rm -rf inner/target")
        .before("mkdir -p inner/src; echo 'fn main() { println!(\"one\"); }' > inner/src/main.rs")
        .change("echo 'fn main() { println!(\"two\"); }' > inner/src/main.rs")
        .not_stored()
}

#[test]
fn another_package() {
    Table::new()
        .add(embeds("in_out_dir", "out().join(\"inner\")", "only_script();"))
        .add(embeds("undeclared", "out().join(\"inner\")", ""))
        .add(embeds("declared", "out().join(\"inner\")", "println!(\"cargo:rerun-if-changed=inner/src\");"))
        .add(embeds("in_target", "here().join(\"../target/inner_of_it\")", "only_script();"))
        .add(embeds("in_its_own", "here().join(\"inner/target\")", "only_script();"))
        .changes();
}

#[test]
fn a_header_of_the_inner_package() {
    Table::new()
        .add(
            embeds("asset", "out().join(\"inner\")", "only_script();")
                .file("inner/src/main.rs", "fn main() { println!(\"{}\", include_str!(\"../x\")); }")
                .before("echo 1 > inner/x")
                .change("echo 2 > inner/x"),
        )
        .add(
            embeds("script", "out().join(\"inner\")", "only_script();")
                .file("inner/src/main.rs", "fn main() { println!(\"{}\", env!(\"X\")); }")
                .file("inner/build.rs", "fn main() { println!(\"cargo:rustc-env=X={}\", std::fs::read_to_string(\"x\").unwrap().trim()); }")
                .before("echo 1 > inner/x")
                .change("echo 2 > inner/x"),
        )
        .changes();
}

/// Its own package once more, in another target directory: the outer run must not wait for the inner one, or the
/// other way round.
#[test]
fn the_same_package() {
    let again = |name: &str, words: &str| {
        Variant::new(name)
            .script(&format!(
                r#"only_script();
                if env::var("NESTED_{name}").is_ok() || out().to_str().unwrap().contains("nested") {{ return }}
                let to = out().join("nested");
                let o = Command::new(env::var("CARGO").unwrap()).args([{words}, "-q", "--offline", "-p", "{name}", "--target-dir"]).arg(&to).status().unwrap();
                assert!(o.success());"#
            ))
            .main("fn main() { println!(\"ok\"); }")
            .not_stored()
    };
    let table = || Table::new().add(again("built", "\"build\"")).add(again("checked", "\"check\""));
    table().kept_here();
    table().target("elsewhere").kept_here();
}

/// The script runs again; what the inner cargo compiles is known.
#[test]
fn an_inner_compile_is_a_hit() {
    let world = World::plain();
    let manifest = |name: &str| {
        format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n")
    };
    let c = world.project(
        "project",
        &[
            ("Cargo.toml", &manifest("outer")),
            ("src/main.rs", "fn main() {}\n"),
            ("inner/Cargo.toml", &manifest("inner")),
            ("inner/src/main.rs", "fn main() {}\n"),
            (
                "build.rs",
                "use std::{env, process::Command};\nfn main() { assert!(Command::new(env::var(\"CARGO\").unwrap()).args([\"build\", \"--offline\", \"--manifest-path\", \"inner/Cargo.toml\", \"--target-dir\", &env::var(\"OUT_DIR\").unwrap()]).status().unwrap().success()); }\n",
            ),
        ],
    );
    c.cargo("build --offline").ok();
    c.clean_plainly();
    let run = c.cargo("build --offline").ok();
    assert!(run.events.iter().any(|e| e.unit == "inner bin" && e.outcome == "hit"), "{}", run.account());
}
