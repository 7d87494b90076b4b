//! Whatever is different between donor and fork, what the fork builds is what a build from nothing gives.

use super::support::{Checkout, World, dice::Dice};
use super::worktree::{copy, fork, same_as_plain};

/// Things that may be different. Each says what it did.
fn mutate(c: &Checkout, dice: &mut Dice) -> String {
    let n = dice.below(1000);
    match dice.below(10) {
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
            c.write("base/src/lib.rs", format!("mod extra{n};\n{text}"));
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
        _ => {
            c.write(".cargo/config.toml", "[build]\nrustflags = [\"--cfg\", \"story\"]\n");
            "change flags".into()
        }
    }
}

#[test]
fn any_difference() {
    let world = World::new();
    let mut dice = Dice::new(7);
    let mut donor = world.checkout("fork-0", "workspace");
    donor.cargo("build").ok();
    for round in 1..=8 {
        let next = copy(&donor, &format!("fork-{round}"));
        let mut done: Vec<String> = (0..dice.below(3)).map(|_| mutate(&next, &mut dice)).collect();
        let said = fork(&donor, &next);
        done.extend((0..dice.below(2)).map(|_| format!("after: {}", mutate(&next, &mut dice))));
        let run = next.cargo("build --offline");
        eprintln!("round {round}: {done:?}\n{said}{}", run.account());
        run.ok();
        same_as_plain(&next);
        next.cargo("build").ok().fresh();
        donor = next;
    }
}
