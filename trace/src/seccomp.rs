//! Answers the kernel, which asks before each system call of the programs that are watched: every one may go on, once it is
//! written down.

use crate::format::{self, Entry, HELLO, NOBODY, how, kind, what};
use crate::map::{self, Map};
use crate::shared::program::{Program, examine};
use crate::shared::watch;
use crate::sys::{self, nr};
use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fs, io};

/// `struct seccomp_notif`.
#[repr(C)]
#[derive(Default)]
struct Notice {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    machine: u32,
    instruction: u64,
    arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

const RECEIVE: u64 = 0xc050_2100;
const SEND: u64 = 0xc018_2101;
const SET_FLAGS: u64 = 0x4008_2104;
/// SECCOMP_USER_NOTIF_FLAG_CONTINUE
const CONTINUE: u32 = 1;

/// The thread that answers.
pub struct Watcher {
    thread: JoinHandle<Vec<OwnedFd>>,
    stop: OwnedFd,
}

impl Watcher {
    /// `launcher`: the program that puts others under watch, and is not to be seen itself.
    pub fn new(nonce: u64, map: &Arc<Map>, launcher: PathBuf) -> io::Result<Watcher> {
        // SAFETY: makes a descriptor, which is ours.
        let stop = unsafe { owned(libc::eventfd(0, libc::EFD_CLOEXEC))? };
        // Without a socket nobody puts himself under watch.
        let socket = if can_continue() { listen(nonce)? } else { stop.try_clone()? };
        let stopped = stop.try_clone()?;
        let (address, length) = watch::address(nonce);
        let address = address[..length].to_vec();
        let log = Log {
            map: map.clone(),
            launcher,
            address,
            processes: HashMap::new(),
            groups: HashMap::new(),
            hellos: HashMap::new(),
            preloads: HashMap::new(),
            reported: HashSet::new(),
        };
        let thread = std::thread::Builder::new().name("observer".into()).stack_size(256 << 10);
        let thread = thread.spawn(move || serve(&stopped, &socket, log))?;
        Ok(Watcher { thread, stop })
    }

    /// Ends the thread. False: programs under watch still run.
    pub fn stop(self) -> bool {
        // SAFETY: writes eight bytes.
        unsafe { libc::write(self.stop.as_raw_fd(), 1u64.to_ne_bytes().as_ptr().cast(), 8) };
        let Ok(listeners) = self.thread.join() else { return false };
        let are_gone = listeners.is_empty();
        if !are_gone {
            leave_a_caretaker(&listeners);
        }
        are_gone
    }
}

fn listen(nonce: u64) -> io::Result<OwnedFd> {
    // SAFETY: makes a descriptor, which is ours; the address is as long as said.
    unsafe {
        let socket = owned(libc::socket(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0))?;
        let (address, length) = watch::address(nonce);
        let is_bound = libc::bind(socket.as_raw_fd(), address.as_ptr().cast(), length as u32) == 0;
        if !is_bound || libc::listen(socket.as_raw_fd(), 64) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(socket)
    }
}

/// Whether the kernel can be told to go on with a call (Linux 5.5): otherwise those who are watched would wait for ever.
fn can_continue() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(5), Some(5))
}

/// Whoever is still watched has to be answered until it ends, and we may end first: a process of its own does that.
fn leave_a_caretaker(listeners: &[OwnedFd]) {
    let mut polled: Vec<libc::pollfd> = listeners.iter().map(|fd| polled(fd.as_raw_fd())).collect();
    // SAFETY: after the forks only system calls are made, and memory that was there before is used.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::setsid();
            if libc::fork() != 0 {
                libc::_exit(0);
            }
            // So that nobody waits for the end of what it has inherited.
            for fd in 0..1024 {
                if !polled.iter().any(|listener| listener.fd == fd) {
                    libc::close(fd);
                }
            }
            while polled.iter().any(|listener| listener.fd >= 0) {
                libc::poll(polled.as_mut_ptr(), polled.len() as u64, -1);
                for listener in &mut polled {
                    if listener.revents & libc::POLLIN != 0 {
                        if let Some(notice) = receive(listener.fd) {
                            answer(listener.fd, notice.id);
                        }
                    } else if listener.revents != 0 {
                        listener.fd = -1;
                    }
                }
            }
            libc::_exit(0);
        }
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
}

