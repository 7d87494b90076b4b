//! What a build script tells cargo about its inputs, in both syntaxes (`cargo:` and `cargo::`).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The inputs that a script declared.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Declared {
    /// `rerun-if-changed`, as written: relative to the package, or absolute.
    pub files: Vec<PathBuf>,
    /// `rerun-if-env-changed`.
    pub env: Vec<String>,
    /// It ended well, but told cargo to fail the build.
    pub failed: bool,
}

impl Declared {
    /// From what it printed.
    pub fn read(stdout: &[u8]) -> Declared {
        let mut declared = Declared::default();
        for line in stdout.split(|&b| b == b'\n').map(<[u8]>::trim_ascii) {
            let Some(rest) = line.strip_prefix(b"cargo:") else { continue };
            let (new_syntax, rest) = match rest.strip_prefix(b":") {
                Some(rest) => (true, rest),
                None => (false, rest),
            };
            let Some(at) = memchr::memchr(b'=', rest) else { continue };
            let (key, value) = (&rest[..at], &rest[at + 1..]);
            match key {
                b"rerun-if-changed" => declared.files.push(OsStr::from_bytes(value).into()),
                b"rerun-if-env-changed" => declared.env.push(String::from_utf8_lossy(value).into_owned()),
                b"error" if new_syntax => declared.failed = true,
                _ => {}
            }
        }
        declared
    }

    /// Then cargo watches the whole package.
    pub fn is_nothing(&self) -> bool {
        self.files.is_empty() && self.env.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_syntaxes_are_read() {
        let declared = Declared::read(
            b"cargo:rerun-if-changed=a.c\ncargo::rerun-if-changed=/abs/b=c\r\ncargo:rerun-if-env-changed=CC\n\
              cargo::rerun-if-env-changed=CXX\ncargo:error=metadata of that name\nrerun-if-changed=no\n",
        );
        assert_eq!(declared.files, [PathBuf::from("a.c"), "/abs/b=c".into()]);
        assert_eq!(declared.env, ["CC", "CXX"]);
        assert!(!declared.failed);
        assert!(Declared::read(b"cargo::error=no compiler\n").failed);
        assert!(Declared::read(b"cargo:rustc-cfg=x\nhello\n").is_nothing());
    }
}
