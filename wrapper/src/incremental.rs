//! rustc's incremental state: how the state of one checkout serves in another.
//!
//! rustc throws its state away when a hash of its options is different, and that hash contains the directory it runs
//! in and what `--remap-path-prefix` replaces: two things that differ between checkouts and, because of the very
//! replacing, occur in nothing that it remembers. So state that was made with the same options in another checkout is
//! told to be of this one: the hash at the head of `dep-graph.bin` becomes the one that rustc has here, which a compile
//! of nothing tells.
//!
//! What makes this sound:
//! * The options are the same but for those paths: [`Session::options`] says so, and with it the hash that they had
//!   there, which the state must have. Options whose paths are not replaced have no session.
//! * Nothing in the state contains a path of the other checkout; it is searched.
//! * rustc compares the hash itself. If it is not where we think, or not what we think, it starts from nothing.
//!
//! Outputs go to a relative directory, or to one that is the same for all ([`crate::scratch`]): its name is among what
//! rustc compares, too.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use memchr::memmem;
use serde::{Deserialize, Serialize};

use crate::args::{Change, Compile, Flag, Keyed, incremental, is_incremental, relocated, rewritten};
use crate::atomic::{self, Temp};
use crate::cache::Invocation;
use crate::compile::ACTIVE;
use crate::hasher::Hasher;
use crate::key::RECIPE;
use crate::lookup::{Plan, Store};
use crate::prefixes::Prefixes;
use crate::scratch::is_plain;
use crate::variables;

/// In the directory of a unit's state: what its newest session was made with.
const ORIGIN: &str = "origin";
/// Changes when [`Origin`] does.
const VERSION: u8 = 1;
/// What rustc's files begin with, before the version of their format (2 bytes) and of the compiler (1 byte and text).
const MAGIC: &[u8] = b"RSIC";
const GRAPH: &str = "dep-graph.bin";

/// State that may have come from another checkout, and may go to one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Names all that rustc compares, but for the paths that it replaces.
    options: [u8; 32],
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Origin {
    version: u8,
    options: [u8; 32],
    /// The paths that were replaced.
    at: Vec<PathBuf>,
    /// rustc's hash of all its options there.
    hash: [u8; 8],
}

/// The session of a compile; `None` when its state is of no use elsewhere. `toolchain` names the compiler.
pub fn session(
    inv: &Invocation,
    compile: &Compile,
    toolchain: &[u8; 32],
    prefixes: &Prefixes,
) -> Option<Session> {
    let mut h = Hasher::new("incremental");
    h.field("recipe", RECIPE.as_bytes()).field("toolchain", toolchain);
    let same_everywhere = |value: &OsStr| prefixes.normal(value) == value.as_bytes();
    for prefix in prefixes.by_token() {
        h.field("shown-as", prefix.shown_as.as_bytes());
    }
    for arg in &compile.keyed {
        match arg {
            // rustc does not compare where libraries are, nor what the linker is told.
            Keyed::Literal(text) if is_for_linker(text) => {}
            Keyed::Literal(text) if same_everywhere(text) => drop(h.field("arg", text.as_bytes())),
            Keyed::Literal(_) => return None,
            Keyed::Extern { name, .. } => drop(h.field("extern", name.as_bytes())),
        }
    }
    // One of them is no option, but what `env!` may ask for.
    for name in variables::RUSTC.iter().chain(&["CLIPPY_ARGS"]).filter(|n| **n != "CARGO_RUSTC_CURRENT_DIR") {
        match inv.var(name) {
            Some(value) if same_everywhere(value) => {
                h.field("env", name.as_bytes()).field("value", value.as_bytes());
            }
            Some(_) => return None,
            None => {}
        }
    }
    Some(Session { options: h.finish() })
}

fn is_for_linker(arg: &OsStr) -> bool {
    [&b"-L "[..], b"-C=link-arg=", b"-C=link-args="].iter().any(|p| arg.as_bytes().starts_with(p))
}

/// Where the state of a plan's unit is; rustc's own choice is shared by compiles with other options.
fn state_dir(plan: &Plan) -> Option<PathBuf> {
    match &plan.scratch {
        Some(scratch) => scratch.incremental.clone(),
        None => Some(plan.compile.incremental.as_ref()?.join(plan.compile.stem())),
    }
}

