//! Input records: what an earlier run of an invocation read.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, EntryKey, Invocation, InvocationKey, Result};
use crate::depinfo::DepInfo;
use crate::hasher::Hasher;
use crate::natives;
use crate::prefixes::Prefixes;
use crate::script::tree::{self, Which};

/// One thing that a result depends on. Paths are templates.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Input {
    File(Vec<u8>),
    /// A file that would have been read if it existed (`foo/mod.rs` beside `foo.rs`).
    Absent(Vec<u8>),
    Env(String),
    /// The result contains this machine's path for a token, so it is valid only under the same path.
    Bound(char),
    /// The diagnostics were wrapped to this terminal.
    Width,
    /// Files in a directory.
    Tree(Vec<u8>, Which),
    /// The result was made for this machine's processor.
    Cpu,
}

/// All inputs of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRecord(pub Vec<Input>);

impl InputRecord {
    /// From what rustc reported.
    pub fn new(cache: &dyn Cache, info: &DepInfo, cwd: &Path, prefixes: &Prefixes) -> Result<InputRecord> {
        let mut inputs = Vec::new();
        for file in &info.files {
            let path = cwd.join(file);
            if let Some(other) = alternative(&path)
                && cache.stat(&other)?.is_none()
            {
                inputs.push(Input::Absent(prefixes.template_path(&other)));
            }
            inputs.push(Input::File(prefixes.template_path(&path)));
        }
        inputs.extend(info.env.iter().cloned().map(Input::Env));
        let mut record = InputRecord(inputs);
        record.order();
        Ok(record)
    }

    pub fn bind(&mut self, token: char) {
        self.0.push(Input::Bound(token));
        self.order();
    }

    pub fn depends_on_cpu(&mut self) {
        self.0.push(Input::Cpu);
        self.order();
    }

    pub fn depends_on_width(&mut self) {
        self.0.push(Input::Width);
        self.order();
    }

    pub(crate) fn order(&mut self) {
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
    pub fn files(&self, prefixes: &Prefixes) -> Vec<PathBuf> {
        self.0
            .iter()
            .filter_map(|i| match i {
                Input::File(t) => prefixes.expand_path(t),
                _ => None,
            })
            .collect()
    }

    /// The entry key for the inputs as they are now. `None` when one is gone (or appeared), or has no place here.
    pub fn entry_key(
        &self,
        cache: &dyn Cache,
        inv: &Invocation,
        invocation: &InvocationKey,
        prefixes: &Prefixes,
        width: Option<&str>,
    ) -> Result<Option<EntryKey>> {
        let mut h = Hasher::new("entry");
        h.field("invocation", &invocation.0);
        for input in &self.0 {
            match input {
                Input::File(template) => {
                    let Some(path) = prefixes.expand_path(template) else { return Ok(None) };
                    let Some(hash) = cache.hash_file(&path)? else { return Ok(None) };
                    h.field("file", template).field("content", &hash);
                }
                Input::Absent(template) => {
                    let Some(path) = prefixes.expand_path(template) else { return Ok(None) };
                    if cache.stat(&path)?.is_some() {
                        return Ok(None);
                    }
                    h.field("absent", template);
                }
                Input::Env(name) => {
                    h.field("env", name.as_bytes());
                    match inv.var(name) {
                        Some(value) => h.field("set", &prefixes.normal(value)),
                        None => h.field("unset", b""),
                    };
                }
                Input::Bound(token) => {
                    let Some(path) = prefixes.get(*token) else { return Ok(None) };
                    h.field("bound", path.as_os_str().as_bytes());
                }
                Input::Width => {
                    h.field("width", width.unwrap_or("none").as_bytes());
                }
                Input::Tree(template, which) => {
                    let Some(path) = prefixes.expand_path(template) else { return Ok(None) };
                    let Some(state) = tree::state(cache, &path, *which, prefixes)? else { return Ok(None) };
                    h.field("tree", template).field("which", &[*which as u8]).field("content", &state.hash);
                }
                Input::Cpu => {
                    h.field("cpu", &natives::native_cpu().unwrap_or_default());
                }
            }
        }
        Ok(Some(EntryKey(h.finish())))
    }
}

impl InputRecord {
    /// Remembers the inputs' present values, to explain a later miss.
    pub fn remember(
        &self,
        cache: &dyn Cache,
        inv: &Invocation,
        key: &InvocationKey,
        prefixes: &Prefixes,
    ) -> Result<()> {
        let values = self.values(cache, inv, prefixes)?;
        cache.set_fact("inputs", &key.0, &postcard::to_stdvec(&values)?)
    }

