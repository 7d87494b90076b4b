//! What a build shows, and what plain cargo shows from nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::Vars;
use super::support::{Checkout, World};

/// What can be compared of a build.
#[derive(Clone, Default)]
pub struct Seen {
    pub success: bool,
    /// Messages of compilers, as people see them.
    messages: BTreeSet<String>,
    /// What build scripts told cargo, by package.
    scripts: BTreeMap<String, String>,
    /// What programs print.
    prints: BTreeMap<String, String>,
    /// Files beside the program, with the text of small ones that are no programs.
    files: BTreeMap<String, String>,
    /// Cargo went on after a failure, so that everything that can be built was.
    complete: bool,
    /// For people.
    said: String,
}

impl Seen {
    /// The first words about a failure.
    pub fn error(&self) -> Option<String> {
        let line = self.said.lines().find(|l| l.starts_with("error")).unwrap_or("fails");
        (!self.success).then(|| line.to_owned())
    }

    /// Lines and messages with one of the words in `ignored` do not count.
    pub fn difference(kache: &Seen, truth: &Seen, ignored: &[String]) -> Option<String> {
        let counts = |text: &&str| !ignored.iter().any(|word| text.contains(&**word));
        let counted = |text: &str| text.lines().filter(|l| counts(l)).collect::<Vec<_>>().join("\n");
        if kache.success != truth.success {
            return Some(format!(
                "kache: success is {}, plain cargo: {}\n{}",
                kache.success, truth.success, kache.said
            ));
        }
        if !truth.success && !truth.complete {
            return None;
        }
        let mut lines = Vec::new();
        for message in truth.messages.difference(&kache.messages).filter(|m| counts(&m.as_str())) {
            lines.push(format!("only plain cargo says:\n{message}"));
        }
        for message in kache.messages.difference(&truth.messages).filter(|m| counts(&m.as_str())) {
            lines.push(format!("only kache says:\n{message}"));
        }
        for (what, kache, truth) in [
            ("script of", &kache.scripts, &truth.scripts),
            ("program", &kache.prints, &truth.prints),
            ("file", &kache.files, &truth.files),
        ] {
            for (name, text) in truth {
                // An older build may have left more, but not less.
                let (got, text) = (counted(kache.get(name).map_or("nothing", |t| t)), counted(text));
                if got != text {
                    lines.push(format!("{what} {name}: {}", first_difference(&got, &text)));
                }
            }
        }
        (!lines.is_empty()).then(|| lines.join("\n"))
    }
}

fn first_difference(kache: &str, truth: &str) -> String {
    let pairs = kache.lines().zip(truth.lines());
    match pairs.into_iter().find(|(a, b)| a != b) {
        Some((a, b)) => format!("\n  kache: {a}\n  plain: {b}"),
        None => format!("\n  kache: {kache:?}\n  plain: {truth:?}"),
    }
}

pub struct Oracle {
    known: HashMap<blake3::Hash, Seen>,
    target: PathBuf,
}

impl Oracle {
    pub fn new(world: &World) -> Oracle {
        Oracle { known: HashMap::new(), target: world.root().join("plain") }
    }

    pub fn kache(&self, c: &Checkout, words: &str) -> Seen {
        run(c, c.command("cargo"), words, &c.dir().join("target"))
    }

    /// Of everything that a build here may depend on, but times.
    pub fn key(&self, c: &Checkout, words: &str, vars: &Vars) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{} {words} {:?}", c.dir().display(), vars.0).as_bytes());
        hasher.update(c.sh("git log -1 --format='%H %s'; git status --porcelain -b | head -1").as_bytes());
        for dir in [c.dir().parent().expect("a parent").to_owned(), c.world().root().join("tools")] {
            add(&mut hasher, &dir, c.dir());
        }
        hasher.finalize()
    }

    pub fn plain(&mut self, c: &Checkout, words: &str, key: blake3::Hash) -> Seen {
        if let Some(seen) = self.known.get(&key) {
            return seen.clone();
        }
        let mut command = c.plain_command();
        command.env("CARGO_TARGET_DIR", &self.target);
        let seen = run(c, command, words, &self.target);
        // Cargo may have failed before it made it.
        let _ = fs::remove_dir_all(&self.target);
        self.known.insert(key, seen.clone());
        seen
    }
}

