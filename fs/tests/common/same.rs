//! Two directory trees, compared: names, kinds, metadata, bytes, link targets, extended attributes, hard links. And what
//! the overlay's own operations mean on a plain directory.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, lstat};
use rustix::io::{Errno, Result};

use super::ops::{Name, Seen, list};

/// Everything about a path that must agree.
#[derive(Debug, PartialEq, Eq)]
pub struct Whole {
    seen: Seen,
    bytes: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The first path of the same inode.
    first: Name,
}

/// All paths below a directory, parents first.
pub fn paths(root: &Path) -> Vec<Name> {
    let mut found = Vec::new();
    below(root, &mut Vec::new(), &mut found);
    found
}

fn below(root: &Path, at: &mut Vec<u8>, found: &mut Vec<Name>) {
    for (name, kind) in list(&root.join(OsStr::from_bytes(at))).unwrap() {
        if name == b"." || name == b".." {
            continue;
        }
        let length = at.len();
        if !at.is_empty() {
            at.push(b'/');
        }
        at.extend_from_slice(&name);
        found.push(at.clone());
        if kind == FileType::Directory {
            below(root, at, found);
        }
        at.truncate(length);
    }
}

fn whole(root: &Path) -> BTreeMap<Name, Whole> {
    let mut firsts = HashMap::new();
    let look = |name: Name| {
        let path = root.join(OsStr::from_bytes(&name));
        let stat = lstat(&path).unwrap_or_else(|error| panic!("{path:?} is listed, but: {error}"));
        let seen = Seen::of(&stat);
        let bytes = match seen.kind {
            FileType::RegularFile => fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}")),
            FileType::Symlink => fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
            _ => Vec::new(),
        };
        let first = firsts.entry(stat.st_ino).or_insert_with(|| name.clone()).clone();
        (name, Whole { seen, bytes, xattrs: xattrs(&path), first })
    };
    paths(root).into_iter().map(look).collect()
}

fn xattrs(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut buffer = [0u8; 4096];
    let n = rustix::fs::llistxattr(path, &mut buffer[..]).unwrap();
    let mut names: Vec<Vec<u8>> =
        buffer[..n].split(|b| *b == 0).filter(|n| n.starts_with(b"user.")).map(<[u8]>::to_vec).collect();
    names.sort();
    let mut value = [0u8; 4096];
    names
        .into_iter()
        .map(|name| {
            let n = rustix::fs::lgetxattr(path, name.as_slice(), &mut value[..]).unwrap();
            (name, value[..n].to_vec())
        })
        .collect()
}

/// What differs between two trees, in words; empty if nothing does.
pub fn differences(mounted: &Path, plain: &Path) -> String {
    let (mounted, plain) = (whole(mounted), whole(plain));
    let mut out = String::new();
    let names: std::collections::BTreeSet<_> = mounted.keys().chain(plain.keys()).collect();
    for name in names {
        let (a, b) = (mounted.get(name), plain.get(name));
        if a == b {
            continue;
        }
        let path = OsStr::from_bytes(name);
        match (a, b) {
            (Some(a), Some(b)) if a.bytes != b.bytes => {
                let at = a.bytes.iter().zip(&b.bytes).position(|(a, b)| a != b);
                let lengths = (a.bytes.len(), b.bytes.len());
                out += &format!("{path:?}: bytes differ from {at:?} on; lengths {lengths:?}\n");
            }
            (Some(a), Some(b)) => {
                let rest =
                    |w: &Whole| format!("{:?} {:?} {:?}", w.seen, w.xattrs, OsStr::from_bytes(&w.first));
                out += &format!("{path:?}:\n  mount {}\n  plain {}\n", rest(a), rest(b));
            }
            (a, _) => {
                let only = if a.is_some() { "mount" } else { "plain directory" };
                out += &format!("{path:?}: only in the {only}\n");
            }
        }
    }
    out
}

/// Is a path free of symbolic links on the way? The overlay's own operations follow none.
pub fn is_straight(root: &Path, name: &[u8]) -> bool {
    name.iter().enumerate().filter(|(_, b)| **b == b'/').all(|(at, _)| {
        let parent = root.join(OsStr::from_bytes(&name[..at]));
        lstat(parent).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory)
    })
}

/// A view to be placed.
#[derive(Debug, Clone)]
pub struct Placed {
    pub path: Name,
    pub seed: u64,
    pub length: usize,
    pub mode: u32,
    pub seconds: Option<i64>,
}

impl Placed {
    pub fn mtime(&self) -> Option<SystemTime> {
        self.seconds.map(|s| SystemTime::UNIX_EPOCH + Duration::new(s as u64, 123_456_789))
    }

    /// What placing means on a plain directory. `in_place`: the same bytes are there already, as a view of one name;
    /// such a file keeps its inode.
    pub fn apply(&self, plain: &Path, in_place: bool) -> Result<()> {
        let path = plain.join(OsStr::from_bytes(&self.path));
        let parent = path.parent().unwrap();
        if let Some(name) = path.file_name()
            && name.len() > 255
        {
            return Err(Errno::NAMETOOLONG);
        }
        make_dirs(parent)?;
        match lstat(&path) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return Err(Errno::ISDIR);
            }
            _ => {}
        }
        let file = if in_place { path.clone() } else { plain.with_extension("new") };
        if !in_place {
            fs::write(&file, super::bytes(self.seed, self.length)).unwrap();
        }
        let own = rustix::process::geteuid().as_raw();
        chown(&file, Some(own), Some(rustix::process::getegid().as_raw())).unwrap();
        fs::File::open(&file).unwrap().set_modified(self.mtime().unwrap_or_else(SystemTime::now)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(self.mode)).unwrap();
        if !in_place {
            fs::rename(&file, &path).unwrap();
        }
        Ok(())
    }
}

fn make_dirs(dir: &Path) -> Result<()> {
    match lstat(dir) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => Ok(()),
        Ok(_) => Err(Errno::NOTDIR),
        Err(Errno::NOENT) => {
            make_dirs(dir.parent().unwrap())?;
            fs::DirBuilder::new().mode(0o755).create(dir).map_err(|e| Errno::from_io_error(&e).unwrap())
        }
        Err(error) => Err(error),
    }
}

/// Removes whatever a path is.
pub fn remove(plain: &Path, name: &[u8]) {
    let path = plain.join(OsStr::from_bytes(name));
    match lstat(&path) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            fs::remove_dir_all(&path).unwrap();
        }
        Ok(_) => fs::remove_file(&path).unwrap(),
        Err(_) => {}
    }
}
