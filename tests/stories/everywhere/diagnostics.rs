//! What the compiler says reaches me, whether it ran or not.

use crate::support::{Checkout, World};

const MANIFEST: &str = "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2024\"\n";

fn project(world: &World, name: &str, main: &str) -> Checkout {
    world.project(name, &[("Cargo.toml", MANIFEST), ("src/main.rs", main)]).env("CI", "1")
}

#[test]
fn a_warning_is_said_again_on_a_hit() {
    let world = World::new();
    let source = "fn main() {\n    let unused = 1;\n}\n";
    let first = project(&world, "first", source);
    let cold = first.cargo("build").ok();
    assert!(cold.stderr.contains("unused variable: `unused`"), "{}", cold.stderr);
    assert!(cold.stderr.contains("src/main.rs:2:9"), "{}", cold.stderr);
    first.clean();
    let warm = first.cargo("build").ok();
    warm.all_hit();
    let said = |text: &str| text.split("Finished").next().unwrap().replace("second", "first");
    assert_eq!(said(&warm.stderr), said(&cold.stderr));
    let second = project(&world, "second", source);
    let elsewhere = second.cargo("build").ok();
    elsewhere.all_hit();
    assert_eq!(said(&elsewhere.stderr), said(&cold.stderr));
    // Cargo keeps it, and says it once more though nothing is done; and no words of kache come with it.
    let fresh = second.cargo("build").ok();
    fresh.fresh();
    assert!(fresh.stderr.contains("unused variable: `unused`"), "{}", fresh.stderr);
    assert!(!fresh.stderr.contains("kache:"), "{}", fresh.stderr);
}

#[test]
fn a_lint_level_is_part_of_the_result() {
    let world = World::new();
    let c = project(&world, "project", "fn main() {\n    let unused = 1;\n}\n");
    c.cargo("build").ok();
    c.clean();
    let strict = c.env("RUSTFLAGS", "-D warnings").cargo("build");
    assert!(!strict.success);
    c.clean();
    let quiet = c.env("RUSTFLAGS", "-A warnings").cargo("build").ok();
    assert!(!quiet.stderr.contains("unused"), "{}", quiet.stderr);
}

#[test]
fn a_failure_is_passed_on_and_not_remembered() {
    let world = World::new();
    let c = project(&world, "project", "fn main() {\n    missing();\n}\n");
    for _ in 0..2 {
        let run = c.cargo("build");
        assert!(!run.success);
        assert!(run.stderr.contains("cannot find function `missing`"), "{}", run.stderr);
        assert_eq!(run.units("failed").into_iter().collect::<Vec<_>>(), ["app bin"]);
    }
    c.edit("src/main.rs", "missing()", "println!(\"there\")");
    c.cargo("build").ok().missed(&["app bin"]);
    assert_eq!(c.prints("target/debug/app"), "there\n");
}

#[test]
fn clippy_has_its_own_results_and_configuration() {
    let world = World::new();
    let c =
        project(&world, "project", "fn many(_: u8, _: u8, _: u8) {}\n\nfn main() {\n    many(1, 2, 3);\n}\n");
    c.cargo("check").ok();
    let first = c.cargo("clippy").ok();
    assert_eq!(first.units_count("miss"), 1, "{}", first.account());
    c.clean();
    let warm = c.cargo("clippy").ok();
    warm.all_hit();
    assert!(!warm.stderr.contains("too many arguments"));
    c.write("clippy.toml", "too-many-arguments-threshold = 2\n");
    c.clean();
    let strict = c.cargo("clippy").ok();
    assert_eq!(strict.units_count("miss"), 1, "{}", strict.account());
    assert!(strict.stderr.contains("too many arguments"), "{}", strict.stderr);
}

/// JSON messages are for programs: they must not differ in a single byte.
#[test]
fn messages_for_programs() {
    let world = World::new();
    let c = project(&world, "project", "fn main() {\n    let unused = 1;\n}\n");
    let json = "build --message-format json";
    let cold = c.cargo(json).ok();
    assert!(cold.stdout.contains("unused_variables"));
    c.clean();
    let warm = c.cargo(json).ok();
    warm.all_hit();
    assert_eq!(warm.stdout, cold.stdout);
}
