//! Questions about the surroundings: variables, the clock, the working directory, the machine, the network.

use crate::format::{how, what};
use crate::paths::{bytes, decimal};
use crate::sys::{self, AT_FDCWD};
use crate::{environment, log, objects, report};
use core::ffi::{c_int, c_long, c_void};

type P = *const u8;
type Any = *mut c_void;

/// `struct timespec` and `struct timeval`.
type Moment = [c_long; 2];

hooks! {
    fn getenv(real, from; name: P) -> P { asked(from, name); shown(name, real(name)) }
    fn secure_getenv(real, from; name: P) -> P { asked(from, name); shown(name, real(name)) }
    fn __secure_getenv(real, from; name: P) -> P { asked(from, name); shown(name, real(name)) }

    // What the C library asks for itself does not come by.
    fn setlocale(real, from; category: c_int, locale: P) -> P { locales(from, locale); real(category, locale) }
    fn newlocale(real, from; mask: c_int, locale: P, base: Any) -> Any { locales(from, locale); real(mask, locale, base) }
    fn tzset(real, from;) -> isize { zone(from); real() }
    fn localtime(real, from; time: P) -> Any { zone(from); real(time) }
    fn localtime_r(real, from; time: P, to: Any) -> Any { zone(from); real(time, to) }
    fn mktime(real, from; to: Any) -> c_long { zone(from); real(to) }
    fn ctime(real, from; time: P) -> P { zone(from); real(time) }
    fn getpwuid(real, from; id: u32) -> Any { users(from); real(id) }
    fn getpwuid_r(real, from; id: u32, entry: Any, to: Any, len: usize, result: Any) -> c_int { users(from); real(id, entry, to, len, result) }
    fn getpwnam(real, from; name: P) -> Any { users(from); real(name) }
    fn getpwnam_r(real, from; name: P, entry: Any, to: Any, len: usize, result: Any) -> c_int { users(from); real(name, entry, to, len, result) }
    fn getgrgid(real, from; id: u32) -> Any { users(from); real(id) }
    fn getgrgid_r(real, from; id: u32, entry: Any, to: Any, len: usize, result: Any) -> c_int { users(from); real(id, entry, to, len, result) }
    fn getgrnam(real, from; name: P) -> Any { users(from); real(name) }
    fn getgrnam_r(real, from; name: P, entry: Any, to: Any, len: usize, result: Any) -> c_int { users(from); real(name, entry, to, len, result) }

    fn clock_gettime(real, from; clock: c_int, to: *mut Moment) -> c_int {
        // CLOCK_REALTIME, its coarse form, and CLOCK_TAI.
        if matches!(clock, 0 | 5 | 11) {
            log::call(what::CLOCK, from, b"");
        }
        real(clock, to)
    }
    fn timespec_get(real, from; to: *mut Moment, base: c_int) -> c_int { log::call(what::CLOCK, from, b""); real(to, base) }
    fn ftime(real, from; to: Any) -> c_int { log::call(what::CLOCK, from, b""); real(to) }

    fn getcwd(real, from; to: P, len: usize) -> P { log::call(what::DIRECTORY, from, b""); real(to, len) }
    fn __getcwd_chk(real, from; to: P, len: usize, room: usize) -> P { log::call(what::DIRECTORY, from, b""); real(to, len, room) }
    fn getwd(real, from; to: P) -> P { log::call(what::DIRECTORY, from, b""); real(to) }
    fn __getwd_chk(real, from; to: P, room: usize) -> P { log::call(what::DIRECTORY, from, b""); real(to, room) }
    fn get_current_dir_name(real, from;) -> P {
        // It prefers the variable if that names the same directory.
        log::variable(from, b"PWD");
        log::call(what::DIRECTORY, from, b"");
        real()
    }
    fn uname(real, from; to: Any) -> c_int { log::call(what::HOST, from, b""); real(to) }
    fn gethostname(real, from; to: P, len: usize) -> c_int { log::call(what::HOST, from, b""); real(to, len) }
    fn __gethostname_chk(real, from; to: P, len: usize, room: usize) -> c_int { log::call(what::HOST, from, b""); real(to, len, room) }
    fn gethostid(real, from;) -> c_long { log::call(what::HOST, from, b""); real() }

    fn connect(real, from; fd: c_int, to: P, len: u32) -> c_int {
        let result = real(fd, to, len);
        connected(from, to, len);
        result
    }
    fn bind(real, from; fd: c_int, to: P, len: u32) -> c_int {
        let result = real(fd, to, len);
        // AF_UNIX with a path.
        if result == 0 && len > 3 && to.cast::<u16>().read_unaligned() == 1 && *to.add(2) != 0 {
            let name = core::slice::from_raw_parts(to.add(2), len as usize - 2);
            let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
            crate::paths::absolute(AT_FDCWD, &name[..end], |path| log::access(how::WRITE, from, path));
        }
        result
    }
    fn getaddrinfo(real, from; host: P, service: P, hints: Any, to: Any) -> c_int { looked_up(from, host); real(host, service, hints, to) }
    fn gethostbyname(real, from; host: P) -> Any { looked_up(from, host); real(host) }

    fn prctl(real, _from; option: c_int, a: usize, b: usize, c: usize, d: usize) -> c_int {
        // PR_SET_SECCOMP
        if option == 22 {
            log::sandboxed();
        }
        real(option, a, b, c, d)
    }
    fn mount(real, _from; source: P, target: P, kind: P, flags: usize, data: Any) -> c_int { elsewhere(); real(source, target, kind, flags, data) }
    fn pivot_root(real, _from; new: P, old: P) -> c_int { elsewhere(); real(new, old) }
    fn setns(real, _from; fd: c_int, kind: c_int) -> c_int { elsewhere(); real(fd, kind) }
    fn unshare(real, _from; flags: c_int) -> c_int {
        if sys::moves(sys::nr::UNSHARE, flags as usize) {
            elsewhere();
        }
        real(flags)
    }
    fn dlclose(real, _from; handle: Any) -> c_int {
        // Whatever was loaded is reported before it is gone.
        objects::refresh();
        let result = real(handle);
        objects::forget_unloaded();
        result
    }
}

