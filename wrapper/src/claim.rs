//! Agreement between processes on who compiles a key.
//!
//! The owner holds a lock on a file and touches it every second. Others wait, but not for the dead (their lock is
//! gone) nor for the stuck (their file goes stale).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

const BEAT: Duration = Duration::from_secs(1);
/// An owner that has not touched its file for so long is not waited for.
const STALE: Duration = Duration::from_secs(6);
const POLL: Duration = Duration::from_millis(15);

/// The right to compile; given back on drop.
pub struct Claim {
    path: PathBuf,
    file: File,
    stop: Option<mpsc::Sender<()>>,
}

/// How a claim ended.
pub enum Outcome {
    /// Nobody else compiles this.
    Owner(Claim),
    /// Somebody else did, and is done: look again.
    Waited,
    /// Somebody else does, but seems stuck: compile without waiting.
    Stuck,
}

/// Claims `name`, or waits for its owner.
pub fn claim(dir: &Path, name: &[u8; 32]) -> io::Result<Outcome> {
    let path = dir.join(format!("{}.lock", blake3::Hash::from_bytes(*name).to_hex()));
    let mut waited = false;
    loop {
        let file = open_lock_file(&path)?;
        if try_lock(&file)? {
            // The last owner may have removed the file between our open and our lock.
            let ours = file.metadata()?;
            match std::fs::symlink_metadata(&path) {
                Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {}
                _ => continue,
            }
            if waited {
                let _ = std::fs::remove_file(&path);
                return Ok(Outcome::Waited);
            }
            return Ok(Outcome::Owner(Claim { stop: Some(beat(file.try_clone()?)), path, file }));
        }
        waited = true;
        let touched = file.metadata()?.modified()?;
        if SystemTime::now().duration_since(touched).is_ok_and(|age| age > STALE) {
            return Ok(Outcome::Stuck);
        }
        std::thread::sleep(POLL);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Removed while still locked: whoever waits on this inode sees that it is no longer the one at the path.
        let _ = std::fs::remove_file(&self.path);
        let _ = &self.file;
    }
}

/// Opens (or creates) a lock file, never through a planted symbolic link.
pub fn open_lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(path)
}

fn try_lock(file: &File) -> io::Result<bool> {
    // SAFETY: flock on a descriptor that lives through the call; it touches no memory.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        e if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
        e => Err(e),
    }
}

/// Touches the file every second until the sender is dropped.
fn beat(file: File) -> mpsc::Sender<()> {
    let (stop, stopped) = mpsc::channel();
    let _ = file.set_modified(SystemTime::now());
    std::thread::spawn(move || {
        while stopped.recv_timeout(BEAT) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = file.set_modified(SystemTime::now());
        }
    });
    stop
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_wait_for_the_owner_and_then_look_again() {
        let dir = tempfile::tempdir().unwrap();
        let Outcome::Owner(owner) = claim(dir.path(), &[1; 32]).unwrap() else {
            panic!("nobody else is there")
        };
        let path = dir.path().to_owned();
        let other = std::thread::spawn(move || matches!(claim(&path, &[1; 32]).unwrap(), Outcome::Waited));
        std::thread::sleep(Duration::from_millis(60));
        assert!(!other.is_finished());
        drop(owner);
        assert!(other.join().unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_stuck_owner_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(format!("{}.lock", blake3::Hash::from_bytes([2; 32]).to_hex()));
        let file = open_lock_file(&path).unwrap();
        assert!(try_lock(&file).unwrap());
        file.set_modified(SystemTime::now() - STALE * 2).unwrap();
        assert!(matches!(claim(dir.path(), &[2; 32]).unwrap(), Outcome::Stuck));
    }
}
