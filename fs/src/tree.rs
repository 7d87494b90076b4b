//! The tree in memory: names, inode numbers, views. Knows nothing of system calls.
//!
//! Directories are filled from the upper when something first looks into them; until then a directory's children are
//! just the views (and the directories on the way to views) that the journal told of.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use blake3::Hash;
use parking_lot::{Mutex, RwLock};
use rustix::fs::{FileType, Stat};

use crate::path::{self, RelPath};
use crate::record::{Op, View};
use crate::upper::FOREIGN;

/// Inode number of the root.
pub(crate) const ROOT: u64 = 1;

pub(crate) type Name = Arc<[u8]>;

pub(crate) struct Tree {
    nodes: HashMap<u64, Node>,
    /// Inode number in the upper -> inode number here, for upper files: names with one real inode are one file.
    by_real: HashMap<u64, u64>,
    /// Blobs of views that are gone, for whoever wants to know.
    dropped: Vec<Hash>,
    next: u64,
}

pub(crate) struct Node {
    /// How often the kernel has been told this inode and has not forgotten it yet.
    pub lookups: AtomicU64,
    pub names: Names,
    pub kind: Kind,
    gate: Mutex<Option<Arc<Gate>>>,
}

pub(crate) enum Kind {
    Dir(Box<Dir>),
    View(Box<View>),
    Upper(Upper),
}

impl Kind {
    /// Inode number of an upper file.
    fn real(&self) -> Option<u64> {
        match self {
            Kind::Upper(upper) => Some(upper.real),
            _ => None,
        }
    }
}

/// What lives in the upper and is no directory.
pub(crate) struct Upper {
    /// Inode number there.
    pub real: u64,
    pub file_type: FileType,
    /// Holds the file when its last name is gone.
    pub held: Option<Arc<OwnedFd>>,
}

#[derive(Default)]
pub(crate) struct Dir {
    pub loaded: bool,
    children: HashMap<Name, Child>,
    /// Position -> name. A position is never used twice, so that a reader of the directory neither misses nor repeats
    /// what is there all the time.
    order: BTreeMap<u64, Name>,
    next: u64,
    /// Attributes at the time of its removal.
    pub gone: Option<Box<Stat>>,
}

#[derive(Clone, Copy)]
struct Child {
    ino: u64,
    position: u64,
}

/// The names of a file: nearly always one.
#[derive(Default, Clone)]
pub(crate) enum Names {
    #[default]
    None,
    One(u64, Name),
    Many(Vec<(u64, Name)>),
}

/// What keeps the writers of one file, its copy-up and its sealing in order.
#[derive(Default)]
pub(crate) struct Gate {
    /// Shared by whoever changes the file's bytes; exclusive for whoever takes the bytes away to be a blob.
    pub writers: RwLock<()>,
    /// Held by the one that copies up.
    pub copy_up: Mutex<()>,
    /// Grows with each change of the bytes.
    pub version: AtomicU64,
    /// Milliseconds of the mount's life at the last change.
    pub changed_at: AtomicU64,
    /// How often it was a view, and then written.
    pub copies: AtomicU32,
    /// Somebody was promised that it is on the disk.
    pub synced: AtomicBool,
}

impl Names {
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Name)> {
        let (one, many) = match self {
            Names::None => (None, &[][..]),
            Names::One(dir, name) => (Some((*dir, name)), &[][..]),
            Names::Many(all) => (None, all.as_slice()),
        };
        one.into_iter().chain(many.iter().map(|(dir, name)| (*dir, name)))
    }

    pub fn len(&self) -> usize {
        match self {
            Names::None => 0,
            Names::One(..) => 1,
            Names::Many(all) => all.len(),
        }
    }

    fn add(&mut self, dir: u64, name: Name) {
        *self = match std::mem::take(self) {
            Names::None => Names::One(dir, name),
            Names::One(dir0, name0) => Names::Many(vec![(dir0, name0), (dir, name)]),
            Names::Many(mut all) => {
                all.push((dir, name));
                Names::Many(all)
            }
        };
    }

    fn remove(&mut self, dir: u64, name: &[u8]) {
        match self {
            Names::One(d, n) if *d == dir && **n == *name => *self = Names::None,
            Names::Many(all) => {
                all.retain(|(d, n)| *d != dir || **n != *name);
                if let [_] = all.as_slice()
                    && let Some((dir, name)) = all.pop()
                {
                    *self = Names::One(dir, name);
                }
            }
            _ => {}
        }
    }
}

