//! rustc's command line, understood once.
//!
//! Nothing below this module looks at raw arguments. What it cannot understand completely is passed through.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache::{Dest, Invocation, Sharing};

/// A compile that may be cached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compile {
    /// `[rustc]` or `[clippy-driver, rustc]`, as given.
    pub driver: Vec<OsString>,
    /// Arguments with `@files` expanded.
    pub args: Vec<OsString>,
    pub from_argfile: bool,
    pub source: PathBuf,
    pub crate_name: String,
    pub crate_types: Vec<String>,
    pub extra_filename: String,
    pub test: bool,
    /// Emit kind and the path named for it, if any.
    pub emits: Vec<(String, Option<PathBuf>)>,
    pub out_dir: PathBuf,
    pub externs: Vec<PathBuf>,
    /// `-L` kind ("" when not given) and directory.
    pub search: Vec<(String, PathBuf)>,
    /// `-l` as given.
    pub libs: Vec<String>,
    /// `-C name[=value]`.
    pub codegen: Vec<(String, Option<OsString>)>,
    /// `-Z name[=value]`.
    pub unstable: Vec<(String, Option<OsString>)>,
    pub target: Option<OsString>,
    pub sysroot: Option<PathBuf>,
    /// Where cargo wants incremental state to be kept.
    pub incremental: Option<PathBuf>,
    pub diagnostic_width: Option<String>,
    /// What the key is made of: the arguments in order, without what must not matter.
    pub keyed: Vec<Keyed>,
}

/// An argument as the key sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keyed {
    /// Counts as it is, up to this machine's paths.
    Literal(OsString),
    /// Only the content of the file counts (and what it is for).
    Extern { name: OsString, path: PathBuf },
}

/// Either a compile, or the reason why this command line passes through untouched.
pub type Parsed = std::result::Result<Box<Compile>, &'static str>;

/// Emit kinds whose files rustc announces and whose names do not depend on code generation units.
const EMITS: &[&str] = &["dep-info", "metadata", "link"];

/// `-Z` options that write files of their own or turn the compiler into something else.
const UNSTABLE_PASS: &[&str] = &[
    "unpretty",
    "ls",
    "self-profile",
    "dump-mir",
    "time-passes",
    "print-type-sizes",
    "no-codegen",
    "dump-mono-stats",
    "dump-dep-graph",
    "llvm-time-trace",
    "emit-stack-sizes-file",
    "parse-only",
    "query-dep-graph",
];

/// Short options that take a value, in the same argument or in the next.
const SHORT_VALUES: &[u8] = b"CLloZAWDF";

/// Long options that take their value from the next argument when it is not behind `=`.
const LONG_VALUES: &[&str] = &[
    "allow",
    "warn",
    "force-warn",
    "deny",
    "forbid",
    "cfg",
    "check-cfg",
    "crate-name",
    "crate-type",
    "edition",
    "emit",
    "print",
    "explain",
    "target",
    "cap-lints",
    "codegen",
    "extern",
    "sysroot",
    "error-format",
    "json",
    "color",
    "diagnostic-width",
    "remap-path-prefix",
    "remap-path-scope",
    "env-set",
    "out-dir",
    "pretty",
    "unpretty",
];

const LONG_FLAGS: &[&str] = &["test", "verbose", "version", "help"];

/// Is this argv a compiler's (`[rustc, …]` or `[clippy-driver, rustc, …]`)? Returns how many words name the driver.
pub fn driver_words(argv: &[OsString]) -> Option<usize> {
    let first = stem(argv.first()?)?;
    let second = argv
        .get(1)
        .and_then(|a| stem(a))
        .filter(|_| argv.get(1).is_some_and(|a| a.as_bytes().contains(&b'/') || a == "rustc"));
    match (first, second) {
        ("clippy-driver", Some("rustc")) => Some(2),
        ("rustc" | "clippy-driver", _) => Some(1),
        _ => None,
    }
}

fn stem(arg: &OsStr) -> Option<&str> {
    Path::new(arg).file_stem()?.to_str()
}

