//! What a build script leaves in `OUT_DIR`: found, stored, put back.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use memchr::memmem;
use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Content, Dest, Entry, Node, Output, Placement, Result, Sharing, TextOutput};
use crate::object;
use crate::prefixes::{self, MARK, Prefixes, TARGET};

/// Something in `OUT_DIR`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Below `OUT_DIR`.
    pub path: Vec<u8>,
    pub node: Node,
    /// Where a link leads.
    pub link: Vec<u8>,
    /// Bytes.
    pub size: u64,
    /// Last change, nanoseconds since the Unix epoch.
    pub changed_ns: i64,
    /// Compressed: it may say anything.
    pub packed: bool,
}

/// What is left to do when the files are in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum After {
    Dir(PathBuf),
    Link(PathBuf, Vec<u8>),
    Program(PathBuf),
    Mode(PathBuf, u16),
    DirMode(PathBuf, u16),
}

impl After {
    pub fn path(&self) -> &Path {
        match self {
            After::Dir(path)
            | After::Link(path, _)
            | After::Program(path)
            | After::Mode(path, _)
            | After::DirMode(path, _) => path,
        }
    }
}

/// A script that leaves more is not stored.
pub const MAX_FILES: usize = 20_000;
/// Only texts up to this size are searched for paths to replace. Bytes.
const MAX_TEXT: u64 = 1 << 20;
/// So many steps up lead out of `OUT_DIR` into the checkout, whose place relative to it may differ elsewhere.
pub const FAR_UP: &[u8] = b"../../../../..";

pub fn is_empty(out_dir: &Path) -> bool {
    std::fs::read_dir(out_dir).map_or(true, |mut entries| entries.next().is_none())
}

