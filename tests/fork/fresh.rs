//! What is the same is fresh.

use super::support::{Checkout, Run, World};
use super::worktree::{built, copy, copy_to, counts, fork, forked, same_as_plain};

#[test]
fn another_checkout_has_nothing_to_build() {
    let world = World::new();
    let donor = built(&world, "build");
    let other = copy(&donor, "other");
    let said = fork(&donor, &other);
    let (fresh, all) = counts(&said);
    assert_eq!(fresh, all, "{said}");
    let names = "stat -c %i target/debug/app target/debug/deps/app-????????????????";
    let before = other.sh(names);
    let inodes: Vec<&str> = before.lines().collect();
    assert!(inodes.len() == 2 && inodes[0] == inodes[1], "{before}");
    other.cargo("build").ok().fresh();
    assert_eq!(other.sh(names), before, "cargo had to link it again");
    same_as_plain(&other);
}

#[test]
fn it_may_lie_deeper_or_elsewhere() {
    let world = World::new();
    let donor = built(&world, "build");
    let other = copy_to(&donor, &world.root().join("some/where/else/entirely/x"));
    fork(&donor, &other);
    other.cargo("build").ok().fresh();
    same_as_plain(&other);
}

#[test]
fn all_that_was_built_comes_along() {
    let world = World::new();
    let donor = built(&world, "build");
    for words in ["build --release", "check", "test --no-run", "build --examples"] {
        donor.cargo(words).ok();
    }
    let other = forked(&donor, "other");
    for words in ["build", "build --release", "check", "test --no-run", "build --examples"] {
        other.cargo(words).ok().fresh();
    }
    other.cargo("test").ok();
}

#[test]
fn times_alone_are_no_difference() {
    let world = World::new();
    let donor = built(&world, "build");
    let other = copy(&donor, "other");
    other.sh("find . -path ./target -prune -o -type f -exec touch {} +");
    fork(&donor, &other);
    other.cargo("build").ok().fresh();
}

#[test]
fn an_edit_rebuilds_what_it_must_and_only_here() {
    let world = World::new();
    let donor = built(&world, "build");
    let other = forked(&donor, "other");
    other.edit("app/src/main.rs", "native {}", "nativ {}");
    other.cargo("build").ok().only("edit", &["app bin"]);
    assert!(other.prints("target/debug/app").contains("nativ "));
    other.edit("base/src/words.rs", "hello", "servus");
    other.cargo("build").ok().only("edit", &["base lib", "app bin"]);
    other.cargo("build").ok().fresh();
    assert!(other.prints("target/debug/app").contains("servus"));
    assert!(donor.prints("target/debug/app").contains("native "));
    donor.cargo("build").ok().fresh();
}

#[test]
fn a_fork_can_be_forked() {
    let world = World::new();
    let donor = built(&world, "build");
    let first = forked(&donor, "first");
    first.edit("app/src/main.rs", "native {}", "first {}");
    first.cargo("build").ok();
    let second = forked(&first, "second");
    second.cargo("build").ok().fresh();
    assert!(second.prints("target/debug/app").contains("first "));
}

/// Files that were given other owners or permissions after they were written are what they were.
#[test]
fn a_fork_of_files_with_new_permissions_can_be_forked() {
    let world = World::new();
    let donor = built(&world, "build");
    let first = copy(&donor, "first");
    std::thread::sleep(std::time::Duration::from_millis(20));
    first.sh("find app base generated macros native -type f -exec chmod u+w {} +");
    fork(&donor, &first);
    first.edit("app/src/main.rs", "native {}", "first {}");
    first.cargo("build").ok().only("edit", &["app bin"]);
    forked(&first, "second").cargo("build").ok().fresh();
}

