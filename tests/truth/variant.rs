//! A package of a table: its files, and what changes for it.

use std::path::Path;

/// A package, and what changes for it.
#[derive(Clone)]
pub struct Variant {
    pub name: String,
    pub(super) files: Vec<(String, String)>,
    pub(super) uses: Vec<String>,
    pub(super) manifest: String,
    pub(super) vars: Vec<(String, Option<String>, Option<String>)>,
    /// Shell scripts in the package; `$W` is the workspace, `$T` the world, `$D` where cargo puts programs.
    pub(super) before: String,
    pub(super) each: String,
    pub(super) change: String,
    pub(super) look: String,
    pub(super) stored: bool,
}

/// A package that prints what `V` was for its build script, which is `body`.
pub fn script(name: &str, body: &str) -> Variant {
    Variant::new(name).script(body).main(r#"fn main() { println!("{}", env!("V")); }"#)
}

/// A package that prints what a macro of `mac` makes of `call`.
pub fn expands(name: &str, call: &str) -> Variant {
    Variant::new(name).uses("mac").main(&format!("fn main() {{ println!(\"{{}}\", mac::{call}); }}"))
}

impl Variant {
    pub fn new(name: &str) -> Variant {
        Variant {
            name: name.to_owned(),
            files: Vec::new(),
            uses: Vec::new(),
            manifest: String::new(),
            vars: Vec::new(),
            before: String::new(),
            each: String::new(),
            change: String::new(),
            look: format!("\"$D/{name}\""),
            stored: true,
        }
    }

    pub fn file(mut self, path: &str, text: &str) -> Variant {
        self.files.push((path.to_owned(), format!("{text}\n")));
        self
    }

    pub fn main(self, text: &str) -> Variant {
        self.file("src/main.rs", text)
    }

    /// The body of a build script's `main`; `out`, `here`, `set(value)`, `run(words)`, `prints(words)` are there.
    pub fn script(self, body: &str) -> Variant {
        self.file("build.rs", &format!("{SCRIPT}\nfn main() {{\n{body}\n}}"))
    }

    /// A dependency on a package of the table.
    pub fn uses(mut self, name: &str) -> Variant {
        self.uses.push(name.to_owned());
        self
    }

    /// More lines of the `[package]`.
    pub fn manifest(mut self, lines: &str) -> Variant {
        self.manifest.push_str(lines);
        self.manifest.push('\n');
        self
    }

    /// A variable of the build.
    pub fn var(self, name: &str, old: &str, new: &str) -> Variant {
        self.vars(name, Some(old), Some(new))
    }

    pub fn vars(mut self, name: &str, old: Option<&str>, new: Option<&str>) -> Variant {
        self.vars.push((name.to_owned(), old.map(str::to_owned), new.map(str::to_owned)));
        self
    }

    /// Done before the first build.
    pub fn before(mut self, sh: &str) -> Variant {
        self.before = sh.to_owned();
        self
    }

    /// Done before each build: removes what a build made outside of the target directory.
    pub fn each(mut self, sh: &str) -> Variant {
        self.each = sh.to_owned();
        self
    }

    pub fn change(mut self, sh: &str) -> Variant {
        self.change = sh.to_owned();
        self
    }

    /// What is compared is what this prints, instead of the program.
    pub fn look(mut self, sh: &str) -> Variant {
        self.look = sh.to_owned();
        self
    }

    /// Depends on what nobody can know to be the same again, and so need not be a hit.
    pub fn not_stored(mut self) -> Variant {
        self.stored = false;
        self
    }
}

/// What is at hand in build scripts.
const SCRIPT: &str = r#"#![allow(unused)]
use std::{env, fs, path::{Path, PathBuf}, process::Command};
fn out() -> PathBuf { env::var_os("OUT_DIR").unwrap().into() }
fn here() -> PathBuf { env::var_os("CARGO_MANIFEST_DIR").unwrap().into() }
fn profile() -> PathBuf { out().ancestors().nth(3).unwrap().to_owned() }
fn set(v: impl AsRef<str>) { println!("cargo:rustc-env=V={}", v.as_ref().trim().replace('\n', "|")) }
fn only_script() { println!("cargo:rerun-if-changed=build.rs") }
fn text(path: impl AsRef<Path>) -> String { fs::read_to_string(path).unwrap_or_else(|_| "nothing".into()) }
fn prints(words: &[&str]) -> String {
    let o = Command::new(words[0]).args(&words[1..]).output().unwrap();
    format!("{}{}", o.status.code().unwrap(), String::from_utf8_lossy(&o.stdout))
}
fn run(words: &[&str]) { assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success(), "{words:?}") }
/// Compiles and runs a C program.
fn c(file: &str, options: &[&str]) -> String {
    let exe = out().join("exe").display().to_string();
    run(&[&["cc", file, "-o", &exe], options].concat());
    prints(&[&exe])
}
/// A static library of C, with a function.
fn archive(dir: &Path, name: &str, value: &str) {
    fs::create_dir_all(dir).unwrap();
    let (c, o) = (out().join("x.c"), out().join("x.o"));
    fs::write(&c, format!("int {name}(void) {{ return {value}; }}\n")).unwrap();
    run(&["cc", "-fPIC", "-c", c.to_str().unwrap(), "-o", o.to_str().unwrap()]);
    run(&["ar", "crs", dir.join(format!("lib{name}.a")).to_str().unwrap(), o.to_str().unwrap()]);
}
"#;

pub(super) fn dependency(name: &str) -> String {
    format!("{name} = {{ path = \"../{name}\" }}\n")
}

pub fn package(name: &str, more: &str) -> String {
    let name = Path::new(name).file_name().unwrap().to_str().unwrap();
    format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n{more}\n")
}