/// Everything in a directory, sorted. An error also for what cannot be stored (sockets, devices, too much). `umask`: what
/// has other permissions than that gives was made with them.
pub fn collect(out_dir: &Path, umask: u32) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    let set = |meta: &std::fs::Metadata, usual: &[u32]| {
        let mode = meta.mode() & 0o777;
        (!usual.iter().any(|usual| mode == usual & !umask)).then_some(mode as u16)
    };
    let mut todo = vec![PathBuf::new()];
    while let Some(inner) = todo.pop() {
        let mut empty = true;
        for entry in std::fs::read_dir(out_dir.join(&inner))? {
            empty = false;
            let entry = entry?;
            let path = inner.join(entry.file_name());
            let meta = entry.metadata()?;
            if meta.is_dir() {
                if let Some(mode) = set(&meta, &[0o777]) {
                    found.push(Found { node: Node::DirMode(mode), ..Found::bare(path.clone()) });
                }
                todo.push(path);
                continue;
            }
            let mut file = look(&entry.path(), path, &meta)?;
            if let Some(mode) = set(&meta, &[0o666, 0o777]).filter(|_| meta.is_file()) {
                file.node = Node::Mode(mode);
            }
            found.push(file);
            if found.len() > MAX_FILES {
                return Err(io::Error::other(format!("more than {MAX_FILES} files in OUT_DIR")));
            }
        }
        let is_known = |inner: &Path| found.iter().any(|f| f.path == inner.as_os_str().as_bytes());
        if empty && !inner.as_os_str().is_empty() && !is_known(&inner) {
            found.push(Found { node: Node::Dir, ..Found::bare(inner) });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

impl Found {
    fn bare(path: PathBuf) -> Found {
        let path = path.into_os_string().into_vec();
        Found { path, node: Node::File, link: Vec::new(), size: 0, changed_ns: i64::MAX, packed: false }
    }
}

/// The same with permissions that were seen to be set, also those of directories which hold something and so are not in
/// `found`.
pub fn with_modes(found: &[Found], modes: &BTreeMap<PathBuf, u16>, out_dir: &Path) -> Vec<Found> {
    let mut all: BTreeMap<&[u8], Found> = found.iter().map(|f| (f.path.as_slice(), f.clone())).collect();
    let inside = modes.iter().filter_map(|(path, mode)| Some((path.strip_prefix(out_dir).ok()?, *mode)));
    for (path, mode) in inside.filter(|(path, _)| !path.as_os_str().is_empty()) {
        let found = all
            .entry(path.as_os_str().as_bytes())
            .or_insert_with(|| Found { node: Node::Dir, ..Found::bare(path.to_owned()) });
        found.node = match found.node {
            Node::Link => Node::Link,
            Node::Dir | Node::DirMode(_) => Node::DirMode(mode),
            Node::File | Node::Program | Node::Mode(_) => Node::Mode(mode),
        };
    }
    all.into_values().collect()
}

fn look(file: &Path, inner: PathBuf, meta: &std::fs::Metadata) -> io::Result<Found> {
    let mut found = Found::bare(inner);
    if meta.is_symlink() {
        found.link = std::fs::read_link(file)?.into_os_string().into_vec();
        found.node = Node::Link;
        found.changed_ns = meta.ctime() * 1_000_000_000 + meta.ctime_nsec();
        return Ok(found);
    }
    if !meta.is_file() {
        return Err(io::Error::other("OUT_DIR holds something that is no file"));
    }
    found.node = Node::of_file(meta.mode());
    let mut head = [0; 6];
    let n = std::fs::File::open(file)?.read(&mut head)?;
    found.packed = is_packed(&head[..n]);
    found.size = meta.len();
    found.changed_ns = meta.ctime() * 1_000_000_000 + meta.ctime_nsec();
    Ok(found)
}

/// gzip, zstd, xz, bzip2, zip, lz4, brotli-less: the formats that are told by their first bytes.
fn is_packed(head: &[u8]) -> bool {
    const MAGIC: &[&[u8]] = &[
        b"\x1f\x8b",
        b"\x28\xb5\x2f\xfd",
        b"\xfd7zXZ",
        b"BZh",
        b"PK\x03\x04",
        b"\x04\x22\x4d\x18",
        b"7z\xbc\xaf",
    ];
    MAGIC.iter().any(|m| head.starts_with(m))
}

/// Outputs of an entry, and the tokens that their bytes are bound to.
#[derive(Default)]
pub struct Stored {
    pub outputs: Vec<Output>,
    pub texts: Vec<TextOutput>,
    pub bound: BTreeSet<char>,
}

/// Makes blobs of what was found; texts that name paths of this machine become templates. `sources_move`: debuggers would
/// look for sources in another checkout.
pub fn store(
    cache: &dyn Cache,
    out_dir: &Path,
    found: &[Found],
    prefixes: &Prefixes,
    sources_move: bool,
) -> Result<Stored> {
    let mut stored = Stored::default();
    let needles: Vec<(char, &[u8])> =
        prefixes.iter().map(|p| (p.token, p.path.as_os_str().as_bytes())).collect();
    let mut patterns: Vec<&[u8]> = needles.iter().map(|(_, n)| *n).collect();
    patterns.push(FAR_UP);
    for file in found {
        let path = out_dir.join(OsStr::from_bytes(&file.path));
        let dest = Dest::Tree(file.path.clone(), file.node);
        match file.node {
            Node::Dir | Node::DirMode(_) => {
                stored.texts.push(TextOutput { dest, template: Vec::new() });
                continue;
            }
            Node::Link => {
                let template = template(&file.link, prefixes, &mut stored.bound);
                stored.texts.push(TextOutput { dest, template });
                continue;
            }
            Node::File | Node::Program | Node::Mode(_) => {}
        }
        if file.size <= MAX_TEXT
            && let Some(bytes) = cache.read(&path)?
            && is_text(&bytes)
            && needles.iter().any(|(_, n)| memmem::find(&bytes, n).is_some())
        {
            let template = template(&bytes, prefixes, &mut stored.bound);
            stored.texts.push(TextOutput { dest, template });
            continue;
        }
        let executable = file.node.is_executable();
        // The next run of the script may write into it.
        let sharing = Sharing::Copy;
        let ingested = cache.ingest(&path, executable, sharing, &patterns)?;
        stored.bound.extend(object::bound_to(cache, &path, &needles, &ingested.contains, sources_move)?);
        if file.packed || ingested.contains.last() == Some(&true) {
            stored.bound.extend(needles.iter().map(|(token, _)| *token));
        }
        stored.outputs.push(Output { dest, blob: ingested.hash, size: ingested.size, executable, sharing });
    }
    Ok(stored)
}

/// A text with tokens for paths. It is bound to those that stand in it in a form that cannot be replaced.
pub fn template(text: &[u8], prefixes: &Prefixes, bound: &mut BTreeSet<char>) -> Vec<u8> {
    let template = prefixes.template(text);
    for prefix in prefixes.iter() {
        if memmem::find(&template, prefix.path.as_os_str().as_bytes()).is_some()
            || prefix.is_vague() && memmem::find(&template, &prefixes::token(prefix.token)).is_some()
        {
            bound.insert(prefix.token);
        }
    }
    if memmem::find(text, FAR_UP).is_some() {
        bound.extend(prefixes.iter().map(|p| p.token));
    }
    template
}

/// Paths can be replaced in it without an effect on anything else.
pub fn is_text(bytes: &[u8]) -> bool {
    let odd = |b: &u8| (*b < 0x20 && !b"\n\r\t\x0c".contains(b)) || *b == 0x7f;
    !bytes.iter().any(odd) && std::str::from_utf8(bytes).is_ok() && !bytes.contains(&MARK)
}

/// Where everything of an entry goes, below `out_dir` and beside. `None` when it has no place here.
pub fn placements(
    entry: &Entry,
    out_dir: Option<&Path>,
    prefixes: &Prefixes,
) -> Option<(Vec<Placement>, Vec<After>)> {
    let mut files = Vec::with_capacity(entry.outputs.len());
    let mut after = Vec::new();
    for output in &entry.outputs {
        let (path, node) = place(out_dir, prefixes, &output.dest)?;
        if let Node::Mode(mode) = node {
            after.push(After::Mode(path.clone(), mode));
        }
        files.push(output.placed_at(path));
    }
    for text in &entry.texts {
        let (path, node) = place(out_dir, prefixes, &text.dest)?;
        let bytes = prefixes.expand(&text.template)?;
        match node {
            Node::Dir => after.push(After::Dir(path)),
            Node::DirMode(mode) => after.push(After::DirMode(path, mode)),
            Node::Link => after.push(After::Link(path, bytes)),
            Node::File | Node::Program | Node::Mode(_) => {
                match node {
                    Node::Mode(mode) => after.push(After::Mode(path.clone(), mode)),
                    Node::Program => after.push(After::Program(path.clone())),
                    _ => {}
                }
                files.push(Placement { path, content: Content::Bytes(bytes) });
            }
        }
    }
    Some((files, after))
}

fn place(out_dir: Option<&Path>, prefixes: &Prefixes, dest: &Dest) -> Option<(PathBuf, Node)> {
    match dest {
        // A name from a store must not lead out of the directory.
        Dest::Tree(path, node) => {
            let path = Path::new(OsStr::from_bytes(path));
            is_inside(path).then(|| Some((out_dir?.join(path), *node)))?
        }
        Dest::Beside(template, node) => {
            let path = prefixes.expand_path(template)?;
            let is_plain = path.components().skip(1).all(|c| matches!(c, Component::Normal(_)));
            (path.is_absolute() && is_plain && is_possible(&path)).then_some((path, *node))
        }
        Dest::OutDir(_) | Dest::Explicit(_) => None,
    }
}

pub fn is_beside(dest: &Dest) -> bool {
    matches!(dest, Dest::Beside(..))
}

/// Does something that is left outside of `OUT_DIR` stay in the profile's directory, and is it nothing of cargo's there?
pub fn stays_beside(dest: &Dest) -> bool {
    let Dest::Beside(template, _) = dest else { return false };
    let Some(inner) = template.strip_prefix(&prefixes::token(TARGET)).and_then(|t| t.strip_prefix(b"/"))
    else {
        return false;
    };
    let inner = Path::new(OsStr::from_bytes(inner));
    let first = inner.components().next().map(Component::as_os_str);
    let is_of_cargo = first.is_some_and(|f| f == "build" || f == ".fingerprint" || f == "incremental");
    is_inside(inner) && !is_of_cargo && !inner.as_os_str().as_bytes().contains(&MARK)
}

/// Does everything of a result from elsewhere stay in `OUT_DIR`, whatever is restored in which order? Nothing lies behind
/// a link or twice at a place, and links lead to something in `OUT_DIR`, without a detour.
pub fn stays_inside(entry: &Entry) -> bool {
    let outputs = entry.outputs.iter().map(|o| (&o.dest, None));
    let texts = entry.texts.iter().map(|t| (&t.dest, Some(t.template.as_slice())));
    let mut nodes: BTreeMap<&Path, Node> = BTreeMap::new();
    for (dest, text) in outputs.chain(texts) {
        if let Dest::Beside(_, node) = dest {
            if !stays_beside(dest) || *node == Node::Link {
                return false;
            }
            continue;
        }
        let Dest::Tree(path, node) = dest else { return false };
        let path = Path::new(OsStr::from_bytes(path));
        let is_new = is_inside(path) && nodes.insert(path, *node).is_none();
        let leads_inside = match (node, text) {
            (Node::Link, Some(to)) => leads_inside(path, to),
            (Node::DirMode(mode), text) => *mode <= 0o777 && text.is_some_and(<[u8]>::is_empty),
            (Node::Dir, text) => text.is_some_and(<[u8]>::is_empty),
            (Node::Link, None) => false,
            (Node::Mode(mode), _) => *mode <= 0o777,
            (Node::File | Node::Program, _) => true,
        };
        if !is_new || !leads_inside {
            return false;
        }
    }
    let is_dir =
        |path: &Path| nodes.get(path).is_none_or(|node| matches!(node, Node::Dir | Node::DirMode(_)));
    nodes.keys().all(|path| path.ancestors().skip(1).all(is_dir))
}

/// A relative path of at most as many steps up as lead to `OUT_DIR`, all at its beginning: behind another link, a step
/// up would lead elsewhere than its text says.
fn leads_inside(link: &Path, to: &[u8]) -> bool {
    let to = Path::new(OsStr::from_bytes(to));
    let up = to.components().take_while(|c| *c == Component::ParentDir).count();
    let down = to.components().skip(up).all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    let depth = link.components().count() - 1;
    up <= depth && down && is_possible(to) && !to.as_os_str().as_bytes().contains(&MARK)
}

/// A path below a directory that cannot lead out of it.
fn is_inside(path: &Path) -> bool {
    is_possible(path) && path.components().all(|c| matches!(c, Component::Normal(_)))
}

fn is_possible(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    let short = path.components().all(|c| c.as_os_str().len() <= 255);
    !bytes.is_empty() && bytes.len() <= 4000 && short && !bytes.contains(&0)
}

/// Is there a link in `OUT_DIR`, left by an earlier run, on the way to one of these places in it?
pub fn is_behind_link(cache: &dyn Cache, out_dir: &Path, places: &[PathBuf]) -> Result<bool> {
    let mut dirs = BTreeSet::new();
    for place in places {
        let above = place.ancestors().skip(1);
        dirs.extend(above.take_while(|dir| *dir != out_dir && dir.starts_with(out_dir)));
    }
    // From the top: behind a link there is nothing to ask.
    for dir in dirs {
        if cache.is_link(dir)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Directories, links and modes.
pub fn complete(after: &[After]) -> io::Result<()> {
    use std::os::unix::fs::{PermissionsExt, symlink};
    for step in after {
        match step {
            After::Dir(path) | After::DirMode(path, _) => std::fs::create_dir_all(path)?,
            After::Link(path, to) => {
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent)?;
                }
                match std::fs::remove_file(path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => symlink(OsStr::from_bytes(to), path)?,
                }
            }
            After::Mode(path, mode) => {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode((*mode & 0o777).into()))?;
            }
            After::Program(path) => {
                let mode = std::fs::metadata(path)?.mode();
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | (mode & 0o444) >> 2))?;
            }
        }
    }
    // What is in a directory that nobody may write is in it by now; the innermost first.
    for step in after.iter().rev() {
        if let After::DirMode(path, mode) = step {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode((*mode & 0o777).into()))?;
        }
    }
    Ok(())
}

