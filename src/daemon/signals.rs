//! SIGTERM, SIGINT and SIGHUP ask the daemon to end in order.

use std::sync::atomic::{AtomicBool, Ordering};

static RECEIVED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: libc::c_int) {
    RECEIVED.store(true, Ordering::SeqCst);
}

pub fn watch() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { libc::signal(signal, note as *const () as libc::sighandler_t) };
    }
    // SAFETY: a client that goes away must not end the daemon.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

pub fn received() -> bool {
    RECEIVED.load(Ordering::SeqCst)
}
