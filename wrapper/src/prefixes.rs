//! The paths of this machine that results must not depend on, and the tokens that stand for them.
//!
//! One list serves three purposes, so that they cannot disagree: keys are computed over *normalized* values,
//! texts (dep-info, diagnostics) are stored as *templates*, and rustc is told the same prefixes by
//! `--remap-path-prefix`. Targets follow cargo's own trim-paths (RFC 3127): relative paths for the workspace.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use memchr::memmem;
use serde::{Deserialize, Serialize};

/// Encloses a token in templates. It cannot occur in JSON, and a text that has it anyway is not stored.
pub const MARK: u8 = 0x1f;

/// One path of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefix {
    /// Stands for the path in keys and templates.
    pub token: char,
    pub path: PathBuf,
    /// What rustc shows in its place; nothing: the path itself.
    pub shown_as: OsString,
    /// The same directory by another path, without symbolic links.
    is_alias: bool,
}

impl Prefix {
    /// Does its token stand for this path?
    pub fn has_token(&self) -> bool {
        !self.is_alias || self.token == CARGO_HOME
    }

    pub fn is_vague(&self) -> bool {
        matches!(self.token, HOME | AROUND)
    }
}

/// All of them, shortest path first (rustc applies the last match, we the longest).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefixes(Vec<Prefix>);

/// The profile directory of a target directory.
pub const TARGET: char = 'T';
/// Directory the compiler runs in: the workspace, or a package outside of it.
pub const WORKSPACE: char = 'W';
pub const CARGO_HOME: char = 'C';
/// The package of a build script.
pub const PACKAGE: char = 'P';
/// The profile directory where a build script's program lies, when its results go elsewhere (cross compilation).
pub const HOST: char = 'H';
/// Where a build script finds the toolchain.
pub const SYSROOT: char = 'S';
/// The user's home, and the directory around the checkout: what lies there and has no token of its own may be another
/// thing for another checkout.
pub const HOME: char = 'U';
pub const AROUND: char = 'V';
/// The repository around a workspace.
pub const REPOSITORY: char = 'G';
/// Library sources that come with the toolchain.
pub const RUST_SRC: char = 'R';

impl Prefixes {
    /// Where something is built: a checkout; CARGO_HOME for what was published.
    pub fn place(&self) -> Option<(char, &Path)> {
        [PACKAGE, WORKSPACE, CARGO_HOME].into_iter().find_map(|token| Some((token, self.get(token)?)))
    }

    pub fn add(&mut self, token: char, path: &Path, shown_as: impl Into<OsString>) {
        if !path.is_absolute() || path.parent().is_none() || path.as_os_str().as_bytes().contains(&MARK) {
            return;
        }
        let prefix = Prefix { token, path: path.to_owned(), shown_as: shown_as.into(), is_alias: false };
        self.0.push(prefix);
        self.0.sort_by_key(|p| p.path.as_os_str().len());
    }

    /// Also knows a directory by its path without symbolic links: programs may find that out. Where it stands in a result,
    /// the result is bound to it; what cargo keeps at home is the same by either path.
    pub fn add_alias(&mut self, token: char) {
        let Some(prefix) = self.0.iter().find(|p| p.token == token && !p.is_alias).cloned() else { return };
        if let Ok(real) = std::fs::canonicalize(&prefix.path)
            && real != prefix.path
        {
            self.0.push(Prefix { path: real, is_alias: true, ..prefix });
            self.0.sort_by_key(|p| p.path.as_os_str().len());
        }
    }

