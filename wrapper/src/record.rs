//! Input records: what the processes of an action were seen to read.
//!
//! A record holds names of inputs, not their values. With the values of a place and moment it gives an entry key, and
//! [`InputRecord::entry_key`] is the one function that says whether a result belongs to what is there now.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, DirEntry, EntryKey, Invocation, InvocationKey, Result};
use crate::hasher::Hasher;
use crate::prefixes::{HOST, MARK, Prefixes, TARGET};
use crate::{exec, host, prefixes, tree, variables};

/// One thing that a result depends on. Paths are templates.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Input {
    /// Content of a file.
    File(Vec<u8>),
    /// There is nothing at this path.
    Absent(Vec<u8>),
    /// No directory above the checkout has this.
    NowhereAbove(Vec<u8>),
    /// There is something: a directory, or a file of this size that may be executed or not; directly or behind a link.
    Exists(Vec<u8>),
    /// What is in a directory: names, and whether they are files, directories or links.
    Listing(Vec<u8>),
    /// Where a symbolic link leads.
    Link(Vec<u8>),
    /// The path without links and detours.
    Real(Vec<u8>),
    /// Names and content of everything in a directory.
    Tree(Vec<u8>),
    /// A variable of the environment.
    Env(String),
    /// Variables that the words of a program name, which read the whole environment.
    EnvNamedBy(Vec<u8>),
    /// Which file of `PATH` a program's name stands for.
    Program(String),
    /// The result contains this machine's path for a token, or something made of it.
    Bound(char),
    /// The diagnostics were wrapped to this terminal.
    Width,
    /// The result was made for this machine's processor.
    Cpu,
    /// The result tells which machine or system this is.
    Host,
    /// Where the user has the loader look for libraries: what cargo and the toolchain add to that is in the key.
    LibraryPath,
    /// Variables that interpreters have and the texts they were given may name: a filter of [`crate::names::Words`].
    EnvAmong(Vec<u8>),
}

/// A place and moment in which a record may hold.
pub struct Here<'a> {
    pub cache: &'a dyn Cache,
    pub inv: &'a Invocation,
    pub prefixes: &'a Prefixes,
    /// Width of the terminal.
    pub width: Option<&'a str>,
}

/// All inputs of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRecord(pub Vec<Input>);

/// More cannot be checked quickly.
pub const MAX_INPUTS: usize = 20_000;

impl InputRecord {
    pub fn new(inputs: impl IntoIterator<Item = Input>) -> InputRecord {
        let mut record = InputRecord(inputs.into_iter().collect());
        record.order();
        record
    }

    pub fn add(&mut self, input: Input) {
        self.0.push(input);
        self.order();
    }

    fn order(&mut self) {
        self.0.sort();
        self.0.dedup();
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<InputRecord> {
        postcard::from_bytes(bytes).ok()
    }

    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        Ok(postcard::to_stdvec(self)?)
    }

    /// Files in it as paths of this checkout.
    pub fn files(&self, prefixes: &Prefixes) -> Vec<std::path::PathBuf> {
        let file = |input: &Input| if let Input::File(t) = input { prefixes.expand_path(t) } else { None };
        self.0.iter().filter_map(file).collect()
    }

    /// Without some of the paths that it is bound to.
    pub fn without(&self, tokens: &std::collections::BTreeSet<char>) -> InputRecord {
        let is_other = |input: &&Input| !matches!(input, Input::Bound(token) if tokens.contains(token));
        InputRecord(self.0.iter().filter(is_other).cloned().collect())
    }

    /// The entry key for the inputs as they are here and now. `None` when the record cannot hold: one is gone or appeared,
    /// or has no place here.
    pub fn entry_key(&self, here: &Here, invocation: &InvocationKey) -> Result<Option<EntryKey>> {
        let mut h = Hasher::new("entry");
        h.field("invocation", &invocation.0);
        for input in &self.0 {
            let Some(value) = input.value(here)? else { return Ok(None) };
            h.field(input.tag(), input.name()).field("value", &value);
        }
        Ok(Some(EntryKey(h.finish())))
    }

    /// In words, the first input with which it cannot.
    pub fn cannot_hold(&self, here: &Here) -> Result<Option<String>> {
        for input in &self.0 {
            if input.value(here)?.is_none() {
                return Ok(Some(input.in_words()));
            }
        }
        Ok(None)
    }