impl Node {
    fn new(kind: Kind) -> Self {
        Node { lookups: AtomicU64::new(0), names: Names::None, kind, gate: Mutex::new(None) }
    }

    pub fn view(&self) -> Option<&View> {
        if let Kind::View(view) = &self.kind { Some(view) } else { None }
    }

    pub fn dir(&self) -> Option<&Dir> {
        if let Kind::Dir(dir) = &self.kind { Some(dir) } else { None }
    }

    pub fn upper(&self) -> Option<&Upper> {
        if let Kind::Upper(upper) = &self.kind { Some(upper) } else { None }
    }

    pub fn file_type(&self) -> FileType {
        match &self.kind {
            Kind::Dir(_) => FileType::Directory,
            Kind::View(_) => FileType::RegularFile,
            Kind::Upper(upper) => upper.file_type,
        }
    }

    pub fn gate(&self) -> Arc<Gate> {
        self.gate.lock().get_or_insert_default().clone()
    }

    /// The gate, if anybody has ever needed it.
    pub fn gate_if_used(&self) -> Option<Arc<Gate>> {
        self.gate.lock().clone()
    }

    pub fn is_known_to_kernel(&self) -> bool {
        self.lookups.load(Ordering::Relaxed) > 0
    }
}

impl Dir {
    pub fn get(&self, name: &[u8]) -> Option<u64> {
        self.children.get(name).map(|c| c.ino)
    }

    pub fn is_empty(&self) -> bool {
        self.children.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Name, u64)> {
        self.children.iter().map(|(name, child)| (name, child.ino))
    }

    /// Entries behind a position, with theirs.
    pub fn after(&self, position: u64) -> impl Iterator<Item = (u64, &Name, u64)> {
        self.order
            .range(position + 1..)
            .filter_map(|(at, name)| self.children.get(name).map(|c| (*at, name, c.ino)))
    }

    fn insert(&mut self, name: Name, ino: u64) {
        self.next += 1;
        let position = self.next;
        self.order.insert(position, name.clone());
        self.children.insert(name, Child { ino, position });
    }

    fn remove(&mut self, name: &[u8]) -> Option<u64> {
        let child = self.children.remove(name)?;
        self.order.remove(&child.position);
        Some(child.ino)
    }
}

impl Tree {
    pub fn new() -> Self {
        let root = Node::new(Kind::Dir(Box::default()));
        let (by_real, dropped) = Default::default();
        Tree { nodes: HashMap::from([(ROOT, root)]), by_real, dropped, next: ROOT + 1 }
    }

    pub fn node(&self, ino: u64) -> Option<&Node> {
        self.nodes.get(&ino)
    }

    pub fn node_mut(&mut self, ino: u64) -> Option<&mut Node> {
        self.nodes.get_mut(&ino)
    }

    pub fn nodes(&self) -> impl Iterator<Item = (u64, &Node)> {
        self.nodes.iter().map(|(ino, node)| (*ino, node))
    }

    pub fn dir(&self, ino: u64) -> Option<&Dir> {
        self.node(ino)?.dir()
    }

    pub fn dir_mut(&mut self, ino: u64) -> Option<&mut Dir> {
        match &mut self.nodes.get_mut(&ino)?.kind {
            Kind::Dir(dir) => Some(dir),
            _ => None,
        }
    }

    pub fn child(&self, dir: u64, name: &[u8]) -> Option<u64> {
        self.dir(dir)?.get(name)
    }

    /// Leaves the numbers up to `ino` to the files that a journal names.
    pub fn reserve(&mut self, ino: u64) {
        self.next = self.next.max(ino + 1);
    }

    /// Makes a node without a name.
    pub fn create(&mut self, kind: Kind) -> u64 {
        let ino = self.next;
        self.next += 1;
        self.create_as(ino, kind);
        ino
    }

    fn create_as(&mut self, ino: u64, kind: Kind) {
        self.note_real(kind.real(), ino);
        self.next = self.next.max(ino + 1);
        self.nodes.insert(ino, Node::new(kind));
    }

