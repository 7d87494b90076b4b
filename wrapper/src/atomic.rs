//! Files that appear under their names whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Replaces what is at `path`, a symbolic link too. Permissions are those of any new file.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with(path, bytes, 0o666)
}

/// The same for a file that can be run.
pub fn write_program(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with(path, bytes, 0o777)
}

fn write_with(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (mut file, temp) = Temp::create(path, mode)?;
    file.write_all(bytes)?;
    drop(file);
    temp.rename(path)
}

/// A temporary name in the directory of the final one, removed unless renamed.
pub struct Temp {
    path: PathBuf,
    renamed: bool,
}

impl Temp {
    /// A free name. No two processes get the same, not even in two containers that number processes alike.
    pub fn beside(dest: &Path) -> Temp {
        static START: OnceLock<u32> = OnceLock::new();
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let start = START.get_or_init(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            since.subsec_nanos() ^ since.as_secs() as u32
        });
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!(".kache-{}-{start:x}-{n}", std::process::id());
        Temp { path: dest.with_file_name(name), renamed: false }
    }

    /// A new file: never one that exists, never through a symbolic link. The umask narrows `mode`.
    pub fn create(dest: &Path, mode: u32) -> io::Result<(File, Temp)> {
        let mut temp = Temp::beside(dest);
        match OpenOptions::new().write(true).create_new(true).mode(mode).open(&temp.path) {
            Ok(file) => Ok((file, temp)),
            Err(error) => {
                // Whatever is there is not ours to remove.
                temp.renamed = true;
                Err(error)
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its final name.
    pub fn rename(mut self, dest: &Path) -> io::Result<()> {
        fs::rename(&self.path, dest)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.renamed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_replaced_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (victim, path) = (dir.path().join("victim"), dir.path().join("file"));
        fs::write(&victim, "theirs").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        write(&path, b"ours").unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"theirs");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing temporary stays");
    }

    #[test]
    fn a_failure_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::create_dir_all(path.join("full")).unwrap();
        assert!(write(&path, b"x").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
