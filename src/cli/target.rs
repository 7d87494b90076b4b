//! The directory that cargo builds in, for commands that are about one.
//!
//! Where nobody names it, it is where cargo keeps what it builds from: `build.build-dir`, else `build.target-dir`, from
//! the environment or the nearest configuration file, else `target` in the workspace
//! (<https://doc.rust-lang.org/cargo/reference/config.html>).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::snapshot::checkout;

#[derive(Debug, Args)]
pub struct Target {
    /// Target directory [default: the one that cargo would use here]
    dir: Option<PathBuf>,
}

impl Target {
    /// As a person would write it.
    pub fn dir(&self) -> Result<PathBuf> {
        match &self.dir {
            Some(dir) => Ok(dir.clone()),
            None => of_cargo(&std::env::current_dir().context("the current directory is gone")?),
        }
    }

    pub fn absolute(&self) -> Result<PathBuf> {
        absolute(&self.dir()?)
    }
}

/// Absolute path of a directory that may not exist yet; links in the existing part are resolved.
pub fn absolute(dir: &Path) -> Result<PathBuf> {
    if let Ok(real) = fs::canonicalize(dir) {
        return Ok(real);
    }
    let here = std::env::current_dir().context("the current directory is gone")?.join(dir);
    // A dead mount cannot be resolved itself, its parent can.
    match (here.parent().and_then(|p| fs::canonicalize(p).ok()), here.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.join(name)),
        _ => Ok(here),
    }
}

fn of_cargo(cwd: &Path) -> Result<PathBuf> {
    let build = [&["CARGO_BUILD_BUILD_DIR"][..], &["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR"]];
    for (variables, key) in build.into_iter().zip(["build-dir", "target-dir"]) {
        let set = variables.iter().find_map(std::env::var_os).filter(|v| !v.is_empty());
        if let Some(dir) = set.map(PathBuf::from).or_else(|| configured(cwd, key)) {
            return Ok(cwd.join(expand(&dir, cwd)?));
        }
    }
    let target = checkout::workspace_above(cwd).map(|w| w.join("target"));
    // Shorter to read, and the same.
    Ok(target.filter(|t| t.parent() != Some(cwd)).unwrap_or_else(|| "target".into()))
}

/// What the nearest configuration file says; relative to the directory around its own.
fn configured(cwd: &Path, key: &str) -> Option<PathBuf> {
    let homes = checkout::cargo_home().into_iter();
    let dirs = cwd.ancestors().map(|d| d.join(".cargo")).chain(homes);
    dirs.flat_map(|dir| ["config.toml", "config"].map(|name| dir.join(name))).find_map(|file| {
        let config: toml::Table = fs::read_to_string(&file).ok()?.parse().ok()?;
        let value = config.get("build")?.get(key)?.as_str()?;
        Some(file.parent()?.parent()?.join(value))
    })
}

/// The variables that cargo knows in `build.build-dir`.
fn expand(dir: &Path, cwd: &Path) -> Result<PathBuf> {
    let Some(text) = dir.to_str().filter(|t| t.contains('{')) else { return Ok(dir.to_owned()) };
    let mut text = text.to_owned();
    let known = [
        ("{workspace-root}", checkout::workspace_above(cwd)),
        ("{cargo-cache-home}", checkout::cargo_home()),
    ];
    for (name, path) in known {
        // An absolute path in the middle is the beginning.
        if let (Some(at), Some(path)) = (text.find(name), path) {
            text = format!("{}{}", path.display(), &text[at + name.len()..]);
        }
    }
    if text.contains('{') {
        bail!("only cargo knows what {} is; name the directory", dir.display());
    }
    Ok(text.into())
}