    /// Remembers the inputs' present values, to explain a later miss.
    pub fn remember(&self, here: &Here, key: &InvocationKey) -> Result<()> {
        here.cache.set_fact("inputs", &key.0, &postcard::to_stdvec(&self.digests(here)?)?)
    }

    fn digests(&self, here: &Here) -> Result<Vec<(Input, [u8; 8])>> {
        let digest = |value: Option<Vec<u8>>| {
            let mut short = [0; 8];
            if let Some(value) = value {
                short.copy_from_slice(&blake3::hash(&value).as_bytes()[..8]);
            }
            short
        };
        self.0.iter().map(|input| Ok((input.clone(), digest(input.value(here)?)))).collect()
    }
}

/// What changed since the inputs of an invocation were remembered, in words; at most three.
pub fn explain(here: &Here, key: &InvocationKey) -> Result<String> {
    let fact = here.cache.fact("inputs", &key.0)?;
    let known = fact.and_then(|v| postcard::from_bytes::<Vec<(Input, [u8; 8])>>(&v).ok());
    let Some(old) = known else { return Ok("its inputs changed".into()) };
    let record = InputRecord(old.iter().map(|(input, _)| input.clone()).collect());
    let now = record.digests(here)?;
    let changed = old.iter().zip(&now).filter(|(old, now)| old.1 != now.1);
    let mut changed: Vec<String> = changed.map(|((input, _), _)| input.in_words()).collect();
    // A result may be bound to several paths, which are side by side.
    changed.dedup();
    changed.truncate(3);
    Ok(if changed.is_empty() {
        "its inputs were not stored in this combination".into()
    } else {
        changed.join(", ")
    })
}

impl Input {
    /// Its value here; `None` when the record that has it cannot hold.
    fn value(&self, here: &Here) -> Result<Option<Vec<u8>>> {
        let Here { cache, inv, prefixes, .. } = *here;
        let at = |template: &[u8]| prefixes.expand_path(template);
        Ok(match self {
            Input::File(t) => match at(t) {
                Some(path) => content(here, t, &path)?.map(|hash| hash.to_vec()),
                None => None,
            },
            Input::Absent(t) => match at(t) {
                // A link that leads nowhere is not nothing.
                Some(path) => match cache.stat(&path) {
                    Ok(None) => Some(vec![u8::from(cache.is_link(&path)?)]),
                    _ => None,
                },
                None => None,
            },
            Input::NowhereAbove(name) => {
                let root = prefixes.place().map(|(_, root)| root);
                let mut found = Vec::new();
                for dir in root.into_iter().flat_map(|root| root.ancestors().skip(1)) {
                    let path = dir.join(OsStr::from_bytes(name));
                    if cache.stat(&path).ok().flatten().is_some() {
                        found.extend_from_slice(path.as_os_str().as_bytes());
                        found.push(0);
                    }
                }
                Some(found)
            }
            Input::Exists(t) => match at(t) {
                Some(path) => {
                    let is_link = cache.is_link(&path)?;
                    cache.stat(&path)?.map(|id| {
                        // What a directory takes on the disk is nobody's concern.
                        let (executable, size) =
                            if id.is_dir { (false, 0) } else { (id.executable, id.size) };
                        let kind = [is_link, id.is_dir, executable].map(u8::from);
                        [&kind, &size.to_le_bytes()[..]].concat()
                    })
                }
                None => None,
            },
            Input::Listing(t) => match at(t) {
                Some(path) => match cache.stat(&path)? {
                    Some(id) if id.is_dir => Some(listed(t, &cache.list_dir(&path)?).to_vec()),
                    _ => None,
                },
                None => None,
            },
            Input::Link(t) => match at(t) {
                Some(path) => std::fs::read_link(path).ok().map(|to| prefixes.normal(to.as_os_str())),
                None => None,
            },
            Input::Real(t) => match at(t) {
                Some(path) => std::fs::canonicalize(path).ok().map(|to| prefixes.normal(to.as_os_str())),
                None => None,
            },
            Input::Tree(t) => match at(t) {
                Some(path) => tree::state(cache, &path, prefixes)?.map(|hash| hash.to_vec()),
                None => None,
            },
            Input::LibraryPath => Some(library_path(here)?),
            Input::Env(name) => Some(match inv.var(name) {
                Some(value) => [b"=", &prefixes.normal(value)[..]].concat(),
                None => Vec::new(),
            }),
            Input::EnvNamedBy(t) => match at(t) {
                Some(path) => Some(values(here, variables::named_by(cache, inv, &path)?)),
                None => None,
            },
            Input::EnvAmong(filter) => Some(values(here, variables::named_among(inv, filter))),
            Input::Program(name) => match exec::resolve(cache, inv, OsStr::new(name))? {
                Some(path) => {
                    let hash = cache.hash_file(&path).ok().flatten().unwrap_or_default();
                    Some([&prefixes.template_path(&path)[..], &[0], &hash].concat())
                }
                None => Some(Vec::new()),
            },
            Input::Bound(token) => prefixes.get(*token).map(|path| path.as_os_str().as_bytes().to_vec()),
            Input::Width => Some(here.width.unwrap_or("none").as_bytes().to_vec()),
            Input::Cpu => Some(host::cpu().unwrap_or_default()),
            Input::Host => host::machine(),
        })
    }