    pub fn create_upper(&mut self, real: u64, file_type: FileType) -> u64 {
        self.create(Kind::Upper(Upper { real, file_type, held: None }))
    }

    /// The upper file with this inode number there.
    pub fn by_real(&self, real: u64) -> Option<u64> {
        self.by_real.get(&real).copied()
    }

    /// Turns a file into a view or into an upper file; its number and its names stay.
    pub fn replace_kind(&mut self, ino: u64, kind: Kind) {
        let Some(node) = self.nodes.get_mut(&ino) else { return };
        let new = kind.real();
        let before = std::mem::replace(&mut node.kind, kind);
        self.forget_kind(&before, ino);
        self.note_real(new, ino);
    }

    /// A node was of this kind, and is not any more.
    fn forget_kind(&mut self, kind: &Kind, ino: u64) {
        self.forget_real(kind.real(), ino);
        if let Kind::View(view) = kind {
            self.dropped.push(view.hash);
        }
    }

    fn note_real(&mut self, real: Option<u64>, ino: u64) {
        if let Some(real) = real.filter(|r| *r != FOREIGN) {
            self.by_real.insert(real, ino);
        }
    }

    fn forget_real(&mut self, real: Option<u64>, ino: u64) {
        if let Some(real) = real
            && self.by_real.get(&real) == Some(&ino)
        {
            self.by_real.remove(&real);
        }
    }