fn polled(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
}

fn poll(polled: &mut [libc::pollfd], milliseconds: i32) {
    // SAFETY: as many as said.
    unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as u64, milliseconds) };
}

fn receive(fd: RawFd) -> Option<Notice> {
    let mut notice = Notice::default();
    // SAFETY: the kernel fills a structure of this size, which has to be zero before.
    (unsafe { libc::ioctl(fd, RECEIVE, &raw mut notice) } == 0).then_some(notice)
}

fn answer(fd: RawFd, id: u64) {
    let mut answer = Answer { id, value: 0, error: 0, flags: CONTINUE };
    // SAFETY: the kernel reads a structure of this size. An error: the process was killed meanwhile.
    unsafe { libc::ioctl(fd, SEND, &raw mut answer) };
}

/// How long those that are watched may take to end after the command has.
const LAST_BREATH: Duration = Duration::from_millis(100);

/// Answers until it is stopped; returns the listeners of programs that still run.
fn serve(stop: &OwnedFd, socket: &OwnedFd, mut log: Log) -> Vec<OwnedFd> {
    let mut listeners: Vec<OwnedFd> = Vec::new();
    // Until when, once it is stopped: some never cease to ask.
    let mut end: Option<Instant> = None;
    loop {
        let own =
            [stop.as_raw_fd(), socket.as_raw_fd()].map(|fd| polled(if end.is_some() { -1 } else { fd }));
        let mut all: Vec<_> =
            own.into_iter().chain(listeners.iter().map(|fd| polled(fd.as_raw_fd()))).collect();
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return listeners;
        }
        poll(&mut all, left.map_or(-1, |left| left.as_millis() as i32 + 1));
        for polled in &all[2..] {
            if polled.revents & libc::POLLIN != 0 {
                if let Some(notice) = receive(polled.fd) {
                    log.note(&notice);
                    answer(polled.fd, notice.id);
                }
            } else if polled.revents != 0 {
                // Nobody is left who has this filter.
                listeners.retain(|listener| listener.as_raw_fd() != polled.fd);
            }
        }
        if all[1].revents != 0
            && let Some(listener) = accept(socket)
        {
            // SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP: we and the watched take turns. Older kernels do without.
            // SAFETY: a number is passed.
            unsafe { libc::ioctl(listener.as_raw_fd(), SET_FLAGS, 1u64) };
            listeners.push(listener);
        }
        if all[0].revents != 0 {
            end = Some(Instant::now() + LAST_BREATH);
        }
        if end.is_some() && listeners.is_empty() {
            return listeners;
        }
    }
}

/// Takes the listener that a process hands over.
fn accept(socket: &OwnedFd) -> Option<OwnedFd> {
    // SAFETY: structures of the C library, filled by the kernel; the descriptor in the message is ours.
    unsafe {
        let peer = owned(libc::accept4(
            socket.as_raw_fd(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            libc::SOCK_CLOEXEC,
        ))
        .ok()?;
        // A process that dies or fails before it sends closes its end.
        let mut byte = 0u8;
        let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let mut control = [0u64; 8];
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        if libc::recvmsg(peer.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) <= 0 {
            return None;
        }
        let header = libc::CMSG_FIRSTHDR(&message);
        if header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
            return None;
        }
        owned(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned()).ok()
    }
}

/// Writes down what is asked.
struct Log {
    map: Arc<Map>,
    launcher: PathBuf,
    /// Where the launcher connects to.
    address: Vec<u8>,
    /// Numbers by process.
    processes: HashMap<u32, u32>,
    /// Processes by thread.
    groups: HashMap<u32, u32>,
    /// Sequence numbers of processes that said hello, until they execute the program.
    hellos: HashMap<u32, u32>,
    /// Addresses of the preload object in a process.
    preloads: HashMap<u32, (u64, u64)>,
    reported: HashSet<(u32, u8, PathBuf)>,
}