    pub fn remove(&mut self, token: char) {
        self.0.retain(|p| p.token != token);
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Prefix> {
        self.0.iter()
    }

    /// A path by the names that cargo uses: without those of directories that were found behind symbolic links.
    pub fn by_usual_name(&self, path: &Path) -> Option<PathBuf> {
        let alias = self.0.iter().rev().find(|p| p.is_alias && path.starts_with(&p.path))?;
        Some(self.get(alias.token)?.join(path.strip_prefix(&alias.path).ok()?))
    }

    /// In an order that does not depend on how long the paths are.
    pub fn by_token(&self) -> Vec<&Prefix> {
        let mut all: Vec<&Prefix> = self.0.iter().filter(|p| !p.is_alias).collect();
        all.sort_by_key(|p| p.token);
        all
    }

    /// Does it lie in the checkout, in its target directory, in a package, or in what cargo keeps?
    pub fn is_of_the_build(&self, path: &Path) -> bool {
        let counts = |p: &&Prefix| !p.is_vague() && ![SYSROOT, RUST_SRC].contains(&p.token);
        self.0.iter().filter(counts).any(|p| path.starts_with(&p.path))
    }

    pub fn get(&self, token: char) -> Option<&Path> {
        self.0.iter().find(|p| p.token == token && !p.is_alias).map(|p| p.path.as_path())
    }

    /// `--remap-path-prefix=FROM=TO` arguments for rustc.
    pub fn remap_args(&self) -> impl Iterator<Item = OsString> {
        // rustc splits at `=`, and takes no argument that is not UTF-8. Such a path stays in the output, is found there,
        // and binds it.
        let can_say =
            |p: &&Prefix| !p.shown_as.is_empty() && p.path.to_str().is_some_and(|text| !text.contains('='));
        self.0.iter().filter(can_say).map(|p| {
            let mut arg = OsString::from("--remap-path-prefix=");
            arg.push(&p.path);
            arg.push("=");
            arg.push(&p.shown_as);
            arg
        })
    }

    /// Messages of a compiler that was told to show something else, with the paths of this machine.
    pub fn show_real(&self, text: &mut Vec<u8>) {
        if let Some(workspace) = self.0.iter().find(|p| p.token == WORKSPACE && p.shown_as == ".") {
            show_whole_names(text, workspace.path.as_os_str().as_bytes());
        }
        for prefix in self.0.iter().filter(|p| p.shown_as.len() > 1) {
            let (shown, path) = (prefix.shown_as.as_bytes(), prefix.path.as_os_str().as_bytes());
            let below: &[&[u8]] = match prefix.token {
                CARGO_HOME => &[b"/registry/", b"/git/"],
                RUST_SRC if prefix.path.join("library").exists() => &[b"/library/"],
                TARGET => &[b"/build/"],
                _ => continue,
            };
            if memmem::find(text, shown).is_none() || !path.iter().all(|b| is_name_byte(*b) || *b == b'/') {
                continue;
            }
            for below in below {
                *text = replace_path(text, &[shown, below].concat(), &[path, below].concat(), false);
            }
        }
    }

    /// A text with tokens in place of this machine's paths.
    pub fn template(&self, text: &[u8]) -> Vec<u8> {
        let mut out = text.to_vec();
        for prefix in self.0.iter().rev().filter(|p| p.has_token()) {
            out = replace_path(&out, prefix.path.as_os_str().as_bytes(), &token(prefix.token), true);
        }
        out
    }

    /// Does it lie in the target directory, that of the host included?
    pub fn in_target(&self, path: &Path) -> bool {
        [TARGET, HOST].into_iter().any(|token| self.get(token).is_some_and(|dir| path.starts_with(dir)))
    }

    /// The text that a template means here; `None` when it names a path this machine does not know.
    pub fn expand(&self, template: &[u8]) -> Option<Vec<u8>> {
        self.expand_with(template, &<[u8]>::to_vec)
    }

    /// The same with paths written in some other way.
    pub fn expand_with(&self, template: &[u8], write: &dyn Fn(&[u8]) -> Vec<u8>) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(template.len() + 64);
        let mut rest = template;
        while let Some(at) = memchr::memchr(MARK, rest) {
            out.extend_from_slice(&rest[..at]);
            let name = *rest.get(at + 1)? as char;
            if rest.get(at + 2) != Some(&MARK) {
                return None;
            }
            out.extend(write(self.get(name)?.as_os_str().as_bytes()));
            rest = &rest[at + 3..];
        }
        out.extend_from_slice(rest);
        Some(out)
    }

    pub fn template_path(&self, path: &Path) -> Vec<u8> {
        self.template(path.as_os_str().as_bytes())
    }

    pub fn expand_path(&self, template: &[u8]) -> Option<PathBuf> {
        self.expand(template).map(|b| PathBuf::from(OsString::from_vec(b)))
    }

    /// Value of an environment variable or argument, for a key.
    pub fn normal(&self, value: &OsStr) -> Vec<u8> {
        if self.0.iter().any(Prefix::is_vague) {
            return self.known().template(value.as_bytes());
        }
        self.template(value.as_bytes())
    }

    /// The same directories of another place.
    pub fn moved(&self, to: &dyn Fn(&Path) -> PathBuf) -> Prefixes {
        let mut moved = self.clone();
        moved.0.iter_mut().for_each(|p| p.path = to(&p.path));
        moved.0.sort_by_key(|p| p.path.as_os_str().len());
        moved
    }

    /// Those whose paths mean the same for every checkout.
    pub fn known(&self) -> Prefixes {
        Prefixes(self.0.iter().filter(|p| !p.is_vague()).cloned().collect())
    }
}

/// What a token stands for.
pub(crate) fn in_words(token: char) -> &'static str {
    match token {
        TARGET | HOST => "target directory",
        PACKAGE => "package directory",
        CARGO_HOME => "CARGO_HOME",
        HOME => "home directory",
        SYSROOT | RUST_SRC => "toolchain directory",
        _ => "checkout",
    }
}

/// Would a text be taken for a template?
pub(crate) fn contains_mark(text: &OsStr) -> bool {
    text.as_bytes().contains(&MARK)
}

pub(crate) fn token(name: char) -> [u8; 3] {
    [MARK, name as u8, MARK]
}

