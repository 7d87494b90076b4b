//! The files that observed programs need: the preload object and the launcher, in a directory of the caller.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

static PRELOAD: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/preload"));
static LAUNCH: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/launch"));

/// Makes the files unless they are there, and returns the preload object's path. The launcher has the same without its end.
pub fn install(dir: &Path) -> io::Result<PathBuf> {
    if PRELOAD.is_empty() || LAUNCH.is_empty() {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "this kache was built without its observer"));
    }
    let dir = std::path::absolute(dir)?;
    // The loader takes these as separators.
    if dir.as_os_str().as_bytes().iter().any(|byte| b": \t\n;".contains(byte)) {
        let why = format!("{} cannot hold the observer: a colon or a space is in its name", dir.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let mut hasher = DefaultHasher::new();
    (PRELOAD, LAUNCH).hash(&mut hasher);
    let name = format!("observe-{:016x}", hasher.finish());
    let launch = dir.join(&name);
    let preload = dir.join(name + ".so");
    for (path, bytes) in [(&launch, LAUNCH), (&preload, PRELOAD)] {
        if fs::metadata(path).is_ok_and(|metadata| metadata.len() == bytes.len() as u64) {
            continue;
        }
        fs::create_dir_all(&dir)?;
        let temporary =
            dir.join(format!(".observe-{}-{:?}", std::process::id(), std::thread::current().id()));
        fs::write(&temporary, bytes)?;
        fs::set_permissions(&temporary, Permissions::from_mode(0o555))?;
        fs::rename(&temporary, path)?;
    }
    Ok(preload)
}

/// Whether programs cannot be loaded from a directory's file system.
pub fn forbids_programs(path: &Path) -> bool {
    let Ok(name) = std::ffi::CString::new(path.as_os_str().as_bytes()) else { return true };
    // SAFETY: fills a structure that is plain numbers.
    unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        libc::statvfs(name.as_ptr(), &mut stat) == 0 && stat.f_flag & libc::ST_NOEXEC != 0
    }
}

/// Where a program is: by name in the directories of `path`, or relative to `dir`.
pub fn find_program(name: &OsStr, path: Option<&OsStr>, dir: &Path) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(dir.join(name));
    }
    let path = path.unwrap_or(OsStr::new("/bin:/usr/bin"));
    let is_program =
        |file: &PathBuf| fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    std::env::split_paths(path).map(|entry| dir.join(entry).join(name)).find(is_program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn files_are_made_once_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let preload = install(&dir.path().join("new")).unwrap();
        let launch = preload.with_extension("");
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let before = [inode(&preload), inode(&launch)];
        assert_eq!(install(preload.parent().unwrap()).unwrap(), preload);
        assert_eq!([inode(&preload), inode(&launch)], before);
        fs::remove_file(&launch).unwrap();
        fs::write(&launch, "cut").unwrap();
        install(preload.parent().unwrap()).unwrap();
        assert_eq!(fs::read(&launch).unwrap(), LAUNCH);
        assert_eq!(fs::metadata(&launch).unwrap().mode() & 0o7777, 0o555);
        assert_eq!(inode(&preload), before[0]);
        for name in ["a b", "a:b", "a;b"] {
            let error = install(&dir.path().join(name)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
        }
    }

    #[test]
    fn where_programs_are() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (name, mode) in [("one", 0o644), ("two", 0o755), ("three", 0o711)] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("tool"), "").unwrap();
            fs::set_permissions(at(name).join("tool"), Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir_all(at("zero/tool")).unwrap();
        let find = |name: &str, path: &str| find_program(name.as_ref(), Some(path.as_ref()), dir.path());
        assert_eq!(find("tool", "zero:one:two:three"), Some(at("two/tool")));
        assert_eq!(find("tool", at("three").to_str().unwrap()), Some(at("three/tool")));
        assert_eq!(find("tool", "zero:one"), None);
        assert_eq!(find("./one/tool", "two"), Some(at("./one/tool")));
        assert_eq!(find_program("sh".as_ref(), None, dir.path()), Some("/bin/sh".into()));
    }
}