/// Understands a command line. `read_argfile` gives the content of an `@file`.
pub fn parse(inv: &Invocation, read_argfile: &dyn Fn(&Path) -> Option<Vec<u8>>) -> Parsed {
    let words = driver_words(&inv.argv).ok_or("compiler driver that kache does not know")?;
    let mut args = Vec::with_capacity(inv.argv.len());
    let mut from_argfile = false;
    for arg in &inv.argv[words..] {
        match arg.as_bytes().strip_prefix(b"@") {
            Some(file) => {
                from_argfile = true;
                let path = inv.cwd.join(OsStr::from_bytes(file));
                let text = read_argfile(&path).ok_or("unreadable @argfile")?;
                let text = String::from_utf8(text).map_err(|_| "@argfile that is not UTF-8")?;
                args.extend(text.lines().map(OsString::from));
            }
            None => args.push(arg.clone()),
        }
    }
    Parser::new(inv, &inv.argv[..words], args, from_argfile).run()
}

struct Parser<'a> {
    cwd: &'a Path,
    c: Compile,
    source: Option<OsString>,
    crate_name: Option<String>,
    out_dir: Option<PathBuf>,
    link_output: Option<PathBuf>,
    error_format: Option<OsString>,
    json: String,
}

impl<'a> Parser<'a> {
    fn new(inv: &'a Invocation, driver: &[OsString], args: Vec<OsString>, from_argfile: bool) -> Self {
        let c = Compile {
            driver: driver.to_vec(),
            args,
            from_argfile,
            source: PathBuf::new(),
            crate_name: String::new(),
            crate_types: Vec::new(),
            extra_filename: String::new(),
            test: false,
            emits: Vec::new(),
            out_dir: PathBuf::new(),
            externs: Vec::new(),
            search: Vec::new(),
            libs: Vec::new(),
            codegen: Vec::new(),
            unstable: Vec::new(),
            target: None,
            sysroot: None,
            incremental: None,
            diagnostic_width: None,
            keyed: Vec::new(),
        };
        Parser {
            cwd: &inv.cwd,
            c,
            source: None,
            crate_name: None,
            out_dir: None,
            link_output: None,
            error_format: None,
            json: String::new(),
        }
    }

    fn run(mut self) -> Parsed {
        let args = std::mem::take(&mut self.c.args);
        let mut it = args.iter();
        while let Some(arg) = it.next() {
            let bytes = arg.as_bytes();
            if bytes == b"-" {
                return Err("source on standard input");
            } else if let Some(long) = bytes.strip_prefix(b"--") {
                let (name, value) = split_once(long, b'=');
                let name = std::str::from_utf8(name).map_err(|_| "argument that is not UTF-8")?;
                if LONG_VALUES.contains(&name) {
                    let value = match value {
                        Some(v) => OsString::from_vec(v.to_vec()),
                        None => it.next().ok_or("incomplete arguments")?.clone(),
                    };
                    self.long(name, value)?;
                } else if LONG_FLAGS.contains(&name) && value.is_none() {
                    match name {
                        "version" | "help" => return Err("query"),
                        "test" => {
                            self.c.test = true;
                            self.literal("--test");
                        }
                        _ => self.literal(arg),
                    }
                } else {
                    return Err("argument that kache does not know");
                }
            } else if bytes.first() == Some(&b'-') {
                let flag = *bytes.get(1).ok_or("argument that kache does not know")?;
                match flag {
                    _ if SHORT_VALUES.contains(&flag) => {
                        let value = if bytes.len() > 2 {
                            OsString::from_vec(bytes[2..].to_vec())
                        } else {
                            it.next().ok_or("incomplete arguments")?.clone()
                        };
                        self.short(flag, value)?;
                    }
                    b'O' | b'g' if bytes.len() == 2 => self.literal(arg),
                    b'V' | b'h' | b'v' => return Err("query"),
                    _ => return Err("argument that kache does not know"),
                }
            } else {
                if self.source.is_some() {
                    return Err("more than one source");
                }
                self.source = Some(arg.clone());
                self.literal(arg);
            }
        }
        self.c.args = args;
        self.finish()
    }