    fn tag(&self) -> &'static str {
        match self {
            Input::File(_) => "file",
            Input::Absent(_) => "absent",
            Input::NowhereAbove(_) => "above",
            Input::Exists(_) => "exists",
            Input::Listing(_) => "listing",
            Input::Link(_) => "link",
            Input::Real(_) => "real",
            Input::Tree(_) => "tree",
            Input::Env(_) => "env",
            Input::EnvNamedBy(_) => "env named by",
            Input::Program(_) => "program",
            Input::Bound(_) => "bound",
            Input::Width => "width",
            Input::Cpu => "cpu",
            Input::Host => "host",
            Input::LibraryPath => "library path",
            Input::EnvAmong(_) => "env among",
        }
    }

    fn name(&self) -> &[u8] {
        match self {
            Input::File(t)
            | Input::Absent(t)
            | Input::NowhereAbove(t)
            | Input::Exists(t)
            | Input::Listing(t)
            | Input::Link(t)
            | Input::Real(t)
            | Input::Tree(t)
            | Input::EnvNamedBy(t) => t,
            Input::Env(name) | Input::Program(name) => name.as_bytes(),
            // The path is the value; which token has it differs between machines that agree.
            Input::Bound(_) | Input::Width | Input::Cpu | Input::Host | Input::LibraryPath => b"",
            // The texts are inputs themselves, or follow from inputs; names of places in them differ from run to run.
            Input::EnvAmong(_) => b"",
        }
    }

    fn in_words(&self) -> String {
        match self {
            Input::File(t) => format!("{} changed", readable(t)),
            Input::Absent(t) => format!("{} appeared", readable(t)),
            Input::NowhereAbove(t) => format!("{} above the checkout appeared or went", readable(t)),
            Input::Exists(t) => format!("{} is another", readable(t)),
            Input::Listing(t) => format!("names in {} changed", readable(t)),
            Input::Link(t) | Input::Real(t) => format!("{} leads elsewhere", readable(t)),
            Input::Tree(t) => format!("files in {} changed", readable(t)),
            Input::Env(name) => format!("environment variable {name} changed"),
            Input::EnvNamedBy(t) => format!("variables that {} may read changed", readable(t)),
            Input::Program(name) => format!("{name} in PATH is another"),
            Input::Bound(token) => format!("the result belongs to another {}", prefixes::in_words(*token)),
            Input::Width => "the terminal's width changed".into(),
            Input::Cpu => "the result is for another processor".into(),
            Input::Host => "the result is for another machine".into(),
            Input::LibraryPath => "LD_LIBRARY_PATH changed".into(),
            Input::EnvAmong(_) => "variables that its shells and interpreters may read changed".into(),
        }
    }
}

fn values(here: &Here, variables: Vec<&(OsString, OsString)>) -> Vec<u8> {
    let mut h = Hasher::new("variables");
    for (name, value) in variables {
        h.field("name", name.as_bytes()).field("value", &here.prefixes.normal(value));
    }
    h.finish().to_vec()
}

