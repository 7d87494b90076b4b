//! Projects of others, and the workspace of the tests: edits that fit any project.

use std::path::PathBuf;
use std::process::Command;

use super::support::Checkout;
use super::support::dice::Dice;
use super::{Site, Vars};

/// Name and version of published programs, which come with a `Cargo.lock`.
pub const PUBLISHED: &[(&str, &str)] = &[
    ("ripgrep", "15.1.0"),
    ("just", "1.42.4"),
    ("tokei", "12.1.2"),
    ("git-delta", "0.18.2"),
    ("bat", "0.26.0"),
];

/// The source of a published program, fetched once.
pub fn fetch(name: &str, version: &str) -> PathBuf {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{version}"));
    let fetched =
        Command::new(root.join("scripts/lib/fetch-project")).args([name, version]).arg(&dir).status();
    assert!(fetched.expect("bash").success(), "{name} {version} cannot be fetched");
    dir
}

pub fn edit(site: &mut Site, vars: &mut Vars, dice: &mut Dice) -> (String, bool) {
    let n = dice.below(1000);
    let c = &site.checkout;
    let sources = c.sh("git ls-files '*.rs' | grep -v -e /tests/ -e benches | sort");
    let sources: Vec<&str> = sources.lines().collect();
    let source = sources[dice.below(sources.len() as u64) as usize];
    match dice.below(9) {
        0 | 1 => (append(c, source, &format!("\n// {n}\n")), true),
        2 => (
            append(
                c,
                source,
                &format!(
                    "\n#[allow(dead_code)]\nconst STORY_{n}_{}: &str = \"{n}\";\n",
                    c.read(source).len()
                ),
            ),
            true,
        ),
        3 => {
            append(c, source, &format!("\n// {n}\n"));
            c.sh(&format!("touch -d 2001-01-01 {source}"));
            (format!("{source}, of 2001"), false)
        }
        4 => {
            c.sh("git ls-files -z | xargs -0 touch");
            ("everything is touched".into(), true)
        }
        5 => {
            c.sh(&format!("git add -A; git commit -q --allow-empty -m {n}"));
            (format!("git commit {n}"), false)
        }
        6 => (vars.flag("RUSTFLAGS", "--cfg story"), true),
        7 => (vars.set("USER", n % 2), false),
        _ => {
            let name = format!("{source}.txt");
            c.write(&name, n.to_string());
            (format!("{name} appears"), false)
        }
    }
}

fn append(c: &Checkout, path: &str, text: &str) -> String {
    let old = c.read(path);
    c.write(path, format!("{old}{text}"));
    format!("{path} gets {:?}", text.trim())
}

/// Sources at a new site, in a repository of their own.
pub fn lay_out(site: &Checkout, from: &std::path::Path) {
    site.sh(&format!(
        "cp -r '{}'/. . && rm -rf target .git && echo /target >>.gitignore && git init -q -b main . && git add -A && git commit -qm one",
        from.display()
    ));
}