    fn literal(&mut self, arg: impl AsRef<OsStr>) {
        self.c.keyed.push(Keyed::Literal(arg.as_ref().to_owned()));
    }

    /// The compiler repeats a relative path of an output in dep-info and messages, where no prefix can stand for it.
    fn place_as_written(&mut self, path: &OsStr) {
        if Path::new(path).is_relative() {
            self.pair("place", path);
        }
    }

    fn pair(&mut self, flag: &str, value: &OsStr) {
        let mut both = OsString::from(flag);
        both.push("=");
        both.push(value);
        self.literal(both);
    }

    fn long(&mut self, name: &str, value: OsString) -> Result<(), &'static str> {
        match name {
            "print" => return Err("query"),
            "explain" => return Err("query"),
            "pretty" | "unpretty" => return Err("pretty-printing"),
            "codegen" => return self.short(b'C', value),
            "out-dir" => {
                self.place_as_written(&value);
                self.out_dir = Some(self.cwd.join(value));
            }
            "diagnostic-width" => self.c.diagnostic_width = value.to_str().map(str::to_owned),
            "emit" => {
                let value = value.to_str().ok_or("argument that is not UTF-8")?;
                for part in value.split(',') {
                    let (kind, path) = match part.split_once('=') {
                        Some((kind, path)) => (kind, Some(path)),
                        None => (part, None),
                    };
                    if path == Some("-") {
                        return Err("output on standard output");
                    }
                    if !EMITS.contains(&kind) {
                        return Err("emit kind that is not cached");
                    }
                    path.iter().for_each(|p| self.place_as_written(OsStr::new(p)));
                    self.c.emits.push((kind.to_owned(), path.map(|p| self.cwd.join(p))));
                    self.literal(format!("--emit={kind}{}", if path.is_some() { "=" } else { "" }));
                }
            }
            "extern" => {
                let bytes = value.as_bytes();
                match split_once(bytes, b'=') {
                    (name, Some(path)) => {
                        let path = self.cwd.join(OsStr::from_bytes(path));
                        self.c.externs.push(path.clone());
                        self.c.keyed.push(Keyed::Extern { name: OsStr::from_bytes(name).to_owned(), path });
                    }
                    (_, None) => self.pair("--extern", &value),
                }
            }
            "crate-name" => {
                self.crate_name = Some(value.to_str().ok_or("argument that is not UTF-8")?.to_owned());
                self.pair("--crate-name", &value);
            }
            "crate-type" => {
                let types = value.to_str().ok_or("argument that is not UTF-8")?;
                self.c.crate_types.extend(types.split(',').map(str::to_owned));
                self.pair("--crate-type", &value);
            }
            "target" => {
                self.pair("--target", &value);
                self.c.target = Some(value);
            }
            "sysroot" => {
                self.c.sysroot = Some(self.cwd.join(&value));
                self.literal("--sysroot");
            }
            "error-format" => {
                self.pair("--error-format", &value);
                self.error_format = Some(value);
            }
            "json" => {
                self.pair("--json", &value);
                self.json.push(',');
                self.json.push_str(value.to_str().ok_or("argument that is not UTF-8")?);
            }
            _ => self.pair(&format!("--{name}"), &value),
        }
        Ok(())
    }

    fn short(&mut self, flag: u8, value: OsString) -> Result<(), &'static str> {
        match flag {
            b'o' => {
                if value == "-" {
                    return Err("output on standard output");
                }
                self.place_as_written(&value);
                self.link_output = Some(self.cwd.join(value));
                self.literal("-o");
            }
            b'C' => {
                let (name, option) = option(&value)?;
                match name.as_str() {
                    "incremental" => {
                        self.c.incremental = Some(self.cwd.join(option.unwrap_or_default()));
                        return Ok(());
                    }
                    "extra-filename" => {
                        self.c.extra_filename = option
                            .as_deref()
                            .and_then(OsStr::to_str)
                            .ok_or("argument that is not UTF-8")?
                            .to_owned()
                    }
                    "save-temps" => return Err("temporary files are kept"),
                    _ => {}
                }
                self.pair("-C", &value);
                self.c.codegen.push((name, option));
            }
            b'Z' => {
                let (name, option) = option(&value)?;
                if UNSTABLE_PASS.iter().any(|p| name == *p) {
                    return Err("unstable option that writes other output");
                }
                self.pair("-Z", &value);
                self.c.unstable.push((name, option));
            }
            b'L' => {
                let bytes = value.as_bytes();
                let (kind, dir) = match split_once(bytes, b'=') {
                    (kind, Some(dir))
                        if matches!(kind, b"dependency" | b"crate" | b"native" | b"framework" | b"all") =>
                    {
                        (std::str::from_utf8(kind).unwrap_or_default(), dir)
                    }
                    _ => ("", bytes),
                };
                let dir = self.cwd.join(OsStr::from_bytes(dir));
                if kind != "dependency" {
                    self.pair(&format!("-L {kind}"), dir.as_os_str());
                }
                self.c.search.push((kind.to_owned(), dir));
            }
            b'l' => {
                self.c.libs.push(value.to_str().ok_or("argument that is not UTF-8")?.to_owned());
                self.pair("-l", &value);
            }
            flag => self.pair(&format!("-{}", flag as char), &value),
        }
        Ok(())
    }

    fn finish(self) -> Parsed {
        let Parser { cwd, mut c, source, crate_name, out_dir, link_output, error_format, json } = self;
        c.source = source.ok_or("no source")?.into();
        c.crate_name = crate_name.ok_or("no crate name")?;
        if c.emits.is_empty() {
            return Err("no dep-info");
        }
        if !c.emits.iter().any(|(kind, _)| kind == "dep-info") {
            return Err("no dep-info");
        }
        if error_format.as_deref() != Some(OsStr::new("json")) || !json.split(',').any(|j| j == "artifacts") {
            return Err("outputs are not announced");
        }
        if let Some(path) = link_output {
            for (kind, dest) in &mut c.emits {
                if kind == "link" && dest.is_none() {
                    *dest = Some(path.clone());
                }
            }
            c.out_dir = path.parent().unwrap_or(cwd).to_owned();
        }
        if let Some(dir) = out_dir {
            c.out_dir = dir;
        }
        if c.out_dir.as_os_str().is_empty() {
            return Err("no output directory");
        }
        if c.crate_types.is_empty() {
            c.crate_types.push("bin".into());
        }
        Ok(Box::new(c))
    }
}

