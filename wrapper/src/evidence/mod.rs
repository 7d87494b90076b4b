//! From what an observer saw to what a result depends on, and what it consists of.
//!
//! This runs in the process that compiles, which may ask the kernel about any path: a daemon must not, of its own mounts.

mod environment;
mod files;
mod places;
mod processes;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kache_trace::{Account, How};
use serde::{Deserialize, Serialize};

pub use self::places::{before_steps_up, declared, is_of_the_system, tokens};
use self::places::{plain, same_file, toolchain_of};
use self::processes::Whose;
use crate::cache::{Invocation, Node};
use crate::prefixes::Prefixes;
use crate::record::{Input, MAX_INPUTS};

/// What an action was seen to depend on and to make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub inputs: Vec<Input>,
    /// Tokens whose paths somebody asked for as a value: what became of it cannot be seen.
    pub asked: BTreeSet<char>,
    /// Those of them that were not asked for by its own directory alone.
    pub beyond: BTreeSet<char>,
    /// A compiler was told to write things in a form in which no path can be found.
    pub hidden: bool,
    /// What was written in the action's own directory and is there.
    pub own: Vec<PathBuf>,
    /// Permissions that were set to what is in its own directory.
    pub modes: BTreeMap<PathBuf, u16>,
    /// What was written elsewhere, where the action may write.
    pub beside: Vec<Beside>,
}

/// Something that an action left outside of its own directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    pub path: PathBuf,
    pub node: Node,
    /// Where a link leads.
    pub link: Vec<u8>,
}

impl Beside {
    /// `mode_set`: its permissions are not the umask's.
    fn of(path: &Path, meta: &std::fs::Metadata, mode_set: bool) -> Beside {
        let node = match () {
            () if meta.is_symlink() => Node::Link,
            () if meta.is_dir() && mode_set => Node::DirMode((meta.mode() & 0o777) as u16),
            () if meta.is_dir() => Node::Dir,
            () if mode_set => Node::Mode((meta.mode() & 0o777) as u16),
            () => Node::of_file(meta.mode()),
        };
        let link = std::fs::read_link(path).map(|to| to.into_os_string().into_vec()).unwrap_or_default();
        Beside { path: path.to_owned(), node, link }
    }
}

/// What is known of an action before its account is read.
pub struct Scene<'a> {
    pub inv: &'a Invocation,
    pub prefixes: &'a Prefixes,
    /// Of the toolchain, whose identity is in the key.
    pub sysroot: &'a Path,
    /// The directory that is the action's own to write in.
    pub own: &'a Path,
    /// Nothing was in it before.
    pub own_is_new: bool,
    /// Where the compiler really wrote instead.
    pub moved: Option<&'a Path>,
    /// Where the compiler keeps its incremental state, which it checks itself.
    pub state: &'a [PathBuf],
    /// Directories of crates: what is taken from them is in the key by content.
    pub crates: &'a [PathBuf],
    /// Files that are in the key by content.
    pub known: &'a [PathBuf],
    /// Values of paths bind the result to them.
    pub values_bind: bool,
    /// The first process is the user's own program, not a compiler.
    pub is_script: bool,
    /// Programs and libraries that were looked at before they ran.
    pub judged: &'a [PathBuf],
    /// The kernel watched all its processes.
    pub is_watched: bool,
    /// Nanoseconds since the Unix epoch.
    pub started_ns: i64,
}

/// The reason why a result cannot be proven to belong to anything, in words.
type Unproven = String;

impl Scene<'_> {
    pub fn read(&self, account: &Account) -> Result<Evidence, Unproven> {
        if let Some(gap) = account.gaps.first() {
            return Err(gap.clone());
        }
        let mut reader = Reader {
            scene: self,
            account,
            objects: account.objects.iter().map(|o| self.whose(o)).collect(),
            programs: account.processes.iter().map(|p| self.whose(&p.program)).collect(),
            path_dirs: self.path_dirs(),
            parents: HashMap::new(),
            detours: BTreeSet::new(),
            made: HashSet::new(),
            modes: HashSet::new(),
            seen: HashSet::new(),
            looked_into: HashSet::new(),
            inputs: BTreeSet::new(),
            foreign: false,
            steps_up: false,
            out: Evidence::default(),
        };
        reader.programs()?;
        reader.arguments();
        reader.calls()?;
        reader.accesses()?;
        reader.variables()?;
        let Reader { mut inputs, mut out, foreign, .. } = reader;
        if foreign {
            match self.prefixes.place() {
                Some((token, _)) => inputs.insert(Input::Bound(token)),
                None => return Err("it read files beside a place that has no name".into()),
            };
        }
        if inputs.len() > MAX_INPUTS {
            return Err(format!("it has more than {MAX_INPUTS} inputs"));
        }
        out.inputs = inputs.into_iter().collect();
        Ok(out)
    }

    /// Where something of the action's own directory is right now.
    fn at(&self, path: &Path) -> PathBuf {
        match (self.moved, path.strip_prefix(self.own)) {
            (Some(moved), Ok(inner)) => moved.join(inner),
            _ => path.to_owned(),
        }
    }

    fn is_of_the_system(&self, path: &Path) -> bool {
        is_of_the_system(self.prefixes, path)
    }

    /// These are the same for every checkout of a user.
    fn in_toolchain(&self, path: &Path) -> bool {
        !self.prefixes.is_of_the_build(path) && toolchain_of(path).is_some()
    }

    fn in_own_toolchain(&self, path: &Path) -> bool {
        !self.prefixes.is_of_the_build(path) && toolchain_of(path) == Some(self.sysroot)
    }

    fn whose(&self, object: &Path) -> Whose {
        let is_rustup = same_file(object, &object.with_file_name("rustup"));
        if is_rustup || self.in_toolchain(object) {
            Whose::Toolchain
        } else if std::env::current_exe().is_ok_and(|own| own == object) {
            Whose::Kache
        } else if self.is_of_the_system(object) {
            Whose::System
        } else {
            Whose::User
        }
    }

    /// Directories of `PATH`, absolute.
    fn path_dirs(&self) -> HashSet<PathBuf> {
        let dirs = self.inv.var("PATH").into_iter().flat_map(std::env::split_paths);
        dirs.map(|dir| plain(&self.inv.cwd.join(dir))).collect()
    }
}

struct Reader<'a> {
    scene: &'a Scene<'a>,
    account: &'a Account,
    objects: Vec<Whose>,
    programs: Vec<Whose>,
    path_dirs: HashSet<PathBuf>,
    /// Directories without links and detours.
    parents: HashMap<PathBuf, PathBuf>,
    /// Directories that were only stepped out of.
    detours: BTreeSet<PathBuf>,
    /// What the action made itself.
    made: HashSet<PathBuf>,
    /// What was given permissions by somebody who does not go by the umask.
    modes: HashSet<PathBuf>,
    /// With whose code it was, in whose program, and whether that is the first process.
    seen: HashSet<(PathBuf, How, (Whose, Whose, bool))>,
    /// What was read or listed.
    looked_into: HashSet<PathBuf>,
    inputs: BTreeSet<Input>,
    /// Something was read that may be another thing for another checkout.
    foreign: bool,
    /// The path at hand was spelled with a step up.
    steps_up: bool,
    out: Evidence,
}
