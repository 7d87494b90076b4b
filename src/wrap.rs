//! The wrapper role: what cargo runs in place of rustc.
//!
//! Whatever goes wrong in here, the real compiler runs with the same arguments, and at most the log says why.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use kache_wrapper::cache::{EntryKey, Event, Invocation, Outcome};
use kache_wrapper::claim::{self, Claim};
use kache_wrapper::compile::{self, Ran};
use kache_wrapper::finish::{self, Finished};
use kache_wrapper::incremental;
use kache_wrapper::lookup::{Hit, Lookup, Plan, Store};
use kache_wrapper::query::Answer;
use kache_wrapper::script;

use crate::backend::{self, Backend};
use crate::bench::Bench;
use crate::config::Config;
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

/// Runs as compiler wrapper. `argv` is everything behind the program's own name.
pub fn run(mut argv: Vec<OsString>) -> ! {
    let started = Instant::now();
    // Wrapped in itself: once is enough.
    while argv.len() > 1 && Path::new(&argv[0]).file_stem() == Some(OsStr::new("kache")) {
        argv.remove(0);
    }
    let active = std::env::var_os(compile::ACTIVE).is_some();
    let Some(inv) = invocation(&argv).filter(|_| !active) else { exec(&argv) };
    let config = backend::config(&inv);
    if config.disabled || is_c_compiler(&argv[0]) && config.fallback.is_none() {
        exec(&argv);
    }
    let backend = open(config, &argv, "compiling without the cache");
    Action { inv, backend, started }.run()
}