fn split_once(bytes: &[u8], at: u8) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(at, bytes) {
        Some(i) => (&bytes[..i], Some(&bytes[i + 1..])),
        None => (bytes, None),
    }
}

/// `name[=value]`, with `-` and `_` in the name taken as the same, as rustc does.
fn option(value: &OsStr) -> Result<(String, Option<OsString>), &'static str> {
    let (name, option) = split_once(value.as_bytes(), b'=');
    let name = std::str::from_utf8(name).map_err(|_| "argument that is not UTF-8")?.replace('_', "-");
    Ok((name, option.map(|o| OsString::from_vec(o.to_vec()))))
}

impl Compile {
    pub fn codegen(&self, name: &str) -> Option<&OsStr> {
        self.codegen.iter().rev().find(|(n, _)| n == name).and_then(|(_, v)| v.as_deref())
    }

    pub fn has_codegen(&self, name: &str) -> bool {
        self.codegen.iter().any(|(n, _)| n == name)
    }

    pub fn emits(&self, kind: &str) -> bool {
        self.emits.iter().any(|(k, _)| k == kind)
    }

    /// Does this compile run a linker?
    pub fn links(&self) -> bool {
        self.emits("link")
            && (self.test
                || self.crate_types.iter().any(|t| !matches!(t.as_str(), "lib" | "rlib" | "staticlib")))
    }

