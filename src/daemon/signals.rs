//! SIGTERM, SIGINT and SIGHUP ask the daemon to end in order. So do requests; both wake the main thread.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;

static ENDING: AtomicBool = AtomicBool::new(false);
/// Writing end of a pipe on which the main thread sleeps.
static BELL: AtomicI32 = AtomicI32::new(-1);

extern "C" fn note(_: libc::c_int) {
    end();
}

/// Asks the daemon to end. Safe in a signal handler.
pub fn end() {
    ENDING.store(true, Ordering::SeqCst);
    // SAFETY: write(2) is async-signal-safe; the byte lives through the call; a bad descriptor is only an error.
    unsafe { libc::write(BELL.load(Ordering::SeqCst), [1u8].as_ptr().cast(), 1) };
}

pub fn ending() -> bool {
    ENDING.load(Ordering::SeqCst)
}

/// Where the main thread sleeps between its rounds.
pub struct Bed(libc::c_int);

pub fn watch() -> io::Result<Bed> {
    let mut ends = [0; 2];
    // SAFETY: pipe2 writes two descriptors into the array.
    if unsafe { libc::pipe(ends.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    for end in ends {
        // SAFETY: fcntl on descriptors that were just opened.
        unsafe { libc::fcntl(end, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    BELL.store(ends[1], Ordering::SeqCst);
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: the handler stores to an atomic and writes to a pipe.
        unsafe { libc::signal(signal, note as *const () as libc::sighandler_t) };
    }
    // SAFETY: a client that goes away must not end the daemon.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    Ok(Bed(ends[0]))
}

impl Bed {
    /// Sleeps for `time`, or until the daemon is asked to end.
    pub fn sleep(&self, time: Duration) {
        let mut fds = [libc::pollfd { fd: self.0, events: libc::POLLIN, revents: 0 }];
        // SAFETY: one initialized pollfd that lives through the call.
        unsafe { libc::poll(fds.as_mut_ptr(), 1, time.as_millis() as libc::c_int) };
    }
}
