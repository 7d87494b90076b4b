//! The git hook that `kache init --git-hook` writes: after a branch was checked out, files that have the old content
//! and new times do not count as changed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// By this line our part of a hook is known.
const MARK: &str = "# kache: judge the target directory again, by content";

/// Adds our part to the post-checkout hook of the repository around the current directory.
pub fn install(program: &str) -> Result<PathBuf> {
    let asked = Command::new("git").args(["rev-parse", "--git-path", "hooks"]).output();
    let asked = asked.context("cannot run git")?;
    if !asked.status.success() {
        bail!("this is not a git repository");
    }
    let dir = PathBuf::from(String::from_utf8(asked.stdout)?.trim());
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let path = dir.join("post-checkout");
    let old = match fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => "#!/bin/sh\n".to_owned(),
        other => other.with_context(|| format!("cannot read {}", path.display()))?,
    };
    if old.contains(MARK) {
        return Ok(path);
    }
    if !old.starts_with("#!/bin/sh") && !old.starts_with("#!/usr/bin/env sh") && !old.contains("bash") {
        bail!("{} is no shell script; add `{}` to it yourself", path.display(), line(program));
    }
    let newline = if old.ends_with('\n') { "" } else { "\n" };
    let new = format!("{old}{newline}{MARK}\n{}\n", line(program));
    fs::write(&path, new).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// A checkout of single files (third argument 0) is an edit. A mount is never made by a hook.
fn line(program: &str) -> String {
    let program = program.replace('\'', "'\\''");
    format!("[ \"$3\" = 0 ] || '{program}' refresh --quiet || :")
}