impl Log {
    fn note(&mut self, notice: &Notice) {
        let a = notice.arguments;
        let tid = notice.pid;
        let pid = self.group(tid);
        if self.preload(pid).is_some_and(|(start, end)| (start..end).contains(&notice.instruction)) {
            return;
        }
        let (here, dir) = (libc::AT_FDCWD, a[0] as i32);
        let path = |log: &mut Log, how: u8, dir: i32, at: u64| {
            if let Some(path) = log.path(tid, dir, at) {
                log.look(pid, how, path);
            }
        };
        match notice.number as i64 {
            nr::OPEN => self.open(pid, tid, here, a[0], a[1] as i32),
            nr::CREAT => self.open(pid, tid, here, a[0], libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC),
            nr::OPENAT => self.open(pid, tid, dir, a[1], a[2] as i32),
            nr::OPENAT2 => {
                let mut flags = [0; 8];
                if memory(tid, a[2], &mut flags) == 8 {
                    self.open(pid, tid, dir, a[1], u64::from_ne_bytes(flags) as i32);
                }
            }
            nr::STAT | nr::LSTAT | nr::ACCESS => path(self, how::STAT, here, a[0]),
            nr::NEWFSTATAT | nr::STATX | nr::FACCESSAT | nr::FACCESSAT2 => path(self, how::STAT, dir, a[1]),
            nr::READLINK => path(self, how::LINK, here, a[0]),
            nr::READLINKAT => path(self, how::LINK, dir, a[1]),
            nr::GETDENTS | nr::GETDENTS64 => {
                if let Ok(path) = fs::read_link(format!("/proc/{tid}/fd/{dir}")) {
                    self.access(pid, how::LIST, path);
                }
            }
            nr::EXECVE => self.execute(pid, tid, here, a[0], a[1]),
            nr::EXECVEAT => self.execute(pid, tid, dir, a[1], a[2]),
            nr::UNLINK | nr::RMDIR => path(self, how::REMOVE, here, a[0]),
            nr::UNLINKAT => path(self, how::REMOVE, dir, a[1]),
            nr::RENAME => {
                path(self, how::REMOVE, here, a[0]);
                path(self, how::WRITE, here, a[1]);
            }
            nr::RENAMEAT | nr::RENAMEAT2 => {
                path(self, how::REMOVE, dir, a[1]);
                path(self, how::WRITE, a[2] as i32, a[3]);
            }
            nr::LINK => {
                path(self, how::READ, here, a[0]);
                path(self, how::WRITE, here, a[1]);
            }
            nr::LINKAT => {
                path(self, how::READ, dir, a[1]);
                path(self, how::WRITE, a[2] as i32, a[3]);
            }
            nr::SYMLINK => path(self, how::WRITE, here, a[1]),
            nr::SYMLINKAT => path(self, how::WRITE, a[1] as i32, a[2]),
            nr::MKDIR | nr::MKNOD | nr::CHOWN => path(self, how::WRITE, here, a[0]),
            nr::CHMOD => path(self, how::MODE, here, a[0]),
            nr::FCHMODAT | nr::FCHMODAT2 => path(self, how::MODE, dir, a[1]),
            nr::MKDIRAT | nr::MKNODAT | nr::FCHOWNAT | nr::UTIMENSAT => path(self, how::WRITE, dir, a[1]),
            nr::TRUNCATE => {
                path(self, how::READ, here, a[0]);
                path(self, how::WRITE, here, a[0]);
            }
            nr::CHDIR => path(self, how::STAT, here, a[0]),
            number if sys::moves(number, a[0] as usize) => map::gap(&self.map, sys::MOVED),
            nr::IO_URING_SETUP => map::gap(&self.map, "io_uring: what is read that way is not seen"),
            nr::CONNECT => self.connect(pid, tid, a[1], a[2] as usize),
            nr::UNAME => self.call(pid, what::HOST, b""),
            nr::GETCWD => self.call(pid, what::DIRECTORY, b""),
            nr::CLOCK_GETTIME if !matches!(a[0], 0 | 5 | 11) => {}
            nr::CLOCK_GETTIME | nr::GETTIMEOFDAY | nr::TIME => self.call(pid, what::CLOCK, b""),
            _ => {}
        }
    }

    /// Where the preload object is in a process, if it is. A new child has that of its parent.
    fn preload(&mut self, pid: u32) -> Option<(u64, u64)> {
        if self.processes.contains_key(&pid) || self.hellos.contains_key(&pid) {
            return self.preloads.get(&pid).copied();
        }
        let parent = status(pid, "PPid:")?;
        let inherited = self.preloads.get(&parent).copied()?;
        self.number(pid);
        self.preloads.insert(pid, inherited);
        Some(inherited)
    }

