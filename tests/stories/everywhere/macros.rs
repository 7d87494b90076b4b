//! My macros read files that the compiler knows nothing of; I told kache.

use crate::support::{Checkout, World};

/// A macro in the manner of sqlx: it reads what lies in `.queries` beside the manifest.
fn project(world: &World, name: &str) -> Checkout {
    world
        .project(
            name,
            &[
                ("Cargo.toml", "[workspace]\nmembers = [\"app\", \"queries\"]\nresolver = \"3\"\n"),
                (
                    "queries/Cargo.toml",
                    "[package]\nname = \"queries\"\nversion = \"1.0.0\"\nedition = \"2024\"\n\n[lib]\nproc-macro = true\n",
                ),
                (
                    "queries/src/lib.rs",
                    "/// All that lies in the directory, as one string.\n#[proc_macro]\n\
                     pub fn queries(_: proc_macro::TokenStream) -> proc_macro::TokenStream {\n    \
                     let dir = std::path::Path::new(&std::env::var(\"CARGO_MANIFEST_DIR\").unwrap()).join(\".queries\");\n    \
                     let mut texts: Vec<String> = std::fs::read_dir(dir).unwrap()\n        \
                     .map(|e| std::fs::read_to_string(e.unwrap().path()).unwrap()).collect();\n    \
                     texts.sort();\n    format!(\"{:?}\", texts.concat()).parse().unwrap()\n}\n",
                ),
                (
                    "app/Cargo.toml",
                    "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2024\"\n\n[dependencies]\nqueries = { path = \"../queries\" }\n",
                ),
                ("app/src/main.rs", "fn main() {\n    println!(\"{}\", queries::queries!());\n}\n"),
                ("app/.queries/a.sql", "select 1;"),
                ("app/kache.toml", "extra_inputs = [\".queries\"]\n"),
            ],
        )
        .env("CI", "1")
}

#[test]
fn a_declared_file_changes_appears_and_goes() {
    let world = World::new();
    let c = project(&world, "first");
    c.cargo("build").ok();
    assert_eq!(c.prints("target/debug/app"), "select 1;\n");
    c.cargo("build").ok().fresh();

    // Cargo must notice too: it would not ask otherwise.
    c.write("app/.queries/a.sql", "select 2;");
    c.cargo("build").ok().missed(&["app bin"]);
    assert_eq!(c.prints("target/debug/app"), "select 2;\n");
    c.cargo("build").ok().fresh();

    c.write("app/.queries/b.sql", "select 3;");
    c.cargo("build").ok().missed(&["app bin"]);
    assert_eq!(c.prints("target/debug/app"), "select 2;select 3;\n");
    c.cargo("build").ok().fresh();

    std::fs::remove_file(c.dir().join("app/.queries/b.sql")).unwrap();
    c.cargo("build").ok().all_hit();
    assert_eq!(c.prints("target/debug/app"), "select 2;\n");
    c.cargo("build").ok().fresh();
}

/// The dep-info that a hit restores must make cargo watch this checkout's files.
#[test]
fn declared_files_are_watched_after_a_hit() {
    let world = World::new();
    project(&world, "first").cargo("build").ok();
    // The macro asks for the package's directory: whether that is part of the result, only a second place can show.
    project(&world, "a-second").cargo("build").ok().missed(&["app bin"]);
    let second = project(&world, "the-third");
    second.cargo("build").ok().all_hit();
    second.cargo("build").ok().fresh();
    second.write("app/.queries/new.sql", "select 4;");
    second.cargo("build").ok().missed(&["app bin"]);
    assert_eq!(second.prints("target/debug/app"), "select 1;select 4;\n");
}

#[test]
fn the_workspace_can_declare_them() {
    let world = World::new();
    let c = project(&world, "first");
    std::fs::remove_file(c.dir().join("app/kache.toml")).unwrap();
    c.write(".kache.toml", "[cache]\nextra_inputs = [\".queries/*.sql\"]\n");
    c.cargo("build").ok();
    c.write("app/.queries/b.sql", "select 3;");
    c.cargo("build").ok().missed(&["app bin"]);
    assert_eq!(c.prints("target/debug/app"), "select 1;select 3;\n");
}
