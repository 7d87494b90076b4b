//! The launcher role: what cargo runs in place of a build script.
//!
//! Whatever goes wrong in here, the script itself runs, and at most the log says why.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use kache_wrapper::cache::{Event, Invocation, Outcome};
use kache_wrapper::claim::{self, Claim};
use kache_wrapper::compile::{self, Ran};
use kache_wrapper::finish::Finished;
use kache_wrapper::lookup::Hit;
use kache_wrapper::script::outputs::{self, After};
use kache_wrapper::script::{self, ScriptLookup, ScriptPlan, Watch};

use crate::backend::Backend;
use crate::wrap::{self, exec};

/// Runs a build script, or does what it did. `argv` is its program and its arguments (cargo gives none).
pub fn run(argv: Vec<OsString>) -> ! {
    let started = Instant::now();
    if argv.is_empty() {
        eprintln!("kache: {} wants the program of a build script", crate::launcher::ROLE);
        std::process::exit(2);
    }
    let active = std::env::var_os(compile::ACTIVE).is_some();
    let Some(inv) = wrap::invocation(&argv).filter(|_| !active) else { exec(&argv) };
    let config = crate::backend::config(&inv);
    if config.disabled {
        exec(&argv);
    }
    let backend = wrap::open(config, &argv, "running a build script without the cache");
    let out_dir = inv.var("OUT_DIR").map(PathBuf::from);
    let left = out_dir.is_some_and(|dir| !outputs::is_empty(&dir));
    Run { inv, backend, started, left }.run()
}

struct Run {
    inv: Invocation,
    backend: Backend,
    started: Instant,
    /// `OUT_DIR` holds what an earlier run left.
    left: bool,
}

impl Run {
    fn run(self) -> ! {
        match self.backend.script_lookup(&self.inv) {
            Ok(ScriptLookup::Hit { hit, after, tree }) => self.hit(hit, &after, tree),
            Ok(ScriptLookup::Pass { reason }) => self.pass(&reason),
            Ok(ScriptLookup::Miss(plan)) => self.miss(*plan),
            Err(error) => {
                self.backend.warn(&format!("lookup failed: {error}"));
                self.pass(&format!("cache error: {error}"))
            }
        }
    }

    fn hit(&self, hit: Hit, after: &[After], tree: Vec<PathBuf>) -> ! {
        if let Err(error) = self.complete(after, tree) {
            self.backend.warn(&format!("cannot restore OUT_DIR: {error}"));
            self.pass("OUT_DIR cannot be restored");
        }
        compile::print(libc::STDOUT_FILENO, &hit.stdout);
        compile::print(libc::STDERR_FILENO, &hit.stderr);
        self.backend.event(Event {
            key: hit.key.to_hex(),
            saved_ms: hit.saved_ms,
            bytes: hit.bytes,
            link_mode: Some(hit.link_mode),
            ..self.told(Outcome::Hit, "")
        });
        self.backend.close();
        std::process::exit(0)
    }

    fn complete(&self, after: &[After], tree: Vec<PathBuf>) -> std::io::Result<()> {
        if self.left
            && let Some(out_dir) = self.inv.var("OUT_DIR")
        {
            outputs::prune(Path::new(out_dir), &HashSet::from_iter(tree))?;
        }
        outputs::complete(after)
    }

    fn pass(&self, reason: &str) -> ! {
        self.backend.event(self.told(Outcome::Pass, reason));
        self.backend.close();
        exec(&self.inv.argv)
    }

    fn miss(&self, plan: ScriptPlan) -> ! {
        let (plan, claim) = self.claim(plan);
        let watch = Watch::begin(&plan.script, &self.inv);
        let Ok(ran) = compile::run_script(&self.inv.argv) else {
            self.pass("the build script cannot be started")
        };
        let event = match ran.success() {
            true => self.store(&plan, &ran, &watch),
            false => self.told(Outcome::Failed, &plan.reason),
        };
        self.backend.event(event);
        drop(claim);
        self.backend.close();
        compile::exit_like(ran.raw_status)
    }

    /// Waits for another process that runs the same; then its result is a hit here.
    fn claim(&self, plan: ScriptPlan) -> (ScriptPlan, Option<Claim>) {
        let claimed = match claim::claim(&self.backend.locks_dir(), &plan.invocation.0) {
            Ok(claim::Outcome::Owner(claim)) => match self.backend.script_has_news(&plan) {
                true => None,
                false => Some(claim),
            },
            Ok(claim::Outcome::Waited) => None,
            Ok(claim::Outcome::Stuck) => return (plan, None),
            Err(error) => {
                self.backend.warn(&format!("cannot lock: {error}"));
                return (plan, None);
            }
        };
        if claimed.is_none() {
            match self.backend.script_lookup(&self.inv) {
                Ok(ScriptLookup::Hit { hit, after, tree }) => self.hit(hit, &after, tree),
                Ok(ScriptLookup::Miss(plan)) => return (*plan, None),
                _ => {}
            }
        }
        (plan, claimed)
    }

    fn store(&self, plan: &ScriptPlan, ran: &Ran, watch: &Watch) -> Event {
        if let Some(path) = watch.changed() {
            let path = path.strip_prefix(&plan.script.package).unwrap_or(&path);
            return self
                .told(Outcome::Unstored, &format!("it changed {} outside of OUT_DIR", path.display()));
        }
        let found = match outputs::collect(&plan.script.out_dir) {
            Ok(found) => found,
            Err(error) => return self.told(Outcome::Unstored, &error.to_string()),
        };
        match self.backend.script_finish(&self.inv, plan, ran, &found, self.left) {
            Ok(Finished::Stored(key, bytes)) => {
                Event { key: key.to_hex(), bytes, ..self.told(Outcome::Miss, &plan.reason) }
            }
            Ok(Finished::Unstored(reason)) => self.told(Outcome::Unstored, &reason),
            Err(error) => {
                self.backend.warn(&format!(
                    "cannot store what the build script of {} did: {error}",
                    plan.script.name
                ));
                self.told(Outcome::Unstored, &error.to_string())
            }
        }
    }

    fn told(&self, outcome: Outcome, reason: &str) -> Event {
        let name = script::name(&self.inv);
        Event::of(&self.inv, outcome, &name, script::KIND, reason, self.started.elapsed())
    }
}