/// Replaces `path` where it stands as the head of a path, or (`whole`) as a whole component of one.
pub(crate) fn replace_path(text: &[u8], path: &[u8], with: &[u8], whole: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut done = 0;
    for at in memmem::find_iter(text, path) {
        if at < done {
            continue;
        }
        let before = at.checked_sub(1).map(|i| text[i]);
        let after = text.get(at + path.len()).copied();
        let is_inside = before.is_some_and(|b| is_name_byte(b) || b == b'/') && !ends_with_color(&text[..at]);
        if is_inside || whole && after.is_some_and(is_name_byte) {
            continue;
        }
        out.extend_from_slice(&text[done..at]);
        out.extend_from_slice(with);
        done = at + path.len();
    }
    if done == 0 {
        return text.to_vec();
    }
    out.extend_from_slice(&text[done..]);
    out
}

/// Where messages name a file that the compiler was given by its whole path, `./` stands for the directory that it runs in.
fn show_whole_names(text: &mut Vec<u8>, dir: &[u8]) {
    let mut out = Vec::new();
    let mut done = 0;
    for at in memmem::find_iter(text, b"./") {
        let mut before = &text[..at];
        while ends_with_color(before) {
            let code = memchr::memrchr(b'[', before).unwrap_or(0);
            before = before[..code]
                .strip_suffix(b"\\u001b")
                .or(before[..code].strip_suffix(b"\x1b"))
                .unwrap_or(b"");
        }
        if [&b"--> "[..], b"::: ", b"\"file_name\":\""].iter().any(|name| before.ends_with(name)) {
            out.extend_from_slice(&text[done..at]);
            out.extend_from_slice(dir);
            done = at + 1;
        }
    }
    if done > 0 {
        out.extend_from_slice(&text[done..]);
        *text = out;
    }
}

/// Does it end with a terminal's code for a color, whose last byte is a letter?
fn ends_with_color(text: &[u8]) -> bool {
    let Some(text) = text.strip_suffix(b"m") else { return false };
    let digits = text.iter().rev().take_while(|b| b.is_ascii_digit() || **b == b';').count();
    let text = &text[..text.len() - digits];
    text.ends_with(b"\x1b[") || text.ends_with(b"u001b[")
}

fn is_name_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-') || b >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Prefixes {
        let mut p = Prefixes::default();
        p.add(TARGET, Path::new("/w/proj/target/debug"), "./target/debug");
        p.add(WORKSPACE, Path::new("/w/proj"), ".");
        p
    }

    #[test]
    fn longest_prefix_wins_and_expands_back() {
        let text = b"/w/proj/target/debug/deps/x.d: /w/proj/src/main.rs /w/project/y";
        let template = two().template(text);
        assert_eq!(template, b"\x1fT\x1f/deps/x.d: \x1fW\x1f/src/main.rs /w/project/y");
        assert_eq!(two().expand(&template).unwrap(), text);
    }

    #[test]
    fn a_directory_is_known_without_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().canonicalize().unwrap().join("real"), dir.path().join("link"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let mut p = Prefixes::default();
        for token in [CARGO_HOME, TARGET] {
            p.remove(CARGO_HOME);
            p.add(token, &link, "");
            p.add_alias(token);
            assert_eq!(p.get(token), Some(link.as_path()));
            assert_eq!(p.iter().count(), 2);
            let is_replaced = p.template_path(&real.join("x")).starts_with(&[MARK]);
            assert_eq!(is_replaced, token == CARGO_HOME);
        }
    }

    #[test]
    fn only_whole_components_are_replaced() {
        assert_eq!(two().template(b"/x/w/proj a=/w/proj,b=/w/proj-2"), b"/x/w/proj a=\x1fW\x1f,b=/w/proj-2");
    }

    #[test]
    fn a_template_of_another_machine_does_not_expand_by_guess() {
        assert_eq!(two().expand(b"\x1fC\x1f/registry"), None);
        assert_eq!(two().expand(b"\x1f"), None);
    }

    #[test]
    fn messages_name_files_that_exist() {
        let mut p = two();
        p.add(CARGO_HOME, Path::new("/home/me/.cargo"), "/cargo");
        let mut text =
            b" --> \\u001b[0m/cargo/registry/src/a.rs:1 \"./target/debug/build/x/o.rs\" /cargo/x a/cargo/git/".to_vec();
        p.show_real(&mut text);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            " --> \\u001b[0m/home/me/.cargo/registry/src/a.rs:1 \"/w/proj/target/debug/build/x/o.rs\" /cargo/x a/cargo/git/"
        );
    }

    #[test]
    fn files_that_were_named_wholly_are_shown_so() {
        let mut text =
            b"{\"file_name\":\"./src/a.rs\",\"rendered\":\"use ./x --> \\u001b[0m./src/a.rs:1\"}".to_vec();
        two().show_real(&mut text);
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "{\"file_name\":\"/w/proj/src/a.rs\",\"rendered\":\"use ./x --> \\u001b[0m/w/proj/src/a.rs:1\"}"
        );
    }

    #[test]
    fn remaps_shortest_first() {
        let args: Vec<_> = two().remap_args().collect();
        assert_eq!(args[0], "--remap-path-prefix=/w/proj=.");
        assert_eq!(args[1], "--remap-path-prefix=/w/proj/target/debug=./target/debug");
    }
}
