//! The client's end: connect, ask, and give up early on a daemon that does not answer.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::protocol::{self, ALIVE, Body, Request, Response, VERSION};
use super::socket;

/// A daemon that is alive says so within this time. A compile does not wait longer, for it can do without.
const SIGN_OF_LIFE: Duration = Duration::from_millis(100);
/// The same for a person's command, which cannot: a busy machine may be slow to wake the daemon.
const PATIENT_SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// A connection to the daemon.
pub struct Client {
    stream: UnixStream,
}

impl Client {
    /// `None` when no daemon listens for this cache directory.
    pub fn connect(cache_dir: &Path) -> Option<Client> {
        let stream = UnixStream::connect(socket::path(cache_dir)).ok()?;
        stream.set_write_timeout(Some(SIGN_OF_LIFE)).ok()?;
        Some(Client { stream })
    }

    /// Says something that needs no answer.
    pub fn tell(&mut self, body: Body) -> io::Result<()> {
        protocol::send(&mut self.stream, &Request { version: VERSION.into(), body })
    }

    /// Ends the conversation when the daemon has heard everything that was told.
    pub fn close(mut self) {
        let heard = self.stream.shutdown(Shutdown::Write).is_ok()
            && self.stream.set_read_timeout(Some(SIGN_OF_LIFE)).is_ok();
        if heard {
            let _ = self.stream.read(&mut [0]);
        }
    }

    /// Asks, and waits up to `patience` for the answer of a daemon that has shown that it is alive.
    pub fn ask(&mut self, body: Body, patience: Duration) -> io::Result<Response> {
        let sign_of_life = if body.is_of_a_compile() { SIGN_OF_LIFE } else { PATIENT_SIGN_OF_LIFE };
        protocol::send(&mut self.stream, &Request { version: VERSION.into(), body })?;
        self.stream.set_read_timeout(Some(sign_of_life))?;
        let mut sign = [0];
        self.stream.read_exact(&mut sign)?;
        if sign[0] != ALIVE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a kache daemon"));
        }
        self.stream.set_read_timeout(Some(patience))?;
        protocol::receive(&mut self.stream)
    }
}