    fn values(
        &self,
        cache: &dyn Cache,
        inv: &Invocation,
        prefixes: &Prefixes,
    ) -> Result<Vec<(Input, [u8; 8])>> {
        let mut values = Vec::with_capacity(self.0.len());
        for input in &self.0 {
            let mut h = Hasher::new("value");
            match input {
                Input::File(template) | Input::Absent(template) => {
                    if let Some(path) = prefixes.expand_path(template)
                        && let Some(hash) = cache.hash_file(&path)?
                    {
                        h.field("content", &hash);
                    }
                }
                Input::Env(name) => {
                    if let Some(value) = inv.var(name) {
                        h.field("set", &prefixes.normal(value));
                    }
                }
                Input::Bound(token) => {
                    h.field("path", prefixes.get(*token).map_or(&b""[..], |p| p.as_os_str().as_bytes()));
                }
                Input::Width => {}
                Input::Tree(template, which) => {
                    if let Some(path) = prefixes.expand_path(template)
                        && let Some(state) = tree::state(cache, &path, *which, prefixes)?
                    {
                        h.field("content", &state.hash);
                    }
                }
                Input::Cpu => {
                    h.field("cpu", &natives::native_cpu().unwrap_or_default());
                }
            }
            let mut short = [0; 8];
            short.copy_from_slice(&h.finish()[..8]);
            values.push((input.clone(), short));
        }
        Ok(values)
    }
}

/// What changed since the inputs of an invocation were remembered, in words; at most three.
pub fn explain(
    cache: &dyn Cache,
    inv: &Invocation,
    key: &InvocationKey,
    prefixes: &Prefixes,
) -> Result<String> {
    let fact =
        cache.fact("inputs", &key.0)?.and_then(|v| postcard::from_bytes::<Vec<(Input, [u8; 8])>>(&v).ok());
    let Some(old) = fact else { return Ok("its inputs changed".into()) };
    let record = InputRecord(old.iter().map(|(input, _)| input.clone()).collect());
    let now = record.values(cache, inv, prefixes)?;
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
    fn in_words(&self) -> String {
        let readable = |t: &[u8]| {
            let text = String::from_utf8_lossy(t).replace("\u{1f}W\u{1f}/", "").replace("\u{1f}P\u{1f}/", "");
            text.replace("\u{1f}T\u{1f}", "target")
                .replace("\u{1f}C\u{1f}", "$CARGO_HOME")
                .replace('\u{1f}', "")
        };
        match self {
            Input::File(t) => format!("{} changed", readable(t)),
            Input::Absent(t) => format!("{} appeared", readable(t)),
            Input::Env(name) => format!("environment variable {name} changed"),
            Input::Bound(_) => "the result contains the path of another checkout".into(),
            Input::Width => "the terminal's width changed".into(),
            Input::Tree(t, Which::All) => format!("files in {} changed", readable(t)),
            Input::Tree(..) => "files of the package changed".into(),
            Input::Cpu => "the result is for another processor".into(),
        }
    }
}

/// The other place where rustc looks for the same module.
fn alternative(path: &Path) -> Option<PathBuf> {
    if path.extension() != Some(OsStr::new("rs")) {
        return None;
    }
    let (dir, stem) = (path.parent()?, path.file_stem()?);
    match stem.to_str()? {
        "mod" => {
            let mut name = dir.file_name()?.to_owned();
            name.push(".rs");
            Some(dir.with_file_name(name))
        }
        "lib" | "main" | "build" => None,
        _ => Some(dir.join(stem).join("mod.rs")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_have_two_places() {
        assert_eq!(alternative(Path::new("/w/src/a.rs")), Some("/w/src/a/mod.rs".into()));
        assert_eq!(alternative(Path::new("/w/src/a/mod.rs")), Some("/w/src/a.rs".into()));
        assert_eq!(alternative(Path::new("/w/src/v1.2/mod.rs")), Some("/w/src/v1.2.rs".into()));
        assert_eq!(alternative(Path::new("/w/src/lib.rs")), None);
        assert_eq!(alternative(Path::new("/w/data.txt")), None);
    }
}
