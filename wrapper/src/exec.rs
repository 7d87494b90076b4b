//! Finding programs the way a shell would, and asking them small questions.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::cache::{Cache, Invocation, Result};
use crate::compile::ACTIVE;

/// The file that running `program` would execute.
pub fn resolve(cache: &dyn Cache, inv: &Invocation, program: &OsStr) -> Result<Option<PathBuf>> {
    if program.as_bytes().contains(&b'/') {
        let path = inv.cwd.join(program);
        return Ok(cache.stat(&path)?.is_some().then_some(path));
    }
    for dir in std::env::split_paths(inv.var("PATH").unwrap_or_default()) {
        let path = inv.cwd.join(dir).join(program);
        // A shell passes over what it may not run.
        if cache.stat(&path)?.is_some_and(|id| !id.is_dir && id.executable) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Standard output of a program in the invocation's directory and environment; `None` when it fails.
pub fn ask(inv: &Invocation, program: &Path, args: &[&OsStr]) -> Option<Vec<u8>> {
    let output = command(inv, program.as_os_str()).args(args).stderr(Stdio::null()).output().ok()?;
    output.status.success().then_some(output.stdout)
}

/// What a command does and prints there, with nothing on its standard input; `None` when it cannot be started.
pub fn output(inv: &Invocation, argv: &[OsString]) -> Option<Output> {
    let (program, args) = argv.split_first()?;
    command(inv, program).args(args).output().ok()
}

fn command(inv: &Invocation, program: &OsStr) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(inv.env.iter().map(|(k, v)| (k, v))).env(ACTIVE, "1");
    command.current_dir(&inv.cwd).stdin(Stdio::null());
    command
}

/// Trimmed text of an answer.
pub fn text(answer: Vec<u8>) -> Option<String> {
    String::from_utf8(answer).ok().map(|s| s.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::Disk;

    #[test]
    fn what_may_not_be_run_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, mode| {
            let path = dir.path().join(name).join("tool");
            std::fs::create_dir(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let (notes, program) = (put("a", 0o644), put("b", 0o755));
        let path = std::env::join_paths([&notes, &program].map(|p| p.parent().unwrap())).unwrap();
        let env = vec![("PATH".into(), path)];
        let inv = Invocation { argv: Vec::new(), cwd: dir.path().to_owned(), env };
        assert_eq!(resolve(&Disk, &inv, OsStr::new("tool")).unwrap(), Some(program));
    }
}