/// What answers; or, when nothing can, `otherwise` is noted and the real program runs.
pub fn open(config: Config, argv: &[OsString], otherwise: &str) -> Backend {
    let cache_dir = config.cache_dir.clone();
    Backend::open(config).unwrap_or_else(|error| {
        crate::log::warn(&cache_dir, &format!("{error:#}; {otherwise}"));
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
    started: Instant,
}

impl Action {
    fn run(self) -> ! {
        match self.backend.lookup(&self.inv, self.started.elapsed()) {
            Ok(Lookup::Hit(hit)) => self.hit(hit),
            Ok(Lookup::Told(answer)) => self.tell(&answer),
            Ok(Lookup::Pass { reason }) => self.pass(&reason),
            Ok(Lookup::Miss(plan)) => self.miss(*plan),
            Err(error) => {
                self.backend.warn(&format!("lookup failed: {error}"));
                self.pass(&format!("cache error: {error}"))
            }
        }
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
        compile::print(libc::STDOUT_FILENO, &hit.stdout);
        compile::print(libc::STDERR_FILENO, &hit.stderr);
        self.backend.note_hit(&hit, &self.inv, self.started.elapsed());
        std::process::exit(0)
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
        let name = self.inv.var("CARGO_CRATE_NAME").or(self.inv.argv.get(1).map(OsString::as_os_str));
        let name = name.unwrap_or_default().to_string_lossy().into_owned();
        self.backend.event(self.entry_event(Outcome::Pass, &name, "", reason));
        self.backend.close();
        match self.backend.fallback() {
            Some(wrapper) => {
                let mut argv = vec![wrapper.to_owned()];
                argv.extend(self.inv.argv.iter().cloned());
                exec(&argv)
            }
            None => exec(&self.inv.argv),
        }
    }

    fn miss(&self, plan: Plan) -> ! {
        let (mut plan, claim) = match plan.store {
            Store::Yes => self.claim(plan),
            Store::Edit => (plan, None),
        };
        unlink_shared_outputs(&plan);
        let bench = Bench::set_up(&plan, &self.backend);
        if bench.is_none() {
            plan.scratch = None;
        }
        match incremental::adopt(&plan) {
            Ok(true) => plan.reason.push_str("; its incremental state came from another checkout"),
            Ok(false) => {}
            // Without it the compile takes longer, no more.
            Err(error) => tracing::debug!(%error, "incremental state is not adopted"),
        }
        let (argv, argfile) = match command(&plan, bench.as_ref(), &self.inv.cwd) {
            Ok(command) => command,
            Err(error) => self.pass(&format!("cannot write an argument file: {error}")),
        };
        let mut announce = |lines: &mut Vec<u8>| {
            if let Some(bench) = &bench {
                bench.correct(lines);
            }
            let Some(path) = finish::early_output(&plan, lines).map(|path| self.inv.cwd.join(path)) else {
                return;
            };
            let noted = match (&bench, path.file_name()) {
                (Some(bench), Some(name)) => bench.show(&self.backend, name),
                _ => Ok(()),
            };
            if let Err(error) = noted.and_then(|()| self.backend.announced(&plan, &path)) {
                self.backend.warn(&format!("cannot note {}: {error}", path.display()));
            }
        };
        let mut ran = match compile::run(&argv, &mut announce) {
            Ok(ran) => ran,
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) => self.pass("command line too long"),
            Err(_) => self.pass("the compiler cannot be started"),
        };
        drop(argfile);
        if ran.success()
            && let Some(bench) = &bench
            && let Err(error) = bench.hand_over_all(&self.backend)
        {
            eprintln!("kache: cannot put outputs into {}: {error}", plan.compile.out_dir.display());
            ran.raw_status = 1 << 8;
        }
        if ran.success()
            && bench.is_none()
            && plan.store == Store::Edit
            && let Err(error) = incremental::correct_dep_info(&plan, &self.inv.cwd)
        {
            self.backend.warn(&format!("cannot correct dep-info: {error}"));
        }
        drop(bench);
        if ran.success() {
            if let Err(error) = incremental::note(&plan) {
                tracing::debug!(%error, "incremental state is not noted");
            }
            let entry = self.store(&plan, &ran);
            self.install_launcher(&plan, entry.as_ref());
        } else {
            let event = self.entry_event(
                Outcome::Failed,
                &plan.compile.crate_name,
                plan.compile.kind(),
                &plan.reason,
            );
            self.backend.event(event);
        }
        drop(claim);
        self.backend.close();
        compile::exit_like(ran.raw_status)
    }

    /// Waits for another process that compiles the same; then its result is a hit here.
    fn claim(&self, plan: Plan) -> (Plan, Option<Claim>) {
        let waited = match claim::claim(&self.backend.locks_dir(), &plan.claim) {
            Ok(claim::Outcome::Owner(claim)) => match self.backend.has_news(&plan) {
                // Somebody finished it between our lookup and our claim.
                true => {
                    drop(claim);
                    true
                }
                false => return (plan, Some(claim)),
            },
            Ok(claim::Outcome::Waited) => true,
            Ok(claim::Outcome::Stuck) => false,
            Err(error) => {
                self.backend.warn(&format!("cannot lock: {error}"));
                false
            }
        };
        if waited {
            match self.backend.lookup(&self.inv, self.started.elapsed()) {
                Ok(Lookup::Hit(hit)) => self.hit(hit),
                Ok(Lookup::Miss(plan)) => return (*plan, None),
                _ => {}
            }
        }
        (plan, None)
    }

    /// From now on cargo asks kache to run this build script.
    fn install_launcher(&self, plan: &Plan, entry: Option<&EntryKey>) {
        if script::has_launcher(&self.inv, &plan.compile, self.backend.settings()) {
            let program = script::program(&plan.compile);
            if let Err(error) = launcher::install(&program, entry) {
                self.backend.warn(&format!("cannot put a launcher at {}: {error}", program.display()));
            }
        }
    }

    /// Returns the entry, if there is one now.
    fn store(&self, plan: &Plan, ran: &Ran) -> Option<EntryKey> {
        let mut entry = None;
        let name = &plan.compile.crate_name;
        let kind = plan.compile.kind();
        let event = match self.backend.finish(&self.inv, plan, ran) {
            Ok(Finished::Stored(key, bytes)) => {
                let event = self.entry_event(Outcome::Miss, name, kind, &plan.reason);
                let event = Event { key: key.to_hex(), bytes, ..event };
                entry = Some(key);
                event
            }
            Ok(Finished::Unstored(_)) if plan.store == Store::Edit => {
                self.entry_event(Outcome::Edit, name, kind, &plan.reason)
            }
            Ok(Finished::Unstored(reason)) => self.entry_event(Outcome::Unstored, name, kind, &reason),
            Err(error) => {
                self.backend.warn(&format!("cannot store {name}: {error}"));
                self.entry_event(Outcome::Unstored, name, kind, &error.to_string())
            }
        };
        self.backend.event(event);
        entry
    }

    fn entry_event(&self, outcome: Outcome, crate_name: &str, kind: &str, reason: &str) -> Event {
        Event::of(&self.inv, outcome, crate_name, kind, reason, self.started.elapsed())
    }
}

/// The command line of a plan; long ones go through a file, as cargo does it.
fn command(
    plan: &Plan,
    bench: Option<&Bench>,
    cwd: &Path,
) -> std::io::Result<(Vec<OsString>, Option<tempfile::NamedTempFile>)> {
    let argv = match bench {
        Some(bench) => bench.argv(&plan.argv, cwd),
        None if plan.store == Store::Edit => incremental::argv(plan, cwd),
        None => plan.argv.clone(),
    };
    if !plan.argfile {
        return Ok((argv, None));
    }
    use std::io::Write;
    use std::os::unix::ffi::OsStrExt;
    let (driver, args) = argv.split_at(plan.compile.driver.len());
    let mut file = tempfile::Builder::new().prefix("kache-args").tempfile()?;
    let mut text = Vec::new();
    for arg in args {
        text.extend_from_slice(arg.as_bytes());
        text.push(b'\n');
    }
    file.write_all(&text)?;
    let mut argv = driver.to_vec();
    let mut at = OsString::from("@");
    at.push(file.path());
    argv.push(at);
    Ok((argv, Some(file)))
}

/// A compiler must never write into a file that shares its bytes with a blob.
fn unlink_shared_outputs(plan: &Plan) {
    use std::os::unix::fs::MetadataExt;
    let compile = &plan.compile;
    let stem = compile.stem();
    let names = ["", ".exe", ".wasm"]
        .map(|e| format!("{stem}{e}"))
        .into_iter()
        .chain(["rlib", "rmeta", "so", "a", "dylib", "dll"].map(|e| format!("lib{stem}.{e}")));
    for path in
        names.map(|n| compile.out_dir.join(n)).chain(compile.emits.iter().filter_map(|(_, p)| p.clone()))
    {
        if let Ok(meta) = std::fs::symlink_metadata(&path)
            && meta.is_file()
            && (meta.nlink() > 1 || meta.mode() & 0o200 == 0)
        {
            let _ = std::fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compilers_are_told_from_commands() {
        let is = |first: &str| is_wrapper_call(&[OsString::from(first)]);
        for compiler in [
            "rustc",
            "/t/bin/rustc",
            "cc",
            "c++",
            "x86_64-linux-gnu-gcc-14",
            "clang++-18.1",
            "musl-gcc",
            "./x",
        ] {
            assert!(is(compiler), "{compiler}");
        }
        for command in ["gc", "stats", "mount", "clean", "doctor", "--version", "init", "config"] {
            assert!(!is(command), "{command}");
        }
    }
}