/// Directories where the compiler of a plan keeps state.
pub fn state_dirs(plan: &Plan) -> Vec<PathBuf> {
    match plan.store {
        Store::Yes => Vec::new(),
        Store::Edit => state_dir(plan).into_iter().chain(plan.compile.incremental.clone()).collect(),
    }
}

/// The command line of an edit that is compiled where cargo says.
pub fn argv(plan: &Plan, cwd: &Path) -> Vec<OsString> {
    relocated(&plan.argv, relative_out_dir(plan, cwd), state_dir(plan).as_deref())
}

fn relative_out_dir<'a>(plan: &'a Plan, cwd: &Path) -> Option<&'a Path> {
    let out_dir = &plan.compile.out_dir;
    let relative = out_dir.strip_prefix(cwd).ok().filter(|rel| !rel.as_os_str().is_empty());
    relative.filter(|_| is_plain(out_dir.as_os_str().as_bytes()))
}

/// Dep-info of such a compile names its outputs as cargo has said.
pub fn correct_dep_info(plan: &Plan, cwd: &Path) -> io::Result<()> {
    let Some(relative) = relative_out_dir(plan, cwd) else { return Ok(()) };
    let path = plan.compile.dep_info_path();
    let text = fs::read(&path)?;
    let mut corrected = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|b| *b == b'\n') {
        if line.strip_prefix(relative.as_os_str().as_bytes()).is_some_and(|rest| rest.starts_with(b"/")) {
            corrected.extend_from_slice(cwd.as_os_str().as_bytes());
            corrected.push(b'/');
        }
        corrected.extend_from_slice(line);
    }
    fs::write(path, corrected)
}

/// Makes state from another checkout one of this. True if there was any that could be.
pub fn adopt(plan: &Plan) -> io::Result<bool> {
    let (Some(session), Some(dir)) = (&plan.session, state_dir(plan)) else { return Ok(false) };
    let Some(origin) = Origin::read(&dir) else { return Ok(false) };
    let here = at(&plan.prefixes);
    if origin.options != session.options || origin.at == here {
        return Ok(false);
    }
    let foreign = origin.at.iter().filter(|p| !here.contains(p));
    let foreign: Vec<_> = foreign.map(|p| memmem::Finder::new(p.as_os_str().as_bytes())).collect();
    let mut found = Vec::new();
    for graph in graphs(&dir)? {
        let of_origin = Head::read(&graph)?.is_some_and(|h| h.hash == origin.hash);
        if of_origin && !names_any(graph.parent().unwrap_or(&dir), &foreign)? {
            found.push(graph);
        }
    }
    let Some(first) = found.first() else { return Ok(false) };
    let Some(ours) = probe(plan)? else { return Ok(false) };
    if Head::read(first)?.is_none_or(|h| h.version != ours.version) {
        return Ok(false);
    }
    for graph in &found {
        replace_hash(&dir, graph, &ours)?;
    }
    Origin { at: here, hash: ours.hash, ..origin }.write(&dir)?;
    Ok(true)
}

/// After a successful compile: notes what its state was made with.
pub fn note(plan: &Plan) -> io::Result<()> {
    let (Some(session), Some(dir)) = (&plan.session, state_dir(plan)) else { return Ok(()) };
    let mut newest = None;
    for graph in graphs(&dir)? {
        let written = fs::metadata(&graph)?.modified()?;
        if newest.as_ref().is_none_or(|(time, _)| *time < written) {
            newest = Some((written, graph));
        }
    }
    let Some((_, graph)) = newest else { return Ok(()) };
    let Some(head) = Head::read(&graph)? else { return Ok(()) };
    let origin =
        Origin { version: VERSION, options: session.options, at: at(&plan.prefixes), hash: head.hash };
    if Origin::read(&dir).as_ref() != Some(&origin) {
        origin.write(&dir)?;
    }
    Ok(())
}

fn at(prefixes: &Prefixes) -> Vec<PathBuf> {
    prefixes.by_token().into_iter().map(|p| p.path.clone()).collect()
}

