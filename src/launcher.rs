//! What cargo finds in place of a build script: a few lines of shell that ask kache to run it.
//!
//! The script's own program lies beside it. When kache is gone, or not this build's wrapper, that runs as it is. When it
//! is the program that is gone, it comes back from the store.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use kache_wrapper::atomic;
use kache_wrapper::cache::{Cache, Dest, EntryKey, Output};
use kache_wrapper::script;

use crate::snapshot::place::Place;

/// First argument of the role that a launcher asks for.
pub const ROLE: &str = "--run-build-script";
/// The same when the script's program is gone: to have it back from the store.
pub const BRING_BACK: &str = "--bring-back-build-script";
/// The second line of a launcher, by which it is known. The first names a shell.
const MARKER: &[u8] = b"# Runs a build script through kache, or as it is when kache is not there.\n";

/// Moves a build script that was just compiled aside and puts a launcher in its place. `entry`: where it is stored, if it
/// is.
pub fn install(program: &Path, entry: Option<&EntryKey>) -> io::Result<()> {
    let real = script::real_program(program);
    std::fs::rename(program, &real)?;
    write(program, entry).inspect_err(|_| {
        let _ = std::fs::rename(&real, program);
    })
}

/// Puts a launcher beside a build script that was restored.
pub fn write(program: &Path, entry: Option<&EntryKey>) -> io::Result<()> {
    let text = text(&script::real_program(program), &std::env::current_exe()?, entry);
    atomic::write_program(program, &text)
}

/// Gives up on the launcher: the program itself is better than nothing.
pub fn replace_by_program(program: &Path) -> io::Result<()> {
    let _ = std::fs::remove_file(program);
    std::fs::copy(script::real_program(program), program).map(drop)
}

/// The role: puts the program of a build script, which somebody has removed without its launcher, where it was.
pub fn bring_back(args: &[OsString]) -> ExitCode {
    match try_bring_back(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::debug!("a build script's program is not to be had: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn try_bring_back(args: &[OsString]) -> Result<()> {
    let [entry, real] = args else { bail!("an entry and a path are needed") };
    let entry =
        entry.to_str().and_then(|hex| blake3::Hash::from_hex(hex).ok()).context("that is no entry")?;
    let (key, real) = (EntryKey(*entry.as_bytes()), Path::new(real));
    let name = real.file_stem().context("that is no program")?;
    let cwd = std::env::current_dir()?;
    let store = crate::backend::config_of(&|name: &str| std::env::var_os(name), &cwd).open_store()?;
    let entry = Cache::entry(&store, &key).ok().flatten().context("it is not in the store any more")?;
    let is_it = |output: &&Output| matches!(&output.dest, Dest::OutDir(n) if n == name.as_bytes());
    let output = entry.outputs.iter().find(is_it).context("the entry has no such program")?;
    store.place_files(&[output.placed_at(real.to_owned())])?;
    Ok(store.flush()?)
}

/// Cargo runs a hard link with another name in the same directory, so the program is found by the directory.
fn text(real: &Path, kache: &Path, entry: Option<&EntryKey>) -> Vec<u8> {
    let name = PathBuf::from(real.file_name().unwrap_or_default());
    let mut text = first_line();
    text.extend(MARKER);
    text.extend(b"here=\"${0%/*}\"/");
    text.extend(quoted(&name));
    text.extend(b"\nreal=$here\n[ -e \"$real\" ] || real=");
    text.extend(quoted(real));
    text.extend(b"\nkache=");
    text.extend(quoted(kache));
    text.extend(b"\nentry=");
    text.extend(entry.map(|key| key.to_hex()).unwrap_or_default().bytes());
    text.extend(REST.replace("ROLE", ROLE).replace("BRING_BACK", BRING_BACK).bytes());
    text
}

/// Another wrapper's build is none of kache's business. One that has no program, cannot be brought back and cannot be run:
/// without the launcher cargo sees that it has to be compiled.
const REST: &str = r#"
if [ ! -e "$real" ]; then
    real=$here
    if ! { [ -n "$entry" ] && [ -x "$kache" ] && "$kache" BRING_BACK "$entry" "$real"; }; then
        rm -f "$0" "${real%.real}"
        echo "kache: the program of this build script is gone ($real); the next build compiles it again" >&2
        exit 127
    fi
fi
is_kache() {
    case $1 in
        '') return 1 ;;
        "$kache" | kache | */kache) return 0 ;;
        *) [ "$(command -v "$1")" -ef "$kache" ] ;;
    esac
}
if [ -x "$kache" ] && { is_kache "$RUSTC_WRAPPER" || is_kache "$RUSTC_WORKSPACE_WRAPPER"; }; then
    exec "$kache" ROLE "$real" "$@"
