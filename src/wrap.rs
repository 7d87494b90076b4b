//! The wrapper role: what cargo runs in place of rustc, and (through a launcher) in place of a build script.
//!
//! Whatever goes wrong in here, the real program runs with the same arguments, and at most the log says why.

mod compiler;
mod script;
mod shadow;

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use kache_trace::Account;
use kache_wrapper::cache::{EntryKey, Event, Invocation, Outcome};
use kache_wrapper::claim::{self, Claim};
use kache_wrapper::compile;
use kache_wrapper::evidence::Scene;
use kache_wrapper::finish::{Finished, Left, Seen};
use kache_wrapper::lookup::{Hit, Lookup, Miss, Role, Work};
use kache_wrapper::query::Answer;
use kache_wrapper::script::outputs;

use crate::backend::{self, Backend};
use crate::config::Config;
use crate::daemon;
use crate::launcher;

/// Is this argv cargo's call of a wrapper, rather than a person's call of a command?
pub fn is_wrapper_call(args: &[OsString]) -> bool {
    let Some(first) = args.first() else { return false };
    let named_like = |names: &[&str]| {
        Path::new(first).file_stem().and_then(OsStr::to_str).is_some_and(|s| names.contains(&s))
    };
    first.as_encoded_bytes().contains(&b'/')
        || named_like(&["rustc", "clippy-driver"])
        || is_c_compiler(first)
        || is_compile(args)
}

/// A wrapper of the workspace's own that is found in `PATH`: whatever its name, it is to run a compiler.
fn is_compile(args: &[OsString]) -> bool {
    let names_rustc = |arg: &OsString| Path::new(arg).file_stem() == Some(OsStr::new("rustc"));
    args.get(1).is_some_and(names_rustc) || args.iter().any(|arg| arg == "--crate-name")
}

/// The `cc` crate runs C compilers through a RUSTC_WRAPPER that is called kache, by their bare names.
fn is_c_compiler(program: &OsStr) -> bool {
    let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(".exe").unwrap_or(&name);
    // As in `x86_64-linux-gnu-gcc-14`.
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').trim_end_matches('-');
    ["cc", "c++", "g++", "clang", "clang++", "clang-cl", "cl", "em++", "icx", "icpx"]
        .iter()
        .any(|c| name.ends_with(c))
}

/// Runs in place of the program in `argv`: everything behind the wrapper's own name.
pub fn run(mut argv: Vec<OsString>, role: Role) -> ! {
    let started = Instant::now();
    // Wrapped in itself: once is enough.
    while argv.len() > 1 && Path::new(&argv[0]).file_stem() == Some(OsStr::new("kache")) {
        argv.remove(0);
    }
    if argv.is_empty() {
        eprintln!("kache: {} wants the program of a build script", launcher::ROLE);
        std::process::exit(2);
    }
    if std::env::var_os(compile::ACTIVE).is_some() {
        exec(&argv);
    }
    if kache_trace::inside() {
        // A build script tries what the compiler can do: whoever observes it is to see what that reads.
        if role == Role::Compiler && std::env::var_os("CARGO_CRATE_NAME").is_none() {
            exec(&argv);
        }
        kache_trace::report_gap("it ran cargo, whose compiles came from the cache");
    }
    if role == Role::BuildScript {
        as_cargo_has_it();
    }
    let Some(inv) = invocation(&argv) else { exec(&argv) };
    let config = backend::config(&inv);
    if config.disabled || role == Role::Compiler && is_c_compiler(&argv[0]) && config.fallback.is_none() {
        exec(&argv);
    }
    // Cargo's first question.
    if argv.get(1).is_some_and(|arg| arg == "-vV") {
        daemon::start::bring_back(&config);
    }
    let backend = open(config, &argv);
    let out_dir = (role == Role::BuildScript).then(|| inv.var("OUT_DIR").map(PathBuf::from)).flatten();
    let was_used = out_dir.is_some_and(|dir| !outputs::is_empty(&dir));
    Action { inv, backend, role, started, was_used }.run()
}

/// The shell of a launcher has put its own values into some variables, which cargo hands on as it has them.
fn as_cargo_has_it() {
    const CHANGED: [&str; 4] = ["PWD", "OLDPWD", "SHLVL", "_"];
    let parent = format!("/proc/{}", std::os::unix::process::parent_id());
    let is_cargo = std::fs::read_link(format!("{parent}/exe"))
        .is_ok_and(|exe| exe.file_stem().is_some_and(|name| name == "cargo"));
    let Some(text) = is_cargo.then(|| std::fs::read(format!("{parent}/environ")).ok()).flatten() else {
        return;
    };
    for name in CHANGED {
        let value = text
            .split(|b| *b == 0)
            .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(OsStr::from_bytes));
        // SAFETY: no other thread runs yet.
        unsafe {
            match value {
                Some(value) => std::env::set_var(name, value),
                None => std::env::remove_var(name),
            }
        }
    }
}

