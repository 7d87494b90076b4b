//! A compile in a mount that writes outside of it.
//!
//! Whatever is written through a mount costs a message, and rustc makes, links and removes hundreds of files when it
//! compiles incrementally. So the compiler is given directories of an ordinary file system, and what it has made is moved
//! to where cargo expects it. Nothing that it makes names these directories but messages and dep-info, which are
//! corrected.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::args::{Change, Compile, Flag, relocated, rewritten};

/// Where a compiler writes instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scratch {
    /// In place of the output directory; the same each time. Made by whoever compiles.
    pub out: PathBuf,
    /// The directory for the unit's incremental state.
    pub incremental: Option<PathBuf>,
    /// Directories whose crates the compiler reads in [`Scratch::crates`] instead. rustc remembers where it found a crate,
    /// and generates all code again when that is elsewhere, as it is in another checkout.
    pub gathered: Vec<PathBuf>,
}

/// Can the outputs of this compile be made elsewhere without a trace?
pub fn is_possible(compile: &Compile) -> bool {
    let out_dir = compile.out_dir.as_os_str().as_bytes();
    let named_once = compile.args.iter().filter(|a| out_dir_argument(a).is_some()).count() == 1
        && compile.args.windows(2).any(|pair| {
            out_dir_argument(&pair[1]) == Some(out_dir)
                || pair[0] == "--out-dir" && pair[1] == compile.out_dir
        });
    let options = compile.codegen.iter().filter_map(|(_, value)| value.as_deref());
    named_once
        && is_plain(out_dir)
        && compile.unstable.is_empty()
        && compile.emits.iter().all(|(_, place)| place.is_none())
        && compile.codegen("split-debuginfo").is_none_or(|v| v == "off")
        && !compile.has_codegen("rpath")
        && !options.into_iter().any(|v| memchr::memmem::find(v.as_bytes(), out_dir).is_some())
}

/// The value of `--out-dir=…`; empty for a lone `--out-dir`.
fn out_dir_argument(arg: &OsStr) -> Option<&[u8]> {
    match arg.as_bytes().strip_prefix(b"--out-dir")? {
        b"" => Some(b""),
        rest => rest.strip_prefix(b"="),
    }
}

/// Is a path written the same everywhere: in JSON, in makefiles, in messages?
pub fn is_plain(path: &[u8]) -> bool {
    path.iter().all(|b| b.is_ascii_alphanumeric() || b"/._-+".contains(b))
}

impl Scratch {
    pub fn new(out: PathBuf, incremental: Option<PathBuf>) -> Scratch {
        Scratch { out, incremental, gathered: Vec::new() }
    }

    /// The command line, as given in `cwd`, with the directories of this one.
    pub fn argv(&self, argv: &[OsString], cwd: &Path) -> Vec<OsString> {
        let argv = relocated(argv, Some(&self.out), self.incremental.as_deref());
        if self.gathered.is_empty() {
            return argv;
        }
        let crates_of = |dir: &Path| {
            self.gathered.iter().position(|gathered| *gathered == cwd.join(dir)).map(|n| self.crates(n))
        };
        rewritten(&argv, &|flag, value| {
            let (before, path) = split_kind(value);
            let elsewhere = match flag {
                Flag::Search => crates_of(path),
                Flag::Extern => {
                    path.parent().and_then(crates_of).zip(path.file_name()).map(|(dir, name)| dir.join(name))
                }
                Flag::Codegen | Flag::OutDir | Flag::Source => None,
            };
            elsewhere.map_or(Change::Keep, |path| {
                let mut value = before.to_owned();
                value.push(path);
                Change::To(value)
            })
        })
    }

    /// Where the crates of the gathered directory `n` are.
    pub fn crates(&self, n: usize) -> PathBuf {
        self.out.join("crates").join(n.to_string())
    }

    /// Text of the compiler as it would have been.
    pub fn correct(&self, text: &mut Vec<u8>, out_dir: &Path) {
        for (n, dir) in self.gathered.iter().enumerate() {
            replace_all(text, &self.crates(n), dir);
        }
        replace_all(text, &self.out, out_dir);
    }

    /// Names of what lies there finished; dep-info says then what it would have said.
    pub fn collect(&self, out_dir: &Path) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.out)? {
            let entry = entry?;
            if !entry.file_type()?.is_file() {
                continue;
            }
            if Path::new(&entry.file_name()).extension() == Some(OsStr::new("d")) {
                let mut text = std::fs::read(entry.path())?;
                self.correct(&mut text, out_dir);
                std::fs::write(entry.path(), text)?;
            }
            names.push(entry.file_name());
        }
        Ok(names)
    }
}

