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

use crate::args::{Compile, relocated};

/// Where a compiler writes instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scratch {
    /// In place of the output directory; the same each time. Made by whoever compiles.
    pub out: PathBuf,
    /// The directory for the unit's incremental state.
    pub incremental: Option<PathBuf>,
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
    /// The command line with the directories of this one.
    pub fn argv(&self, argv: &[OsString]) -> Vec<OsString> {
        relocated(argv, Some(&self.out), self.incremental.as_deref())
    }

    /// Text of the compiler as it would have been.
    pub fn correct(&self, text: &mut Vec<u8>, out_dir: &Path) {
        let (from, to) = (self.out.as_os_str().as_bytes(), out_dir.as_os_str().as_bytes());
        let finder = memchr::memmem::Finder::new(from);
        if finder.find(text).is_none() {
            return;
        }
        let mut corrected = Vec::with_capacity(text.len());
        let mut rest = text.as_slice();
        while let Some(at) = finder.find(rest) {
            corrected.extend_from_slice(&rest[..at]);
            corrected.extend_from_slice(to);
            rest = &rest[at + from.len()..];
        }
        corrected.extend_from_slice(rest);
        *text = corrected;
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
        let scratch = Scratch { out: "/s/1".into(), incremental: Some("/s/i".into()) };
        let compile =
            compile(&["-C", "incremental=/w/t/i", "--out-dir", "/w/t/deps", "-Ldependency=/w/t/deps"]);
        let argv = scratch.argv(&compile.args);
        let tail = ["-C", "incremental=/s/i", "--out-dir", "/s/1", "-Ldependency=/w/t/deps"];
        assert_eq!(argv[argv.len() - 5..], tail);
        let mut text = b"{\"artifact\":\"/s/1/libfoo.rmeta\"} /s/1/x".to_vec();
        scratch.correct(&mut text, &compile.out_dir);
        assert_eq!(text, b"{\"artifact\":\"/w/t/deps/libfoo.rmeta\"} /w/t/deps/x");
    }
}