/// What answers; or, when nothing can, the real program runs.
fn open(config: Config, argv: &[OsString]) -> Backend {
    let cache_dir = config.cache_dir.clone();
    Backend::open(config).unwrap_or_else(|error| {
        crate::log::warn(&cache_dir, &format!("{error:#}; going on without the cache"));
        exec(argv)
    })
}

pub fn invocation(argv: &[OsString]) -> Option<Invocation> {
    Some(Invocation {
        argv: argv.to_vec(),
        cwd: std::env::current_dir().ok()?,
        env: std::env::vars_os().collect(),
    })
}

/// Becomes the real program.
pub fn exec(argv: &[OsString]) -> ! {
    let error = Command::new(&argv[0]).args(&argv[1..]).exec();
    eprintln!("kache: could not run {}: {error}", Path::new(&argv[0]).display());
    std::process::exit(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 })
}

struct Action {
    inv: Invocation,
    backend: Backend,
    role: Role,
    started: Instant,
    /// `OUT_DIR` holds what an earlier run of the build script left.
    was_used: bool,
}

impl Action {
    fn run(self) -> ! {
        match self.lookup() {
            Ok(Lookup::Hit(hit)) => self.hit(hit),
            Ok(Lookup::Told(answer)) => self.tell(&answer),
            Ok(Lookup::Pass { reason }) => self.pass(&reason),
            Ok(Lookup::Miss(miss)) => self.miss(*miss),
            Err(error) => {
                self.backend.warn(&format!("lookup failed: {error}"));
                self.pass(&format!("cache error: {error}"))
            }
        }
    }

    fn lookup(&self) -> kache_wrapper::cache::Result<Lookup> {
        self.backend.lookup(&self.inv, self.role, self.started.elapsed())
    }

    fn hit(&self, hit: Hit) -> ! {
        if let Some(program) = &hit.launcher
            && let Err(error) = launcher::write(program, Some(&hit.key))
        {
            self.backend.warn(&format!("cannot write {}: {error}", program.display()));
            if launcher::replace_by_program(program).is_err() {
                self.pass("a build script cannot be put in place");
            }
        }
        if let Err(error) = self.complete(&hit) {
            self.backend.warn(&format!("cannot restore what {} left: {error}", hit.crate_name));
            self.pass("its files cannot be restored");
        }
        compile::print(libc::STDOUT_FILENO, &hit.stdout);
        compile::print(libc::STDERR_FILENO, &hit.stderr);
        self.backend.note_hit(&hit, &self.inv, self.started.elapsed());
        std::process::exit(0)
    }

    /// What a restore of files alone does not do.
    fn complete(&self, hit: &Hit) -> std::io::Result<()> {
        if self.was_used
            && let Some(out_dir) = self.inv.var("OUT_DIR")
        {
            outputs::prune(Path::new(out_dir), &HashSet::from_iter(hit.tree.iter().cloned()))?;
        }
        outputs::complete(&hit.after)
    }

    fn tell(&self, answer: &Answer) -> ! {
        if answer.reads_stdin && !compile::stdin_is_empty() {
            self.pass("source on standard input");
        }
        compile::print(libc::STDOUT_FILENO, &answer.stdout);
        compile::print(libc::STDERR_FILENO, &answer.stderr);
        self.backend.close();
        std::process::exit(0)
    }

    fn pass(&self, reason: &str) -> ! {
        let (name, kind) = match self.role {
            Role::BuildScript => (kache_wrapper::script::name(&self.inv), kache_wrapper::script::KIND),
            Role::Compiler => {
                let name = self.inv.var("CARGO_CRATE_NAME").or(self.inv.argv.get(1).map(OsString::as_os_str));
                (name.unwrap_or_default().to_string_lossy().into_owned(), "")
            }
        };
        self.backend.event(self.event(Outcome::Pass, &name, kind, reason));
        self.backend.close();
        match self.backend.fallback().filter(|_| self.role == Role::Compiler) {
            Some(wrapper) => {
                let mut argv = vec![wrapper.to_owned()];
                argv.extend(self.inv.argv.iter().cloned());
                exec(&argv)
            }
            None => exec(&self.inv.argv),
        }
    }

