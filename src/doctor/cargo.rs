//! Is kache what cargo runs in place of rustc?

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Check;
use crate::config::Config;

pub fn examine(config: &Config) -> Vec<Check> {
    let mut checks = vec![wrapper(), compiler()];
    for what in &config.ignored {
        checks.push(Check::warn("configuration", format!("ignored: {what}"), "see docs/configuration.md"));
    }
    if config.disabled {
        checks.push(Check::warn("switch", "kache is turned off (KACHE_DISABLED or `disabled`)", "unset it"));
    }
    checks
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