    fn group(&mut self, tid: u32) -> u32 {
        *self.groups.entry(tid).or_insert_with(|| status(tid, "Tgid:").unwrap_or(tid))
    }

    /// The absolute path that a process names. None: it has none, or its memory cannot be read.
    fn path(&mut self, tid: u32, dir: i32, at: u64) -> Option<PathBuf> {
        let text = match string(tid, at) {
            Ok(text) if text.is_empty() => return None,
            Ok(text) => text,
            // A pointer to nowhere is an error for the program, too.
            Err(error) if error.raw_os_error() == Some(libc::EFAULT) => return None,
            Err(error) => {
                map::gap(&self.map, &format!("the memory of a process cannot be read: {error}"));
                return None;
            }
        };
        let own = [&b"/proc/self/"[..], b"/proc/thread-self/"];
        let text = match own.iter().find_map(|start| text.strip_prefix(*start)) {
            // Its own, not ours.
            Some(rest) => [format!("/proc/{}/", self.group(tid)).as_bytes(), rest].concat(),
            None => text,
        };
        let mut path = PathBuf::from("/");
        if text[0] != b'/' {
            let base = if dir == libc::AT_FDCWD { "cwd".to_string() } else { format!("fd/{dir}") };
            path = fs::read_link(format!("/proc/{tid}/{base}")).ok()?;
        }
        // Takes away `.` and doubled slashes, and keeps `..`.
        path.extend(
            Path::new(OsStr::from_bytes(&text))
                .components()
                .filter(|part| *part != std::path::Component::RootDir),
        );
        Some(path)
    }

    /// Reports `how`, or that it is not there.
    fn look(&mut self, pid: u32, how: u8, path: PathBuf) {
        let makes = matches!(how, how::WRITE | how::MODE);
        match fs::symlink_metadata(&path) {
            Err(error) if is_absent(&error) => {
                if !makes {
                    return self.access(pid, how::ABSENT, path);
                }
                self.access(pid, how::ABSENT, path.clone());
                self.access(pid, how, path);
            }
            Ok(metadata) if how == how::LINK && !metadata.is_symlink() => self.access(pid, how::STAT, path),
            Ok(metadata) if how == how::STAT && metadata.is_symlink() => {
                let is_dangling = fs::metadata(&path).is_err_and(|error| is_absent(&error));
                self.access(pid, if is_dangling { how::ABSENT } else { how::STAT }, path);
            }
            _ => self.access(pid, how, path),
        }
    }

    fn open(&mut self, pid: u32, tid: u32, dir: i32, at: u64, flags: i32) {
        let Some(path) = self.path(tid, dir, at) else { return };
        if let Some(digits) = path.as_os_str().as_bytes().strip_prefix(HELLO) {
            return self.hello(pid, digits);
        }
        let creates = flags & libc::O_CREAT != 0;
        let only_named =
            flags & (libc::O_PATH | libc::O_DIRECTORY) != 0 || creates && flags & libc::O_EXCL != 0;
        match fs::metadata(&path) {
            Err(error) if is_absent(&error) => {
                self.access(pid, how::ABSENT, path.clone());
                if creates {
                    self.access(pid, how::WRITE, path);
                }
            }
            Ok(metadata) if only_named || metadata.is_dir() => self.access(pid, how::STAT, path),
            _ => {
                if matches!(path.as_os_str().as_bytes(), b"/dev/random" | b"/dev/urandom") {
                    self.call(pid, what::RANDOM, b"");
                }
                let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0;
                if flags & libc::O_TRUNC == 0 {
                    self.access(pid, how::READ, path.clone());
                }
                if writes {
                    self.access(pid, how::WRITE, path);
                }
            }
        }
    }

    fn hello(&mut self, pid: u32, digits: &[u8]) {
        let number = |digits: &[u8]| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        match digits.len() {
            16 => {
                let Some(sequence) = number(digits).and_then(|sequence| sequence.try_into().ok()) else {
                    return;
                };
                self.hellos.insert(pid, sequence);
                // A new process may have the number of an old one.
                self.groups.retain(|_, group| *group != pid);
                self.append(NOBODY, kind::WATCHED, 0, sequence, pid, b"");
            }
            32 => {
                if let (Some(start), Some(end)) = (number(&digits[..16]), number(&digits[16..])) {
                    self.number(pid);
                    self.preloads.insert(pid, (start, end));
                }
            }
            _ => {}
        }
    }