    /// Is what it makes a finished product: not only metadata or a library for other compiles?
    pub fn bundles_dependencies(&self) -> bool {
        self.emits("link")
            && (self.test || self.crate_types.iter().any(|t| !matches!(t.as_str(), "lib" | "rlib")))
    }

    pub fn is_build_script(&self) -> bool {
        self.crate_name.starts_with("build_script_") && self.crate_types == ["bin"] && !self.test
    }

    pub fn is_proc_macro(&self) -> bool {
        self.crate_types == ["proc-macro"] && !self.test
    }

    /// Something to run, which no other compile takes.
    pub fn is_program(&self) -> bool {
        self.test || self.crate_types == ["bin"]
    }

    /// A program or library for people, not a step on the way: what `cache_executables` is about.
    pub fn is_product(&self) -> bool {
        self.bundles_dependencies() && !self.is_build_script() && !self.is_proc_macro()
    }

    pub fn kind(&self) -> &str {
        match () {
            () if self.test => "test",
            () if self.is_build_script() => "build-script",
            () if !self.emits("link") => "check",
            () => self.crate_types.first().map_or("bin", String::as_str),
        }
    }

    pub fn sharing(&self) -> Sharing {
        if self.is_product() { Sharing::Copy } else { Sharing::Link }
    }

    /// `crate_name` + `extra_filename`: what the names of all outputs contain.
    pub fn stem(&self) -> String {
        format!("{}{}", self.crate_name, self.extra_filename)
    }

    /// Where this invocation puts an output.
    pub fn place(&self, dest: &Dest) -> Option<PathBuf> {
        match dest {
            // A name from a store must not lead out of the directory.
            Dest::OutDir(name)
                if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') =>
            {
                None
            }
            Dest::OutDir(name) => Some(self.out_dir.join(OsStr::from_bytes(name))),
            Dest::Explicit(kind) => self.explicit(kind).map(Path::to_owned),
            Dest::Tree(..) | Dest::Beside(..) => None,
        }
    }

    /// The portable name of an output's place; `None` when it is somewhere that the invocation does not name.
    pub fn dest(&self, kind: &str, path: &Path) -> Option<Dest> {
        if self.explicit(kind) == Some(path) {
            return Some(Dest::Explicit(kind.to_owned()));
        }
        (path.parent() == Some(&self.out_dir))
            .then(|| path.file_name().map(|n| Dest::OutDir(n.as_bytes().to_vec())))
            .flatten()
    }

    fn explicit(&self, kind: &str) -> Option<&Path> {
        self.emits.iter().find(|(k, _)| k == kind).and_then(|(_, p)| p.as_deref())
    }

    pub fn dep_info_path(&self) -> PathBuf {
        self.explicit("dep-info")
            .map_or_else(|| self.out_dir.join(format!("{}.d", self.stem())), Path::to_owned)
    }

    /// Arguments without cargo's wish for incremental compilation.
    pub fn args_without_incremental(&self) -> Vec<OsString> {
        rewritten(&self.args, &|flag, value| match flag {
            Flag::Codegen if is_incremental(value) => Change::Drop,
            _ => Change::Keep,
        })
    }
}

/// Arguments that kache may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    Codegen,
    OutDir,
    Extern,
    Search,
    Source,
}

/// What becomes of one.
pub(crate) enum Change {
    Keep,
    Drop,
    /// Another value.
    To(OsString),
}

/// The same arguments for a compile that puts its outputs and its incremental state elsewhere (`None`: where they say).
pub(crate) fn relocated(args: &[OsString], out_dir: Option<&Path>, state: Option<&Path>) -> Vec<OsString> {
    rewritten(args, &|flag, value| match (flag, out_dir, state) {
        (Flag::OutDir, Some(dir), _) => Change::To(dir.into()),
        (Flag::Codegen, _, Some(dir)) if is_incremental(value) => Change::To(incremental(dir)),
        _ => Change::Keep,
    })
}

/// Is this codegen option the one that says where incremental state is?
pub(crate) fn is_incremental(value: &OsStr) -> bool {
    value.as_bytes().starts_with(b"incremental=")
}