    /// Gives a node a name, which must be free.
    pub fn attach(&mut self, dir: u64, name: &[u8], ino: u64) {
        let name: Name = name.into();
        let Some(parent) = self.dir_mut(dir) else { return };
        parent.insert(name.clone(), ino);
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.names.add(dir, name);
        }
    }

    /// Takes a name away. The node stays until [`Tree::drop_if_dead`].
    pub fn detach(&mut self, dir: u64, name: &[u8]) -> Option<u64> {
        let ino = self.dir_mut(dir)?.remove(name)?;
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.names.remove(dir, name);
        }
        Some(ino)
    }

    /// Blobs of views that went, or became other files, since the last call.
    pub fn take_dropped(&mut self) -> Vec<Hash> {
        std::mem::take(&mut self.dropped)
    }

    /// Removes a node that has no name and that the kernel does not know. Returns whether it did.
    pub fn drop_if_dead(&mut self, ino: u64) -> bool {
        let dead = ino != ROOT
            && self.nodes.get(&ino).is_some_and(|n| n.names.len() == 0 && !n.is_known_to_kernel());
        if dead && let Some(node) = self.nodes.remove(&ino) {
            self.forget_kind(&node.kind, ino);
        }
        dead
    }

    /// Path of a node by its first name; `None` when it has been unlinked.
    pub fn path(&self, ino: u64) -> Option<Vec<u8>> {
        if ino == ROOT {
            return Some(Vec::new());
        }
        let (dir, name) = self.node(ino)?.names.iter().next()?;
        self.path_in(dir, name)
    }

    /// Path of a name in a directory; `None` when the directory has been removed.
    pub fn path_in(&self, dir: u64, name: &[u8]) -> Option<Vec<u8>> {
        let mut parts: Vec<&[u8]> = vec![name];
        let mut at = dir;
        while at != ROOT {
            let (parent, name) = self.node(at)?.names.iter().next()?;
            parts.push(name);
            at = parent;
        }
        let mut full = Vec::with_capacity(parts.iter().map(|p| p.len() + 1).sum());
        for part in parts.iter().rev() {
            path::push(&mut full, part);
        }
        Some(full)
    }

    pub fn rel_path_in(&self, dir: u64, name: &[u8]) -> Option<RelPath> {
        self.path_in(dir, name).map(RelPath::from_bytes)
    }

    /// All paths of a file.
    pub fn paths(&self, ino: u64) -> Vec<RelPath> {
        let Some(node) = self.node(ino) else { return Vec::new() };
        node.names.iter().filter_map(|(dir, name)| self.rel_path_in(dir, name)).collect()
    }

    /// Is `ancestor` the directory `ino` or above it?
    pub fn is_within(&self, mut ino: u64, ancestor: u64) -> bool {
        loop {
            if ino == ancestor {
                return true;
            }
            match self.node(ino).and_then(|n| n.names.iter().next()) {
                Some((dir, _)) => ino = dir,
                None => return false,
            }
        }
    }

    /// Drops a whole subtree of unloaded directories and views from memory.
    pub fn prune(&mut self, dir: u64, name: &[u8]) {
        let Some(ino) = self.child(dir, name) else { return };
        let below: Vec<Name> =
            self.dir(ino).map(|d| d.iter().map(|(n, _)| n.clone()).collect()).unwrap_or_default();
        for name in below {
            self.prune(ino, &name);
        }
        self.detach(dir, name);
        self.drop_if_dead(ino);
    }

    /// Everything that the journal has to say about this tree.
    pub fn image(&self) -> Vec<Op> {
        let mut ops = Vec::new();
        for (ino, node) in &self.nodes {
            let Kind::View(view) = &node.kind else { continue };
            let paths = self.paths(*ino);
            if !paths.is_empty() {
                ops.push(Op::File { id: *ino, view: (**view).clone() });
                ops.extend(paths.into_iter().map(|path| Op::Link { path, id: *ino }));
            }
        }
        ops
    }

    /// Applies what a journal says to a tree in which no directory has been loaded.
    pub fn replay(&mut self, op: &Op) {
        match op {
            Op::File { id, view } => match self.nodes.get_mut(id) {
                Some(node) => node.kind = Kind::View(Box::new(view.clone())),
                None => self.create_as(*id, Kind::View(Box::new(view.clone()))),
            },
            Op::Link { path, id } => {
                let Some((dir, name)) = self.make_parents(path) else { return };
                match self.child(dir, name) {
                    Some(old) if self.dir(old).is_some() => self.prune(dir, name),
                    Some(_) => _ = self.detach(dir, name),
                    None => {}
                }
                if self.nodes.contains_key(id) {
                    self.attach(dir, name, *id);
                }
            }
            Op::Unlink { path } => {
                // The file stays: a later operation may give it a name again. See `sweep`.
                if let Some((dir, name)) = self.parent_of(path) {
                    self.detach(dir, name);
                }
            }
            Op::MoveTree { from, to } => self.replay_move(from, to, false),
            Op::SwapTree { a, b } => self.replay_move(a, b, true),
            Op::Redo(_) => {}
        }
    }

    /// Drops the views that have no name, after a replay.
    pub fn sweep(&mut self) {
        let dead: Vec<u64> = self
            .nodes
            .iter()
            .filter(|(ino, n)| **ino != ROOT && n.names.len() == 0)
            .map(|(ino, _)| *ino)
            .collect();
        for ino in dead {
            self.drop_if_dead(ino);
        }
    }

    fn replay_move(&mut self, from: &RelPath, to: &RelPath, exchange: bool) {
        let Some((to_dir, to_name)) = self.make_parents(to) else { return };
        let Some((from_dir, from_name)) = self.make_parents(from) else { return };
        let moved = self.detach(from_dir, from_name);
        let other = self.detach(to_dir, to_name);
        if let Some(moved) = moved {
            self.attach(to_dir, to_name, moved);
        }
        if exchange && let Some(other) = other {
            self.attach(from_dir, from_name, other);
        }
    }

    fn parent_of<'a>(&self, path: &'a RelPath) -> Option<(u64, &'a [u8])> {
        let (dir, name) = path.split()?;
        let dir =
            dir.split(|b| *b == b'/').filter(|c| !c.is_empty()).try_fold(ROOT, |at, c| self.child(at, c))?;
        Some((dir, name))
    }

    fn make_parents<'a>(&mut self, path: &'a RelPath) -> Option<(u64, &'a [u8])> {
        let (dir, name) = path.split()?;
        let mut at = ROOT;
        for component in dir.split(|b| *b == b'/').filter(|c| !c.is_empty()) {
            at = match self.child(at, component) {
                Some(ino) if self.dir(ino).is_some() => ino,
                Some(_) => return None,
                None => {
                    let ino = self.create(Kind::Dir(Box::default()));
                    self.attach(at, component, ino);
                    ino
                }
            };
        }
        Some((at, name))
    }
}