    fn execute(&mut self, pid: u32, tid: u32, dir: i32, at: u64, argv: u64) {
        let Some(path) = self.path(tid, dir, at) else {
            return map::gap(&self.map, "a program without a name was executed");
        };
        let Ok(name) = CString::new(path.as_os_str().as_bytes()) else { return };
        // SAFETY: the name ends with a zero.
        if unsafe { libc::access(name.as_ptr(), libc::X_OK) } < 0 || path.is_dir() {
            return self.look(pid, how::STAT, path);
        }
        if path == self.launcher {
            return;
        }
        self.access(pid, how::EXEC, path.clone());
        let cwd = format!("/proc/{tid}/cwd");
        let (dir, cwd) = (fs::read_link(&cwd).unwrap_or_default(), fs::File::open(&cwd));
        let cwd = cwd.as_ref().map_or(sys::AT_FDCWD, AsRawFd::as_raw_fd);
        let mut interpreters: Vec<PathBuf> = Vec::new();
        let mut interpreter = |path: *const u8| {
            // SAFETY: the path ends with a zero.
            let path = unsafe { CStr::from_ptr(path.cast()) };
            interpreters.push(dir.join(OsStr::from_bytes(path.to_bytes())).components().collect());
        };
        // SAFETY: as above.
        let kind = unsafe { examine(sys::AT_FDCWD, name.as_ptr().cast(), cwd, &mut interpreter, 0) };
        if kind == Program::Foreign {
            map::gap(&self.map, &format!("a program of another machine was executed: {}", path.display()));
        }
        interpreters.iter().for_each(|path| self.access(pid, how::EXEC, path.clone()));
        let program = interpreters.pop().unwrap_or(path);
        let program = fs::canonicalize(&program).unwrap_or(program);
        let (argv, is_cut) = arguments(tid, argv);
        let parent = match self.hellos.contains_key(&pid) {
            true => NOBODY,
            false => self.number(pid),
        };
        self.begin(pid, parent, &program, &argv, is_cut as u8 * format::CUT);
    }

    /// A process has a new program; or it is new.
    fn begin(&mut self, pid: u32, parent: u32, program: &Path, argv: &[u8], detail: u8) -> u32 {
        let number = map::number(&self.map);
        self.processes.insert(pid, number);
        self.preloads.remove(&pid);
        if let Some(sequence) = self.hellos.remove(&pid) {
            self.append(number, kind::WATCHED, 0, sequence, pid, b"");
        }
        let program = program.as_os_str().as_bytes();
        self.append(number, kind::SEEN, detail, parent, pid, &[program, b"\0", argv].concat());
        number
    }

    fn number(&mut self, pid: u32) -> u32 {
        if let Some(number) = self.processes.get(&pid) {
            return *number;
        }
        let parent =
            status(pid, "PPid:").and_then(|parent| self.processes.get(&parent)).copied().unwrap_or(NOBODY);
        let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let argv = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let cut = if argv.len() > ARGV { format::CUT } else { 0 };
        self.begin(pid, parent, &program, &argv[..argv.len().min(ARGV)], format::CHILD | cut)
    }

    fn access(&mut self, pid: u32, how: u8, path: PathBuf) {
        // Until it has executed its program it is the one that started it, which reports for itself.
        if self.hellos.contains_key(&pid) {
            return;
        }
        let number = self.number(pid);
        if self.reported.insert((number, how, path.clone())) {
            self.append(number, kind::ACCESS, how, 0, pid, path.as_os_str().as_bytes());
        }
    }

    fn call(&mut self, pid: u32, what: u8, text: &[u8]) {
        if !self.hellos.contains_key(&pid) {
            let number = self.number(pid);
            self.append(number, kind::CALL, what, 0, pid, text);
        }
    }

