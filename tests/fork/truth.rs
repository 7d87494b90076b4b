//! What is different is not fresh.

use super::support::{Checkout, World};
use super::worktree::{built, copy, counts, fork, forked, same_as_plain};

/// Forks for a checkout that differs from the donor, and builds there.
fn differing(change: impl FnOnce(&Checkout)) -> (World, Checkout, super::support::Run) {
    let world = World::new();
    let donor = built(&world, "build");
    let other = copy(&donor, "other");
    change(&other);
    fork(&donor, &other);
    let run = other.cargo("build").ok();
    same_as_plain(&other);
    other.cargo("build").ok().fresh();
    (world, other, run)
}

#[test]
fn an_edited_source_is_compiled() {
    let (_world, _, run) = differing(|c| c.edit("app/src/main.rs", "native {}", "other {}"));
    assert_eq!(run.compiled, ["app"]);
}

#[test]
fn an_edit_that_keeps_size_and_time_is_compiled() {
    let (_world, other, run) = differing(|c| {
        c.edit("base/src/words.rs", "hello", "HELLO");
        c.sh("touch -d 2001-01-01 base/src/words.rs");
    });
    assert_eq!(run.compiled, ["app", "base"]);
    assert!(other.prints("target/debug/app").contains("HELLO"));
}

#[test]
fn a_changed_include_is_compiled() {
    let (_world, _, run) = differing(|c| c.write("app/data/message.txt", "another\n"));
    assert_eq!(run.compiled, ["app"]);
}

#[test]
fn a_changed_input_of_a_build_script_runs_it() {
    let (_world, other, _) = differing(|c| c.write("generated/table.txt", "one\ntwo\nsix\n"));
    assert!(other.prints("target/debug/app").contains("six"));
}

#[test]
fn a_changed_c_source_is_compiled() {
    let (_world, _, _) = differing(|c| {
        let text = c.read("native/story.c");
        c.write("native/story.c", format!("{text}\n/* changed */\n"));
    });
}

#[test]
fn a_variable_that_a_build_script_watches_runs_it() {
    let world = World::new();
    let donor = built(&world, "build");
    let other = forked(&donor, "other").env("STORY_BUILD_VAR", "changed");
    other.cargo("build").ok();
    assert!(other.prints("target/debug/app").contains("changed"));
}

#[test]
fn what_was_out_of_date_in_the_donor_is_out_of_date_here() {
    let world = World::new();
    let donor = built(&world, "test --no-run");
    donor.cargo("build").ok();
    donor.edit("base/src/lib.rs", "format!(\"{greeting}, {name}\")", "format!(\"{greeting}; {name}\")");
    // Tests and their libraries are not built again.
    donor.cargo("build").ok();
    let other = forked(&donor, "other");
    other.cargo("build").ok().fresh();
    let run = other.cargo("test --no-run").ok();
    assert!(run.compiled.contains(&"base".to_owned()), "{}", run.account());
    other.cargo("test").ok();
}

#[test]
fn a_source_that_changed_after_the_build_is_not_taken_for_built() {
    let world = World::new();
    let donor = built(&world, "build");
    donor.edit("base/src/words.rs", "hello", "unbuilt");
    let other = copy(&donor, "other");
    let said = fork(&donor, &other);
    let (fresh, all) = counts(&said);
    assert!(fresh < all, "{said}");
    other.cargo("build").ok();
    assert!(other.prints("target/debug/app").contains("unbuilt"));
}