fi
exec "$real" "$@"
"#;

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
        let launcher =
            script(&dir, "build-script-build", std::str::from_utf8(&text(&real, &kache, None)).unwrap());
        let says = |wrapper: Option<&str>| {
            let mut command = Command::new(&launcher);
            command.arg("x").env_remove("RUSTC_WRAPPER").env_remove("RUSTC_WORKSPACE_WRAPPER");
            command.envs(wrapper.map(|w| ("RUSTC_WRAPPER", w)));
            String::from_utf8(command.output().unwrap().stdout).unwrap()
        };
        assert_eq!(says(Some("kache")), "kache --run-build-script build_script_build-1.real x\n");
        assert_eq!(says(Some(kache.to_str().unwrap())), says(Some("kache")));
        assert_eq!(says(Some("/some/where/kache")), says(Some("kache")));
        assert_eq!(says(None), "real x\n");
        // Not what is called so, but what is kache.
        let other = dir.join("wrap");
        std::os::unix::fs::symlink(&kache, &other).unwrap();
        assert_eq!(says(Some(other.to_str().unwrap())), says(Some("kache")));
        assert_eq!(says(Some("sccache")), "real x\n");
        std::fs::remove_file(&kache).unwrap();
        assert_eq!(says(Some("kache")), "real x\n");
    }

    #[test]
    fn without_its_program_a_launcher_asks_for_it_or_goes() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("build_script_build-1.real");
        let kache = script(
            dir.path(),
            "kache",
            "#!/bin/sh\nprintf '#!/bin/sh\\necho back %s\\n' $2 > $3; chmod +x $3\n",
        );
        let key = EntryKey([7; 32]);
        let launch = |entry| {
            let launcher = dir.path().join("build_script_build-1");
            script(
                dir.path(),
                "build_script_build-1",
                std::str::from_utf8(&text(&real, &kache, entry)).unwrap(),
            );
            let _ = std::fs::remove_file(dir.path().join("build-script-build"));
            std::fs::hard_link(launcher, dir.path().join("build-script-build")).unwrap();
            Command::new(dir.path().join("build-script-build")).env_remove("RUSTC_WRAPPER").output().unwrap()
        };
        let said = String::from_utf8(launch(Some(&key)).stdout).unwrap();
        assert_eq!(said, format!("back {}\n", key.to_hex()));
        std::fs::remove_file(&real).unwrap();
        let output = launch(None);
        assert_eq!(output.status.code(), Some(127));
        assert!(String::from_utf8_lossy(&output.stderr).contains("compiles it again"));
        assert!(!dir.path().join("build_script_build-1").exists(), "cargo sees that it has to be compiled");
    }

    #[test]
    fn the_program_moves_aside() {
        let dir = tempfile::tempdir().unwrap();
        let program = script(dir.path(), "build_script_build-1", "real");
        install(&program, None).unwrap();
        assert_eq!(std::fs::read(script::real_program(&program)).unwrap(), b"real");
        assert!(std::fs::read(&program).unwrap().starts_with(&first_line()));
        replace_by_program(&program).unwrap();
        assert_eq!(std::fs::read(&program).unwrap(), b"real");
    }
}
