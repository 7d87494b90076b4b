//! Which units of a snapshot are fresh in a checkout: those of which every recorded input has the same content here,
//! and which nothing ties to where they were made.

use std::collections::{BTreeSet, HashMap};

use super::inputs::Inputs;
use super::place::{Base, Place};
use super::units::Unit;

/// What is to be shown of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Fresh,
    /// Why not.
    Stale(String),
    /// What it was made from is not there any more: cargo will not look at it.
    Obsolete,
}

impl Verdict {
    pub fn is_fresh(&self) -> bool {
        *self == Verdict::Fresh
    }
}

/// Judges all units. `rewritten`: paths in the tree whose text will be another.
/// Returns the verdicts, and a time that is not older than any input of a fresh unit.
pub fn judge(
    units: &[Unit],
    from: &Place,
    to: &Place,
    inputs: &Inputs,
    rewritten: &BTreeSet<Vec<u8>>,
    now_ns: i64,
) -> (Vec<Verdict>, i64) {
    let moved = Moved::of(from, to);
    let paths: Vec<_> = units
        .iter()
        .flat_map(|u| &u.inputs)
        .filter(|(spot, _)| spot.base != Base::Target)
        .filter_map(|(spot, _)| to.path(spot))
        .collect();
    inputs.hash_all(&paths);
    let (mut newest, mut newest_package) = (0, 0);
    let mut verdicts: Vec<Verdict> = units
        .iter()
        .map(|unit| match alone(unit, moved, to, inputs, rewritten, now_ns) {
            Ok((own, package)) => {
                newest = newest.max(own);
                newest_package = newest_package.max(package);
                Verdict::Fresh
            }
            Err(reason) => Verdict::Stale(reason),
        })
        .collect();
    // The times that a fork shows are not older than the newest input. An edit in between must not be covered by that.
    let changed = inputs.changed();
    if !changed.is_empty() {
        for (unit, verdict) in units.iter().zip(&mut verdicts) {
            let mut paths = unit.inputs.iter().filter_map(|(spot, _)| to.path(spot));
            if paths.any(|p| changed.contains(&p)) {
                *verdict = Verdict::Stale("an input is being written".into());
            }
        }
    }
    spread(units, &mut verdicts);
    // Packages may have times of long ago.
    let newest = if newest == 0 { now_ns } else { newest };
    (verdicts, newest.max(newest_package))
}

/// What is elsewhere than it was.
#[derive(Debug, Clone, Copy)]
pub struct Moved {
    pub checkout: bool,
    pub packages: bool,
}

impl Moved {
    pub fn of(from: &Place, to: &Place) -> Moved {
        Moved { checkout: from.own() != to.own(), packages: from.cargo_home != to.cargo_home }
    }
}

/// One unit without those that it depends on; the times of its newest input in the checkout, and in a package.
fn alone(
    unit: &Unit,
    moved: Moved,
    to: &Place,
    inputs: &Inputs,
    rewritten: &BTreeSet<Vec<u8>>,
    now_ns: i64,
) -> Result<(i64, i64), String> {
    if !unit.problem.is_empty() {
        return Err(unit.problem.clone());
    }
    if moved.checkout && !unit.bound.is_empty() {
        return Err(unit.bound.clone());
    }
    if moved.packages && !unit.homebound.is_empty() {
        return Err(unit.homebound.clone());
    }
    let (mut newest, mut newest_package) = (0, 0);
    for (spot, hash) in &unit.inputs {
        let path = to.path(spot).ok_or("an input has no place here")?;
        if spot.base == Base::Target && rewritten.contains(&spot.rel) {
            return Err(format!("{} names the other checkout", path.display()));
        }
        let state = inputs.get(&path).ok_or_else(|| format!("{} is missing", path.display()))?;
        if state.hash != *hash {
            return Err(format!("{} is different", path.display()));
        }
        match spot.base {
            Base::Target => {}
            Base::CargoHome => newest_package = newest_package.max(state.mtime_ns),
            // Whoever forks this fork asks whether they changed since, also by a chown.
            _ => newest = newest.max(state.mtime_ns).max(state.changed_ns.min(now_ns)),
        }
        if newest.max(newest_package) > now_ns {
            return Err(format!("{} is from the future", path.display()));
        }
    }
    Ok((newest, newest_package))
}

/// What depends on a stale unit is stale.
pub fn spread(units: &[Unit], verdicts: &mut [Verdict]) {
    let mut by_fingerprint: HashMap<u64, Vec<usize>> = HashMap::new();
    for (at, unit) in units.iter().enumerate() {
        by_fingerprint.entry(unit.fingerprint).or_default().push(at);
    }
    loop {
        let mut changed = false;
        for at in 0..units.len() {
            if verdicts[at] == Verdict::Obsolete {
                continue;
            }
            for dep in &units[at].deps {
                let new = match by_fingerprint.get(dep) {
                    None => Verdict::Obsolete,
                    Some(all) if all.iter().all(|d| verdicts[*d] == Verdict::Obsolete) => Verdict::Obsolete,
                    Some(all) if verdicts[at].is_fresh() && !all.iter().any(|d| verdicts[*d].is_fresh()) => {
                        Verdict::Stale(format!("{} is not fresh", units[all[0]].name))
                    }
                    Some(_) => continue,
                };
                if verdicts[at] != new {
                    verdicts[at] = new;
                    changed = true;
                }
                if verdicts[at] == Verdict::Obsolete {
                    break;
                }
            }
        }
        if !changed {
            return;
        }
    }
}
