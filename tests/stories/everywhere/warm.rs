//! I build a project, throw `target` away, or take another checkout: nothing is compiled again.

use crate::support::{Checkout, World};

/// Cold; then after a clean; then in another checkout, by another user with another home.
fn cold_and_warm(command: &str, fixture: &str, check: impl Fn(&Checkout)) {
    let world = World::new();
    let first = world.checkout("first", fixture);
    let cold = first.cargo(command).ok();
    let units = cold.units("miss").len();
    assert!(units > 3, "{}", cold.account());
    assert!(cold.events.iter().all(|e| e.outcome == "miss"), "{}", cold.account());
    check(&first);
    first.cargo(command).ok().fresh();

    first.clean();
    let warm = first.cargo(command).ok();
    warm.all_hit();
    assert_eq!(warm.events.len(), cold.events.len());
    check(&first);
    first.cargo(command).ok().fresh();

    let second = world.checkout("another/place/second", fixture);
    let elsewhere = second.cargo(command).ok();
    elsewhere.all_hit();
    assert_eq!(elsewhere.events.len(), cold.events.len());
    check(&second);
    second.cargo(command).ok().fresh();
    first.cargo(command).ok().fresh();
}

fn prints_as_plain(checkout: &Checkout, command: &str, program: &str) {
    let plain = checkout.plain(command);
    assert_eq!(checkout.prints(format!("target/{program}")), checkout.prints(plain.join(program)));
}

#[test]
fn build() {
    cold_and_warm("build", "workspace", |c| prints_as_plain(c, "build", "debug/app"));
}

#[test]
fn release_with_lto() {
    cold_and_warm("build --release", "workspace", |c| prints_as_plain(c, "build --release", "release/app"));
}

#[test]
fn custom_profile() {
    cold_and_warm("build --profile tuned", "workspace", |c| {
        assert!(c.prints("target/tuned/app").contains("debug true"));
    });
}

#[test]
fn check_of_all_targets() {
    cold_and_warm("check --all-targets", "workspace", |_| {});
}

#[test]
fn clippy_of_all_targets() {
    cold_and_warm("clippy --all-targets -- -D warnings", "workspace", |_| {});
}

#[test]
fn tests_run() {
    cold_and_warm("test --workspace", "workspace", |c| {
        let run = c.cargo("test --workspace").ok();
        assert!(run.stdout.contains("test the_answer ... ok"), "{}", run.stdout);
        assert!(run.stdout.contains("test tests::greets ... ok"), "{}", run.stdout);
    });
}

#[test]
fn examples() {
    cold_and_warm("build --examples", "workspace", |c| {
        assert_eq!(c.prints("target/debug/examples/show"), "example hello, example\n");
    });
}

#[test]
fn features() {
    cold_and_warm("build --features loud", "workspace", |c| {
        assert!(c.prints("target/debug/app").starts_with("base HELLO, WORLD!!\n"));
    });
}

#[test]
fn doc() {
    cold_and_warm("doc", "workspace", |c| assert!(!c.find("fn.greet.html").is_empty()));
}

/// A toolchain manager's proxy in place of the compiler is the normal case; here without the shim that all other
/// stories have in between.
#[test]
fn with_the_compiler_that_is_in_path() {
    let world = World::new();
    let first = world.checkout("first", "workspace").without_env("RUSTC");
    let cold = first.cargo("build").ok();
    assert!(cold.events.iter().all(|e| e.outcome == "miss"), "{}", cold.account());
    let second = world.checkout("second", "workspace").without_env("RUSTC");
    second.cargo("build").ok().all_hit();
}

/// `cargo install` builds in a directory of its own.
#[test]
fn install() {
    let world = World::new();
    let first = world.checkout("first", "workspace");
    let cold = first.cargo("install --path app --root target/installed").ok();
    assert!(cold.units("miss").contains("app bin"), "{}", cold.account());
    first.clean();
    first.cargo("install --path app --root target/installed").ok().all_hit();
    assert!(first.prints("target/installed/bin/app").starts_with("base hello, world\n"));
}