fn add(hasher: &mut blake3::Hasher, dir: &Path, checkout: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut all: Vec<PathBuf> = entries.map(|e| e.expect("a readable directory").path()).collect();
    all.sort();
    for path in all {
        if path == checkout.join("target") || path.ends_with(".git") {
            continue;
        }
        hasher.update(path.as_os_str().as_encoded_bytes()).update(b"\0");
        let meta = fs::symlink_metadata(&path).expect("a readable directory");
        if meta.is_dir() {
            add(hasher, &path, checkout);
        } else if meta.is_symlink() {
            hasher.update(fs::read_link(&path).expect("a link").as_os_str().as_encoded_bytes());
        } else {
            let bytes = fs::read(&path).unwrap_or_default();
            hasher.update(&bytes.len().to_le_bytes()).update(&bytes);
        }
    }
}

/// Runs cargo and looks at what is there then. Paths of its target directory read as those of the checkout's.
fn run(c: &Checkout, mut cargo: Command, words: &str, target: &Path) -> Seen {
    cargo.args(words.split(' ')).args(["--offline", "--message-format=json"]);
    let test = words.starts_with("test");
    if !test {
        cargo.arg("--keep-going");
    }
    let output = cargo.output().expect("cargo starts");
    let own = c.dir().join("target").display().to_string();
    let usual = |text: &str| text.replace(&*target.to_string_lossy(), &own);
    let mut seen = Seen {
        success: output.status.success(),
        complete: !test,
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
        ..Seen::default()
    };
    let mut programs = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else { continue };
        let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
        match message["reason"].as_str() {
            Some("compiler-message") => {
                let rendered = message["message"]["rendered"].as_str().unwrap_or_default();
                // How many there were depends on which units were built at once.
                if !rendered.contains("warnings emitted") && !rendered.contains("warning emitted") {
                    seen.messages.insert(format!("{}: {}", message["target"]["name"], usual(rendered)));
                }
            }
            Some("build-script-executed") => {
                let told =
                    ["env", "cfgs", "linked_libs", "linked_paths"].map(|name| message[name].to_string());
                seen.scripts.insert(text("package_id"), usual(&told.join(" ")));
            }
            Some("compiler-artifact") => {
                if let Some(program) = message["executable"].as_str() {
                    let kind = &message["target"]["kind"][0];
                    let test = message["profile"]["test"] == true;
                    let name =
                        format!("{} {kind}{}", message["target"]["name"], if test { " test" } else { "" });
                    programs.insert(name, (program.to_owned(), test));
                }
            }
            _ => {}
        }
    }
    for (name, (program, test)) in programs {
        let mut command = c.command(&program);
        // Programs of others do things without arguments.
        let ours = c.dir().join("gen").exists() || c.dir().join("generated").exists();
        command.args(match (test, ours) {
            (true, _) => &["--list"][..],
            (_, true) => &[],
            _ => &["--version"],
        });
        let printed =
            command.output().map(|o| format!("{} {}", o.status, String::from_utf8_lossy(&o.stdout)));
        seen.prints.insert(name, usual(&printed.unwrap_or_else(|e| e.to_string())));
    }
    for entry in fs::read_dir(target.join("debug")).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if entry.file_type().is_ok_and(|t| t.is_file()) && !name.ends_with(".d") && name != ".cargo-lock" {
            let text = if name.ends_with(".txt") {
                fs::read_to_string(path).unwrap_or_default()
            } else {
                String::new()
            };
            seen.files.insert(name, text);
        }
    }
    seen
}
