//! Whatever people do with cargo, and wherever it puts what it builds.

use std::path::Path;

use super::support::{Checkout, Run, World};
use super::worktree::{built, copy, copy_to, fork, forked, same_as_plain};

/// Forks as `kache mount` or `kache fork` do it where nobody names a directory.
fn fork_here(donor: &Checkout, to: &Checkout) {
    donor.kache_prints("snapshot");
    let said = to.kache_prints(if to.world().mounted() { "mount" } else { "fork" });
    assert!(said.contains("forked"), "{said}");
}

/// The same where the target is somewhere else than `copy` has put a mount.
fn built_here(world: &World, donor: &Checkout) {
    if world.mounted() {
        donor.kache_prints("mount");
    }
    donor.cargo("build").ok();
}

#[test]
fn the_target_directory_may_be_elsewhere() {
    let world = World::new();
    let targets = world.root().join("targets");
    let with_target = |c: Checkout| {
        let name = c.dir().file_name().expect("a name").to_owned();
        c.sh(&format!("mkdir -p '{}'", targets.join(&name).display()));
        c.env("CARGO_TARGET_DIR", targets.join(name))
    };
    std::fs::create_dir(&targets).expect("our own directory");
    world.own(&targets);
    let donor = with_target(world.checkout("donor", "workspace"));
    built_here(&world, &donor);
    let other = with_target(copy(&donor, "other"));
    fork_here(&donor, &other);
    other.cargo("build").ok().fresh();
    other.edit("base/src/words.rs", "hello", "elsewhere");
    other.cargo("build").ok().only("edit", &["base lib", "app bin"]);
    assert!(other.prints(targets.join("other/debug/app")).contains("elsewhere"));
    donor.cargo("build").ok().fresh();
    assert!(donor.prints(targets.join("donor/debug/app")).contains("hello"));
}

#[test]
fn the_build_directory_may_be_another_than_the_target() {
    let world = World::new();
    let donor = world.checkout("donor", "workspace");
    donor.write(
        ".cargo/config.toml",
        "[build]\nbuild-dir = \"{workspace-root}/inner\"\ntarget-dir = \"out\"\n",
    );
    built_here(&world, &donor);
    assert!(donor.dir().join("inner/debug/.fingerprint").exists() || world.mounted());
    let other = copy_to(&donor, &world.root().join("deep/other"));
    other.sh("rm -rf out inner");
    fork_here(&donor, &other);
    other.cargo("build").ok().fresh();
    // What people run is there, too.
    assert_eq!(other.prints("out/debug/app"), donor.prints("out/debug/app"));
    other.edit("app/src/main.rs", "native {}", "nativ {}");
    other.cargo("build").ok().only("edit", &["app bin"]);
    assert!(other.prints("out/debug/app").contains("nativ "));
}

#[test]
fn in_a_package_of_the_workspace_it_is_the_target_of_the_workspace() {
    let world = World::new();
    let donor = built(&world, "build");
    donor.kache_prints("snapshot");
    let other = copy(&donor, "other");
    let kache = world.kache_program().display().to_string();
    let said = other.sh(&format!("cd base && '{kache}' fork"));
    assert!(said.contains("forked"), "{said}");
    other.cargo("build").ok().fresh();
    assert!(!Path::new(&other.dir().join("base/target")).exists());
}

#[test]
fn all_kinds_of_artifacts_come_along() {
    let world = World::new();
    let donor = built(&world, "build");
    let all = [
        "build --profile tuned",
        "build --target x86_64-unknown-linux-gnu",
        "build --features app/loud",
        "check --all-targets",
        "clippy",
        "test --no-run",
        "check --target-dir target/rust-analyzer",
        "build",
    ];
    for words in all {
        donor.cargo(words).ok();
    }
    let other = copy_to(&donor, &world.root().join("much/deeper/down/there"));
    fork(&donor, &other);
    for words in all {
        eprintln!("{words}");
        other.cargo(words).ok().fresh();
    }
    other.edit("base/src/words.rs", "hello", "changed");
    for words in all {
        let run = other.cargo(words).ok();
        let asked: Vec<&str> = run.events.iter().map(|e| e.unit.split(' ').next().expect("a name")).collect();
        assert!(asked.contains(&"app"), "{words}\n{}", run.account());
    }
    same_as_plain(&other);
}