/// What a build script left has the permissions that the script gave it.
#[test]
fn permissions_come_along() {
    const SCRIPT: &str = "use std::{fs, os::unix::fs::PermissionsExt};\nfn main() {\n    let out = std::env::var(\"OUT_DIR\").unwrap();\n    \
        for mode in [0o400, 0o440, 0o444, 0o500, 0o600, 0o640, 0o755] {\n        let file = format!(\"{out}/m{mode:o}\");\n        \
        fs::write(&file, \"x\").unwrap();\n        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();\n    }\n    \
        println!(\"cargo::rerun-if-changed=build.rs\");\n}\n";
    let world = World::new();
    let manifest = "[package]\nname = \"modes\"\nversion = \"1.0.0\"\nedition = \"2024\"\n";
    let files = [("Cargo.toml", manifest), ("build.rs", SCRIPT), ("src/main.rs", "fn main() {}\n")];
    let donor = world.project("donor", &files);
    donor.cargo("build").ok();
    let modes = |c: &Checkout| c.sh("cd target/debug/build/modes-*/out && stat -c '%n %a' m*");
    let first = forked(&donor, "first");
    assert_eq!(modes(&first), modes(&donor));
    assert_eq!(modes(&forked(&first, "second")), modes(&donor));
}

#[test]
fn two_forks_do_not_see_each_other() {
    let world = World::new();
    let donor = built(&world, "build");
    let (a, b) = (forked(&donor, "a"), forked(&donor, "b"));
    a.edit("base/src/words.rs", "hello", "from a");
    b.edit("base/src/words.rs", "hello", "from b");
    std::thread::scope(|scope| {
        for fork in [&a, &b] {
            scope.spawn(|| fork.cargo("build").ok());
        }
    });
    assert!(a.prints("target/debug/app").contains("from a"));
    assert!(b.prints("target/debug/app").contains("from b"));
    assert!(donor.prints("target/debug/app").contains("hello"));
}

#[test]
fn the_first_edit_uses_the_incremental_state_of_the_donor() {
    let world = World::new();
    let donor = built(&world, "build");
    donor.edit("base/src/words.rs", "hello", "one");
    donor.edit("app/src/main.rs", "fn main() {", "mod extra;\n\nfn main() {\n    extra::extra();");
    donor.write(
        "app/src/extra.rs",
        "pub fn extra() {\n    println!(\"extra {}\", std::env::args().count());\n}\n",
    );
    donor.cargo("build").ok().only("edit", &["base lib", "app bin"]);
    let adopted = |run: &Run| run.events.iter().filter(|e| e.reason.contains("another checkout")).count();
    let forks = ["other", "another"].map(|name| {
        let other = copy(&donor, name);
        let said = fork(&donor, &other);
        let (fresh, all) = counts(&said);
        assert_eq!(fresh, all, "{said}");
        other
    });
    for other in &forks {
        other.cargo("build").ok().fresh();
        other.sh("touch stamp");
        // rustc agrees: what it has not compiled again is the donor's.
        let reuses = |name: &str| {
            let newest = format!(
                "find -L target/debug/incremental -type d -path '*/{name}-*/s-*' -printf '%T@ %p\\n' | sort -n | tail -1"
            );
            let reused = format!(
                "cd \"$({newest} | cut -d' ' -f2)\" && find . -name '*.o' ! -newer \"$OLDPWD/stamp\""
            );
            !other.sh(&reused).is_empty()
        };
        other.edit("app/src/main.rs", "native {}", "nativ {}");
        let run = other.cargo("build").ok();
        run.only("edit", &["app bin"]);
        assert_eq!(adopted(&run), 1, "{}", run.account());
        // Outside of mounts a program finds its crates in its own checkout, and rustc minds.
        assert_eq!(reuses("app"), world.mounted());
        other.edit("base/src/words.rs", "one", "two");
        let run = other.cargo("build").ok();
        run.only("edit", &["base lib", "app bin"]);
        assert_eq!(adopted(&run), 1, "{}", run.account());
        assert!(reuses("base"));
        assert!(other.prints("target/debug/app").contains("two"));
        // Its own from now on.
        other.edit("base/src/words.rs", "two", "three");
        let run = other.cargo("build").ok();
        assert_eq!(adopted(&run), 0, "{}", run.account());
        assert!(other.prints("target/debug/app").contains("three"));
        same_as_plain(other);
    }
    donor.cargo("build").ok().fresh();
}

