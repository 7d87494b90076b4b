//! The client's end: connect, ask, and give up early on a daemon that does not answer.

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::protocol::{self, ALIVE, Body, Request, Response, VERSION};
use super::{socket, view};
use crate::umask;

/// A daemon that is alive says so within this time. Builds do not wait longer.
pub const SIGN_OF_LIFE: Duration = Duration::from_millis(100);
/// People do.
const LONG_SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// A connection to the daemon.
pub struct Client {
    stream: UnixStream,
    sign_of_life: Duration,
}

impl Client {
    /// `None` when no daemon listens for this cache directory. The one that does may see other files than this process:
    /// [`Client::sees_our_files`].
    pub fn connect(cache_dir: &Path) -> Option<Client> {
        Client::open(cache_dir, LONG_SIGN_OF_LIFE)
    }

    /// The same for a build, which can do without a daemon that does not show life within `sign_of_life`, and must do
    /// without one for which its paths are other files.
    pub fn connect_within(cache_dir: &Path, sign_of_life: Duration) -> Option<Client> {
        Client::open(cache_dir, sign_of_life).filter(Client::sees_our_files)
    }

    /// Not one of somebody else's: nothing is said to it.
    fn open(cache_dir: &Path, sign_of_life: Duration) -> Option<Client> {
        let stream = stream(cache_dir)?;
        stream.set_write_timeout(Some(sign_of_life)).ok()?;
        (socket::peer_uid(&stream).ok()? == us()).then_some(Client { stream, sign_of_life })
    }

    /// User id of the daemon for this cache directory, when that is somebody else's.
    pub fn stranger(cache_dir: &Path) -> Option<u32> {
        let uid = socket::peer_uid(&stream(cache_dir)?).ok()?;
        (uid != us()).then_some(uid)
    }

    /// Do paths mean to it what they mean here? Not to one in another mount namespace or with another root directory, as in
    /// a container.
    pub fn sees_our_files(&self) -> bool {
        socket::peer(&self.stream).is_ok_and(|peer| view::is_ours(peer.pid))
    }

    /// Says something that needs no answer.
    pub fn tell(&mut self, body: Body) -> io::Result<()> {
        protocol::send(
            &mut self.stream,
            &Request { version: VERSION.into(), umask: umask::of_process(), body },
        )
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
        self.try_ask(body, patience).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                let pid = socket::peer(&self.stream).map_or(0, |peer| peer.pid);
                let why = format!("nothing was heard of process {pid} in time (`kill -9 {pid}` ends it; its mounts come back)");
                io::Error::new(io::ErrorKind::TimedOut, why)
            }
            _ => error,
        })
    }

    fn try_ask(&mut self, body: Body, patience: Duration) -> io::Result<Response> {
        protocol::send(
            &mut self.stream,
            &Request { version: VERSION.into(), umask: umask::of_process(), body },
        )?;
        self.stream.set_read_timeout(Some(self.sign_of_life))?;
        let mut sign = [0];
        self.stream.read_exact(&mut sign)?;
        if sign[0] != ALIVE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a kache daemon"));
        }
        self.stream.set_read_timeout(Some(patience))?;
        protocol::receive(&mut self.stream)
    }
}

fn stream(cache_dir: &Path) -> Option<UnixStream> {
    UnixStream::connect(socket::path(cache_dir)?).ok()
}

fn us() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Did the daemon end instead of answering?
pub fn is_hung_up(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}
