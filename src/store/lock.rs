//! Advisory locks on files in the cache directory. The kernel drops them when their holder dies.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use kache_wrapper::claim::open_lock_file;
use nix::fcntl::{Flock, FlockArg};

use super::error::{At, Result};

fn open(path: &Path) -> Result<File> {
    open_lock_file(path).at("open lock file", path)
}

/// Waits for the exclusive lock; it ends with the returned value.
pub fn exclusive(path: &Path) -> Result<Flock<File>> {
    let mut file = open(path)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => return Ok(lock),
            Err((back, nix::Error::EINTR)) => file = back,
            Err((_, e)) => return Err(e).at("lock", path),
        }
    }
}

/// The exclusive lock if nobody has it.
pub fn try_exclusive(path: &Path) -> Result<Option<Flock<File>>> {
    match Flock::lock(open(path)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::Error::EWOULDBLOCK | nix::Error::EINTR)) => Ok(None),
        Err((_, e)) => Err(e).at("lock", path),
    }
}

/// A lock that many hold shared and the garbage collector exclusively. All threads of a process share one
/// descriptor, so they count: the first takes the lock, the last gives it back.
pub struct Shared {
    path: PathBuf,
    file: OnceLock<File>,
    holders: Mutex<usize>,
}

pub struct SharedGuard<'a>(&'a Shared);

impl Shared {
    pub fn new(path: PathBuf) -> Shared {
        Shared { path, file: OnceLock::new(), holders: Mutex::new(0) }
    }

    fn holders(&self) -> MutexGuard<'_, usize> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flock(&self, arg: FlockArg) -> Result<()> {
        let file = match self.file.get() {
            Some(file) => file,
            None => {
                let opened = open(&self.path)?;
                self.file.get_or_init(|| opened)
            }
        };
        loop {
            #[allow(deprecated)]
            // `Flock` owns its file and locks it for its whole life; this one comes and goes.
            match nix::fcntl::flock(std::os::fd::AsRawFd::as_raw_fd(file), arg) {
                Err(nix::Error::EINTR) => continue,
                other => return other.at("lock", &self.path),
            }
        }
    }

    pub fn lock(&self) -> Result<SharedGuard<'_>> {
        let mut holders = self.holders();
        if *holders == 0 {
            self.flock(FlockArg::LockShared)?;
        }
        *holders += 1;
        Ok(SharedGuard(self))
    }
}

impl Shared {
    /// Takes the lock until [`Shared::let_go`].
    pub fn hold(&self) -> Result<()> {
        std::mem::forget(self.lock()?);
        Ok(())
    }

    /// Gives back what [`Shared::hold`] took.
    pub fn let_go(&self) {
        let mut holders = self.holders();
        *holders -= 1;
        if *holders == 0 {
            // Unlocking an open descriptor does not fail; if it did, the lock would end with the process.
            let _ = self.flock(FlockArg::Unlock);
        }
    }
}

impl Drop for SharedGuard<'_> {
    fn drop(&mut self) {
        self.0.let_go();
    }
}