#[test]
fn a_path_in_a_program_is_that_of_its_own_checkout() {
    let world = World::new();
    let files = [
        ("Cargo.toml", "[package]\nname = \"paths\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
        ("Cargo.lock", "version = 4\n\n[[package]]\nname = \"paths\"\nversion = \"0.1.0\"\n"),
        (
            "build.rs",
            "fn main() { println!(\"cargo::rerun-if-changed=build.rs\"); \
             println!(\"cargo::rustc-env=SCRIPT_DIR={}\", std::env::var(\"CARGO_MANIFEST_DIR\").unwrap()); }\n",
        ),
        (
            "src/main.rs",
            "fn main() { println!(\"{}\\n{}\\n{}\", env!(\"CARGO_MANIFEST_DIR\"), env!(\"OUT_DIR\"), env!(\"SCRIPT_DIR\")); }\n",
        ),
    ];
    let donor = world.project("donor", &files);
    donor.cargo("build").ok();
    let other = forked(&donor, "other");
    other.cargo("build").ok();
    let here = other.dir().display().to_string();
    for line in other.prints("target/debug/paths").lines() {
        assert!(line.starts_with(&here), "{line} is not in {here}");
    }
}

#[test]
fn an_absolute_include_of_the_donor_becomes_one_of_the_fork() {
    let world = World::new();
    let files = [
        ("Cargo.toml", "[workspace]\nmembers = [\"a\"]\nresolver = \"2\"\n"),
        ("Cargo.lock", "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"0.1.0\"\n"),
        ("a/Cargo.toml", "[package]\nname = \"a\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
        ("shared/text", "one"),
        ("a/src/main.rs", "fn main() { println!(\"{}\", include_str!(\"../../shared/text\")); }\n"),
    ];
    let donor = world.project("donor", &files);
    donor.cargo("build").ok();
    let other = forked(&donor, "other");
    other.cargo("build").ok().fresh();
    donor.write("shared/text", "two");
    other.cargo("build").ok().fresh();
    other.write("shared/text", "three");
    other.cargo("build").ok();
    assert_eq!(other.prints("target/debug/a"), "three\n");
}

#[test]
fn what_is_different_here_is_stored_for_others() {
    let (world, other, run) = differing(|c| c.edit("base/src/words.rs", "hello", "branch"));
    run.missed(&["base lib", "app bin"]);
    let third = copy(&other, "third");
    third.cargo("build").ok().all_hit();
    drop(world);
}

/// A program with the text of a file that its macro reads, and that nobody declares.
fn with_macro(world: &World, name: &str) -> Checkout {
    let files = [
        ("Cargo.toml", "[workspace]\nmembers = [\"app\", \"asset\"]\nresolver = \"2\"\n"),
        (
            "Cargo.lock",
            "version = 4\n\n[[package]]\nname = \"app\"\nversion = \"0.1.0\"\ndependencies = [\"asset\"]\n\n\
             [[package]]\nname = \"asset\"\nversion = \"0.1.0\"\n",
        ),
        (
            "app/Cargo.toml",
            "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\
             [dependencies]\nasset = { path = \"../asset\" }\n",
        ),
        (
            "asset/Cargo.toml",
            "[package]\nname = \"asset\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[lib]\nproc-macro = true\n",
        ),
        (
            "asset/src/lib.rs",
            "#[proc_macro]\npub fn asset(_: proc_macro::TokenStream) -> proc_macro::TokenStream {\n    \
             format!(\"{:?}\", std::fs::read_to_string(\"asset.txt\").unwrap()).parse().unwrap()\n}\n",
        ),
        ("app/src/main.rs", "fn main() { println!(\"{}\", asset::asset!()); }\n"),
        ("asset.txt", "first"),
    ];
    world.project(name, &files)
}

/// Forks one checkout for another, with other donors around.
fn fork_of(donor: &Checkout, to: &Checkout) {
    if !donor.world().mounted() {
        donor.kache_prints("snapshot");
    }
    to.kache_prints(&format!("fork --from {}", donor.dir().join("target").display()));
}

#[test]
fn what_a_macro_has_read_counts_where_it_is_forked() {
    let world = World::new();
    let one = with_macro(&world, "one");
    one.cargo("build").ok();
    let two = copy(&one, "two");
    two.cargo("build").ok().all_hit();

    let same = copy(&two, "same");
    fork_of(&two, &same);
    same.cargo("build").ok().fresh();
    let differs = copy(&two, "differs");
    differs.write("asset.txt", "second");
    fork_of(&two, &differs);
    assert_eq!(differs.cargo("build").ok().compiled, ["app"]);
    assert_eq!(differs.prints("target/debug/app"), "second\n");

    // A fork of a fork.
    let third = copy(&same, "third");
    third.write("asset.txt", "third");
    fork_of(&same, &third);
    assert_eq!(third.cargo("build").ok().compiled, ["app"]);
    assert_eq!(third.prints("target/debug/app"), "third\n");
}

#[test]
fn what_a_macro_has_read_for_an_edit_counts() {
    let world = World::new();
    let donor = with_macro(&world, "donor");
    donor.cargo("build").ok();
    donor.edit("app/src/main.rs", "println!(", "println!(\"edited\"); println!(");
    donor.cargo("build").ok();
    let same = copy(&donor, "same");
    fork_of(&donor, &same);
    same.cargo("build").ok().fresh();
    let differs = copy(&same, "differs");
    differs.write("asset.txt", "second");
    fork_of(&same, &differs);
    assert_eq!(differs.cargo("build").ok().compiled, ["app"]);
    assert_eq!(differs.prints("target/debug/app"), "edited\nsecond\n");
}

#[test]
fn what_others_left_with_a_build_script_does_not_come_along() {
    let world = World::new();
    let donor = with_macro(&world, "donor");
    donor.write("app/build.rs", "fn main() { let out = std::env::var(\"OUT_DIR\").unwrap(); std::fs::create_dir_all(out.clone() + \"/a/b\").unwrap(); \
        std::fs::write(out + \"/a/b/x\", \"x\").unwrap(); println!(\"cargo::rerun-if-changed=build.rs\"); }\n");
    donor.cargo("build").ok();
    let same = copy(&donor, "same");
    fork_of(&donor, &same);
    same.cargo("build").ok().fresh();

    // A macro that keeps what it made in the directory of the script.
    donor.edit(
        "asset/src/lib.rs",
        "std::fs::read_to_string(\"asset.txt\").unwrap()",
        "{ let kept = std::env::var(\"OUT_DIR\").unwrap() + \"/a/b/kept\"; \
         std::fs::read_to_string(&kept).unwrap_or_else(|_| { std::fs::copy(\"asset.txt\", &kept).unwrap(); std::fs::read_to_string(&kept).unwrap() }) }",
    );
    donor.cargo("build").ok();
    assert_eq!(donor.prints("target/debug/app"), "first\n");
    let other = copy(&donor, "other");
    other.write("asset.txt", "second");
    fork_of(&donor, &other);
    other.cargo("build").ok();
    assert_eq!(other.prints("target/debug/app"), "second\n");
}

#[test]
fn what_was_compiled_without_kache_is_compiled_again() {
    let world = World::new();
    let donor = with_macro(&world, "donor").env("RUSTC_WRAPPER", "");
    donor.cargo("build").ok();
    let other = copy(&donor, "other").env("RUSTC_WRAPPER", world.kache_program());
    other.write("asset.txt", "second");
    fork_of(&donor, &other);
    other.cargo("build").ok();
    assert_eq!(other.prints("target/debug/app"), "second\n");
}
