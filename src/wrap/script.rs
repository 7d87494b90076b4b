//! A build script that really runs.

use std::ffi::OsString;

use kache_wrapper::cache::Outcome;
use kache_wrapper::compile::{self, Observed};
use kache_wrapper::evidence::Scene;
use kache_wrapper::finish::{Left, Seen};
use kache_wrapper::lookup::Miss;
use kache_wrapper::script::{Script, outputs};

use super::{Action, hex, shadow};

impl Action {
    /// Returns its status as `wait(2)` gave it.
    pub(super) fn run_script(&self, miss: &Miss, script: &Script) -> i32 {
        let mut held = super::held().map_or_else(OsString::new, |held| OsString::from(held + ","));
        held.push(hex(&miss.claim));
        let mut observed = Observed::new(&self.backend.trace_dir(), miss.watch_calls);
        let Ok(ran) = compile::run_script(&self.inv.argv, &held, &mut observed) else {
            self.pass("the build script cannot be started")
        };
        let raw_status = ran.raw_status;
        if !ran.success() {
            self.backend.event(self.failed(miss));
            return raw_status;
        }
        let crates = script.crates();
        let scene = Scene {
            inv: &self.inv,
            prefixes: &script.prefixes,
            sysroot: &script.sysroot,
            own: &script.out_dir,
            own_is_new: !self.was_used,
            moved: None,
            state: &[],
            crates: &crates,
            known: &script.programs,
            values_bind: script.values_bind(),
            is_script: true,
            judged: std::slice::from_ref(&script.program),
            is_watched: miss.watch_calls,
            started_ns: ran.started_ns,
        };
        let mut seen = self.seen(observed.account(), &scene);
        match outputs::collect(&script.out_dir, crate::umask::of_process()) {
            Ok(found) => {
                if let Seen::Evidence(evidence) = &mut seen
                    && !self.was_used
                    && shadow::shows(&self.backend.scratch_dir(), &self.inv, script, &ran, evidence, &found)
                {
                    evidence.asked.clear();
                }
                let given = super::given(&self.inv);
                self.store(miss, Left { ran, seen, found, was_used: self.was_used, given });
            }
            Err(error) => {
                let (name, kind) = (miss.work.name(), miss.work.kind());
                self.backend.event(self.event(Outcome::Unstored, name, kind, &error.to_string()));
            }
        }
        raw_status
    }
}
