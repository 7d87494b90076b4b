//! Which snapshot to fork, and which to keep.

use anyhow::{Result, bail};

use super::checkout;
use super::place::Place;
use super::take::About;
use crate::store::{SnapshotRow, Store};

/// Snapshots of one workspace that are kept, not counting pinned ones.
const KEEP: usize = 6;

/// The best snapshot for a checkout: made by the same compiler; of the nearest ancestor commit; the newest.
pub fn best(store: &Store, place: &Place, about: &About, toolchain: &str) -> Result<Option<SnapshotRow>> {
    let mut rows = store.snapshots(Some(&about.identity))?;
    if !toolchain.is_empty() {
        rows.retain(|r| r.toolchain.is_empty() || r.toolchain == toolchain);
    }
    if rows.len() > 1 && rows.iter().any(|r| r.commit != rows[0].commit) {
        let history = checkout::history(&place.workspace);
        let distance =
            |row: &SnapshotRow| history.iter().position(|c| *c == row.commit).unwrap_or(usize::MAX);
        // Stable: of equal distance, the newest stays first.
        rows.sort_by_key(distance);
    }
    Ok(rows.into_iter().next())
}

/// The snapshot that somebody names by the beginning of its id, or by the directory that it was taken of.
pub fn named(store: &Store, name: &str) -> Result<SnapshotRow> {
    let rows = store.snapshots(None)?;
    let mut found = rows.iter().filter(|r| !name.is_empty() && r.id.starts_with(name));
    match (found.next(), found.next()) {
        (Some(row), None) => return Ok(row.clone()),
        (Some(_), Some(_)) => bail!("more than one snapshot begins with {name}"),
        (None, _) => {}
    }
    let path = std::fs::canonicalize(name).unwrap_or_else(|_| name.into());
    match rows.into_iter().find(|r| r.target == path || r.workspace == path) {
        Some(row) => Ok(row),
        None => bail!("there is no snapshot {name} (see `kache snapshot list`)"),
    }
}

/// Forgets snapshots of a workspace that newer ones have replaced.
pub fn prune(store: &Store, newest: &SnapshotRow) -> Result<()> {
    let mut kept = 0;
    for row in store.snapshots(Some(&newest.identity))? {
        if row.id == newest.id {
            kept += 1;
            continue;
        }
        let replaced = row.target == newest.target && row.commit == newest.commit;
        if row.pinned {
            continue;
        }
        if replaced || kept >= KEEP {
            store.remove_snapshot(&row.id)?;
        } else {
            kept += 1;
        }
    }
    Ok(())
}