/// State that was made with other options would give another program.
#[test]
fn incremental_state_of_other_options_is_not_used() {
    let world = World::new();
    let donor = built(&world, "build").env("RUSTFLAGS", "--cfg story");
    donor.cargo("build").ok();
    donor.edit("app/src/main.rs", "native {}", "nativ {}");
    donor.cargo("build").ok().only("edit", &["app bin"]);
    let other = forked(&donor, "other");
    other.cargo("build").ok();
    other.edit("app/src/main.rs", "nativ {}", "native {}!");
    let run = other.cargo("build").ok();
    run.only("edit", &["app bin"]);
    assert!(!run.account().contains("another checkout"), "{}", run.account());
    assert!(other.prints("target/debug/app").contains("cfg false"));
}

/// A package with a build script that declares nothing, and one that depends on it.
const UNDECLARED: &[(&str, &str)] = &[
    ("Cargo.toml", "[workspace]\nmembers = [\"a\", \"b\"]\nresolver = \"2\"\n"),
    (
        "Cargo.lock",
        "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"0.1.0\"\ndependencies = [\n \"b\",\n]\n\n\
         [[package]]\nname = \"b\"\nversion = \"0.1.0\"\n",
    ),
    (
        "a/Cargo.toml",
        "[package]\nname = \"a\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[dependencies]\nb = { path = \"../b\" }\n",
    ),
    ("a/src/main.rs", "fn main() { println!(\"{}\", b::WORDS); }\n"),
    (
        "b/Cargo.toml",
        "[package]\nname = \"b\"\nversion = \"0.1.0\"\nedition = \"2021\"\nexclude = [\"/notes\"]\n",
    ),
    ("b/words.txt", "one"),
    (
        "b/build.rs",
        "fn main() { println!(\"cargo::rustc-env=WORDS={}\", std::fs::read_to_string(\"words.txt\").unwrap()); }\n",
    ),
    ("b/src/lib.rs", "pub const WORDS: &str = env!(\"WORDS\");\n"),
    ("b/notes/later.txt", "not of the package"),
];

#[test]
fn a_build_script_that_declares_nothing_is_fresh_if_its_package_is_the_same() {
    let world = World::new();
    for with_git in [false, true] {
        let name = |n: &str| format!("{n}-{with_git}");
        let donor = world.project(&name("donor"), UNDECLARED);
        if with_git {
            donor.write(".gitignore", "target\nignored\n");
            donor.sh("git init -q && git remote add origin https://example.com/x && git add . && git -c user.name=a -c user.email=a@b commit -qm one");
        }
        donor.cargo("build").ok();
        let other = copy(&donor, &name("other"));
        other.sh("find . -path ./target -prune -o -type f -exec touch {} +");
        let said = fork(&donor, &other);
        let (fresh, all) = counts(&said);
        assert_eq!(fresh, all, "{said}");
        let run = other.cargo("build").ok();
        run.fresh();
        // And it can be forked again.
        let third = forked(&other, &name("third"));
        third.cargo("build").ok().fresh();
        third.write("b/words.txt", "three");
        third.cargo("build").ok();
        assert_eq!(third.prints("target/debug/a"), "three\n");

        for (n, change) in
            ["echo two > b/words.txt", "touch b/more.txt", "rm b/notes/later.txt"].iter().enumerate()
        {
            let changed = copy(&donor, &name(&format!("changed-{n}")));
            changed.sh(change);
            let said = fork(&donor, &changed);
            let reasons = ["declares no inputs", "is different", "something that it read is another here"];
            assert!(reasons.iter().any(|reason| said.contains(reason)), "{change}: {said}");
            changed.cargo("build").ok();
            let words = changed.read("b/words.txt");
            assert_eq!(changed.prints("target/debug/a").trim(), words.trim());
        }
    }
}