/// Functions that are chosen by the C library when it is loaded are asked for by another name.
macro_rules! clock {
    ($(#[$meta:meta])* $name:ident($to:ident: $type:ty $(, $other:ident: $other_type:ty)*) -> $result:ty $body:block) => {
        $(#[$meta])*
        /// # Safety
        /// That of the C library's function of this name.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($to: $type $(, $other: $other_type)*) -> $result {
            let from = return_address!();
            log::ready();
            log::call(what::CLOCK, from, b"");
            // SAFETY: what the caller passes is passed on.
            unsafe { $body }
        }
    };
}

clock!(time(to: *mut c_long) -> c_long {
    // CLOCK_REALTIME_COARSE: what the C library reads.
    let now = now(5)[0];
    if !to.is_null() {
        *to = now;
    }
    now
});
clock!(gettimeofday(to: *mut Moment, zone: *mut [c_int; 2]) -> c_int {
    let now = now(0);
    if !to.is_null() {
        *to = [now[0], now[1] / 1000];
    }
    if !zone.is_null() {
        *zone = [0, 0];
    }
    0
});

fn now(clock: c_int) -> Moment {
    let mut now = [0, 0];
    // SAFETY: the function behind `clock_gettime`, or the system call.
    unsafe {
        let address = crate::real::behind(&addresses::clock_gettime, "clock_gettime");
        if address == 0 {
            crate::sys::clock_gettime(clock, &mut now);
        } else {
            type Function = unsafe extern "C" fn(c_int, *mut Moment) -> c_int;
            core::mem::transmute::<usize, Function>(address)(clock, &mut now);
        }
    }
    now
}

fn elsewhere() {
    log::gap(sys::MOVED.as_bytes());
}

unsafe fn asked(from: usize, name: P) {
    // SAFETY: getenv takes a string.
    log::variable(from, unsafe { bytes(name) });
}

/// Without an observer there would be none.
unsafe fn shown(name: P, value: P) -> P {
    // SAFETY: both are strings, the value only if there is one.
    unsafe {
        let is_ours = !value.is_null() && bytes(name) == b"LD_PRELOAD" && bytes(value) == objects::ours();
        if is_ours { core::ptr::null() } else { value }
    }
}

unsafe fn locales(from: usize, locale: P) {
    // SAFETY: null or a string. An empty one: the variables decide.
    if !locale.is_null() && unsafe { *locale } == 0 {
        let names = [
            "LC_ALL",
            "LANG",
            "LC_CTYPE",
            "LC_NUMERIC",
            "LC_TIME",
            "LC_COLLATE",
            "LC_MONETARY",
            "LC_MESSAGES",
        ];
        names.iter().for_each(|name| log::variable(from, name.as_bytes()));
        log::variable(from, b"LOCPATH");
    }
}

fn zone(from: usize) {
    log::variable(from, b"TZ");
    if environment::get(b"TZ").is_none() {
        log::access(how::READ, from, b"/etc/localtime");
    }
}

fn users(from: usize) {
    for path in ["/etc/nsswitch.conf", "/etc/passwd", "/etc/group"] {
        log::access(how::READ, from, path.as_bytes());
    }
}

/// Text put together in place.
struct Words {
    text: [u8; 160],
    length: usize,
}

impl Words {
    fn new(text: &[u8]) -> Words {
        let mut words = Words { text: [0; 160], length: 0 };
        words.add(text);
        words
    }

    fn add(&mut self, text: &[u8]) {
        let room = text.len().min(self.text.len() - self.length);
        self.text[self.length..self.length + room].copy_from_slice(&text[..room]);
        self.length += room;
    }

    fn number(&mut self, value: u32) {
        let mut digits = [0; 10];
        let count = decimal(value, &mut digits);
        self.add(&digits[..count]);
    }

    fn get(&self) -> &[u8] {
        &self.text[..self.length]
    }
}

unsafe fn looked_up(from: usize, host: P) {
    let mut words = Words::new(b"look-up of ");
    // SAFETY: null or a string.
    words.add(if host.is_null() { b"this host" } else { unsafe { bytes(host) } });
    log::call(what::CONNECT, from, words.get());
}

/// Reports a connection, in words.
///
/// # Safety
/// The kernel has seen the address.
pub unsafe fn connected(from: usize, to: P, len: u32) {
    if !log::is_on() || to.is_null() || len < 3 || report::was_fault() {
        return;
    }
    // SAFETY: as long as said.
    let address = unsafe { core::slice::from_raw_parts(to, len as usize) };
    let family = u16::from_ne_bytes([address[0], address[1]]);
    let port = |words: &mut Words| {
        words.add(b":");
        words.number(u16::from_be_bytes([address[2], address[3]]) as u32);
    };
    let mut words = Words::new(b"");
    match family {
        1 if address[2] == 0 => {
            words.add(b"@");
            words.add(&address[3..]);
        }
        1 => {
            let end = address[2..].iter().position(|byte| *byte == 0).map_or(address.len(), |end| end + 2);
            words.add(&address[2..end]);
        }
        2 if address.len() >= 8 => {
            for (i, byte) in address[4..8].iter().enumerate() {
                words.add(if i == 0 { b"" } else { b"." });
                words.number(*byte as u32);
            }
            port(&mut words);
        }
        10 if address.len() >= 24 => {
            words.add(b"[");
            for (i, byte) in address[8..24].iter().enumerate() {
                words.add(if i > 0 && i % 2 == 0 { b":" } else { b"" });
                words.add(&[
                    b"0123456789abcdef"[(byte >> 4) as usize],
                    b"0123456789abcdef"[(byte & 15) as usize],
                ]);
            }
            words.add(b"]");
            port(&mut words);
        }
        // Unspecified: ends a connection. Netlink: asks the kernel.
        0 | 16 => return,
        _ => {
            words.add(b"address family ");
            words.number(family as u32);
        }
    }
    log::call(what::CONNECT, from, words.get());
}
