//! I edit, build, run, and edit again: as fast as without a cache, and nothing of it fills the store.

use crate::support::World;

#[test]
fn an_edit_loop_is_incremental_and_not_stored() {
    let world = World::new();
    let c = world.checkout("project", "workspace");
    c.cargo("build").ok();
    let entries = |c: &crate::support::Checkout| c.kache_json("stats --json")["store"]["entries"].clone();
    let before = entries(&c);
    for n in 1..4 {
        c.write("base/src/words.rs", format!("pub fn greeting() -> &'static str {{\n    \"edit {n}\"\n}}\n"));
        c.cargo("build").ok().only("edit", &["base lib", "app bin"]);
        assert!(c.prints("target/debug/app").contains(&format!("base edit {n}, world")));
        c.cargo("build").ok().fresh();
    }
    assert_eq!(entries(&c), before);
    // What was known before the edits still is.
    c.write("base/src/words.rs", "pub fn greeting() -> &'static str {\n    \"hello\"\n}\n");
    c.cargo("build").ok().all_hit();
    assert!(c.prints("target/debug/app").contains("base hello, world"));
    c.cargo("build").ok().fresh();
}

#[test]
fn in_ci_edits_are_for_the_cache() {
    let world = World::new();
    let c = world.checkout("project", "workspace").env("CI", "true");
    c.cargo("build").ok();
    c.edit("base/src/words.rs", "hello", "edited");
    c.cargo("build").ok().missed(&["base lib", "app bin"]);
    c.clean();
    c.cargo("build").ok().all_hit();
    assert!(c.prints("target/debug/app").contains("base edited, world"));
}

#[test]
fn never_and_always_mean_it() {
    let world = World::new();
    let c = world.checkout("project", "workspace").env("KACHE_INCREMENTAL", "never");
    c.cargo("build").ok();
    c.edit("app/src/main.rs", "native {}", "first {}");
    c.cargo("build").ok().missed(&["app bin"]);
    let c = c.env("KACHE_INCREMENTAL", "always");
    c.edit("app/src/main.rs", "first {}", "second {}");
    c.cargo("build").ok().only("edit", &["app bin"]);
    c.clean();
    c.cargo("build").ok().only("edit", &["app bin"]);
    assert!(c.prints("target/debug/app").contains("second 42"));
}
