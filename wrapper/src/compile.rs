//! Running the real compiler: same stdin, jobserver, signals and status; output streamed as it comes, and kept.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kache_trace::{Account, Observer};
use serde::{Deserialize, Serialize};

/// Set for compilers that kache runs, so that a kache below it (a `rustc` that is a script, a double wrapping)
/// passes through.
pub const ACTIVE: &str = "KACHE_ACTIVE";

/// Names of what the processes above have claimed, in hex, with commas between.
pub const HELD: &str = "KACHE_HELD";

/// An observer, where there is one and it is wanted.
#[derive(Default)]
pub struct Observed {
    observer: Option<Observer>,
    watch_calls: bool,
}

impl Observed {
    /// `dir` keeps what observing needs. Where nothing can be observed, nothing is.
    pub fn new(dir: &Path, watch_calls: bool) -> Observed {
        let observer = Observer::new(dir).inspect_err(|error| tracing::debug!(%error, "nothing is observed"));
        Observed { observer: observer.ok(), watch_calls }
    }

    fn prepare(&mut self, command: &mut Command) {
        if let Some(observer) = &mut self.observer
            && let Err(error) = observer.prepare(command, self.watch_calls)
        {
            tracing::debug!(%error, "the command is not observed");
            self.observer = None;
        }
    }

    /// What was seen, when the command has ended.
    pub fn account(self) -> Option<Account> {
        self.observer.map(Observer::finish)
    }
}

/// What a compiler did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ran {
    /// As `wait(2)` gave it.
    pub raw_status: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Nanoseconds since the Unix epoch at which it was started.
    pub started_ns: i64,
    pub took: Duration,
}

impl Ran {
    pub fn success(&self) -> bool {
        ExitStatus::from_raw(self.raw_status).success()
    }
}

/// Runs a command to its end. An error means that it could not be started.
///
/// `before` sees whole lines of stderr before the caller does, and may change them: cargo starts dependents as soon as
/// it reads that an output is there, and what they need must be there by then.
pub fn run(
    argv: &[OsString],
    observed: &mut Observed,
    before: &mut dyn FnMut(&mut Vec<u8>),
) -> io::Result<Ran> {
    let mut command = command(argv)?;
    command.env(ACTIVE, "1");
    observed.prepare(&mut command);
    run_command(command, before)
}

/// The same for a build script: compilers that it starts go through kache again.
///
/// `held` are names that this process has claimed: who runs below it must not wait for them.
pub fn run_script(argv: &[OsString], held: &OsStr, observed: &mut Observed) -> io::Result<Ran> {
    let mut tries = 0;
    loop {
        let mut command = command(argv)?;
        command.env(HELD, held);
        if let Some(name) = argv.first().and_then(|program| called_as(Path::new(program))) {
            command.arg0(name);
        }
        observed.prepare(&mut command);
        match run_command(command, &mut |_| {}) {
            // Somebody else was forked while the program was being written; it lets go when it becomes its own.
            Err(e) if e.raw_os_error() == Some(libc::ETXTBSY) && tries < 50 => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            ran => return ran,
        }
    }
}

/// The name by which cargo runs a build script: `build-script-build` for `build_script_build-<hash>.real`.
fn called_as(program: &Path) -> Option<PathBuf> {
    let name = program.file_name()?.to_str()?.strip_suffix(".real")?;
    let called = program.with_file_name(name.rsplit_once('-')?.0.replace('_', "-"));
    called.exists().then_some(called)
}

fn command(argv: &[OsString]) -> io::Result<Command> {
    let (program, args) = argv.split_first().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut command = Command::new(program);
    command.args(args);
    Ok(command)
}

fn run_command(command: Command, before: &mut dyn FnMut(&mut Vec<u8>)) -> io::Result<Ran> {
    let started = SystemTime::now();
    let clock = Instant::now();
    let mut child = spawn(command)?;
    let (stdout, stderr) = pump(&mut child, before);
    let status = child.wait()?;
    CHILD.store(0, Ordering::SeqCst);
    Ok(Ran {
        raw_status: status.into_raw(),
        stdout,
        stderr,
        started_ns: started.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64),
        took: clock.elapsed(),
    })
}