fn library_path(here: &Here) -> Result<Vec<u8>> {
    let Here { cache, inv, prefixes, .. } = *here;
    let mut value = Vec::new();
    for dir in std::env::split_paths(inv.var("LD_LIBRARY_PATH").unwrap_or_default()) {
        if dir.as_os_str().is_empty() || prefixes.in_target(&dir) {
            continue;
        }
        if !is_of_a_toolchain(cache, &dir)? {
            value.extend(prefixes.normal(dir.as_os_str()));
            value.push(b':');
        }
    }
    Ok(value)
}

/// Where a toolchain has its libraries: cargo and rustup say it by themselves.
fn is_of_a_toolchain(cache: &dyn Cache, dir: &Path) -> Result<bool> {
    Ok(dir.ancestors().any(|above| above.ends_with("lib/rustlib"))
        || cache.stat(&dir.join("rustlib"))?.is_some_and(|id| id.is_dir))
}

fn readable(template: &[u8]) -> String {
    let text = String::from_utf8_lossy(template).replace("\u{1f}W\u{1f}/", "").replace("\u{1f}P\u{1f}/", "");
    text.replace("\u{1f}T\u{1f}", "target").replace("\u{1f}C\u{1f}", "$CARGO_HOME").replace('\u{1f}', "")
}

/// Content of a file as it counts: what build scripts left may name the checkout, and means the same in another.
fn content(here: &Here, template: &[u8], path: &Path) -> Result<Option<[u8; 32]>> {
    let Some(hash) = here.cache.hash_file(path)? else { return Ok(None) };
    let in_target = template.first() == Some(&MARK)
        && template.get(1).is_some_and(|token| [TARGET, HOST].contains(&(*token as char)));
    if !in_target {
        return Ok(Some(hash));
    }
    tree::normal_hash(here.cache, path, hash, here.prefixes).map(Some)
}

/// Names, and what each is: who lists a directory learns both. Which crates are in cargo's directory of them at a moment is
/// chance, and the loader's search path leads there.
fn listed(template: &[u8], entries: &[DirEntry]) -> [u8; 32] {
    let of_crates =
        [TARGET, HOST].iter().any(|token| *template == *[&prefixes::token(*token)[..], b"/deps"].concat());
    let mut h = Hasher::new("names");
    for entry in entries.iter().filter(|entry| !(of_crates && is_name_of_crate(entry.name.as_bytes()))) {
        h.field("name", entry.name.as_bytes()).field("kind", &[entry.kind as u8]);
    }
    h.finish()
}

