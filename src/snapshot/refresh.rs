//! Units of a target directory that cargo takes for stale, though their inputs are again what they were: after a
//! branch was checked out and back, files have new times and the old content.

use std::collections::{BTreeSet, HashMap};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use kache_fs::RelPath;

use super::fork::{label, run_dir, time, times};
use super::freshness::{self, Verdict};
use super::inputs::Inputs;
use super::place::Place;
use super::renew;
use super::take::Snapshot;
use super::tree::{self, Item, Listing};
use super::units::{self, Kind, Unit};
use crate::store::Store;

/// What is to be changed in a target directory.
#[derive(Debug)]
pub struct Plan {
    pub times: Vec<(RelPath, SystemTime)>,
    pub remove: Vec<RelPath>,
    pub fresh: u64,
    /// Units that cargo would have made again without this.
    pub revived: u64,
    pub stale: Vec<(String, String)>,
    /// Milliseconds that the revived units took.
    pub saved_ms: u64,
}

/// Judges the units of `listing`, a target directory as it is now, by what a snapshot says they were made from.
pub fn plan(store: &Store, snapshot: &Snapshot, listing: &Listing, place: &Place) -> Result<Plan> {
    let inputs = Inputs::new(store, place, listing);
    let mut units = snapshot.units.clone();
    let before = tree::load(store, &snapshot.tree)?;
    let mut outdated = Vec::new();
    for unit in &mut units {
        let reference = reference(unit);
        if reference.as_ref().is_none_or(|r| !same(&before, listing, r)) {
            // Made again since, or gone: cargo knows better.
            unit.problem = "it was built after the snapshot".into();
            outdated.extend(reference.filter(|path| is_outdated(unit, path, listing, place, &inputs)));
        }
    }
    let read = |path: &RelPath| tree::read(store, listing, path);
    for at in renew::renew(&mut units, &snapshot.place, place, &read).into_keys() {
        // Only a fork writes fingerprints.
        units[at].problem =
            "the build script declares no inputs, and times in its package have changed".into();
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64);
    let (verdicts, newest) = freshness::judge(&units, &snapshot.place, place, &inputs, &BTreeSet::new(), now);
    let mut plan =
        Plan { times: Vec::new(), remove: outdated, fresh: 0, revived: 0, stale: Vec::new(), saved_ms: 0 };
    let mut run_again = false;
    let mut references: HashMap<RelPath, i64> = HashMap::new();
    for (unit, verdict) in units.iter().zip(&verdicts) {
        match verdict {
            Verdict::Fresh => {
                plan.fresh += 1;
                let Some(path) = reference(unit) else { continue };
                let Some(file) = tree::file(listing, &path) else { continue };
                let sources = newest_source(unit, place, &inputs);
                if sources > file.mtime_ns {
                    plan.revived += 1;
                    plan.saved_ms += unit.took_ms;
                    run_again |= unit.kind == Kind::RunBuildScript;
                    references.insert(path, sources);
                }
            }
            Verdict::Stale(reason) => {
                plan.stale.push((label(unit), reason.clone()));
                // Where cargo sees it by the time, the unit stays: it may be revived when its content comes back.
                if unit.problem.is_empty()
                    && is_hidden(unit, listing, place, &inputs)
                    && let Some(path) = reference(unit)
                    && listing.contains_key(&path)
                    && !plan.remove.contains(&path)
                {
                    plan.remove.push(path);
                }
            }
            Verdict::Obsolete => {}
        }
    }
    if run_again {
        // The output of a build script has a time that its dependents are compared with: all move, in their order.
        // What is stale must stay so when everything looks new.
        let times = times(listing, newest);
        for (path, item) in listing {
            if let Item::File(file) = item {
                plan.times.push((path.clone(), time(times[&file.mtime_ns])));
            }
        }
        for (unit, verdict) in units.iter().zip(&verdicts) {
            if !verdict.is_fresh()
                && let Some(path) = reference(unit)
                && listing.contains_key(&path)
                && !plan.remove.contains(&path)
            {
                plan.remove.push(path);
            }
        }
        let removed: BTreeSet<&RelPath> = plan.remove.iter().collect();
        plan.times.retain(|(path, _)| !removed.contains(path));
    } else {
        plan.times = references.into_iter().map(|(path, ns)| (path, time(ns))).collect();
    }
    Ok(plan)
}

/// The file whose time cargo compares with the sources'.
fn reference(unit: &Unit) -> Option<RelPath> {
    let dir = units::path_of(&unit.dir);
    match unit.kind {
        Kind::Compile => Some(dir.join(format!("dep-{}", unit.name))),
        Kind::RunBuildScript => Some(run_dir(&dir)?.join("output")),
        Kind::Doc => None,
    }
}

/// Does a source have another content than this unit was made from, and look older than it, as some tools leave it?
fn is_hidden(unit: &Unit, listing: &Listing, place: &Place, inputs: &Inputs) -> bool {
    let Some(file) = reference(unit).and_then(|path| tree::file(listing, &path)) else { return false };
    let sources = unit.inputs.iter().filter(|(s, _)| s.base != super::place::Base::Target);
    let mut states = sources.filter_map(|(s, then)| Some((inputs.get(&place.path(s)?)?, then)));
    states.any(|(state, then)| state.hash != *then && state.mtime_ns <= file.mtime_ns)
}

/// Did a source change after this unit was built, and look older than it? Cargo takes it for fresh. Of what was built after
/// the snapshot nobody knows what it was made from, so it is made again; if from the same, that is a hit.
fn is_outdated(unit: &Unit, reference: &RelPath, listing: &Listing, place: &Place, inputs: &Inputs) -> bool {
    let Some(file) = tree::file(listing, reference) else { return false };
    let sources = unit.inputs.iter().filter(|(s, _)| s.base != super::place::Base::Target);
    let mut states = sources.filter_map(|(s, _)| inputs.get(&place.path(s)?));
    states.any(|state| state.changed_ns > file.mtime_ns && state.mtime_ns <= file.mtime_ns)
}

fn same(before: &Listing, now: &Listing, path: &RelPath) -> bool {
    match (tree::file(before, path), tree::file(now, path)) {
        (Some(a), Some(b)) => a.hash == b.hash && a.mtime_ns == b.mtime_ns,
        _ => false,
    }
}

fn newest_source(unit: &Unit, place: &Place, inputs: &Inputs) -> i64 {
    let times = unit.inputs.iter().filter(|(s, _)| s.base != super::place::Base::Target);
    times.filter_map(|(s, _)| Some(inputs.get(&place.path(s)?)?.mtime_ns)).max().unwrap_or(0)
}