    fn miss(&self, miss: Miss) -> ! {
        let (miss, claim) = if miss.is_shared() { self.claim(miss) } else { (miss, None) };
        let raw_status = match &miss.work {
            Work::Compile(_) => self.compile(miss),
            Work::Script(script) => self.run_script(&miss, script),
        };
        drop(claim);
        self.backend.close();
        compile::exit_like(raw_status)
    }

    /// Waits for another process that runs the same; then its result is a hit here.
    fn claim(&self, miss: Miss) -> (Miss, Option<Claim>) {
        if held().is_some_and(|held| held.contains(&hex(&miss.claim))) {
            // A build script builds its own package once more.
            return (miss, None);
        }
        let waited = match claim::claim(&self.backend.locks_dir(), &miss.claim) {
            Ok(claim::Outcome::Owner(claim)) => match self.backend.has_news(&miss) {
                // Somebody finished it between our lookup and our claim.
                true => {
                    drop(claim);
                    true
                }
                false => return (miss, Some(claim)),
            },
            Ok(claim::Outcome::Waited) => true,
            Ok(claim::Outcome::Stuck) => false,
            Err(error) => {
                self.backend.warn(&format!("cannot lock: {error}"));
                false
            }
        };
        if waited {
            match self.lookup() {
                Ok(Lookup::Hit(hit)) => self.hit(hit),
                Ok(Lookup::Miss(miss)) => return (*miss, None),
                _ => {}
            }
        }
        (miss, None)
    }

    /// What follows from an account.
    fn seen(&self, account: Option<Account>, scene: &Scene) -> Seen {
        let Some(account) = account else { return Seen::Nothing };
        match scene.read(&account) {
            Ok(evidence) => Seen::Evidence(evidence),
            Err(why) => Seen::Unproven(why),
        }
    }

    /// Stores a result, and notes what became of it. Returns the entry, if there is one now.
    fn store(&self, miss: &Miss, left: Left) -> Option<EntryKey> {
        let (name, kind) = (miss.work.name(), miss.work.kind());
        let mut entry = None;
        let event = match self.backend.finish(&self.inv, self.role, miss, left) {
            Ok(Finished::Stored(key, bytes)) => {
                entry = Some(key);
                Event { key: key.to_hex(), bytes, ..self.event(Outcome::Miss, name, kind, &miss.reason) }
            }
            Ok(Finished::Unstored(_)) if !miss.is_shared() => {
                self.event(Outcome::Edit, name, kind, &miss.reason)
            }
            Ok(Finished::Unstored(reason)) => self.event(Outcome::Unstored, name, kind, &reason),
            Err(error) => {
                self.backend.warn(&format!("cannot store {name}: {error}"));
                self.event(Outcome::Unstored, name, kind, &error.to_string())
            }
        };
        self.backend.event(event);
        entry
    }

    fn failed(&self, miss: &Miss) -> Event {
        self.event(Outcome::Failed, miss.work.name(), miss.work.kind(), &miss.reason)
    }

    fn event(&self, outcome: Outcome, name: &str, kind: &str, reason: &str) -> Event {
        Event::of(&self.inv, outcome, name, kind, reason, self.started.elapsed())
    }
}

/// Names of variables that cargo has set for this action: those that its own environment does not have, or otherwise.
fn given(inv: &Invocation) -> Vec<OsString> {
    let own =
        std::fs::read(format!("/proc/{}/environ", std::os::unix::process::parent_id())).unwrap_or_default();
    let own: HashSet<&[u8]> = own.split(|b| *b == 0).collect();
    // `cargo clippy` tells it to cargo, and so does the next one.
    let is_own = |name: &OsStr, value: &OsStr| {
        name != "CLIPPY_ARGS" && own.contains([name.as_bytes(), b"=", value.as_bytes()].concat().as_slice())
    };
    inv.env.iter().filter(|(name, value)| !is_own(name, value)).map(|(name, _)| name.clone()).collect()
}

fn hex(name: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*name).to_hex().to_string()
}

/// What processes above this one have claimed.
fn held() -> Option<String> {
    std::env::var(compile::HELD).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compilers_are_told_from_commands() {
        let is =
            |words: &str| is_wrapper_call(&words.split_whitespace().map(OsString::from).collect::<Vec<_>>());
        for compiler in [
            "rustc",
            "/t/bin/rustc",
            "cc",
            "c++",
            "x86_64-linux-gnu-gcc-14",
            "clang++-18.1",
            "musl-gcc",
            "./x",
            "my-wrapper rustc --crate-name a",
            "my-rustc --crate-name a",
        ] {
            assert!(is(compiler), "{compiler}");
        }
        for command in
            ["gc", "stats", "mount", "clean", "doctor", "--version", "init", "config", "why-miss a"]
        {
            assert!(!is(command), "{command}");
        }
    }
}
