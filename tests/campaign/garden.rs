//! A workspace with some of everything that a build may depend on, and what may change in it.

use std::path::Path;

use super::support::Checkout;
use super::support::dice::Dice;
use super::support::world::copy_tree;
use super::{Site, Vars};

/// Puts the workspace into a new site: `work` is its checkout, `outside` lies beside it.
pub fn lay_out(site: &Checkout) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/garden");
    copy_tree(&from, site.dir().parent().expect("a place beside the workspace"));
    site.sh(
        "ln -s one.txt app/assets/current.txt; git init -q -b main .; git add -A; git commit -qm 'commit 0'",
    );
    std::fs::create_dir_all(site.world().root().join("tools/first")).expect("our own directory");
    tool(site, "tools", 0);
}

fn tool(site: &Checkout, dir: &str, n: u64) {
    let path = format!("{}/{dir}/garden-tool", site.world().root().display());
    site.sh(&format!("printf '#!/bin/sh\\necho {dir} {n}\\n' > {path}; chmod +x {path}"));
}

/// Changes something. The description, and whether cargo itself would notice in the same target directory: what it does
/// not know of (or judges by a time that went back) it builds only after a clean.
pub fn edit(site: &mut Site, vars: &mut Vars, dice: &mut Dice) -> (String, bool) {
    let n = dice.below(1000);
    let c = &site.checkout;
    let (seen, unseen) = (true, false);
    let sh = |script: &str| {
        c.sh(script);
    };
    let flip = |path: &str, text: &str| {
        let path = c.dir().join(path);
        if path.exists() {
            std::fs::remove_file(path).expect("our own file")
        } else {
            std::fs::write(path, text).expect("our own file")
        }
    };
    match dice.below(34) {
        0 => (edited(c, "base/src/lib.rs", "word ", n), seen),
        1 => (edited(c, "app/assets/one.txt", "one ", n), seen),
        2 => (edited(c, "gen/table.txt", "row ", n), seen),
        3 => (edited(c, "app/templates/t.html", "template ", n), unseen),
        4 => (edited(c, "inner/src/main.rs", "inner ", n), unseen),
        5 => (edited(c, "cinclude/inner.h", "VALUE ", n), unseen),
        6 => (edited(c, "linked/consts.x", "0x", 100 + n % 800), unseen),
        7 => {
            c.write("blob/data.bin", [b'0' + (n % 10) as u8]);
            (format!("blob/data.bin: {}", n % 10), unseen)
        }
        8 => {
            edited(c, "app/assets/two.txt", "two ", n);
            sh("touch -d 2001-01-01 app/assets/two.txt");
            (format!("app/assets/two.txt: {n}, of 2001"), unseen)
        }
        9 => {
            let name = n % 5;
            flip(&format!("app/files/{name}"), "");
            (format!("app/files/{name} appears or goes"), unseen)
        }
        10 => {
            flip("cfirst/value.h", &format!("#define VALUE {n}\n"));
            ("cfirst/value.h appears in front or goes".into(), unseen)
        }
        11 => {
            let name = n % 5;
            flip(&format!("gen/data/{name}"), "");
            (format!("gen/data/{name} appears or goes"), seen)
        }
        12 => {
            tool(c, "tools", n);
            (format!("the tool is {n}"), unseen)
        }
        13 => {
            let first = c.world().root().join("tools/first/garden-tool");
            if first.exists() {
                std::fs::remove_file(first).expect("our own file")
            } else {
                tool(c, "tools/first", n)
            }
            ("a tool in front appears or goes".into(), unseen)
        }
        14 => (vars.set("GARDEN_WORD", n % 3), seen),
        15 => (vars.set("GARDEN_OPTION", n % 3), seen),
        16 => (vars.set("GARDEN_BAKED", n % 3), unseen),
        17 => (vars.flag("RUSTFLAGS", "--cfg garden"), seen),
        18 => {
            sh(&format!("git commit -q --allow-empty -m 'commit {n}'"));
            (format!("git commit {n}"), seen)
        }
        19 => {
            sh("git checkout -q -B other HEAD; git commit -q --amend --allow-empty -m amended");
            ("git amends on another branch".into(), seen)
        }
        20 => (edited(c, "../outside/src/lib.rs", "file!(), ", n), seen),
        21 => {
            sh(
                "[ -e base/src/extra.rs ] && { mkdir base/src/extra; mv base/src/extra.rs base/src/extra/mod.rs; } || { mv base/src/extra/mod.rs base/src/extra.rs; rmdir base/src/extra; }",
            );
            ("base/src/extra moves".into(), seen)
        }
        22 => {
            sh(&format!(
                "f=$(ls base/src/extra.rs base/src/extra/mod.rs 2>/dev/null | head -1); echo 'pub const N: u32 = {n};' > $f"
            ));
            (format!("base/src/extra is {n}"), seen)
        }
        23 => {
            sh(
                "[ $(readlink app/assets/current.txt) = one.txt ] && ln -sfn two.txt app/assets/current.txt || ln -sfn one.txt app/assets/current.txt",
            );
            ("app/assets/current.txt leads elsewhere".into(), unseen)
        }
        24 => {
            sh("find . ../outside -path ./target -prune -o -path ./.git -prune -o -type f -exec touch {} +");
            ("everything is touched".into(), seen)
        }
        25 => {
            sh(
                "find . ../outside -path ./target -prune -o -path ./.git -prune -o -type f -exec touch -d 2002-02-02 {} +",
            );
            // An edit that some kind of build has not seen yet becomes one that cargo cannot see.
            ("everything is of 2002".into(), !site.edited)
        }
        26 => {
            let text = [
                "pub fn lint(v: &[u8]) -> bool { v.is_empty() }\n",
                "pub fn lint(v: &[u8]) -> bool { v.len() == 0 }\n",
                "pub fn lint(v: &[u8]) -> bool { let unused = 1; v.is_empty() }\n",
            ];
            c.write("app/src/lint.rs", text[n as usize % 3]);
            (format!("app/src/lint.rs: {}", n % 3), seen)
        }
        27 => {
            let text = "pub fn lint(v: &[u8]) -> bool { outside::need(1u8); v }\n";
            c.write("app/src/lint.rs", text);
            ("app/src/lint.rs has errors".into(), seen)
        }
        28 => {
            let manifest = c.read("base/Cargo.toml");
            let old = manifest.lines().find(|l| l.starts_with("version")).expect("a version").to_owned();
            c.write("base/Cargo.toml", manifest.replace(&old, &format!("version = \"0.{n}.0\"")));
            (format!("base is 0.{n}.0"), seen)
        }
        29 => {
            let workspace = c.read("Cargo.toml");
            let text = match workspace.split_once("\n[profile") {
                Some((rest, _)) => format!("{rest}\n"),
                None => format!("{workspace}\n[profile.dev.package.base]\nopt-level = 1\n"),
            };
            c.write("Cargo.toml", text);
            ("a profile changes".into(), seen)
        }
        30 => {
            let text = c.read("clib/c.c");
            c.write("clib/c.c", format!("{text}/* {n} */\n"));
            (format!("clib/c.c has {n}"), seen)
        }
        31 => {
            sh("cp -r app/files app/files.new; rm -r app/files; mv app/files.new app/files");
            ("app/files is another directory with the same files".into(), seen)
        }
        32 => {
            let text = c.read("app/tests/t.rs");
            c.write("app/tests/t.rs", format!("{text}#[test] fn t{n}_{}() {{}}\n", text.len()));
            ("another test".into(), seen)
        }
        _ => {
            // The same bytes by another way: saved by an editor that renames.
            sh(
                "for f in base/src/lib.rs app/assets/one.txt gen/table.txt; do cp $f $f.new; mv $f.new $f; done",
            );
            ("files are saved unchanged".into(), seen)
        }
    }
}

/// Replaces the number after a word.
fn edited(c: &Checkout, path: &str, word: &str, n: u64) -> String {
    let text = c.read(path);
    let at = text.find(word).unwrap_or_else(|| panic!("{path} has no {word}")) + word.len();
    let end = text[at..].find(|ch: char| !ch.is_ascii_digit()).map_or(text.len(), |e| at + e);
    c.write(path, format!("{}{n}{}", &text[..at], &text[end..]));
    format!("{path}: {word}{n}")
}
