//! A compiler's workbench: the directory outside of a mount where one compile puts its outputs, until they are handed
//! over to the mount. It goes with this value, or after a kill by the daemon.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kache_wrapper::atomic::Temp;
use kache_wrapper::cache;
use kache_wrapper::lookup::Plan;
use kache_wrapper::scratch::Scratch;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::backend::Backend;

pub struct Bench {
    scratch: Scratch,
    out_dir: PathBuf,
    /// Shown early.
    shown: RefCell<Option<OsString>>,
    _locked: Locked,
}

/// A directory that only this process uses.
pub struct Locked(File);

impl Locked {
    /// Makes an empty directory. `None` when somebody else uses it.
    fn make(dir: &Path) -> io::Result<Option<Locked>> {
        loop {
            match fs::create_dir(dir) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
            let Some(locked) = Locked::take(dir)? else { return Ok(None) };
            // Whoever clears away removes what is not locked, which it may have been a moment ago.
            match fs::metadata(dir) {
                Ok(meta) if meta.ino() == locked.0.metadata()?.ino() => {
                    for entry in fs::read_dir(dir)? {
                        remove(&entry?.path())?;
                    }
                    return Ok(Some(locked));
                }
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
    }

    /// The compiler has the lock, too: it may live on when this process is killed.
    fn outlive(&self) -> nix::Result<()> {
        fcntl(&self.0, FcntlArg::F_SETFD(FdFlag::empty())).map(drop)
    }

    /// `None` when somebody else has it.
    pub fn take(dir: &Path) -> io::Result<Option<Locked>> {
        let file = File::open(dir)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Locked(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

impl Bench {
    /// `None` when the plan has no scratch directory, or it cannot be made: the compiler writes where cargo says.
    pub fn set_up(plan: &Plan, backend: &Backend) -> Option<Bench> {
        let mut scratch = plan.scratch.clone()?;
        let locked = Locked::make(&scratch.out).ok()??;
        locked.outlive().ok()?;
        if scratch.incremental.is_some() {
            match backend.gather(plan) {
                Ok(dirs) => scratch.gathered = dirs,
                Err(error) => tracing::debug!(%error, "crates are read where they are"),
            }
        }
        let out_dir = plan.compile.out_dir.clone();
        Some(Bench { scratch, out_dir, shown: RefCell::default(), _locked: locked })
    }

    /// Where the compiler writes.
    pub fn out_dir(&self) -> &Path {
        &self.scratch.out
    }

    /// Directories of the compiler's crates that are beside its outputs, by the names that these would have.
    pub fn gathered(&self) -> impl Iterator<Item = PathBuf> {
        let inner =
            |n| self.scratch.crates(n).strip_prefix(&self.scratch.out).map(|at| self.out_dir.join(at));
        (0..self.scratch.gathered.len()).filter_map(move |n| inner(n).ok())
    }

    pub fn argv(&self, argv: &[OsString], cwd: &Path) -> Vec<OsString> {
        self.scratch.argv(argv, cwd)
    }

    pub fn correct(&self, text: &mut Vec<u8>) {
        self.scratch.correct(text, &self.out_dir);
    }

    /// A file that is finished while the compiler, which may read it again, goes on.
    pub fn show(&self, backend: &Backend, name: &OsStr) -> cache::Result<()> {
        let early = self.scratch.out.join("early");
        fs::create_dir(&early)?;
        match self.scratch.incremental {
            // The compiler will keep it, under another name, in its state.
            Some(_) => copy(&self.scratch.out.join(name), &early.join(name))?,
            None => fs::hard_link(self.scratch.out.join(name), early.join(name))?,
        }
        self.hand_over(backend, &early, &[name.to_owned()])?;
        self.shown.replace(Some(name.to_owned()));
        Ok(())
    }

    /// Everything that the compiler has left.
    pub fn hand_over_all(&self, backend: &Backend) -> cache::Result<()> {
        let mut names = self.scratch.collect(&self.out_dir)?;
        names.retain(|name| self.shown.borrow().as_ref() != Some(name));
        for name in &names {
            let file = self.scratch.out.join(name);
            if fs::symlink_metadata(&file)?.nlink() > 1 {
                let own = self.scratch.out.join("own");
                copy(&file, &own)?;
                fs::rename(own, file)?;
            }
        }
        self.hand_over(backend, &self.scratch.out, &names)
    }

    fn hand_over(&self, backend: &Backend, dir: &Path, names: &[OsString]) -> cache::Result<()> {
        if let Err(error) = backend.collect(dir, &self.out_dir, names) {
            backend.warn(&format!("outputs are copied, not moved: {error}"));
            for name in names {
                let from = dir.join(name);
                if from.exists() {
                    replace(&from, &self.out_dir.join(name))?;
                }
            }
        }
        Ok(())
    }
}

/// Puts a copy at a path, never half of it.
fn replace(from: &Path, to: &Path) -> io::Result<()> {
    let temp = Temp::beside(to);
    copy(from, temp.path())?;
    temp.rename(to)
}

/// A copy with the same time.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    File::open(to)?.set_modified(fs::metadata(from)?.modified()?)
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.scratch.out);
    }
}
