//! A target directory as content-addressed blobs: a directory is a small blob that names its children.
//!
//! Two snapshots share every directory that is the same in both, as they share every file.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use kache_fs::RelPath;
use serde::{Deserialize, Serialize};

use crate::store::{Hash, Store};

/// Deeper than any target directory.
const MAX_DEPTH: usize = 64;

/// A regular file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    pub hash: Hash,
    /// Bytes.
    pub size: u64,
    pub mode: u32,
    /// Nanoseconds since the Unix epoch. Only their order matters elsewhere.
    pub mtime_ns: i64,
    /// Files of one tree with the same number (other than 0) are names of one file.
    pub links: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    Dir,
    File(File),
    Symlink(Vec<u8>),
}

/// All paths of a tree, parents before their children.
pub type Listing = BTreeMap<RelPath, Item>;

#[derive(Serialize, Deserialize)]
enum Node {
    Dir(Hash),
    File(File),
    Symlink(Vec<u8>),
}

#[derive(Default, Serialize, Deserialize)]
struct Dir(Vec<(Vec<u8>, Node)>);

/// Stores a tree. Returns the hash of its root, and the hashes of all blobs that it needs, its own included.
pub fn save(store: &Store, listing: &Listing) -> Result<(Hash, Vec<Hash>)> {
    let mut dirs: BTreeMap<RelPath, Dir> = BTreeMap::from([(RelPath::root(), Dir::default())]);
    let mut needed = Vec::new();
    for (path, item) in listing {
        if *item == Item::Dir {
            dirs.insert(path.clone(), Dir::default());
        }
    }
    for (path, item) in listing {
        let node = match item {
            Item::Dir => continue,
            Item::Symlink(target) => Node::Symlink(target.clone()),
            Item::File(file) => {
                needed.push(file.hash);
                Node::File(file.clone())
            }
        };
        let (parent, name) = split(path);
        dirs.entry(parent).or_default().0.push((name, node));
    }
    // Children come behind their parents: from the end, every directory is complete when its turn comes.
    loop {
        let Some((path, mut dir)) = dirs.pop_last() else { bail!("a tree without a root") };
        dir.0.sort_by(|a, b| a.0.cmp(&b.0));
        let hash = store.add_bytes(&postcard::to_stdvec(&dir)?)?;
        needed.push(hash);
        if path.is_root() {
            needed.sort_unstable();
            needed.dedup();
            return Ok((hash, needed));
        }
        let (parent, name) = split(&path);
        dirs.entry(parent).or_default().0.push((name, Node::Dir(hash)));
    }
}

/// The tree with this root.
pub fn load(store: &Store, root: &Hash) -> Result<Listing> {
    let mut listing = Listing::new();
    read_dir(store, root, &RelPath::root(), &mut listing, 0)?;
    Ok(listing)
}

fn read_dir(store: &Store, hash: &Hash, at: &RelPath, out: &mut Listing, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        bail!("a tree that is too deep");
    }
    let bytes = store.read_blob(hash).with_context(|| format!("a directory of a snapshot ({at})"))?;
    let dir: Dir =
        postcard::from_bytes(&bytes).with_context(|| format!("a directory of a snapshot ({at})"))?;
    for (name, node) in dir.0 {
        let path = at.join(std::ffi::OsString::from(os(&name)));
        // A name from a blob must not lead out of the tree.
        if name.is_empty() || name.contains(&b'/') || RelPath::new(path.as_path())? != path {
            bail!("a name that is none in a snapshot ({at})");
        }
        match node {
            Node::File(file) => drop(out.insert(path, Item::File(file))),
            Node::Symlink(target) => drop(out.insert(path, Item::Symlink(target))),
            Node::Dir(hash) => {
                out.insert(path.clone(), Item::Dir);
                read_dir(store, &hash, &path, out, depth + 1)?;
            }
        }
    }
    Ok(())
}

pub fn os(bytes: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

/// Directory and name of a path that is not the root.
pub fn split(path: &RelPath) -> (RelPath, Vec<u8>) {
    let bytes = path.as_bytes();
    let (dir, name) = match bytes.iter().rposition(|b| *b == b'/') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (&b""[..], bytes),
    };
    // A part of a valid path is one.
    (RelPath::new(std::path::Path::new(os(dir))).unwrap_or_default(), name.to_vec())
}

/// A listing's file at a path.
pub fn file<'a>(listing: &'a Listing, path: &RelPath) -> Option<&'a File> {
    match listing.get(path) {
        Some(Item::File(file)) => Some(file),
        _ => None,
    }
}

/// The bytes of a file.
pub fn read(store: &Store, listing: &Listing, path: &RelPath) -> Result<Vec<u8>> {
    let file = file(listing, path).with_context(|| format!("there is no {path}"))?;
    Ok(store.read_blob(&file.hash)?)
}

/// What lies below a directory.
pub fn below<'a>(listing: &'a Listing, dir: &'a RelPath) -> impl Iterator<Item = (&'a RelPath, &'a Item)> {
    use std::ops::Bound;
    let inside = move |p: &RelPath| {
        dir.is_root()
            || p.as_bytes().strip_prefix(dir.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'/'))
    };
    // Siblings whose names begin alike (`a-b` between `a` and `a/x`) lie among them.
    listing
        .range((Bound::Excluded(dir), Bound::Unbounded))
        .take_while(move |(p, _)| p.as_bytes().starts_with(dir.as_bytes()))
        .filter(move |(p, _)| inside(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::new(text).unwrap()
    }

    fn a_file(n: u8) -> Item {
        Item::File(File { hash: [n; 32], size: 1, mode: 0o644, mtime_ns: 5, links: 0 })
    }

    fn a_tree(n: u8) -> Listing {
        Listing::from([
            (path("a"), Item::Dir),
            (path("a/b"), Item::Dir),
            (path("a/b/file"), a_file(1)),
            (path("a-b"), a_file(n)),
            (path("link"), Item::Symlink(b"a/b".to_vec())),
            (path("empty"), Item::Dir),
        ])
    }

    #[test]
    fn what_is_saved_can_be_loaded_and_equal_directories_are_shared() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Default::default()).unwrap();
        let (root, needed) = save(&store, &a_tree(2)).unwrap();
        assert_eq!(load(&store, &root).unwrap(), a_tree(2));
        let (other, also) = save(&store, &a_tree(3)).unwrap();
        assert_ne!(root, other);
        let own: Vec<_> = also.iter().filter(|h| !needed.contains(h)).collect();
        assert_eq!(own.len(), 2, "the other root and the other file, and no more");
    }

    #[test]
    fn what_lies_below_a_directory() {
        let tree = a_tree(2);
        let names: Vec<String> = below(&tree, &path("a")).map(|(p, _)| p.to_string()).collect();
        assert_eq!(names, ["a/b", "a/b/file"]);
        assert_eq!(below(&tree, &RelPath::root()).count(), tree.len());
    }
}