#[test]
fn programs_run_and_documentation_is_tested() {
    let world = World::new();
    let files = [
        ("Cargo.toml", "[package]\nname = \"doc\"\nversion = \"0.1.0\"\nedition = \"2021\"\n"),
        ("Cargo.lock", "version = 4\n\n[[package]]\nname = \"doc\"\nversion = \"0.1.0\"\n"),
        ("src/lib.rs", "/// ```\n/// assert_eq!(doc::one(), 1);\n/// ```\npub fn one() -> u32 { 1 }\n"),
        ("src/main.rs", "fn main() { println!(\"one is {}\", doc::one()); }\n"),
    ];
    let donor = world.project("donor", &files);
    for words in ["build", "test", "test --doc", "doc"] {
        donor.cargo(words).ok();
    }
    let other = forked(&donor, "other");
    let nothing = |run: &Run| assert_eq!(run.compiled, [""; 0], "{}", run.account());
    let run = other.cargo("run").ok();
    nothing(&run);
    assert_eq!(run.stdout, "one is 1\n");
    let run = other.cargo("test --doc").ok();
    assert!(run.stdout.contains("1 passed"), "{}", run.stdout);
    nothing(&run);
    nothing(&other.cargo("test").ok());
    other.edit("src/lib.rs", "{ 1 }", "{ 2 }");
    let run = other.cargo("test --doc");
    assert!(!run.success && run.stdout.contains("1 failed"), "{}", run.account());
    other.cargo("doc").ok();
    assert_eq!(other.cargo("run").ok().stdout, "one is 2\n");
    assert_eq!(donor.cargo("run").ok().stdout, "one is 1\n");
}

#[test]
fn a_workspace_may_lie_inside_of_its_repository() {
    let world = World::new();
    let git = "git -c user.name=a -c user.email=a@b -c init.defaultBranch=one";
    let donor = world.empty_checkout(&world.root().join("donor/rust/inner"));
    let manifest = "[package]\nname = \"inner\"\nversion = \"0.1.0\"\nedition = \"2021\"\n";
    donor.write("Cargo.toml", manifest);
    donor.write("src/main.rs", "fn main() { print!(\"{}\", include_str!(\"../../../shared/text\")); }\n");
    donor.write("../../shared/text", "one");
    donor.write("../../.gitignore", "target\n");
    donor.sh(&format!("cd ../.. && {git} init -q && git add . && {git} commit -qm one"));
    donor.cargo("build").ok();
    donor.kache_prints("snapshot");
    donor.sh(&format!("cd ../.. && {git} worktree add -q ../other"));
    let other = world.empty_checkout(&world.root().join("other/rust/inner"));
    // A mount has forked already.
    let fork_unmounted = |donor: &Checkout, to: &Checkout| {
        if !world.mounted() {
            fork(donor, to);
        }
    };
    fork_unmounted(&donor, &other);
    other.cargo("build").ok().fresh();
    assert_eq!(other.prints("target/debug/inner"), "one");
    donor.write("../../shared/text", "donor");
    other.cargo("build").ok().fresh();
    other.write("../../shared/text", "other");
    other.cargo("build").ok();
    assert_eq!(other.prints("target/debug/inner"), "other");
    let third = world.root().join("third");
    other.sh(&format!("cd ../.. && {git} commit -qam two && {git} worktree add -q '{}'", third.display()));
    let third = world.empty_checkout(&third.join("rust/inner"));
    fork_unmounted(&other, &third);
    third.cargo("build").ok().fresh();
    assert_eq!(third.prints("target/debug/inner"), "other");
}
