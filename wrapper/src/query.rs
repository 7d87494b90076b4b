//! Questions to the compiler: what it is, and what it can do.
//!
//! Cargo asks three before it builds in a new target directory, one after the other, and each costs a start of the
//! compiler. The answer to some is known to depend on nothing but the compiler, the words of the question and a few
//! variables; these are asked once.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use crate::args;
use crate::cache::{Cache, Invocation, Result};
use crate::exec;
use crate::hasher::Hasher;
use crate::{toolchain, variables};

/// What a compiler printed, and exited with 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// It holds for an empty standard input only.
    pub reads_stdin: bool,
}

/// What `--print` may ask for: nothing of it reads sources, searches directories or starts other programs.
const PRINTS: &[&str] = &[
    "cfg",
    "check-cfg",
    "crate-name",
    "file-names",
    "host-tuple",
    "split-debuginfo",
    "sysroot",
    "target-libdir",
    "target-list",
];

/// Options whose values are words, not files.
const WITH_WORD: &[&str] =
    &["--crate-name", "--crate-type", "--cfg", "--check-cfg", "--edition", "--cap-lints"];

/// `-C` options for the linker, whose values are of no interest before something is linked.
const LINKING: &[&str] = &["link-arg", "link-args", "linker"];

/// `-C` options whose values are words.
const CODEGEN: &[&str] = &[
    "code-model",
    "codegen-units",
    "control-flow-guard",
    "debug-assertions",
    "debuginfo",
    "embed-bitcode",
    "force-frame-pointers",
    "instrument-coverage",
    "link-dead-code",
    "linker-flavor",
    "lto",
    "opt-level",
    "overflow-checks",
    "panic",
    "prefer-dynamic",
    "relocation-model",
    "rpath",
    "split-debuginfo",
    "strip",
    "symbol-mangling-version",
    "target-cpu",
    "target-feature",
];

/// The answer, from memory or from the compiler. `None`: whoever asks must ask the compiler.
pub fn answer(cache: &dyn Cache, inv: &Invocation) -> Result<Option<Answer>> {
    let Some(driver) = args::driver_words(&inv.argv) else { return Ok(None) };
    let (driver, words) = inv.argv.split_at(driver);
    let Some(question) = Question::of(words) else { return Ok(None) };
    let Some(key) = question.key(cache, inv, driver)? else { return Ok(None) };
    if let Some(known) = cache.fact("query", &key)?.and_then(|v| postcard::from_bytes(&v).ok()) {
        return Ok(Some(known));
    }
    let Some(output) = exec::output(inv, &inv.argv).filter(|o| o.status.success()) else { return Ok(None) };
    let answer = Answer { stdout: output.stdout, stderr: output.stderr, reads_stdin: question.reads_stdin };
    cache.set_fact("query", &key, &postcard::to_stdvec(&answer)?)?;
    Ok(Some(answer))
}

struct Question<'a> {
    words: &'a [OsString],
    target: Option<&'a OsStr>,
    reads_stdin: bool,
}