/// A name with cargo's hash in it, as in `libserde-8a1e53d20a8a1e53.rlib`.
fn is_name_of_crate(name: &[u8]) -> bool {
    let stem = name.split(|b| *b == b'.').next().unwrap_or_default();
    stem.rsplit(|b| *b == b'-').next().is_some_and(|hash| {
        hash.len() == 16 && hash.len() < stem.len() && hash.iter().all(u8::is_ascii_hexdigit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Disk;

    struct Place {
        dir: tempfile::TempDir,
        inv: Invocation,
        prefixes: Prefixes,
    }

    fn place(env: &[(&str, &str)]) -> Place {
        let dir = tempfile::tempdir().unwrap();
        let mut prefixes = Prefixes::default();
        prefixes.add('W', dir.path(), "");
        let env = env.iter().map(|(k, v)| (k.into(), v.into())).collect();
        Place { inv: Invocation { argv: vec![], cwd: dir.path().into(), env }, dir, prefixes }
    }

    impl Place {
        fn key(&self, inputs: &[Input]) -> Option<[u8; 32]> {
            let here = Here { cache: &Disk, inv: &self.inv, prefixes: &self.prefixes, width: None };
            let record = InputRecord::new(inputs.iter().cloned());
            record.entry_key(&here, &InvocationKey([0; 32])).unwrap().map(|key| key.0)
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    fn at(name: &str) -> Vec<u8> {
        format!("\u{1f}W\u{1f}/{name}").into_bytes()
    }

    #[test]
    fn the_same_inputs_elsewhere_give_the_same_key() {
        let (a, b) = (place(&[("V", "1")]), place(&[("V", "1")]));
        for place in [&a, &b] {
            place.write("x", "text");
            place.write("d/e", "");
        }
        let inputs = [
            Input::File(at("x")),
            Input::Absent(at("y")),
            Input::Exists(at("x")),
            Input::Listing(at("d")),
            Input::Tree(at("d")),
            Input::Env("V".into()),
            Input::Env("UNSET".into()),
        ];
        assert!(a.key(&inputs).is_some());
        assert_eq!(a.key(&inputs), b.key(&inputs));
        assert_ne!(a.key(&[Input::Bound('W')]), b.key(&[Input::Bound('W')]));
    }

    #[test]
    fn every_kind_of_change_is_seen() {
        let a = place(&[("V", "1")]);
        a.write("x", "text");
        a.write("d/e", "");
        let key = |input: Input| a.key(&[input]);
        let inputs =
            [Input::File(at("x")), Input::Listing(at("d")), Input::Tree(at("d")), Input::Exists(at("x"))];
        let before = inputs.clone().map(key);
        a.write("x", "longer text");
        a.write("d/f", "");
        for (input, before) in inputs.into_iter().zip(before) {
            assert_ne!(a.key(std::slice::from_ref(&input)), before, "{input:?}");
        }
        let absent = a.key(&[Input::Absent(at("y"))]);
        assert!(absent.is_some());
        a.write("y", "");
        assert_eq!(a.key(&[Input::Absent(at("y"))]), None);
        std::fs::remove_file(a.dir.path().join("y")).unwrap();
        std::os::unix::fs::symlink("nowhere", a.dir.path().join("y")).unwrap();
        assert_ne!(a.key(&[Input::Absent(at("y"))]), absent, "a dangling link is not nothing");
        assert_eq!(a.key(&[Input::File(at("gone"))]), None);
        let env = |value: &str| place(&[("V", value)]).key(&[Input::Env("V".into())]);
        assert_ne!(env("1"), env("2"));
        assert_ne!(env(""), place(&[]).key(&[Input::Env("V".into())]), "empty is not unset");
    }

    /// Changes one thing about an input, and the key is another one or none.
    #[track_caller]
    fn tells(input: Input, before: &dyn Fn(&Place), after: &dyn Fn(&Place)) {
        let place = place(&[("PATH", "")]);
        before(&place);
        let old = place.key(std::slice::from_ref(&input)).expect("it holds");
        assert_eq!(place.key(std::slice::from_ref(&input)), Some(old), "{input:?} is the same twice");
        after(&place);
        assert_ne!(place.key(std::slice::from_ref(&input)), Some(old), "{input:?}");
    }

    fn link(place: &Place, to: &str, name: &str) {
        let path = place.dir.path().join(name);
        let _ = std::fs::remove_file(&path);
        std::os::unix::fs::symlink(to, path).unwrap();
    }

    #[test]
    fn existence_tells_what_it_is() {
        use std::os::unix::fs::PermissionsExt;
        let file = |p: &Place| p.write("x", "text");
        let remove = |p: &Place| std::fs::remove_file(p.dir.path().join("x")).unwrap();
        let exists = || Input::Exists(at("x"));
        tells(exists(), &file, &remove);
        tells(exists(), &file, &|p| {
            remove(p);
            std::fs::create_dir(p.dir.path().join("x")).unwrap();
        });
        tells(exists(), &file, &|p| {
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(p.dir.path().join("x"), mode).unwrap();
        });
        tells(exists(), &file, &|p| {
            p.write("y", "text");
            link(p, "y", "x");
        });
        tells(exists(), &|p| std::fs::create_dir(p.dir.path().join("x")).unwrap(), &|p| {
            std::fs::rename(p.dir.path().join("x"), p.dir.path().join("real")).unwrap();
            link(p, "real", "x");
        });
    }

    #[test]
    fn that_a_directory_exists_does_not_tell_what_is_in_it() {
        use std::os::unix::fs::PermissionsExt;
        let a = place(&[]);
        a.write("d/x", "");
        let before = a.key(&[Input::Exists(at("d"))]);
        for n in 0..600 {
            a.write(&format!("d/a-rather-long-name-{n}"), "");
        }
        let mode = std::fs::Permissions::from_mode(0o711);
        std::fs::set_permissions(a.dir.path().join("d"), mode).unwrap();
        assert_eq!(a.key(&[Input::Exists(at("d"))]), before);
    }

    #[test]
    fn a_listing_tells_kinds_and_no_content() {
        let listing = || Input::Listing(at("d"));
        let file = |p: &Place| p.write("d/x", "text");
        tells(listing(), &file, &|p| {
            std::fs::remove_file(p.dir.path().join("d/x")).unwrap();
            p.write("d/x/y", "");
        });
        tells(listing(), &file, &|p| link(p, "elsewhere", "d/x"));
        let a = place(&[]);
        a.write("d/x", "1");
        let before = a.key(&[listing()]);
        a.write("d/x", "2");
        assert_eq!(a.key(&[listing()]), before);
        assert_eq!(a.key(&[Input::Listing(at("d/x"))]), None, "a file has no names in it");
    }

    #[test]
    fn links_tell_where_they_lead() {
        let first = |p: &Place| {
            p.write("one/x", "");
            p.write("two/x", "");
            link(p, "one", "to");
        };
        tells(Input::Link(at("to")), &first, &|p| link(p, "two", "to"));
        tells(Input::Real(at("to/x")), &first, &|p| link(p, "two", "to"));
        assert_eq!(place(&[]).key(&[Input::Link(at("to"))]), None);
        assert_eq!(place(&[]).key(&[Input::Real(at("to"))]), None);
    }

    #[test]
    fn settings_above_are_looked_for_in_each_directory() {
        let a = place(&[]);
        let inner = a.dir.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        let key = || {
            let mut prefixes = Prefixes::default();
            prefixes.add('W', &inner, "");
            let here = Here { cache: &Disk, inv: &a.inv, prefixes: &prefixes, width: None };
            let record = InputRecord::new([Input::NowhereAbove(b"settings".to_vec())]);
            record.entry_key(&here, &InvocationKey([0; 32])).unwrap().unwrap().0
        };
        let before = key();
        a.write("a/b/settings", "");
        assert_eq!(key(), before, "the checkout itself is not above it");
        a.write("a/settings", "");
        let one = key();
        assert_ne!(one, before);
        a.write("settings", "");
        assert_ne!(key(), one);
    }

    #[test]
    fn programs_tell_which_of_path_it_is() {
        use std::os::unix::fs::PermissionsExt;
        let a = place(&[]);
        let dirs = ["one", "two"].map(|name| a.dir.path().join(name));
        let env = vec![("PATH".into(), std::env::join_paths(&dirs).unwrap())];
        let inv = Invocation { argv: vec![], cwd: a.dir.path().into(), env };
        let key = || {
            let here = Here { cache: &Disk, inv: &inv, prefixes: &a.prefixes, width: None };
            let record = InputRecord::new([Input::Program("tool".into())]);
            record.entry_key(&here, &InvocationKey([0; 32])).unwrap().unwrap().0
        };
        let write = |name: &str, text: &str| {
            a.write(name, text);
            let mode = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(a.dir.path().join(name), mode).unwrap();
        };
        let nowhere = key();
        write("two/tool", "1");
        let there = key();
        assert_ne!(there, nowhere);
        write("two/tool", "2");
        let other = key();
        assert_ne!(other, there);
        write("one/tool", "2");
        assert_ne!(key(), other, "the same bytes at another place are another program");
    }

    #[test]
    fn which_crates_are_there_at_a_moment_is_no_input() {
        let mut a = place(&[]);
        a.write("target/debug/deps/libown.so", "");
        let root = a.dir.path().to_owned();
        a.prefixes.add(TARGET, &root.join("target/debug"), "");
        let listing = |dir: &str| [Input::Listing(format!("\u{1f}T\u{1f}/{dir}").into_bytes())];
        let before = a.key(&listing("deps"));
        for name in ["libserde-8a1e53d20a8a1e53.rlib", "app-8a1e53d20a8a1e53", "app-8a1e53d20a8a1e53.d"] {
            a.write(&format!("target/debug/deps/{name}"), "");
        }
        assert_eq!(a.key(&listing("deps")), before);
        for name in ["libowns.so", "8a1e53d20a8a1e53", "lib-8a1e53d20a8a1e5g.a", "lib-8a1e53.a"] {
            let before = a.key(&listing("deps"));
            a.write(&format!("target/debug/deps/{name}"), "");
            assert_ne!(a.key(&listing("deps")), before, "{name}");
        }
        a.write("target/debug/assets/one.txt", "");
        let before = a.key(&listing("assets"));
        a.write("target/debug/assets/app-8a1e53d20a8a1e53", "");
        assert_ne!(a.key(&listing("assets")), before);
    }

    #[test]
    fn a_library_path_is_what_the_user_says() {
        let key = |value: &str| {
            let mut a = place(&[("LD_LIBRARY_PATH", value)]);
            a.prefixes.add(TARGET, Path::new("/x/target/debug"), "");
            a.key(&[Input::LibraryPath])
        };
        assert_eq!(key("/x/target/debug/deps:/x/target/debug"), key(""));
        assert_ne!(key("/x/target/debug/deps:/opt/own/lib"), key(""));
        assert_ne!(key("/a:/b"), key("/b:/a"));
        let toolchain = tempfile::tempdir().unwrap();
        let lib = toolchain.path().join("lib");
        assert_ne!(key(lib.to_str().unwrap()), key(""));
        std::fs::create_dir_all(lib.join("rustlib")).unwrap();
        assert_eq!(key(lib.to_str().unwrap()), key(""));
    }

    #[test]
    fn of_variables_that_a_text_may_name_all_count() {
        let mut words = crate::names::Words::default();
        words.add(b"ifdef MODE $(origin APP_X) HOME V");
        let among = [Input::EnvAmong(words.filter())];
        let key = |env: &[(&str, &str)]| place(env).key(&among).unwrap();
        let plain = key(&[]);
        for env in [("MODE", "1"), ("MODE", ""), ("APP_X", "1"), ("V", "1")] {
            assert_ne!(key(&[env]), plain, "{env:?}");
        }
        assert_ne!(key(&[("MODE", "1")]), key(&[("MODE", "2")]));
        // These are of the session or the run, or nobody names them.
        for env in [("HOME", "/x"), ("KACHE_MODE", "1"), ("CARGO_PKG_NAME", "x"), ("OTHER", "1")] {
            assert_eq!(key(&[env]), plain, "{env:?}");
        }
        assert_eq!(key(&[("V", "1"), ("MODE", "1")]), key(&[("MODE", "1"), ("V", "1")]));
        let in_checkout = || {
            let mut place = place(&[]);
            place.inv.env.push(("MODE".into(), place.dir.path().join("x").into()));
            place.key(&among)
        };
        assert_eq!(in_checkout(), in_checkout());
        words.add(b"path of another run");
        let other = place(&[("MODE", "1")]).key(&[Input::EnvAmong(words.filter())]);
        assert_eq!(other.unwrap(), key(&[("MODE", "1")]));
    }

    #[test]
    fn names_and_kinds_of_inputs_are_in_the_key() {
        let a = place(&[("A", "1"), ("B", "1")]);
        for name in ["x", "y"] {
            a.write(name, "text");
            a.write(&format!("{name}.d/f"), "");
        }
        let pairs = [
            (Input::File(at("x")), Input::File(at("y"))),
            (Input::Exists(at("x")), Input::Exists(at("y"))),
            (Input::Absent(at("u")), Input::Absent(at("v"))),
            (Input::Listing(at("x.d")), Input::Listing(at("y.d"))),
            (Input::Tree(at("x.d")), Input::Tree(at("y.d"))),
            (Input::Env("A".into()), Input::Env("B".into())),
            (Input::Env("NONE".into()), Input::Program("NONE".into())),
            (Input::Width, Input::Cpu),
            (Input::Cpu, Input::Host),
        ];
        for (one, other) in pairs {
            assert_ne!(
                a.key(std::slice::from_ref(&one)),
                a.key(std::slice::from_ref(&other)),
                "{one:?}, {other:?}"
            );
        }
        assert_ne!(
            a.key(&[Input::Env("A".into())]),
            a.key(&[Input::Env("A".into()), Input::Env("B".into())])
        );
    }

    #[test]
    fn the_width_of_the_terminal_counts() {
        let a = place(&[]);
        let key = |width| {
            let here = Here { cache: &Disk, inv: &a.inv, prefixes: &a.prefixes, width };
            InputRecord::new([Input::Width]).entry_key(&here, &InvocationKey([0; 32])).unwrap()
        };
        assert_ne!(key(Some("80")), key(Some("81")));
        assert_ne!(key(None), key(Some("80")));
        let one = InputRecord::new([]).entry_key(
            &Here { cache: &Disk, inv: &a.inv, prefixes: &a.prefixes, width: None },
            &InvocationKey([1; 32]),
        );
        assert_ne!(one.unwrap().map(|key| key.0), a.key(&[]), "the invocation is in it");
    }

    #[test]
    fn records_are_ordered_and_say_what_they_have() {
        let mut record = InputRecord::new([Input::Width, Input::File(at("x")), Input::Width]);
        assert_eq!(record.0, [Input::File(at("x")), Input::Width]);
        record.add(Input::Bound('W'));
        assert_eq!(record.0, [Input::File(at("x")), Input::Bound('W'), Input::Width]);
        assert_eq!(record.without(&['W'].into()).0, [Input::File(at("x")), Input::Width]);
        assert_eq!(record.without(&['P'].into()).0.len(), 3);
        assert_eq!(InputRecord::from_bytes(&record.to_bytes().unwrap()), Some(record.clone()));
        let a = place(&[]);
        assert_eq!(record.files(&a.prefixes), [a.dir.path().join("x")]);
    }

    #[test]
    fn a_miss_is_explained_by_what_changed() {
        let cache = crate::testing::Memory::default();
        let a = place(&[("V", "1")]);
        a.write("x", "1");
        a.write("y", "1");
        let key = InvocationKey([7; 32]);
        let here = Here { cache: &cache, inv: &a.inv, prefixes: &a.prefixes, width: None };
        let record = InputRecord::new([Input::File(at("x")), Input::File(at("y")), Input::Absent(at("z"))]);
        assert_eq!(explain(&here, &key).unwrap(), "its inputs changed");
        record.remember(&here, &key).unwrap();
        assert_eq!(explain(&here, &key).unwrap(), "its inputs were not stored in this combination");
        a.write("x", "2");
        a.write("z", "");
        assert_eq!(explain(&here, &key).unwrap(), "x changed, z appeared");
    }

    #[test]
    fn inputs_have_words() {
        let words = |input: Input| input.in_words();
        assert_eq!(words(Input::NowhereAbove(b"x".to_vec())), "x above the checkout appeared or went");
        assert_eq!(words(Input::Exists(at("x"))), "x is another");
        assert_eq!(words(Input::Listing(at("d"))), "names in d changed");
        assert_eq!(words(Input::Real(at("d"))), "d leads elsewhere");
        assert_eq!(words(Input::Tree(at("d"))), "files in d changed");
        assert_eq!(words(Input::Env("V".into())), "environment variable V changed");
        assert_eq!(words(Input::EnvNamedBy(at("t"))), "variables that t may read changed");
        let among = "variables that its shells and interpreters may read changed";
        assert_eq!(words(Input::EnvAmong(vec![0])), among);
        assert_eq!(words(Input::Program("cc".into())), "cc in PATH is another");
        assert_eq!(words(Input::LibraryPath), "LD_LIBRARY_PATH changed");
        assert_eq!(words(Input::File(b"\x1fT\x1f/x".to_vec())), "target/x changed");
    }

    #[test]
    fn what_lies_in_the_target_directory_may_name_the_checkout() {
        let key = |mention: &dyn Fn(&Place) -> String, inner: &str| {
            let mut a = place(&[]);
            a.prefixes.add(TARGET, &a.dir.path().join("target/debug"), "");
            let text = mention(&a);
            a.write(inner, &text);
            a.key(&[Input::File(a.prefixes.template_path(&a.dir.path().join(inner)))])
        };
        let own = |a: &Place| format!("prefix={}", a.dir.path().display());
        assert_eq!(key(&own, "target/debug/x.pc"), key(&own, "target/debug/x.pc"));
        assert_ne!(key(&own, "x.pc"), key(&own, "x.pc"), "in a source, it is what it says");
    }
}
