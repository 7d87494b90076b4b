//! A checkout of a project: its files, and commands in it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{Run, World};

#[derive(Clone)]
pub struct Checkout {
    world: World,
    dir: PathBuf,
    /// HOME of who works here; everybody has their own, and a CARGO_HOME in it.
    home: PathBuf,
    /// Set, or (`None`) unset, on top of the rest.
    env: Vec<(OsString, Option<OsString>)>,
    /// Seconds after which cargo is ended.
    limit: Option<u32>,
}

/// More than file systems' clocks need to move.
const TICK: std::time::Duration = std::time::Duration::from_millis(10);

impl Checkout {
    pub(super) fn new(world: World, dir: PathBuf) -> Checkout {
        let name = dir.file_name().expect("a name").to_owned();
        let home = world.root().join("homes").join(name);
        for dir in [&dir, &home] {
            fs::create_dir_all(dir).expect("our own directory");
        }
        world.own(&world.root().join("homes"));
        let mut top = dir.clone();
        while top.parent() != Some(world.root()) && top.parent().is_some_and(|p| p.starts_with(world.root()))
        {
            top.pop();
        }
        world.own(&top);
        let checkout = Checkout { world, dir, home, env: Vec::new(), limit: None };
        if checkout.world.mounted() {
            checkout.sh("mkdir -p target");
            let mounted = checkout.kache(&["mount", "target"]);
            assert!(mounted.status.success(), "kache mount: {}", String::from_utf8_lossy(&mounted.stderr));
        }
        checkout
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn world(&self) -> &World {
        &self.world
    }

    /// The same checkout with another environment.
    pub fn env(&self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Checkout {
        let mut other = self.clone();
        other.env.push((name.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        other
    }

    pub fn without_env(&self, name: &str) -> Checkout {
        let mut other = self.clone();
        other.env.push((name.into(), None));
        other
    }

    /// The same checkout, moved there.
    pub fn at(&self, dir: &Path) -> Checkout {
        Checkout { dir: dir.to_owned(), ..self.clone() }
    }

    /// Cargo is ended with all that it started when it takes longer: for builds that might wait for themselves.
    pub fn limited(&self, seconds: u32) -> Checkout {
        Checkout { limit: Some(seconds), ..self.clone() }
    }

    /// Writes a file of the project.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.dir.join(path);
        let parent = path.parent().expect("a file in a directory");
        fs::create_dir_all(parent).expect("our own directory");
        // cargo compares time stamps, and these move in ticks: an edit in the tick of a build's start is not seen by
        // plain cargo either.
        std::thread::sleep(TICK);
        fs::write(&path, text).expect("our own file");
        self.world.own(parent);
    }

    /// Writes a file unless it has that text already.
    pub fn write_changed(&self, path: &str, text: &str) {
        if fs::read_to_string(self.dir.join(path)).is_ok_and(|old| old == text) {
            return;
        }
        self.write(path, text);
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.dir.join(path)).expect("a readable file")
    }

    /// Replaces text in a file of the project.
    pub fn edit(&self, path: &str, old: &str, new: &str) {
        let text = self.read(path);
        assert!(text.contains(old), "{path} has no {old:?}");
        self.write(path, text.replace(old, new));
    }

    /// A command in this checkout, with kache as the compiler's wrapper.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.world.command(program);
        command.current_dir(&self.dir).env("HOME", &self.home).env("CARGO_HOME", self.home.join("cargo"));
        command.env("CARGO_NET_OFFLINE", "true").env("CARGO_TERM_COLOR", "never");
        command.env("KACHE_STORY_HERE", &self.dir);
        command.env("RUSTC", self.world.shim()).env("RUSTC_WRAPPER", self.world.kache_program());
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// Cargo with words as a person types them, and an account of what happened.
    pub fn cargo(&self, words: &str) -> Run {
        self.cargo_args(words.split_whitespace())
    }

    pub fn cargo_args(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Run {
        let before = run::Marks::of(self);
        let output = self.cargo_output(args);
        Run::new(self, before, output)
    }

    /// Cargo without an account, for worlds whose cache cannot tell.
    pub fn cargo_output(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
        let mut cargo = match self.limit {
            Some(seconds) => {
                let mut timeout = self.command("timeout");
                timeout.args(["--kill-after=5", &seconds.to_string(), "cargo"]);
                timeout
            }
            None => self.command("cargo"),
        };
        cargo.args(args).output().expect("cargo starts")
    }

    /// What the same command does without kache, in a target directory of its own that was never used before.
    /// Returns that directory.
    pub fn plain(&self, words: &str) -> PathBuf {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let target = self.world.root().join(format!("plain-{n}"));
        let mut cargo = self.plain_command();
        cargo.args(words.split_whitespace()).env("CARGO_TARGET_DIR", &target);
        let output = cargo.output().expect("cargo starts");
        assert!(output.status.success(), "plain cargo: {}", String::from_utf8_lossy(&output.stderr));
        target
    }

    /// Cargo in this checkout, without kache.
    pub fn plain_command(&self) -> Command {
        let mut cargo = self.command("cargo");
        cargo.env_remove("RUSTC_WRAPPER").env("RUSTC", self.world.real_rustc());
        // What the test set itself counts.
        for (name, value) in self.env.iter().filter(|(name, _)| name == "RUSTC") {
            cargo.env(name, value.as_deref().unwrap_or_default());
        }
        cargo
    }

    pub fn kache(&self, args: &[&str]) -> Output {
        self.command(self.world.kache_program()).args(args).output().expect("kache starts")
    }

    /// What `kache …` prints; it must succeed.
    pub fn kache_prints(&self, words: &str) -> String {
        let args: Vec<&str> = words.split_whitespace().collect();
        let output = self.kache(&args);
        let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "kache {words}: {}{}", said(&output.stdout), said(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    pub fn kache_json(&self, words: &str) -> serde_json::Value {
        serde_json::from_str(&self.kache_prints(words)).expect("JSON")
    }

    /// Output of a program, by its path in this checkout.
    pub fn prints(&self, program: impl AsRef<Path>) -> String {
        let program = self.dir.join(program);
        let output = self.command(&program).output().unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        assert!(
            output.status.success(),
            "{}: {}",
            program.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// A shell command as the user of this checkout, who alone may look into the mounts.
    pub fn sh(&self, script: &str) -> String {
        let output = self.command("sh").args(["-ec", script]).output().expect("sh starts");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Bytes of a file, read by the user of this checkout.
    pub fn bytes(&self, path: impl AsRef<Path>) -> Vec<u8> {
        let output = self.command("cat").arg("--").arg(path.as_ref()).output().expect("cat starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Files below `target` whose names match a pattern of `find -name`, sorted, relative to the checkout.
    pub fn find(&self, pattern: &str) -> Vec<PathBuf> {
        let found = self.command("find").args(["target", "-type", "f", "-name", pattern, "-print0"]).output();
        let found = found.expect("find starts").stdout;
        let mut paths: Vec<PathBuf> =
            found.split(|&b| b == 0).filter(|p| !p.is_empty()).map(|p| OsStr::from_bytes(p).into()).collect();
        paths.sort();
        paths
    }

    /// `rm -rf target` of a target that is not mounted.
    pub fn clean_plainly(&self) {
        self.sh("rm -rf target");
    }

    /// `rm -rf target`, as far as the mount point itself can go.
    pub fn clean(&self) {
        if self.world.mounted() {
            self.sh("find target -mindepth 1 -delete");
        } else {
            self.sh("rm -rf target");
        }
    }
}

use super::run;