impl<'a> Question<'a> {
    /// `None` when an answer might depend on something that these words do not say.
    fn of(words: &'a [OsString]) -> Option<Question<'a>> {
        let is = |known: &[&str]| words.iter().map(OsString::as_os_str).eq(known.iter().map(OsStr::new));
        let mut question = Question { words, target: None, reads_stdin: false };
        if [&["-vV"][..], &["-Vv"], &["-V"], &["--version"], &["--version", "--verbose"]].into_iter().any(is)
        {
            return Some(question);
        }
        // The compiler puts the words of a file in the place of its name, wherever that is.
        if words.iter().any(|word| word.as_bytes().starts_with(b"@")) {
            return None;
        }
        let mut prints = false;
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let word = word.to_str()?;
            if let Some(option) = word.strip_prefix("-C").or_else(|| word.strip_prefix("--codegen=")) {
                let option = if option.is_empty() { words.next()?.to_str()? } else { option };
                is_known_codegen(option).then_some(())?;
                continue;
            }
            if names_a_file(word) {
                return None;
            }
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(OsStr::new(value))),
                None => (word, None),
            };
            let mut value = || value.or_else(|| words.next().map(OsString::as_os_str));
            match name {
                "-" => question.reads_stdin = true,
                "--print" => {
                    PRINTS.contains(&value()?.to_str()?).then_some(())?;
                    prints = true;
                }
                "--target" => question.target = Some(value()?),
                "-O" | "-g" => {}
                _ if WITH_WORD.contains(&name) => drop(value()?),
                _ => ["-W", "-A", "-D", "-F"].contains(&name.get(..2)?).then_some(())?,
            }
        }
        (prints && !question.target.and_then(OsStr::to_str).is_some_and(names_a_file)).then_some(question)
    }

    /// Everything that the answer depends on. `None` when that is more than can be told.
    fn key(&self, cache: &dyn Cache, inv: &Invocation, driver: &[OsString]) -> Result<Option<[u8; 32]>> {
        // With a log the compiler prints more than the answer, or writes it to a file.
        let logs = inv.env.iter().any(|(name, _)| name.as_bytes().starts_with(b"RUSTC_LOG"));
        if logs || inv.var("RUST_TARGET_PATH").is_some() {
            return Ok(None);
        }
        let toolchain = toolchain::of(cache, inv, driver, None, self.target)?;
        let sysroot = std::fs::canonicalize(&toolchain.about.sysroot)?;
        let mut h = Hasher::new("query");
        for (word, program) in driver.iter().zip(&toolchain.programs) {
            // What stands before a compiler and is not of its toolchain may look at anything before it answers.
            if std::fs::canonicalize(program)?.parent() != Some(&sysroot.join("bin")) {
                return Ok(None);
            }
            h.field("word", word.as_bytes()).field("program", program.as_os_str().as_bytes());
        }
        if let Some(target) = self.target {
            let own = sysroot.join("lib/rustlib").join(target).join("target.json");
            if cache.stat(&own)?.is_some() {
                return Ok(None);
            }
        }
        h.field("toolchain", &toolchain.identity);
        h.field("sysroot", toolchain.about.sysroot.as_os_str().as_bytes());
        for word in self.words {
            h.field("word", word.as_bytes());
        }
        let mut vars: Vec<_> = inv.env.iter().filter(|(name, _)| matters(name)).collect();
        vars.sort();
        for (name, value) in vars {
            h.field("env", name.as_bytes()).field("value", value.as_bytes());
        }
        Ok(Some(h.finish()))
    }
}

fn is_known_codegen(option: &str) -> bool {
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    LINKING.contains(&name) || CODEGEN.contains(&name) && !names_a_file(value) && value != "native"
}

/// Could this word, or what is behind `=` in it, be a file's name?
fn names_a_file(word: &str) -> bool {
    word.contains('/') || word.ends_with(".json")
}

/// Does this variable say what the compiler is, or what it does before it has read anything?
fn matters(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    ["RUST", "LD_", "DYLD_"].iter().any(|prefix| bytes.starts_with(prefix.as_bytes()))
        || bytes.ends_with(b"_DEPLOYMENT_TARGET")
        || name == "SDKROOT"
        || variables::RUSTC.iter().any(|known| name == *known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(text: &str) -> bool {
        let words: Vec<OsString> = text.split_whitespace().map(OsString::from).collect();
        Question::of(&words).is_some()
    }

    #[test]
    fn what_cargo_and_build_scripts_ask_is_known() {
        for text in [
            "-vV",
            "--version",
            "--version --verbose",
            "--print sysroot",
            "--print=cfg --target x86_64-unknown-linux-musl",
            "- --crate-name ___ --print=file-names --crate-type bin --crate-type rlib --print=sysroot \
             --print=split-debuginfo --print=crate-name --print=cfg -Wwarnings",
            "- --crate-name ___ --print=file-names -C opt-level=3 -Ctarget-feature=+crt-static --cfg feature=\"x\" \
             --target wasm32-unknown-unknown --crate-type bin --print=cfg -Wwarnings",
            "--print=cfg -C link-arg=-fuse-ld=/usr/bin/mold -Clinker=/usr/bin/clang --codegen=lto=thin",
        ] {
            assert!(question(text), "{text}");
        }
    }

    #[test]
    fn what_may_depend_on_more_is_not() {
        for text in [
            "",
            "-",
            "- --crate-name ___",
            "src/main.rs --print=cfg",
            "main.rs --print=cfg",
            "--print=cfg --target custom.json",
            "--print=cfg --target=./custom",
            "--print=cfg=file",
            "--print=cfg @words",
            "--print=cfg --cfg @words",
            "--print=cfg -C @words",
            "--print=native-static-libs",
            "--print=link-args -",
            "--print=cfg -Ctarget-cpu=native",
            "--print=cfg -C target-cpu=native",
            "--print=cfg -C profile-use=/there",
            "--print=cfg -C profile-use=there",
            "--print=cfg --codegen=profile-use=there",
            "--print=cfg -C",
            "--print=cfg -Zcodegen-backend=other",
            "--print=cfg --sysroot there",
            "--print=cfg --extern there",
            "--print=cfg -o there",
            "--print",
            "+nightly -vV",
            "-vV --print=cfg --emit=link",
            "--explain E0001",
        ] {
            assert!(!question(text), "{text}");
        }
    }
}
