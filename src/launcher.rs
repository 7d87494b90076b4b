//! What cargo finds in place of a build script: a few lines of shell that ask kache to run it.
//!
//! The script's own program lies beside it. When kache is gone, or not this build's wrapper, that runs as it is.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use kache_wrapper::script;

use crate::snapshot::place::Place;

/// First argument of the role that a launcher asks for.
pub const ROLE: &str = "--run-build-script";
/// The second line of a launcher, by which it is known. The first names a shell.
const MARKER: &[u8] = b"# Runs a build script through kache, or as it is when kache is not there.\n";

/// Moves a build script that was just compiled aside and puts a launcher in its place.
pub fn install(program: &Path) -> io::Result<()> {
    let real = script::real_program(program);
    std::fs::rename(program, &real)?;
    write(program).inspect_err(|_| {
        let _ = std::fs::rename(&real, program);
    })
}

/// Puts a launcher beside a build script that was restored.
pub fn write(program: &Path) -> io::Result<()> {
    let text = text(&script::real_program(program), &std::env::current_exe()?);
    let mut name = program.file_name().unwrap_or_default().to_owned();
    name.push(".kache-tmp");
    let temp = program.with_file_name(name);
    let _ = std::fs::remove_file(&temp);
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o777).open(&temp)?;
    file.write_all(&text)?;
    drop(file);
    std::fs::rename(&temp, program)
}

/// Gives up on the launcher: the program itself is better than nothing.
pub fn replace_by_program(program: &Path) -> io::Result<()> {
    let _ = std::fs::remove_file(program);
    std::fs::copy(script::real_program(program), program).map(drop)
}

/// Cargo runs a hard link with another name in the same directory, so the program is found by the directory.
fn text(real: &Path, kache: &Path) -> Vec<u8> {
    let name = PathBuf::from(real.file_name().unwrap_or_default());
    let mut text = first_line();
    text.extend(MARKER);
    text.extend(b"real=\"${0%/*}\"/");
    text.extend(quoted(&name));
    text.extend(b"\n[ -e \"$real\" ] || real=");
    text.extend(quoted(real));
    text.extend(b"\nkache=");
    text.extend(quoted(kache));
    text.extend(
        b"\n[ -n \"$RUSTC_WRAPPER$RUSTC_WORKSPACE_WRAPPER\" ] && [ -x \"$kache\" ] && exec \"$kache\" ",
    );
    text.extend(ROLE.as_bytes());
    text.extend(b" \"$real\" \"$@\"\nexec \"$real\" \"$@\"\n");
    text
}

/// A launcher of another checkout, as it would be here; `None` for any other text.
pub fn moved(text: &[u8], from: &Place, to: &Place) -> Option<Vec<u8>> {
    let rest = &text[memchr::memchr(b'\n', text)? + 1..];
    if !text.starts_with(b"#!") || !rest.starts_with(MARKER) {
        return None;
    }
    let mut text = first_line();
    text.extend(from.translate(rest, to)?);
    let kache = std::env::current_exe().ok().filter(|path| path.exists())?;
    let start = memchr::memmem::find(&text, b"\nkache=")? + b"\nkache=".len();
    let end = start + memchr::memchr(b'\n', &text[start..])?;
    text.splice(start..end, quoted(&kache));
    Some(text)
}

/// Scripts read variables like `CC_x86_64-unknown-linux-musl`, and dash and busybox hand on none whose names they could
/// not use themselves. `-p`: bash runs nothing that the environment asks it to.
fn first_line() -> Vec<u8> {
    let bash = ["/bin/bash", "/usr/bin/bash"].into_iter().find(|path| Path::new(path).exists());
    bash.map_or("#!/bin/sh\n".to_owned(), |bash| format!("#!{bash} -p\n")).into_bytes()
}

fn quoted(path: &Path) -> Vec<u8> {
    let mut out = vec![b'\''];
    for &b in path.as_os_str().as_bytes() {
        match b {
            b'\'' => out.extend(b"'\\''"),
            b => out.push(b),
        }
    }
    out.push(b'\'');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn a_launcher_asks_kache_and_does_without() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("it's here");
        std::fs::create_dir(&dir).unwrap();
        let real = script(&dir, "build_script_build-1.real", "#!/bin/sh\necho real $1\n");
        let kache = script(&dir, "kache", "#!/bin/sh\necho kache $1 \"${2##*/}\" $3\n");
        let launcher = script(&dir, "build-script-build", std::str::from_utf8(&text(&real, &kache)).unwrap());
        let says = |wrapper: Option<&str>| {
            let mut command = Command::new(&launcher);
            command.arg("x").env_remove("RUSTC_WRAPPER").env_remove("RUSTC_WORKSPACE_WRAPPER");
            command.envs(wrapper.map(|w| ("RUSTC_WRAPPER", w)));
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        assert_eq!(says(Some("kache")), "kache --run-build-script build_script_build-1.real x\n");
        assert_eq!(says(None), "real x\n");
        std::fs::remove_file(&kache).unwrap();
        assert_eq!(says(Some("kache")), "real x\n");
    }

    #[test]
    fn the_program_moves_aside() {
        let dir = tempfile::tempdir().unwrap();
        let program = script(dir.path(), "build_script_build-1", "real");
        install(&program).unwrap();
        assert_eq!(std::fs::read(script::real_program(&program)).unwrap(), b"real");
        assert!(std::fs::read(&program).unwrap().starts_with(&first_line()));
        replace_by_program(&program).unwrap();
        assert_eq!(std::fs::read(&program).unwrap(), b"real");
    }
}