impl Origin {
    fn read(dir: &Path) -> Option<Origin> {
        let origin: Origin = postcard::from_bytes(&fs::read(dir.join(ORIGIN)).ok()?).ok()?;
        (origin.version == VERSION).then_some(origin)
    }

    fn write(&self, dir: &Path) -> io::Result<()> {
        let bytes = postcard::to_stdvec(self).map_err(io::Error::other)?;
        atomic::write(&dir.join(ORIGIN), &bytes)
    }
}

/// The graphs of all finished sessions of a unit: `<crate>-<id>/s-<time>-<random>-<hash>/dep-graph.bin`.
fn graphs(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for id in children(dir)? {
        for session in children(&id)? {
            let name = session.file_name().unwrap_or_default().as_bytes();
            let graph = session.join(GRAPH);
            if name.starts_with(b"s-") && !name.ends_with(b"-working") && graph.is_file() {
                found.push(graph);
            }
        }
    }
    Ok(found)
}

fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Does a file of a session contain one of these?
fn names_any(session: &Path, needles: &[memmem::Finder]) -> io::Result<bool> {
    for entry in fs::read_dir(session)? {
        let bytes = fs::read(entry?.path())?;
        if needles.iter().any(|n| n.find(&bytes).is_some()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The head of `dep-graph.bin`.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    /// Format and compiler.
    version: Vec<u8>,
    hash: [u8; 8],
}

impl Head {
    fn read(path: &Path) -> io::Result<Option<Head>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(4 + 2 + 1 + 255 + 8).read_to_end(&mut bytes)?;
        Ok(Head::parse(&bytes))
    }

    fn parse(bytes: &[u8]) -> Option<Head> {
        let length = usize::from(*bytes.strip_prefix(MAGIC)?.get(2)?);
        let (version, rest) = bytes.split_at_checked(MAGIC.len() + 3 + length)?;
        Some(Head { version: version.to_vec(), hash: *rest.first_chunk()? })
    }
}

/// Copies, so that nobody who shares the file sees it.
fn replace_hash(dir: &Path, graph: &Path, head: &Head) -> io::Result<()> {
    // Not beside it: rustc would see it in its session.
    let temp = Temp::beside(&dir.join(GRAPH));
    fs::copy(graph, temp.path())?;
    File::options().write(true).open(temp.path())?.write_all_at(&head.hash, head.version.len() as u64)?;
    temp.rename(graph)
}

/// What rustc writes here at the head of its graph, with the options of this compile: it compiles nothing with them.
fn probe(plan: &Plan) -> io::Result<Option<Head>> {
    let compile = &plan.compile;
    let temp = tempfile::Builder::new().prefix("kache-probe").tempdir()?;
    let source = temp.path().join("nothing.rs");
    let is_program = !compile.test && compile.crate_types.iter().any(|t| t == "bin");
    fs::write(&source, if is_program { "fn main() {}\n" } else { "" })?;
    let args = rewritten(&plan.argv[compile.driver.len()..], &|flag, value| match flag {
        Flag::Codegen if is_incremental(value) => Change::To(incremental(temp.path())),
        Flag::OutDir => Change::To(temp.path().into()),
        Flag::Extern => Change::Drop,
        Flag::Source => Change::To(source.clone().into()),
        Flag::Codegen | Flag::Search => Change::Keep,
    });
    let mut command = Command::new(&compile.driver[0]);
    command.args(&compile.driver[1..]).args(args);
    // There is nothing to link; rustc does not compare the linker's name.
    command.args(["-C", "linker=true"]).env(ACTIVE, "1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status()?;
    match graphs(temp.path())?.as_slice() {
        [graph] => Head::read(graph),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_what_comes_before_the_graph() {
        let bytes = b"RSIC\0\0\x041.95\x01\x02\x03\x04\x05\x06\x07\x08graph";
        let head = Head::parse(bytes).unwrap();
        assert_eq!(head.version, b"RSIC\0\0\x041.95");
        assert_eq!(head.hash, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(Head::parse(&bytes[..16]), None);
        assert_eq!(Head::parse(b"RSI"), None);
        assert_eq!(Head::parse(b"XXXX\0\0\x00\0\0\0\0\0\0\0\0"), None);
    }
}
