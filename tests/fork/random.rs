//! Whatever is different between donor and fork, what the fork builds is what a build from nothing gives.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::support::{Checkout, World, dice::Dice};
use super::worktree::{copy_to, fork, replace_sources, same_as_plain_by};

/// Things that may be different. Each says what it did.
fn mutate(c: &Checkout, dice: &mut Dice) -> String {
    let n = dice.below(1000);
    match dice.below(14) {
        0 => {
            let text = format!("pub fn greeting() -> &'static str {{\n    \"word {n}\"\n}}\n");
            c.write("base/src/words.rs", text);
            "edit a module".into()
        }
        1 => {
            c.write("generated/table.txt", format!("row {n}\n"));
            "edit an input of a build script".into()
        }
        2 => {
            c.write("app/data/message.txt", format!("message {n}\n"));
            "edit an included file".into()
        }
        3 => {
            c.sh("find . -path ./target -prune -o -name '*.rs' -exec touch {} +");
            "touch all sources".into()
        }
        4 => {
            c.write(&format!("base/src/extra{n}.rs"), "// nothing\n");
            let text = c.read("base/src/lib.rs");
            c.write("base/src/lib.rs", format!("{text}\nmod extra{n};\n"));
            "add a module".into()
        }
        5 => {
            c.sh("touch -d 2001-01-01 base/src/words.rs app/src/main.rs native/story.c");
            "make sources old".into()
        }
        6 => {
            let text = c.read("native/story.c");
            c.write("native/story.c", format!("{text}\n/* {n} */\n"));
            "edit C".into()
        }
        7 => {
            let text = c.read("app/Cargo.toml");
            c.write("app/Cargo.toml", text.replace("version = \"1.0.0\"", &format!("version = \"1.0.{n}\"")));
            "change a version".into()
        }
        8 => {
            c.write(
                ".cargo/config.toml",
                format!("[env]\nSTORY_OPTION = \"{n}\"\nSTORY_BUILD_VAR = \"{n}\"\n"),
            );
            "set variables".into()
        }
        9 => {
            let text = c.read("Cargo.toml");
            c.write("Cargo.toml", format!("{text}\n[profile.dev.package.base]\nopt-level = {}\n", n % 3));
            if text.contains("package.base") {
                c.write("Cargo.toml", text);
            }
            "change a profile".into()
        }
        10 => {
            let text = c.read("base/Cargo.toml");
            let line = text.lines().find(|l| l.starts_with("version")).expect("a version").to_owned();
            c.write("base/Cargo.toml", text.replace(&line, &format!("version = \"1.{n}.0\"")));
            "change the version of a dependency".into()
        }
        11 => {
            let text = c.read("app/Cargo.toml");
            let (from, to) = match text.contains("default = []") {
                true => ("default = []", "default = [\"loud\"]"),
                false => ("[features]\n", "[features]\ndefault = []\n"),
            };
            c.write("app/Cargo.toml", text.replacen(from, to, 1));
            "change a feature".into()
        }
        12 => {
            c.sh("rm -f app/examples/show.rs base/src/extra*.rs && sed -i '/^mod extra/d' base/src/lib.rs");
            "delete modules".into()
        }
        _ => {
            c.write(".cargo/config.toml", "[build]\nrustflags = [\"--cfg\", \"story\"]\n");
            "change flags".into()
        }
    }
}

/// Builds from nothing, always at the same place, without kache: what is different between two states of the sources
/// must not be fresh in a fork of the one for the other.
struct Oracle(Checkout);

impl Oracle {
    /// Compiled files, by name.
    fn outputs(&self, of: &Checkout, words: &str) -> BTreeMap<String, Vec<u8>> {
        let target = self.0.world().root().join("oracle-target");
        replace_sources(of, &self.0);
        let mut cargo =
            self.0.env("CARGO_TARGET_DIR", &target).env("CARGO_INCREMENTAL", "0").command("cargo");
        cargo.env_remove("RUSTC_WRAPPER").env("RUSTC", self.0.world().real_rustc());
        let output = cargo.args(words.split(' ')).output().expect("cargo starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut all = BTreeMap::new();
        for entry in fs::read_dir(target.join("debug/deps")).expect("a build") {
            let path = entry.expect("a build").path();
            if path.extension().is_none_or(|e| e != "d") {
                let name = path.file_name().expect("a name").to_string_lossy().into_owned();
                all.insert(name, fs::read(&path).expect("an output"));
            }
        }
        fs::remove_dir_all(target).expect("our own directory");
        all
    }
}

/// Crates of which an output is new or another.
fn changed(before: &BTreeMap<String, Vec<u8>>, after: &BTreeMap<String, Vec<u8>>) -> BTreeSet<String> {
    let differs = after.iter().filter(|(name, bytes)| before.get(*name) != Some(bytes));
    let name = |file: &String| {
        let stem = file.split('.').next().unwrap_or_default();
        let crate_name = stem.rsplit_once('-').map_or(stem, |(name, _)| name);
        crate_name.strip_prefix("lib").unwrap_or(crate_name).to_owned()
    };
    differs.map(|(file, _)| name(file)).collect()
}

#[test]
fn any_difference() {
    let world = World::new();
    let mut dice = Dice::new(7);
    let oracle = Oracle(world.empty_checkout(&world.root().join("oracle")));
    let mut donor = world.checkout("fork-0", "workspace");
    donor.cargo("build").ok();
    let mut before = oracle.outputs(&donor, "build");
    let mut kinds = BTreeSet::new();
    for round in 1..=8 {
        let name = format!("{}fork-{round}", if dice.one_in(3) { "at/another/depth/" } else { "" });
        let next = copy_to(&donor, &world.root().join(name));
        let mut done: Vec<String> = (0..dice.below(3)).map(|_| mutate(&next, &mut dice)).collect();
        let said = fork(&donor, &next);
        done.extend((0..dice.below(2)).map(|_| format!("after: {}", mutate(&next, &mut dice))));
        let words = if dice.one_in(4) { "build --offline --features app/loud" } else { "build --offline" };
        let run = next.cargo(words);
        eprintln!("round {round}: {words} {done:?}\n{said}{}", run.account());
        let run = run.ok();
        let after = oracle.outputs(&next, words);
        let asked: BTreeSet<String> =
            run.events.iter().filter_map(|e| Some(e.unit.split_once(' ')?.0.to_owned())).collect();
        let must = changed(&before, &after);
        assert!(must.is_subset(&asked), "{must:?} had to be built, asked for were {asked:?}");
        same_as_plain_by(&next, words);
        next.cargo(words).ok().fresh();
        kinds.extend(done.iter().map(|d| d.trim_start_matches("after: ").to_owned()));
        // What the next fork is compared with is what a plain build of the donor has.
        next.cargo("build --offline").ok();
        before = oracle.outputs(&next, "build --offline");
        before.extend(after);
        donor = next;
    }
    assert!(kinds.len() > 6, "{kinds:?}");
}
