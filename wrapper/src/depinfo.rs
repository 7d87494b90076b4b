//! rustc's dep-info (`.d`) files: which files and environment variables a compile read.
//!
//! The format is a Makefile fragment plus comments; see `write_out_deps` in rustc_interface and
//! `parse_rustc_dep_info` in cargo.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::prefixes::{Prefixes, replace_path, token};

/// What a `.d` file says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct DepInfo {
    /// As written: relative to the compiler's working directory, or absolute.
    pub files: Vec<PathBuf>,
    /// Variables that `env!` and `option_env!` asked for.
    pub env: Vec<String>,
}

/// A `.d` file with tokens in place of this machine's paths, which stand in it with blanks escaped.
pub fn template(text: &[u8], prefixes: &Prefixes) -> Vec<u8> {
    let mut out = text.to_vec();
    for prefix in prefixes.iter().rev().filter(|p| p.has_token()) {
        let path = prefix.path.as_os_str().as_bytes();
        if path.contains(&b' ') {
            out = replace_path(&out, &escaped(path), &token(prefix.token), true);
        }
    }
    prefixes.template(&out)
}

/// What such a template says here.
pub fn expand(template: &[u8], prefixes: &Prefixes) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(template.len() + 64);
    for line in template.split_inclusive(|&b| b == b'\n') {
        // Values of variables are no paths of a makefile.
        if line.starts_with(b"#") {
            out.extend(prefixes.expand(line)?);
        } else {
            out.extend(prefixes.expand_with(line, &escaped)?);
        }
    }
    Some(out)
}

fn escaped(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    for &b in path {
        if b == b' ' {
            out.push(b'\\');
        }
        out.push(b);
    }
    out
}

impl DepInfo {
    pub fn parse(text: &[u8]) -> DepInfo {
        let mut info = DepInfo::default();
        let mut seen_rule = false;
        for line in text.split(|&b| b == b'\n') {
            if let Some(env) = line.strip_prefix(b"# env-dep:") {
                let name = env.split(|&b| b == b'=').next().unwrap_or_default();
                info.env.push(unescape_env(name));
            } else if !line.starts_with(b"#")
                && !seen_rule
                && let Some(deps) = after_colon(line)
            {
                seen_rule = true;
                info.files = split_names(deps);
            }
        }
        info.env.sort();
        info.env.dedup();
        info
    }
}

/// The same text with further files in every rule, so that cargo watches them too.
pub fn with_extra(text: &[u8], extra: &[PathBuf]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut names = Vec::new();
    for path in extra {
        names.push(b' ');
        names.extend(escaped(path.as_os_str().as_bytes()));
    }
    for line in text.split_inclusive(|&b| b == b'\n') {
        let (body, end) = match line.strip_suffix(b"\n") {
            Some(body) => (body, &b"\n"[..]),
            None => (line, &b""[..]),
        };
        out.extend_from_slice(body);
        if !body.starts_with(b"#") && after_colon(body).is_some_and(|deps| !deps.is_empty()) {
            out.extend_from_slice(&names);
        }
        out.extend_from_slice(end);
    }
    out
}

fn after_colon(line: &[u8]) -> Option<&[u8]> {
    let at = memchr::memmem::find(line, b": ")
        .map(|at| at + 2)
        .or_else(|| line.ends_with(b":").then_some(line.len()))?;
    Some(&line[at..])
}

fn split_names(text: &[u8]) -> Vec<PathBuf> {
    let mut names = Vec::new();
    let mut name = Vec::new();
    let mut bytes = text.iter().copied().peekable();
    while let Some(b) = bytes.next() {
        match b {
            b'\\' if bytes.peek() == Some(&b' ') => {
                bytes.next();
                name.push(b' ');
            }
            b' ' => {
                if !name.is_empty() {
                    names.push(PathBuf::from(OsString::from_vec(std::mem::take(&mut name))));
                }
            }
            b => name.push(b),
        }
    }
    if !name.is_empty() {
        names.push(PathBuf::from(OsString::from_vec(name)));
    }
    names
}

fn unescape_env(name: &[u8]) -> String {
    String::from_utf8_lossy(name).replace("\\n", "\n").replace("\\r", "\r").replace("\\\\", "\\")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const TEXT: &[u8] = b"/t/x.d: src/main.rs src/a\\ b.rs\n\n/t/x: src/main.rs src/a\\ b.rs\n\nsrc/main.rs:\nsrc/a\\ b.rs:\n\n# env-dep:FOO=1\n# env-dep:BAR\n";

    #[test]
    fn reads_files_and_variables() {
        let info = DepInfo::parse(TEXT);
        assert_eq!(info.files, [PathBuf::from("src/main.rs"), PathBuf::from("src/a b.rs")]);
        assert_eq!(info.env, ["BAR", "FOO"]);
    }

    #[test]
    fn paths_with_blanks_are_replaced_and_come_back() {
        let prefixes = |dir: &str| {
            let mut p = Prefixes::default();
            p.add('W', Path::new(dir), "");
            p
        };
        let text = |dir: &str, path: &str| {
            format!("{dir}/x.d: {dir}/src/a.rs\n\n{dir}/src/a.rs:\n\n# env-dep:D={path}\n").into_bytes()
        };
        let template = template(&text("/w/my\\ a", "/w/my a"), &prefixes("/w/my a"));
        assert_eq!(expand(&template, &prefixes("/v/b c d")).unwrap(), text("/v/b\\ c\\ d", "/v/b c d"));
        assert_eq!(expand(&template, &prefixes("/v/b")).unwrap(), text("/v/b", "/v/b"));
    }

    #[test]
    fn extra_inputs_join_every_rule_and_nothing_else() {
        let text = with_extra(TEXT, &[PathBuf::from("sql/q 1.json")]);
        let info = DepInfo::parse(&text);
        assert_eq!(info.files.last().unwrap(), Path::new("sql/q 1.json"));
        assert!(text.ends_with(b"# env-dep:FOO=1\n# env-dep:BAR\n"));
        assert_eq!(
            text.iter().filter(|&&b| b == b'\n').count(),
            TEXT.iter().filter(|&&b| b == b'\n').count()
        );
    }
}
