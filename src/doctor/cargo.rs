//! Is kache what cargo runs in place of rustc?

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Check, Tell};
use crate::config::Config;

pub fn examine(config: &Config, tell: &Tell<'_>) {
    tell(wrapper());
    tell(compiler());
    tell(observer(config));
    for what in &config.ignored {
        tell(Check::warn("configuration", format!("ignored: {what}"), "see docs/configuration.md"));
    }
    if config.disabled {
        tell(Check::warn("switch", "kache is turned off (KACHE_DISABLED or `disabled`)", "unset it"));
    }
}

fn wrapper() -> Check {
    const NAME: &str = "wrapper";
    let Some((program, origin)) = configured() else {
        let remedy = "run `kache init`, or set RUSTC_WRAPPER=kache";
        return Check::warn(
            NAME,
            "cargo does not use kache: no RUSTC_WRAPPER, no build.rustc-wrapper",
            remedy,
        );
    };
    if Path::new(&program).file_stem().is_some_and(|s| s == "kache") {
        return Check::ok(NAME, format!("{program} (from {origin})"));
    }
    let remedy = format!(
        "run `kache init --force`, and set KACHE_FALLBACK={program} to keep it for what kache passes through"
    );
    Check::warn(NAME, format!("cargo uses another wrapper: {program} (from {origin})"), remedy)
}

/// The wrapper that cargo would use here, and where that is set.
fn configured() -> Option<(String, String)> {
    for name in ["RUSTC_WRAPPER", "CARGO_BUILD_RUSTC_WRAPPER"] {
        if let Some(value) = std::env::var_os(name).filter(|v| !v.is_empty()) {
            return Some((value.to_string_lossy().into_owned(), format!("${name}")));
        }
    }
    files().into_iter().find_map(|path| {
        let table: toml::Table = std::fs::read_to_string(&path).ok()?.parse().ok()?;
        let program = table.get("build")?.get("rustc-wrapper")?.as_str()?.to_owned();
        Some((program, path.display().to_string()))
    })
}

/// Cargo's configuration files, the nearest first.
fn files() -> Vec<PathBuf> {
    let here = std::env::current_dir().unwrap_or_default();
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cargo")));
    let dirs = here.ancestors().map(|d| d.join(".cargo")).chain(home);
    dirs.flat_map(|d| [d.join("config.toml"), d.join("config")]).filter(|p| p.is_file()).collect()
}

/// Can it be seen what a compiler reads?
fn observer(config: &Config) -> Check {
    const NAME: &str = "observer";
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let seen = || -> std::io::Result<kache_trace::Account> {
        let mut observer = kache_trace::Observer::new(&config.trace_dir())?;
        let mut command = Command::new(&rustc);
        observer.prepare(command.arg("-V"), false)?;
        command.output()?;
        Ok(observer.finish())
    };
    let why = match seen() {
        Ok(account) if account.gaps.is_empty() && !account.accesses.is_empty() => {
            return Check::ok(NAME, "sees what compilers, macros, linkers and build scripts read");
        }
        Ok(account) => account.gaps.first().cloned().unwrap_or_else(|| "it sees nothing".into()),
        Err(error) => error.to_string(),
    };
    Check::warn(
        NAME,
        format!("cannot see what the compiler reads: {why}"),
        "libraries without macros are stored, nothing else: use a dynamically linked toolchain on Linux (x86-64 or arm64)",
    )
}

fn compiler() -> Check {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    match Command::new(&rustc).arg("-V").output() {
        Ok(out) if out.status.success() => Check::ok("compiler", String::from_utf8_lossy(&out.stdout).trim()),
        Ok(out) => {
            let said = String::from_utf8_lossy(&out.stderr).trim().to_owned();
            Check::fail(
                "compiler",
                format!("{} does not work: {said}", Path::new(&rustc).display()),
                "repair the toolchain",
            )
        }
        Err(e) => Check::warn(
            "compiler",
            format!("{}: {e}", Path::new(&rustc).display()),
            "install Rust, or set PATH",
        ),
    }
}