/// `[kind=]path`, with all that stands before the path.
fn split_kind(value: &OsStr) -> (&OsStr, &Path) {
    let bytes = value.as_bytes();
    let at = memchr::memchr(b'=', bytes).map_or(0, |at| at + 1);
    (OsStr::from_bytes(&bytes[..at]), Path::new(OsStr::from_bytes(&bytes[at..])))
}

fn replace_all(text: &mut Vec<u8>, from: &Path, to: &Path) {
    let (from, to) = (from.as_os_str().as_bytes(), to.as_os_str().as_bytes());
    let finder = memchr::memmem::Finder::new(from);
    if finder.find(text).is_none() {
        return;
    }
    let mut replaced = Vec::with_capacity(text.len());
    let mut rest = text.as_slice();
    while let Some(at) = finder.find(rest) {
        replaced.extend_from_slice(&rest[..at]);
        replaced.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    replaced.extend_from_slice(rest);
    *text = replaced;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args;
    use crate::cache::Invocation;

    fn compile(args: &[&str]) -> Compile {
        let words = "/t/bin/rustc --crate-name foo src/lib.rs --error-format=json --json=artifacts --crate-type lib \
                     --emit=dep-info,link";
        let argv = words.split_whitespace().chain(args.iter().copied()).map(OsString::from).collect();
        *args::parse(&Invocation { argv, cwd: "/w".into(), env: vec![] }, &|_| None).unwrap()
    }

    #[test]
    fn only_what_leaves_no_trace_is_moved() {
        let possible = |args: &[&str]| is_possible(&compile(args));
        assert!(possible(&["--out-dir", "/w/t/deps", "-L", "dependency=/w/t/deps"]));
        assert!(possible(&["--out-dir=/w/t/deps"]));
        for other in [
            &["--out-dir", "t/deps"][..],
            &["--out-dir", "/w/a b/deps"],
            &["--out-dir", "/w/t/deps", "-C", "split-debuginfo=packed"],
            &["--out-dir", "/w/t/deps", "-C", "rpath"],
            &["--out-dir", "/w/t/deps", "-C", "link-arg=-Wl,-Map=/w/t/deps/map"],
            &["--out-dir", "/w/t/deps", "--emit=metadata=/w/x.rmeta"],
        ] {
            assert!(!possible(other), "{other:?}");
        }
    }

    #[test]
    fn command_line_and_text_change_places() {
        let scratch = Scratch::new("/s/1".into(), Some("/s/i".into()));
        let compile =
            compile(&["-C", "incremental=/w/t/i", "--out-dir", "/w/t/deps", "-Ldependency=/w/t/deps"]);
        let argv = scratch.argv(&compile.args, Path::new("/w"));
        let tail = ["-C", "incremental=/s/i", "--out-dir", "/s/1", "-Ldependency=/w/t/deps"];
        assert_eq!(argv[argv.len() - 5..], tail);
        let mut text = b"{\"artifact\":\"/s/1/libfoo.rmeta\"} /s/1/x".to_vec();
        scratch.correct(&mut text, &compile.out_dir);
        assert_eq!(text, b"{\"artifact\":\"/w/t/deps/libfoo.rmeta\"} /w/t/deps/x");
    }

    #[test]
    fn gathered_crates_are_read_elsewhere() {
        let mut scratch = Scratch::new("/s/1".into(), None);
        scratch.gathered = vec!["/w/t/x/deps".into(), "/w/t/deps".into()];
        let args = [
            "--out-dir=/w/t/x/deps",
            "-Ldependency=/w/t/x/deps",
            "-L",
            "dependency=/w/t/deps",
            "-L",
            "native=/w/t/build/n",
            "--extern",
            "a=/w/t/x/deps/liba.rlib",
            "--extern=priv,noprelude:b=t/deps/libb.so",
            "--extern",
            "proc_macro",
            "--extern",
            "c=/elsewhere/libc.rlib",
        ];
        let argv = scratch.argv(&compile(&args).args, Path::new("/w"));
        let expected = [
            "--out-dir",
            "/s/1",
            "-L",
            "dependency=/s/1/crates/0",
            "-L",
            "dependency=/s/1/crates/1",
            "-L",
            "native=/w/t/build/n",
            "--extern",
            "a=/s/1/crates/0/liba.rlib",
            "--extern",
            "priv,noprelude:b=/s/1/crates/1/libb.so",
            "--extern",
            "proc_macro",
            "--extern",
            "c=/elsewhere/libc.rlib",
        ];
        assert_eq!(argv[argv.len() - expected.len()..], expected);
        let mut text = b"in /s/1/crates/1/libb.so: /s/1/y".to_vec();
        scratch.correct(&mut text, Path::new("/w/t/x/deps"));
        assert_eq!(text, b"in /w/t/deps/libb.so: /w/t/x/deps/y");
    }
}