    fn connect(&mut self, pid: u32, tid: u32, at: u64, length: usize) {
        let mut address = [0u8; 128];
        let length = memory(tid, at, &mut address[..length.min(128)]);
        let address = &address[..length];
        if self.address == address {
            return;
        }
        let port = || u16::from_be_bytes([address[2], address[3]]);
        let words = match address.first_chunk().map(|family| u16::from_ne_bytes(*family)) {
            Some(1) if length > 3 && address[2] == 0 => {
                format!("@{}", String::from_utf8_lossy(&address[3..]))
            }
            Some(1) => CStr::from_bytes_until_nul(&[&address[2..], b"\0"].concat())
                .map_or(String::new(), |path| path.to_string_lossy().into_owned()),
            Some(2) if length >= 8 => {
                format!(
                    "{}:{}",
                    address[4..8].iter().map(u8::to_string).collect::<Vec<_>>().join("."),
                    port()
                )
            }
            Some(10) if length >= 24 => {
                let groups = address[8..24].chunks(2).map(|two| format!("{:02x}{:02x}", two[0], two[1]));
                format!("[{}]:{}", groups.collect::<Vec<_>>().join(":"), port())
            }
            None | Some(0 | 16) => return,
            Some(family) => format!("address family {family}"),
        };
        self.call(pid, what::CONNECT, words.as_bytes());
    }

    fn append(&self, process: u32, kind: u8, detail: u8, value: u32, pid: u32, text: &[u8]) {
        // Number 0 is given to no object of this process: so it is its program.
        self.map.append(&Entry { process, kind, detail, object: 0, value, pid, text });
    }
}

const ARGV: usize = 64 << 10;

fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR))
}

/// A number in /proc/PID/status.
fn status(pid: u32, name: &str) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

/// Reads another process's memory; returns how many bytes.
fn memory(tid: u32, at: u64, to: &mut [u8]) -> usize {
    read(tid, at, to).unwrap_or(0)
}

fn read(tid: u32, at: u64, to: &mut [u8]) -> io::Result<usize> {
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let remote = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: to.len() };
    // SAFETY: writes into `to` only.
    match unsafe { libc::process_vm_readv(tid as i32, &local, 1, &remote, 1, 0) } {
        length if length < 0 => Err(io::Error::last_os_error()),
        length => Ok(length as usize),
    }
}

/// A string in another process, read page by page: the next one need not be there.
fn string(tid: u32, at: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    while text.len() < 4096 {
        let next = at + text.len() as u64;
        let mut part = [0u8; 512];
        let room = (512 - next % 512) as usize;
        let length = read(tid, next, &mut part[..room])?;
        let end = part[..length].iter().position(|byte| *byte == 0);
        text.extend_from_slice(&part[..end.unwrap_or(length)]);
        if end.is_some() {
            return Ok(text);
        }
    }
    Err(io::Error::from_raw_os_error(libc::EFAULT))
}

/// The arguments of a program, each with a zero; and whether they are cut.
fn arguments(tid: u32, at: u64) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    for index in 0.. {
        let mut pointer = [0; 8];
        if memory(tid, at + 8 * index, &mut pointer) != 8 || pointer == [0; 8] {
            break;
        }
        match string(tid, u64::from_ne_bytes(pointer)) {
            Ok(text) => all.extend(text),
            // Longer than a path.
            Err(_) => return (all, true),
        }
        all.push(0);
        if all.len() > ARGV {
            all.truncate(ARGV);
            return (all, true);
        }
    }
    (all, false)
}

unsafe fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: passed on to the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_another_process() {
        let of = |text: &[u8], at: usize| string(std::process::id(), text[at..].as_ptr() as u64).ok();
        let mut text = vec![b'x'; 8192];
        text[5000] = 0;
        for at in [1000, 4095, 4999, 5000] {
            assert_eq!(of(&text, at), Some(vec![b'x'; 5000 - at]));
        }
        // Longer than any path.
        assert_eq!(of(&text, 0), None);
    }

    #[test]
    fn a_process_that_cannot_be_read_is_a_gap() {
        let (memory, map) = map::Memory::new().unwrap();
        let mut log = Log {
            map: Arc::new(map),
            launcher: PathBuf::new(),
            address: Vec::new(),
            processes: HashMap::new(),
            groups: HashMap::new(),
            hellos: HashMap::new(),
            preloads: HashMap::new(),
            reported: HashSet::new(),
        };
        // A pointer to nowhere is none.
        assert_eq!(log.path(std::process::id(), libc::AT_FDCWD, 8), None);
        let before = memory.length();
        // Nobody has this number.
        assert_eq!(log.path(i32::MAX as u32, libc::AT_FDCWD, 8), None);
        assert!(memory.length() > before);
    }
}
