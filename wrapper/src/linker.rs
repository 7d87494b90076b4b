//! The linker that a compile will really run, and what it brings along: its helpers, the C runtime, libc.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::args::Compile;
use crate::cache::{Cache, Invocation, Result};
use crate::exec;
use crate::hasher::Hasher;
use crate::toolchain::Toolchain;

/// Files that a C compiler driver takes from its own directories when it links.
const RUNTIME: &[&str] = &[
    "crt1.o",
    "Scrt1.o",
    "rcrt1.o",
    "gcrt1.o",
    "crti.o",
    "crtn.o",
    "crtbegin.o",
    "crtbeginS.o",
    "crtbeginT.o",
    "crtend.o",
    "crtendS.o",
    "libc.so",
    "libc.so.6",
    "libc.a",
    "libc_nonshared.a",
    "libm.so",
    "libm.so.6",
    "libm.a",
    "libmvec.a",
    "libpthread.a",
    "libdl.a",
    "librt.a",
    "libutil.a",
    "libgcc.a",
    "libgcc_s.so",
    "libgcc_s.so.1",
    "libgcc_eh.a",
    "libstdc++.so",
    "libstdc++.a",
];

/// Programs that it runs.
const HELPERS: &[&str] = &["ld", "collect2", "lto-wrapper", "lto1"];

/// Variables that change what a C compiler driver finds or a linker does.
pub const ENVIRONMENT: &[&str] = &[
    "LIBRARY_PATH",
    "COMPILER_PATH",
    "GCC_EXEC_PREFIX",
    "LD_RUN_PATH",
    "LDEMULATION",
    "GNUTARGET",
    "SOURCE_DATE_EPOCH",
    "ZERO_AR_DATE",
    "MACOSX_DEPLOYMENT_TARGET",
    "IPHONEOS_DEPLOYMENT_TARGET",
    "SDKROOT",
    "DEVELOPER_DIR",
];

/// Adds the linker's identity to a key.
///
/// `libs` are the names of native libraries that will be linked: those in the linker's own directories count too.
pub fn add_to_key(
    h: &mut Hasher,
    cache: &dyn Cache,
    inv: &Invocation,
    compile: &Compile,
    toolchain: &Toolchain,
    libs: &[String],
) -> Result<()> {
    for name in ENVIRONMENT {
        if let Some(value) = inv.var(name) {
            h.field(name, value.as_bytes());
        }
    }
    let Some(linker) = name(inv, compile, toolchain) else { return Ok(()) };
    let Some(path) = exec::resolve(cache, inv, &linker)? else {
        // Perhaps it comes with the toolchain, whose identity is in the key already.
        h.field("linker", linker.as_bytes());
        return Ok(());
    };
    let hash = cache.hash_file(&path)?.unwrap_or_default();
    h.field("linker", &hash);
    for file in surroundings(cache, inv, compile, &path, &hash, libs)? {
        h.field("link-file", file.file_name().unwrap_or_default().as_bytes());
        h.field("content", &cache.hash_file(&file)?.unwrap_or_default());
    }
    Ok(())
}

/// The linker by name: chosen by the user, or the target's default. `None` when the toolchain's own is used.
fn name(inv: &Invocation, compile: &Compile, toolchain: &Toolchain) -> Option<OsString> {
    if let Some(chosen) = compile.codegen("linker") {
        return Some(chosen.to_owned());
    }
    let target = compile.target.as_deref().unwrap_or(OsStr::new(toolchain.about.host()));
    if target.as_bytes().ends_with(b".json") {
        let text = std::fs::read_to_string(inv.cwd.join(target)).ok()?;
        let at = text.find("\"linker\"")? + "\"linker\"".len();
        return text[at..].split('"').nth(1).map(OsString::from);
    }
    let target = target.to_str()?;
    (!target.starts_with("wasm") && !target.contains("-none-") && !target.ends_with("-none"))
        .then(|| "cc".into())
}

/// Which files the linker takes by itself. Asked once per linker and environment, remembered as a fact.
fn surroundings(
    cache: &dyn Cache,
    inv: &Invocation,
    compile: &Compile,
    linker: &Path,
    hash: &[u8; 32],
    libs: &[String],
) -> Result<Vec<PathBuf>> {
    let choosing: Vec<&OsStr> = compile
        .codegen
        .iter()
        .filter(|(n, _)| n == "link-arg" || n == "link-args")
        .filter_map(|(_, v)| v.as_deref())
        .flat_map(|v| v.as_bytes().split(|&b| b == b' ').map(OsStr::from_bytes))
        .filter(|a| {
            ["-fuse-ld", "-m", "--target", "--sysroot", "-B", "-specs"]
                .iter()
                .any(|p| a.as_bytes().starts_with(p.as_bytes()))
        })
        .collect();
    let mut h = Hasher::new("linker");
    h.field("path", linker.as_os_str().as_bytes()).field("content", hash);
    for name in ENVIRONMENT.iter().chain(&["PATH"]) {
        h.field(name, inv.var(name).unwrap_or_default().as_bytes());
    }
    for arg in &choosing {
        h.field("arg", arg.as_bytes());
    }
    for lib in libs {
        h.field("lib", lib.as_bytes());
    }
    let key = h.finish();
    if let Some(known) = cache.fact("linker", &key)? {
        return Ok(known
            .split(|&b| b == 0)
            .filter(|b| !b.is_empty())
            .map(|b| OsStr::from_bytes(b).into())
            .collect());
    }
    let mut files = Vec::new();
    let ask = |question: String| {
        let question = OsString::from(question);
        let mut args = choosing.clone();
        args.push(&question);
        exec::ask(inv, linker, &args).and_then(exec::text).map(PathBuf::from)
    };
    // Only a C compiler driver answers these; for anything else its own content is all there is to know.
    if ask("-print-prog-name=ld".into()).is_some() {
        let named = libs.iter().flat_map(|l| [format!("lib{l}.so"), format!("lib{l}.a")]);
        for name in RUNTIME.iter().map(|n| (*n).to_owned()).chain(named) {
            files.extend(ask(format!("-print-file-name={name}")).filter(|p| p.is_absolute()));
        }
        let chosen_ld = choosing
            .iter()
            .filter_map(|a| a.to_str()?.strip_prefix("-fuse-ld="))
            .map(|l| if l.starts_with('/') { l.to_owned() } else { format!("ld.{l}") });
        for name in HELPERS.iter().map(|h| (*h).to_owned()).chain(chosen_ld) {
            let answer = ask(format!("-print-prog-name={name}")).unwrap_or_else(|| name.into());
            files.extend(exec::resolve(cache, inv, answer.as_os_str())?);
        }
    }
    let value: Vec<u8> =
        files.iter().flat_map(|f| f.as_os_str().as_bytes().iter().copied().chain([0])).collect();
    cache.set_fact("linker", &key, &value)?;
    Ok(files)
}