pub(crate) fn incremental(dir: &Path) -> OsString {
    let mut value = OsString::from("incremental=");
    value.push(dir);
    value
}

/// Arguments of which some are others.
pub(crate) fn rewritten(args: &[OsString], change: &dyn Fn(Flag, &OsStr) -> Change) -> Vec<OsString> {
    let mut out = Vec::with_capacity(args.len());
    let mut it = args.iter();
    while let Some(arg) = it.next() {
        let bytes = arg.as_bytes();
        let (name, inline) = match bytes {
            [b'-', b'-', long @ ..] => split_once(long, b'='),
            [b'-', short, value @ ..] if SHORT_VALUES.contains(short) => {
                (&bytes[1..2], (!value.is_empty()).then_some(value))
            }
            [b'-', ..] => {
                out.push(arg.clone());
                continue;
            }
            _ => {
                match change(Flag::Source, arg) {
                    Change::Keep => out.push(arg.clone()),
                    Change::Drop => {}
                    Change::To(new) => out.push(new),
                }
                continue;
            }
        };
        let takes_value =
            bytes[1] != b'-' || std::str::from_utf8(name).is_ok_and(|n| LONG_VALUES.contains(&n));
        let separate = if takes_value && inline.is_none() { it.next() } else { None };
        let value = inline.map(OsStr::from_bytes).or(separate.map(OsString::as_os_str));
        let (flag, spelled) = match name {
            b"C" | b"codegen" => (Flag::Codegen, "-C"),
            b"out-dir" => (Flag::OutDir, "--out-dir"),
            b"extern" => (Flag::Extern, "--extern"),
            b"L" => (Flag::Search, "-L"),
            _ => {
                out.extend([Some(arg), separate].into_iter().flatten().cloned());
                continue;
            }
        };
        match value.map_or(Change::Keep, |v| change(flag, v)) {
            Change::Keep => out.extend([Some(arg), separate].into_iter().flatten().cloned()),
            Change::Drop => {}
            Change::To(new) => out.extend([spelled.into(), new]),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inv(args: &[&str]) -> Invocation {
        Invocation { argv: args.iter().map(OsString::from).collect(), cwd: "/w".into(), env: vec![] }
    }

    fn parsed(args: &[&str]) -> Parsed {
        parse(&inv(args), &|_| None)
    }

    const LIB: &[&str] = &[
        "/t/bin/rustc",
        "--crate-name",
        "foo",
        "--edition=2021",
        "src/lib.rs",
        "--error-format=json",
        "--json=diagnostic-rendered-ansi,artifacts",
        "--crate-type",
        "lib",
        "--emit=dep-info,metadata,link",
        "-C",
        "incremental=/w/target/debug/incremental",
        "-C",
        "extra-filename=-ab",
        "-Copt-level=3",
        "--out-dir",
        "/w/target/debug/deps",
        "-L",
        "dependency=/w/target/debug/deps",
        "-Lnative=/w/native",
        "--extern",
        "bar=/w/target/debug/deps/libbar.rmeta",
        "-lz",
    ];

    #[test]
    fn understands_what_cargo_says() {
        let c = parsed(LIB).unwrap();
        assert_eq!(c.stem(), "foo-ab");
        assert_eq!(c.kind(), "lib");
        assert_eq!(c.incremental.as_deref(), Some(Path::new("/w/target/debug/incremental")));
        assert!(!c.links());
        assert_eq!(c.externs, [PathBuf::from("/w/target/debug/deps/libbar.rmeta")]);
        assert_eq!(c.search[1], ("native".into(), "/w/native".into()));
        assert_eq!(c.libs, ["z"]);
        assert_eq!(c.codegen("opt-level"), Some(OsStr::new("3")));
        assert_eq!(c.dep_info_path(), Path::new("/w/target/debug/deps/foo-ab.d"));
        assert!(!c.args_without_incremental().iter().any(|a| a.to_string_lossy().contains("incremental")));
        assert_eq!(c.args_without_incremental().len(), LIB.len() - 1 - 2);
    }

    #[test]
    fn arguments_are_replaced_however_they_are_spelled() {
        let args =
            ["rustc", "--crate-name=x", "a.rs", "--emit", "dep-info,link", "--error-format=json", "-g"];
        let more = [
            "--json=artifacts",
            "--codegen=incremental=/i",
            "--out-dir=/o",
            "-L",
            "a.rs",
            "--extern=b=/b.rlib",
        ];
        let c = parsed(&[&args[..], &more].concat()).unwrap();
        let rewritten = rewritten(&c.args, &|flag, value| match flag {
            Flag::Source => Change::To("c.rs".into()),
            Flag::OutDir => Change::To("o".into()),
            Flag::Extern => Change::Drop,
            Flag::Codegen | Flag::Search => Change::To(value.to_owned()),
        });
        let wanted = ["--crate-name=x", "c.rs", "--emit", "dep-info,link", "--error-format=json", "-g"];
        let more = ["--json=artifacts", "-C", "incremental=/i", "--out-dir", "o", "-L", "a.rs"];
        assert_eq!(rewritten, [&wanted[..], &more].concat());
    }

    #[test]
    fn places_of_this_checkout_are_not_keyed() {
        let elsewhere: Vec<String> = LIB.iter().map(|a| a.replace("/w/target", "/v/other")).collect();
        let elsewhere = parsed(&elsewhere.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        let keyed = |c: &Compile| {
            c.keyed.iter().filter(|k| matches!(k, Keyed::Literal(_))).cloned().collect::<Vec<_>>()
        };
        assert_eq!(keyed(&parsed(LIB).unwrap()), keyed(&elsewhere));
    }

    /// Messages and dep-info repeat them as they were written.
    #[test]
    fn relative_places_are_keyed() {
        let with_out = |dir: &str| {
            let args: Vec<&str> =
                LIB.iter().map(|a| if *a == "/w/target/debug/deps" { dir } else { a }).collect();
            parsed(&args).unwrap()
        };
        let (a, b) = (with_out("a/deps"), with_out("b/deps"));
        assert_eq!(a.out_dir, Path::new("/w/a/deps"));
        assert_ne!(a.keyed, b.keyed);
    }

    #[test]
    fn queries_and_streams_pass() {
        for args in [
            &["rustc", "-vV"][..],
            &["rustc", "-"],
            &["rustc", "--print=cfg"],
            &["rustc", "--crate-name", "x", "a.rs", "--emit=asm"],
            &["rustc", "--crate-name", "x", "a.rs", "-Zunpretty=hir"],
            &["kani-compiler", "a.rs"],
            &["rustc", "a.rs"],
        ] {
            assert!(parsed(args).is_err(), "{args:?}");
        }
    }

    #[test]
    fn argfiles_are_read() {
        let inv = inv(&["rustc", "@args"]);
        let c =
            parse(&inv, &|p| (p == Path::new("/w/args")).then(|| LIB[1..].join("\n").into_bytes())).unwrap();
        assert!(c.from_argfile);
        assert_eq!(c.crate_name, "foo");
    }

    #[test]
    fn clippy_names_its_compiler() {
        let mut args = vec!["/t/bin/clippy-driver"];
        args.extend(LIB);
        let c = parsed(&args).unwrap();
        assert_eq!(c.driver.len(), 2);
    }

    #[test]
    fn explicit_destinations_are_named_by_kind() {
        let mut args = LIB.to_vec();
        args.push("--emit=metadata=/x/y.rmeta");
        let mut c = parsed(&args).unwrap();
        c.emits.retain(|(k, p)| k != "metadata" || p.is_some());
        assert_eq!(c.dest("metadata", Path::new("/x/y.rmeta")), Some(Dest::Explicit("metadata".into())));
        assert_eq!(c.dest("link", Path::new("/elsewhere/z")), None);
        assert_eq!(c.place(&Dest::OutDir(b"../x".to_vec())), None);
    }
}
