//! Bringing a tree back from its journal, and finishing what a crash cut off.

use std::collections::BTreeSet;

use rustix::io::Errno;

use super::{Overlay, State};
use crate::error::Result;
use crate::path::RelPath;
use crate::record::{Op, Redo};
use crate::tree::Tree;

/// The tree that a journal tells of; nothing is loaded from the upper yet.
pub(super) fn replay(frames: &[Vec<Op>]) -> Tree {
    let mut tree = Tree::new();
    let ops = || frames.iter().flatten();
    let last = ops().filter_map(|op| if let Op::File { id, .. } = op { Some(*id) } else { None }).max();
    tree.reserve(last.unwrap_or(0));
    ops().for_each(|op| tree.replay(op));
    tree.sweep();
    tree
}

/// Path of every view, and the blob that it shows.
fn views(tree: &Tree) -> BTreeSet<(RelPath, [u8; 32], u64)> {
    let of = |(ino, node): (u64, &crate::tree::Node)| {
        let view = node.view()?;
        let (hash, size) = (*view.hash.as_bytes(), view.size);
        Some(tree.paths(ino).into_iter().map(move |path| (path, hash, size)))
    };
    tree.nodes().filter_map(of).flatten().collect()
}

impl Overlay {
    /// Views about which the tree and its journal do not agree, so that a crash would show something else. Empty
    /// when all is well.
    pub fn disagreements(&self) -> Result<Vec<RelPath>> {
        let state = self.state.read();
        let written = views(&replay(&state.journal.read_back()?));
        let shown = views(&state.tree);
        drop(state);
        Ok(written.symmetric_difference(&shown).map(|(path, ..)| path.clone()).collect())
    }

    /// Finishes the last frame's actions on the upper, the only ones that can have been cut off.
    pub(super) fn recover(&self, frames: &[Vec<Op>]) -> Result<()> {
        let mut state = self.state.write();
        for op in frames.last().into_iter().flatten() {
            let Op::Redo(redo) = op else { continue };
            if let Err(error) = self.redo(&mut state, redo) {
                tracing::error!(?redo, %error, "cannot finish what a crash cut off");
            }
        }
        let image = state.tree.image();
        let replayed = frames.iter().map(Vec::len).sum::<usize>();
        let redo_done = frames.last().is_some_and(|f| f.iter().any(|op| matches!(op, Op::Redo(_))));
        if redo_done || replayed > 2 * image.len() + 64 {
            state.journal.rewrite(&image)?;
        }
        Ok(())
    }

    fn redo(&self, state: &mut State, redo: &Redo) -> Result<()> {
        match redo {
            Redo::Unlink { path, real } => self.redo_unlink(path, *real),
            Redo::Rename { from, to, real, exchange } => {
                if self.upper.real(from.as_bytes()) == Some(*real) {
                    self.upper.rename(from.as_bytes(), to.as_bytes(), *exchange)?;
                }
                Ok(())
            }
            Redo::Seal { id, real, mode, names } => self.redo_seal(state, *id, *real, *mode, names),
            Redo::CopyUp { names } => self.redo_copy_up(state, names),
        }
    }

    fn redo_unlink(&self, path: &RelPath, real: u64) -> Result<()> {
        if self.upper.real(path.as_bytes()) == Some(real) {
            self.upper.unlink(path.as_bytes())?;
        }
        Ok(())
    }

    /// The blob is there: the names in the upper go. It is not: the views go, and the upper file is as it was.
    fn redo_seal(&self, state: &mut State, id: u64, real: u64, mode: u32, names: &[RelPath]) -> Result<()> {
        let blob = state.tree.node(id).and_then(|n| n.view()).map(|v| (v.hash, v.size));
        if blob.is_some_and(|(hash, size)| self.blobs.contains(&hash, size)) {
            return names.iter().try_for_each(|name| self.redo_unlink(name, real));
        }
        let (there, missing): (Vec<_>, Vec<_>) =
            names.iter().partition(|name| self.upper.real(name.as_bytes()) == Some(real));
        if let Some(first) = there.first() {
            self.upper.chmod(first.as_bytes(), mode)?;
            for name in missing {
                match self.upper.link(first.as_bytes(), name.as_bytes()) {
                    Err(error) if error.is(Errno::EXIST) => {}
                    other => other?,
                }
            }
        }
        self.drop_views(state, names);
        Ok(())
    }

    /// Some names are in the upper: all are.
    fn redo_copy_up(&self, state: &mut State, names: &[RelPath]) -> Result<()> {
        let Some(first) = names.iter().find(|name| self.upper.real(name.as_bytes()).is_some()) else {
            return Ok(());
        };
        for name in names {
            match self.upper.link(first.as_bytes(), name.as_bytes()) {
                Err(error) if error.is(Errno::EXIST) => {}
                other => other?,
            }
        }
        self.drop_views(state, names);
        Ok(())
    }

    fn drop_views(&self, state: &mut State, names: &[RelPath]) {
        for name in names {
            state.tree.replay(&Op::Unlink { path: name.clone() });
        }
        state.tree.sweep();
    }
}