/// Removes what an earlier run left and this result does not have.
pub fn prune(out_dir: &Path, entry: &HashSet<PathBuf>) -> io::Result<()> {
    let mut dirs = vec![out_dir.to_owned()];
    let mut next = 0;
    while next < dirs.len() {
        for found in std::fs::read_dir(&dirs[next])? {
            let found = found?;
            if found.file_type()?.is_dir() {
                dirs.push(found.path());
            } else if !entry.contains(&found.path()) {
                std::fs::remove_file(found.path())?;
            }
        }
        next += 1;
    }
    // Deepest first; those with something in them stay.
    for dir in dirs.iter().skip(1).rev().filter(|d| !entry.contains(*d)) {
        let _ = std::fs::remove_dir(dir);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes() -> Prefixes {
        let mut p = Prefixes::default();
        p.add('T', Path::new("/w/target/debug"), "");
        p
    }

    #[test]
    fn paths_that_cannot_be_replaced_bind() {
        let mut bound = BTreeSet::new();
        let text = b"include!(\"/w/target/debug/build/x/out/a.rs\");";
        assert_eq!(prefixes().expand(&template(text, &prefixes(), &mut bound)).unwrap(), text);
        assert!(bound.is_empty());
        template(b"-L/w/target/debug/lib", &prefixes(), &mut bound);
        assert!(bound.contains(&'T'));
        bound.clear();
        template(b"include!(\"../../../../../src/a.rs\")", &prefixes(), &mut bound);
        assert!(bound.contains(&'T'));
    }

    #[test]
    fn everything_in_a_directory_is_found() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/empty")).unwrap();
        std::fs::write(dir.path().join("a/x.gz"), b"\x1f\x8b123456").unwrap();
        std::os::unix::fs::symlink("x.gz", dir.path().join("a/link")).unwrap();
        let found = collect(dir.path(), crate::testing::umask()).unwrap();
        let names: Vec<(&str, Node)> =
            found.iter().map(|f| (std::str::from_utf8(&f.path).unwrap(), f.node)).collect();
        assert_eq!(names, [("a/empty", Node::Dir), ("a/link", Node::Link), ("a/x.gz", Node::File)]);
        assert!(found[2].packed && found[1].link == b"x.gz");
    }

    #[test]
    fn what_is_not_of_the_result_goes() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["old/deep", "new"] {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
            std::fs::write(dir.path().join(path).join("f"), "").unwrap();
        }
        prune(dir.path(), &HashSet::from([dir.path().join("new/f")])).unwrap();
        assert!(!dir.path().join("old").exists() && dir.path().join("new/f").exists());
    }

    /// An entry with these nodes; a link leads where the text says.
    fn entry(nodes: &[(&str, Node, &str)]) -> Entry {
        let text = |(path, node, text): &(&str, Node, &str)| TextOutput {
            dest: Dest::Tree(path.as_bytes().to_vec(), *node),
            template: text.as_bytes().to_vec(),
        };
        Entry {
            crate_name: "a".into(),
            kind: "k".into(),
            outputs: Vec::new(),
            texts: nodes.iter().map(text).collect(),
            stdout: Vec::new(),
            stderr: Vec::new(),
            took_ms: 0,
        }
    }

    #[test]
    fn permissions_that_were_set_are_of_one_place() {
        let out = Path::new("/out");
        let at = |path: &str, node| Found { node, ..Found::bare(path.into()) };
        let found = [at("d", Node::Dir), at("link", Node::Link), at("x", Node::File), at("y", Node::Program)];
        let modes = ["", "a/d", "d", "link", "x"].map(|path| (out.join(path), 0o700));
        let modes = modes.into_iter().chain([("/elsewhere/y".into(), 0o600)]).collect();
        let all: Vec<_> = with_modes(&found, &modes, out).into_iter().map(|f| (f.path, f.node)).collect();
        let wanted = [
            ("a/d", Node::DirMode(0o700)),
            ("d", Node::DirMode(0o700)),
            ("link", Node::Link),
            ("x", Node::Mode(0o700)),
            ("y", Node::Program),
        ];
        assert_eq!(all, wanted.map(|(path, node)| (path.as_bytes().to_vec(), node)));
    }

    #[test]
    fn results_from_elsewhere_stay_inside() {
        use Node::{Dir, File, Link, Program};
        let stays = |nodes: &[(&str, Node, &str)]| stays_inside(&entry(nodes));
        assert!(stays(&[("a/b", File, "x"), ("a/c", Dir, ""), ("t", Program, "x")]));
        for to in ["b", "../t", "./b", "../a/b", "b/../c"] {
            assert_eq!(stays(&[("a/l", Link, to)]), to != "b/../c", "{to}");
        }
        for to in ["/etc", "../../t", "b/../../..", "\u{1f}T\u{1f}/x", "", "..\0", &"x/".repeat(3000)] {
            assert!(!stays(&[("a/l", Link, to)]), "{to}");
        }
        // Through a link, over a file, twice.
        assert!(!stays(&[("a", Link, "b"), ("a/x", File, "")]));
        assert!(!stays(&[("a", File, ""), ("a/b/x", File, "")]));
        assert!(!stays(&[("a", File, ""), ("a", Link, "b")]));
        assert!(!stays(&[("../a", File, "")]) && !stays(&[("/a", File, "")]) && !stays(&[("", Dir, "")]));
        assert!(!stays(&[(&"n".repeat(256), File, "")]));
    }

    #[test]
    fn what_an_earlier_run_linked_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        std::fs::create_dir_all(out.join("real")).unwrap();
        std::os::unix::fs::symlink(dir.path(), out.join("elsewhere")).unwrap();
        let behind = |name: &str| {
            is_behind_link(&crate::testing::Disk, &out, &[out.join("x"), out.join(name)]).unwrap()
        };
        assert!(behind("elsewhere/f") && behind("elsewhere/deep/f"));
        assert!(!behind("elsewhere") && !behind("real/f") && !behind("new/deep/f"));
    }

    #[test]
    fn names_do_not_lead_out() {
        for bad in ["../x", "/x", "", "a/../../x"] {
            let dest = Dest::Tree(bad.into(), Node::File);
            assert!(place(Some(Path::new("/o")), &prefixes(), &dest).is_none(), "{bad}");
        }
        let good = Dest::Tree(b"a/b".to_vec(), Node::File);
        assert!(place(Some(Path::new("/o")), &prefixes(), &good).is_some());
    }

    #[test]
    fn what_is_left_beside_stays_in_the_profile() {
        let stays = |path: &str| stays_beside(&Dest::Beside(path.into(), Node::File));
        assert!(stays("\u{1f}T\u{1f}/side.dat") && stays("\u{1f}T\u{1f}/deps/a/b"));
        for bad in [
            "/etc/x",
            "\u{1f}W\u{1f}/x",
            "\u{1f}T\u{1f}/../x",
            "\u{1f}T\u{1f}/build/x/out/y",
            "\u{1f}T\u{1f}x",
        ] {
            assert!(!stays(bad), "{bad}");
        }
    }
}
