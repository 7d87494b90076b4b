//! Which snapshot to fork, and which to keep.

use anyhow::{Result, bail};
use kache_remote::SnapshotName;

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
    nearest_first(place, &mut rows, |row| &row.commit);
    Ok(rows.into_iter().next())
}

/// Orders what is ordered by time already, the newest first: nearest ancestors first, then the newest.
fn nearest_first<T>(place: &Place, all: &mut [T], commit: impl Fn(&T) -> &str) {
    if all.windows(2).any(|pair| commit(&pair[0]) != commit(&pair[1])) {
        let history = checkout::history(&place.workspace);
        // Stable: of equal distance, the newest stays first.
        all.sort_by_key(|one| history.iter().position(|c| c == commit(one)).unwrap_or(usize::MAX));
    }
}

/// Of snapshots elsewhere those that are nearer than the best one here, the best first.
pub fn nearer(
    place: &Place,
    here: Option<&SnapshotRow>,
    elsewhere: Vec<SnapshotName>,
) -> impl Iterator<Item = SnapshotName> {
    let mut all: Vec<(String, Option<SnapshotName>)> = Vec::new();
    // Of equal distance, what is here already is best.
    all.extend(here.map(|row| (row.commit.clone(), None)));
    all.extend(elsewhere.into_iter().map(|name| (name.commit.clone(), Some(name))));
    nearest_first(place, &mut all, |(commit, _)| commit);
    all.into_iter().map_while(|(_, name)| name)
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

/// Forgets snapshots of a workspace that newer ones have replaced, and the oldest when there are too many: first those
/// of commits of which there is a newer one, so that ten checkouts of one commit do not drive out the others.
pub fn prune(store: &Store, newest: &SnapshotRow) -> Result<()> {
    let mut rows = store.snapshots(Some(&newest.identity))?;
    rows.retain(|r| !r.pinned);
    let replaced =
        |r: &SnapshotRow| r.id != newest.id && r.target == newest.target && r.commit == newest.commit;
    for row in rows.iter().filter(|r| replaced(r)) {
        store.remove_snapshot(&row.id)?;
    }
    rows.retain(|r| !replaced(r));
    while rows.len() > KEEP {
        let again = (1..rows.len()).rev().find(|at| rows[..*at].iter().any(|r| r.commit == rows[*at].commit));
        let row = rows.remove(again.unwrap_or(rows.len() - 1));
        store.remove_snapshot(&row.id)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: u8, commit: &str) -> SnapshotRow {
        SnapshotRow {
            id: format!("{n:016x}"),
            identity: [1; 32],
            workspace: format!("/w{n}").into(),
            target: format!("/w{n}/target").into(),
            commit: commit.into(),
            toolchain: String::new(),
            created: i64::from(n),
            used: i64::from(n),
            pinned: false,
            root: [n; 32],
            units: 1,
            bytes: 1,
        }
    }

    fn kept(store: &Store) -> Vec<u8> {
        let rows = store.snapshots(Some(&[1; 32])).unwrap();
        rows.iter().map(|r| u8::from_str_radix(&r.id, 16).unwrap()).collect()
    }

    #[test]
    fn many_checkouts_of_one_commit_do_not_drive_out_others() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Default::default()).unwrap();
        let add = |row: SnapshotRow| {
            store.add_snapshot(&row, &[]).unwrap();
            prune(&store, &row).unwrap();
        };
        add(row(1, "main"));
        for n in 2..12 {
            add(row(n, "topic"));
        }
        assert_eq!(kept(&store), [11, 10, 9, 8, 7, 1]);
    }

    #[test]
    fn a_newer_snapshot_of_the_same_replaces_and_pinned_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Default::default()).unwrap();
        let of = |n: u8, target: &str| SnapshotRow { target: target.into(), ..row(n, "c") };
        for snapshot in [of(1, "/a"), of(2, "/a"), of(3, "/b"), of(4, "/a")] {
            store.add_snapshot(&snapshot, &[]).unwrap();
            if snapshot.id.ends_with('2') {
                store.pin_snapshot(&snapshot.id, true).unwrap();
            }
            prune(&store, &snapshot).unwrap();
        }
        assert_eq!(kept(&store), [4, 3, 2]);
    }

    #[test]
    fn only_the_same_compiler_will_do() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Default::default()).unwrap();
        let old = SnapshotRow { toolchain: "rustc 1".into(), ..row(1, "") };
        let new = SnapshotRow { toolchain: "rustc 2".into(), ..row(2, "") };
        store.add_snapshot(&old, &[]).unwrap();
        store.add_snapshot(&new, &[]).unwrap();
        let place = Place {
            workspace: "/x".into(),
            repository: None,
            target: "/x/target".into(),
            cargo_home: "/c".into(),
        };
        let about = About { identity: [1; 32], commit: String::new() };
        let best = |toolchain| best(&store, &place, &about, toolchain).unwrap().map(|r| r.id);
        assert_eq!(best("rustc 1"), Some(old.id));
        assert_eq!(best("rustc 2"), Some(new.id.clone()));
        assert_eq!(best(""), Some(new.id));
        assert_eq!(best("rustc 3"), None);
    }
}