/// Ends this process as the compiler ended: with its exit status, or by the same signal.
pub fn exit_like(raw_status: i32) -> ! {
    let status = ExitStatus::from_raw(raw_status);
    if let Some(signal) = status.signal() {
        // SAFETY: plain calls on our own process; the default action of the signal ends it.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::kill(libc::getpid(), signal);
        }
        std::process::exit(128 + signal);
    }
    std::process::exit(status.code().unwrap_or(1))
}

static CHILD: AtomicI32 = AtomicI32::new(0);

extern "C" fn forward(signal: libc::c_int) {
    let pid = CHILD.load(Ordering::SeqCst);
    if pid > 0 {
        // SAFETY: kill(2) is async-signal-safe; the pid is our own child that has not been waited for.
        unsafe { libc::kill(pid, signal) };
    }
}

fn spawn(mut command: Command) -> io::Result<Child> {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    CHILD.store(child.id() as i32, Ordering::SeqCst);
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: installs a handler that only calls kill(2).
        unsafe { libc::signal(signal, forward as *const () as libc::sighandler_t) };
    }
    Ok(child)
}

/// Copies both streams as they come, until both end.
fn pump(child: &mut Child, before: &mut dyn FnMut(&mut Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
    let mut out = child.stdout.take().map(|s| Stream::new(s.as_raw_fd(), libc::STDOUT_FILENO, s));
    let mut err = child.stderr.take().map(|s| Stream::new(s.as_raw_fd(), libc::STDERR_FILENO, s));
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 64 << 10];
    while out.is_some() || err.is_some() {
        let fd = |s: &Option<Stream>| s.as_ref().map_or(-1, |s| s.from);
        let mut fds = [
            libc::pollfd { fd: fd(&out), events: libc::POLLIN, revents: 0 },
            libc::pollfd { fd: fd(&err), events: libc::POLLIN, revents: 0 },
        ];
        // SAFETY: two initialized pollfds that live through the call; negative descriptors are ignored.
        if unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) } < 0 {
            if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
                continue;
            }
            break;
        }
        if fds[0].revents != 0 && !copy(&mut out, &mut stdout, &mut buffer, &mut |_| {}) {
            out = None;
        }
        if fds[1].revents != 0 && !copy(&mut err, &mut stderr, &mut buffer, before) {
            err = None;
        }
    }
    (stdout, stderr)
}

struct Stream {
    from: RawFd,
    to: RawFd,
    source: Box<dyn Read>,
    /// Beginning of a message whose end has not come yet.
    held: Vec<u8>,
}

impl Stream {
    fn new(from: RawFd, to: RawFd, source: impl Read + 'static) -> Self {
        Stream { from, to, source: Box::new(source), held: Vec::new() }
    }
}

/// One read; false at the end of the stream.
fn copy(
    stream: &mut Option<Stream>,
    kept: &mut Vec<u8>,
    buffer: &mut [u8],
    before: &mut dyn FnMut(&mut Vec<u8>),
) -> bool {
    let Some(stream) = stream else { return false };
    match stream.source.read(buffer) {
        Ok(0) => {
            pass_on(stream.to, &stream.held, kept);
            false
        }
        Ok(n) => {
            stream.held.extend_from_slice(&buffer[..n]);
            let whole = stream.held.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1);
            let mut lines: Vec<u8> = stream.held.drain(..whole).collect();
            before(&mut lines);
            pass_on(stream.to, &lines, kept);
            // What is not JSON may be a question to a person: it goes out as it comes.
            if stream.held.first().is_some_and(|&b| b != b'{') {
                pass_on(stream.to, &std::mem::take(&mut stream.held), kept);
            }
            true
        }
        Err(e) => e.kind() == io::ErrorKind::Interrupted,
    }
}

fn pass_on(fd: RawFd, bytes: &[u8], kept: &mut Vec<u8>) {
    kept.extend_from_slice(bytes);
    print(fd, bytes);
}

/// Is there nothing to read on standard input, now and ever?
pub fn stdin_is_empty() -> bool {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let null = std::fs::metadata("/dev/null");
    let own = io::stdin().as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata());
    match (own, null) {
        (Ok(own), Ok(null)) => own.file_type().is_char_device() && own.rdev() == null.rdev(),
        _ => false,
    }
}

/// Writes to one of our own standard streams. A closed one is no reason to stop the compile.
pub fn print(fd: RawFd, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    // SAFETY: descriptors 1 and 2 are open for the life of the process (Rust's runtime makes sure).
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    if let Ok(owned) = fd.try_clone_to_owned() {
        let _ = File::from(owned).write_all(bytes);
    }
}
