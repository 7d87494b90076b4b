//! Editing in a mount: compilers work beside it, and nobody can tell.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::support::{Checkout, World, by_root_and_user};

by_root_and_user!(
    edits_are_made_beside_the_mount,
    an_edit_is_what_it_is_without_a_mount,
    units_of_one_crate_begin_at_once,
    messages_name_the_target,
    cleaning_takes_the_state_along,
    an_unmount_brings_the_state_back,
);

const STATE: &str = "target/debug/incremental/app-kache";

fn edited(c: &Checkout, n: usize) {
    c.write("app/src/extra.rs", format!("pub fn n() -> usize {{ {n} }}\n"));
    c.cargo("build").ok().only("edit", &["app bin"]);
    assert!(c.prints("target/debug/app").contains(&format!("extra {n}")));
}

fn built(world: &World) -> Checkout {
    let c = world.checkout("project", "workspace");
    c.edit(
        "app/src/main.rs",
        "fn main() {",
        "mod extra;\n\nfn main() {\n    println!(\"extra {}\", extra::n());",
    );
    c.write("app/src/extra.rs", "pub fn n() -> usize { 0 }\n");
    c.cargo("build").ok();
    c
}

fn state(c: &Checkout) -> PathBuf {
    c.sh(&format!("readlink {STATE}")).trim().into()
}

/// Output directories that were not cleared away.
fn left_behind(world: &World) -> String {
    let out = world.cache().join("scratch");
    String::from_utf8(
        world.command("sh").args(["-c", &format!("ls {}", out.display())]).output().unwrap().stdout,
    )
    .unwrap()
}

fn edits_are_made_beside_the_mount(world: World) {
    let c = built(&world);
    (1..4).for_each(|n| edited(&c, n));
    let state = state(&c);
    assert!(state.starts_with(world.cache()), "{}", state.display());
    let sessions = |unit: &str| c.sh(&format!("ls -d '{}'/{unit}-*/{unit}-*/s-*/ | wc -l", state.display()));
    // rustc keeps the last one or two.
    assert!(["1", "2"].contains(&sessions("app").trim()));
    assert_eq!(
        c.sh("ls target/debug/incremental | grep -v kache || true"),
        "",
        "nothing went through the mount"
    );
    assert_eq!(left_behind(&world), "");
    // What a compiler keeps for itself is not what the mount shows, so that all of that can be sealed.
    assert_eq!(c.sh("find target/debug/deps -name '*.rmeta' -links +1"), "");
    let objects = || -> BTreeSet<String> {
        let all = c.sh(&format!("ls -i '{}'/app-*/app-*/s-*/*.o | awk '{{ print $1 }}'", state.display()));
        all.lines().map(str::to_owned).collect()
    };
    let before = objects();
    edited(&c, 4);
    assert!(!before.is_disjoint(&objects()), "rustc began from nothing");
    c.cargo("build").ok().fresh();
    // The state of one crate goes with `cargo clean -p`, as ever.
    c.cargo_output(["clean", "-p", "app"]);
    c.sh(&format!("! test -L {STATE}"));
    c.cargo("build").ok();
    c.kache_prints("doctor --verify");
}

fn an_edit_is_what_it_is_without_a_mount(world: World) {
    let c = built(&world);
    edited(&c, 1);
    let names = ["target/debug/app", "target/debug/app.d"];
    let depinfo = |c: &Checkout| c.bytes(&c.find("app-*.d")[0]);
    let mounted = (names.map(|n| c.bytes(n)), depinfo(&c));
    c.kache_prints("umount --discard");
    c.sh("rm -rf target");
    c.write("app/src/extra.rs", "pub fn n() -> usize { 0 }\n");
    c.cargo("build").ok().all_hit();
    edited(&c, 1);
    assert!((names.map(|n| c.bytes(n)), depinfo(&c)) == mounted, "other bytes");
}

/// A library and its tests have one crate name, and so one directory for their state, which the first of them makes.
fn units_of_one_crate_begin_at_once(world: World) {
    let c = world.checkout("project", "workspace");
    c.cargo("test --no-run").ok();
    for n in 0..8 {
        for name in ["base", "app"] {
            c.sh(&format!("rm -f target/debug/incremental/{name}-kache"));
        }
        c.edit(
            "base/src/words.rs",
            &if n == 0 { "hello".into() } else { format!("hi {}", n - 1) },
            &format!("hi {n}"),
        );
        c.cargo("test --no-run").ok();
    }
}

fn messages_name_the_target(world: World) {
    let c = built(&world);
    edited(&c, 1);
    c.write(
        "app/src/extra.rs",
        "#[link(name = \"nowhere-to-be-found\")]\nunsafe extern \"C\" { fn nowhere(); }\npub fn n() -> usize { unsafe \
         { nowhere() }; 0 }\n",
    );
    let failed = c.cargo_output(["build", "-v"]);
    let text = String::from_utf8_lossy(&failed.stderr);
    assert!(!failed.status.success() && text.contains("nowhere-to-be-found"), "{text}");
    assert!(!text.contains("scratch"), "{text}");
    assert!(text.contains(&format!("{}/target/debug/deps/", c.dir().display())), "{text}");
    assert_eq!(left_behind(&world), "");
    edited(&c, 2);
    let named = c.sh("grep -rl /scratch/ target || test $? = 1");
    assert_eq!(named, "", "files that name the scratch directory");
}

fn cleaning_takes_the_state_along(world: World) {
    let c = built(&world);
    edited(&c, 1);
    let before = state(&c);
    c.cargo_output(["clean"]);
    assert_eq!(c.sh("ls -A target"), "");
    c.cargo("build").ok();
    edited(&c, 2);
    assert!(state(&c) != before && !before.exists());
}

fn an_unmount_brings_the_state_back(world: World) {
    let c = built(&world);
    edited(&c, 1);
    let sessions = c.sh(&format!("cd '{}' && ls -d app-*/app-*/s-*", state(&c).display()));
    c.kache_prints("umount");
    assert_eq!(c.sh("cd target/debug/incremental && ls -d app-*/app-*/s-*"), sessions);
    c.sh(&format!("! test -L {STATE}"));
    edited(&c, 2);
    // A new mount begins anew; what is there stays there.
    c.kache_prints("mount");
    edited(&c, 3);
    edited(&c, 4);
    c.cargo("build").ok().fresh();
}
