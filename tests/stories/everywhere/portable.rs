//! My colleague works at another path and under another name: what we make is the same, byte for byte.

use crate::support::World;

/// Two caches that know nothing of each other.
#[test]
fn two_checkouts_make_the_same_bytes() {
    let worlds = [World::new(), World::new()];
    let checkouts = [
        worlds[0].checkout("short", "workspace"),
        worlds[1].checkout("a/much/longer/place/for/a/checkout", "workspace"),
    ];
    for c in &checkouts {
        let run = c.cargo("build").ok();
        assert!(run.units("hit").is_empty(), "{}", run.account());
    }
    let (mine, yours) = (checkouts[0].find("lib*.r*"), checkouts[1].find("lib*.r*"));
    let names = |paths: &[std::path::PathBuf]| {
        paths.iter().map(|p| p.file_name().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&mine), names(&yours));
    assert!(mine.iter().filter(|p| p.extension().unwrap() == "rlib").count() >= 3, "{mine:?}");
    for (a, b) in mine.iter().zip(&yours) {
        assert!(checkouts[0].bytes(a) == checkouts[1].bytes(b), "{} differs", a.display());
    }
}

#[test]
fn a_path_that_a_program_asks_for_is_its_own() {
    let world = World::new();
    let files = [
        ("Cargo.toml", "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2024\"\n"),
        ("src/main.rs", "fn main() {\n    println!(\"{}\", env!(\"CARGO_MANIFEST_DIR\"));\n}\n"),
    ];
    let first = world.project("first", &files);
    let second = world.project("second", &files);
    first.cargo("build").ok();
    second.cargo("build").ok();
    for c in [&first, &second] {
        assert_eq!(c.prints("target/debug/app").trim(), c.dir().to_str().unwrap());
    }
    // In the same place it is known all the same.
    second.clean();
    second.cargo("build").ok().all_hit();
    assert_eq!(second.prints("target/debug/app").trim(), second.dir().to_str().unwrap());
}

#[test]
fn out_dir_that_a_library_keeps_is_its_own() {
    let world = World::new();
    let files = [
        ("Cargo.toml", "[workspace]\nmembers = [\"lib\", \"app\"]\nresolver = \"3\"\n"),
        ("lib/Cargo.toml", "[package]\nname = \"keeper\"\nversion = \"1.0.0\"\nedition = \"2024\"\n"),
        ("lib/build.rs", "fn main() {}\n"),
        ("lib/src/lib.rs", "pub fn out() -> &'static str {\n    env!(\"OUT_DIR\")\n}\n"),
        (
            "app/Cargo.toml",
            "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2024\"\n\n[dependencies]\nkeeper = { path = \"../lib\" }\n",
        ),
        ("app/src/main.rs", "fn main() {\n    println!(\"{}\", keeper::out());\n}\n"),
    ];
    for name in ["first", "second"] {
        let c = world.project(name, &files);
        c.cargo("build").ok();
        let printed = c.prints("target/debug/app");
        assert!(printed.starts_with(c.dir().to_str().unwrap()), "{printed}");
    }
}

#[test]
fn restored_dep_info_names_this_checkout() {
    let world = World::new();
    let first = world.checkout("first", "workspace");
    first.cargo("build").ok();
    let second = world.checkout("second", "workspace");
    second.cargo("build").ok().all_hit();
    let dep_infos = second.find("*.d");
    assert!(dep_infos.len() > 5, "{dep_infos:?}");
    for path in dep_infos {
        let text = String::from_utf8(second.bytes(&path)).unwrap();
        let other = format!("{}/", first.dir().display());
        assert!(!text.contains(&other), "{} names {other}", path.display());
    }
}

#[test]
fn panics_and_file_names_lead_to_the_source() {
    let world = World::new();
    let files = [
        ("Cargo.toml", "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2024\"\n"),
        ("src/main.rs", "fn main() {\n    panic!(\"here\");\n}\n"),
    ];
    world.project("first", &files).cargo("build").ok();
    let c = world.project("second", &files);
    c.cargo("build").ok().all_hit();
    let output = c.command(c.dir().join("target/debug/app")).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("src/main.rs:2:5"), "{text}");
    assert!(!text.contains("first"), "{text}");
}

#[test]
fn without_remapping_keys_are_local() {
    let world = World::new();
    let first = world.checkout("first", "workspace").env("KACHE_PATH_REMAP", "false");
    first.cargo("build").ok();
    first.clean();
    first.cargo("build").ok().all_hit();
    let second = world.checkout("second", "workspace").env("KACHE_PATH_REMAP", "false");
    let run = second.cargo("build").ok();
    assert!(run.units("hit").is_empty(), "{}", run.account());
}
