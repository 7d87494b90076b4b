//! Read leases: the kernel's word that nobody has a file open for writing, whoever and through whatever path.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

/// <fcntl.h>, the same on every machine that this runs on.
const F_SETSIG: libc::c_int = 10;

/// Milliseconds.
const PATIENCE: u32 = 20;

/// While it holds, nobody has the file open for writing. Who opens it meanwhile waits until this is dropped.
pub(crate) struct Lease(Arc<File>);

impl Lease {
    /// On a file that is open for reading only. `WouldBlock`: somebody has it open for writing. Other errors: this file
    /// system has no leases, or the file is somebody else's.
    pub fn take(file: &Arc<File>) -> io::Result<Lease> {
        // The signal that says that somebody waits. Nobody listens to it: it is over soon.
        fcntl(file, F_SETSIG, libc::SIGURG)?;
        fcntl(file, libc::F_SETLEASE, libc::F_RDLCK)?;
        Ok(Lease(file.clone()))
    }

    /// The same where it may be this process itself, which still reads through a descriptor that could write.
    pub fn take_patiently(file: &Arc<File>) -> io::Result<Lease> {
        let mut tries = 0;
        loop {
            match Lease::take(file) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries < PATIENCE => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                other => return other,
            }
        }
    }

    /// Has nobody tried to open it for writing?
    pub fn holds(&self) -> bool {
        fcntl(&self.0, libc::F_GETLEASE, 0).is_ok_and(|kind| kind == libc::F_RDLCK)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = fcntl(&self.0, libc::F_SETLEASE, libc::F_UNLCK);
    }
}

fn fcntl(file: &File, command: libc::c_int, argument: libc::c_int) -> io::Result<libc::c_int> {
    // SAFETY: these commands take an integer.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, argument) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}
