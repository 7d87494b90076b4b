//! Programs to be observed, and questions to their accounts.

use kache_trace::{Access, Account, How, Observer};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory of its own with canonical path.
pub struct Place {
    _dir: tempfile::TempDir,
    pub path: PathBuf,
}

#[allow(dead_code)]
impl Place {
    pub fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(dir.path()).unwrap();
        Place { _dir: dir, path }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        fs::write(self.at(name), text).unwrap();
        self.at(name)
    }

    /// Compiles a C program; `options` may make it a library.
    pub fn c(&self, name: &str, options: &[&str], text: &str) -> PathBuf {
        let source = self.write(&format!("{name}.c"), text);
        run(Command::new("cc").arg("-O1").arg("-o").arg(self.at(name)).arg(source).args(options));
        self.at(name)
    }

    /// Compiles a Rust program.
    pub fn rust(&self, name: &str, options: &[&str], text: &str) -> PathBuf {
        let source = self.write(&format!("{name}.rs"), text);
        run(Command::new("rustc").args(options).arg("-o").arg(self.at(name)).arg(source));
        self.at(name)
    }

    pub fn observe(&self, command: &mut Command) -> Account {
        self.observe_with(command, false)
    }

    pub fn observe_with(&self, command: &mut Command, everything: bool) -> Account {
        command.current_dir(&self.path);
        let mut observer = Observer::new(&self.at("observer")).unwrap();
        observer.prepare(command, everything).unwrap();
        let output = command.output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{:?}: {words}", output.status);
        assert!(!words.contains("LD_PRELOAD"), "{words}");
        observer.finish()
    }

    pub fn shell(&self, script: &str) -> Account {
        self.observe(Command::new("/bin/sh").arg("-c").arg(script))
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[allow(dead_code)]
pub fn complete(account: Account) -> Account {
    assert_eq!(account.gaps, Vec::<String>::new());
    account
}

/// Everything that happened to a path.
#[allow(dead_code)]
pub fn hows(account: &Account, path: impl AsRef<Path>) -> Vec<How> {
    let mut hows: Vec<How> = Vec::new();
    for access in account.accesses.iter().filter(|access| access.path == path.as_ref()) {
        if !hows.contains(&access.how) {
            hows.push(access.how);
        }
    }
    hows
}

#[allow(dead_code)]
pub fn access(account: &Account, how: How, path: impl AsRef<Path>) -> &Access {
    let found = account.accesses.iter().find(|access| access.how == how && access.path == path.as_ref());
    found.unwrap_or_else(|| panic!("no {how:?} of {}: {account:#?}", path.as_ref().display()))
}

#[allow(dead_code)]
pub fn programs(account: &Account) -> Vec<String> {
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    account.processes.iter().map(|process| name(&process.program)).collect()
}

/// The object from which a variable was asked for.
#[allow(dead_code)]
pub fn asker(account: &Account, name: &str) -> Option<PathBuf> {
    let variable = account.variables.iter().find(|variable| variable.name == name)?;
    Some(account.objects[variable.object as usize].clone())
}
