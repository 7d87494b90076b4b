//! What a command did: its output, kache's events, and the compilers that started.

use std::collections::BTreeSet;
use std::process::Output;

use serde_json::Value;

use super::Checkout;

/// What the logs held before a command.
pub struct Marks {
    events: usize,
    scripts: usize,
    compilers: usize,
}

impl Marks {
    pub fn of(checkout: &Checkout) -> Marks {
        let (events, scripts) = events(checkout);
        Marks { events: events.len(), scripts: scripts.len(), compilers: compilers(checkout).len() }
    }
}

/// An action of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub outcome: String,
    /// Crate and kind: `base lib`, `app bin`.
    pub unit: String,
    pub reason: String,
    pub link_mode: Option<String>,
}

pub struct Run {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
    /// Those that concern this checkout, without cargo's questions to the compiler.
    pub events: Vec<Event>,
    /// Runs of build scripts; the unit is the package.
    pub scripts: Vec<Event>,
    /// Crates that a compiler was started for, sorted.
    pub compiled: Vec<String>,
}

impl Run {
    pub(super) fn new(checkout: &Checkout, before: Marks, output: Output) -> Run {
        let mut compiled = compilers(checkout).split_off(before.compilers);
        compiled.sort();
        let (mut events, mut scripts) = events(checkout);
        Run {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            events: events.split_off(before.events),
            scripts: scripts.split_off(before.scripts),
            compiled,
        }
    }

    /// The command must have succeeded.
    #[track_caller]
    pub fn ok(self) -> Run {
        assert!(self.success, "cargo failed:\n{}{}", self.stdout, self.stderr);
        self
    }

    /// Units with this outcome, sorted.
    pub fn units(&self, outcome: &str) -> BTreeSet<&str> {
        self.events.iter().filter(|e| e.outcome == outcome).map(|e| e.unit.as_str()).collect()
    }

    /// How many actions have this outcome.
    pub fn units_count(&self, outcome: &str) -> usize {
        self.events.iter().filter(|e| e.outcome == outcome).count()
    }

    /// Exactly these units were compiled and stored, and everything else was a hit.
    #[track_caller]
    pub fn missed(&self, units: &[&str]) -> &Run {
        self.only("miss", units)
    }

    /// Exactly these units have the outcome, everything else was a hit, and compilers started for nothing else.
    #[track_caller]
    pub fn only(&self, outcome: &str, units: &[&str]) -> &Run {
        let wanted: BTreeSet<&str> = units.iter().copied().collect();
        assert_eq!(self.units(outcome), wanted, "{outcome}\n{}", self.account());
        let others: Vec<&Event> =
            self.events.iter().filter(|e| e.outcome != outcome && e.outcome != "hit").collect();
        assert!(others.is_empty(), "unexpected {others:?}\n{}", self.account());
        let mut compiled: Vec<&str> = self
            .events
            .iter()
            .filter(|e| e.outcome == outcome)
            .map(|e| e.unit.split(' ').next().unwrap())
            .collect();
        compiled.sort_unstable();
        assert_eq!(self.compiled, compiled, "compilers that started\n{}", self.account());
        self
    }

    /// Everything was a hit, at least one thing was, and no compiler started.
    #[track_caller]
    pub fn all_hit(&self) -> &Run {
        self.missed(&[]);
        assert!(!self.events.is_empty(), "the compiler was not asked for\n{}", self.account());
        self
    }

    /// Nothing was done at all: cargo found everything fresh.
    #[track_caller]
    pub fn fresh(&self) -> &Run {
        assert!(self.events.is_empty() && self.compiled.is_empty(), "not fresh\n{}", self.account());
        assert!(!self.stderr.contains("Compiling "), "not fresh\n{}", self.account());
        self
    }

    /// For messages of failed assertions.
    pub fn account(&self) -> String {
        let mut text = String::new();
        for e in self.events.iter().chain(&self.scripts) {
            text.push_str(&format!("{:<8} {:<28} {}\n", e.outcome, e.unit, e.reason));
        }
        text.push_str(&format!("compiled: {:?}\n{}", self.compiled, self.stderr));
        text
    }
}

/// Compiles, and runs of build scripts, of this checkout so far.
fn events(checkout: &Checkout) -> (Vec<Event>, Vec<Event>) {
    let all = checkout.kache_json("report --format json");
    let here = checkout.dir().to_string_lossy();
    let text = |e: &Value, name: &str| e[name].as_str().unwrap_or_default().to_owned();
    let (scripts, compiles) = all
        .as_array()
        .expect("a list of events")
        .iter()
        .filter(|e| std::path::Path::new(e["cwd"].as_str().unwrap_or_default()).starts_with(&*here))
        // Cargo asks what the compiler is and can.
        .filter(|e| e["reason"] != "query" && e["reason"] != "source on standard input")
        .map(|e| Event {
            outcome: text(e, "outcome"),
            unit: format!("{} {}", text(e, "crate_name"), text(e, "kind")),
            reason: text(e, "reason"),
            link_mode: e["link_mode"].as_str().map(str::to_owned),
        })
        .partition(|e: &Event| e.unit.ends_with(" build-script-run"));
    (compiles, scripts)
}

/// Crates that a compiler was started for in this checkout, in order.
fn compilers(checkout: &Checkout) -> Vec<String> {
    let log = std::fs::read(checkout.world().rustc_log()).expect("the shim's log");
    let here = checkout.dir().to_string_lossy();
    String::from_utf8_lossy(&log)
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter(|(name, of)| *name != "query" && *name != "___" && *of == here)
        .map(|(name, _)| name.to_owned())
        .collect()
}
