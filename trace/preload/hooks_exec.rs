//! Starting other programs: they are to be observed, too, whatever environment they are given.

use crate::format::{self, Entry, how, kind};
use crate::paths::{PATH_MAX, absolute, bytes, of_descriptor};
use crate::program::{Program, examine};
use crate::report::{path, presence};
use crate::sys::{self, AT_EMPTY_PATH, AT_FDCWD};
use crate::{environment, log, objects};
use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::sync::atomic::Ordering::Relaxed;

type P = *const u8;
type List = *const P;
type Any = *mut c_void;

hooks! {
    fn execve(real, from; p: P, argv: List, envp: List) -> c_int {
        run(from, AT_FDCWD, p, argv, envp, |new| match new {
            None => real(p, argv, envp),
            Some(new) => real(new.program.unwrap_or(p), new.argv, new.envp),
        })
    }
    fn execv(_real, from; p: P, argv: List) -> c_int { execute(from, p, argv, environment::all()) }
    fn execvp(_real, from; p: P, argv: List) -> c_int { search(from, p, argv, environment::all()) }
    fn execvpe(_real, from; p: P, argv: List, envp: List) -> c_int { search(from, p, argv, envp) }
    fn execveat(real, from; dir: c_int, p: P, argv: List, envp: List, flags: c_int) -> c_int {
        if flags & AT_EMPTY_PATH != 0 && (p.is_null() || *p == 0) {
            return run_open(from, dir, argv, envp, |new| match new {
                None => real(dir, p, argv, envp, flags),
                Some(new) => match new.program {
                    None => real(dir, p, new.argv, new.envp, flags),
                    Some(program) => behind_execve(program, new.argv, new.envp),
                },
            });
        }
        run(from, dir, p, argv, envp, |new| match new {
            None => real(dir, p, argv, envp, flags),
            Some(new) => match new.program {
                None => real(dir, p, new.argv, new.envp, flags),
                Some(program) => behind_execve(program, new.argv, new.envp),
            },
        })
    }
    fn fexecve(real, from; fd: c_int, argv: List, envp: List) -> c_int {
        run_open(from, fd, argv, envp, |new| match new {
            None => real(fd, argv, envp),
            Some(new) => match new.program {
                None => real(fd, new.argv, new.envp),
                Some(program) => behind_execve(program, new.argv, new.envp),
            },
        })
    }
    fn posix_spawn(real, from; pid: Any, p: P, actions: Any, attributes: Any, argv: List, envp: List) -> c_int {
        spawn(from, p, actions, argv, envp, |new| match new {
            None => real(pid, p, actions, attributes, argv, envp),
            Some(new) => real(pid, new.program.unwrap_or(p), actions, attributes, new.argv, new.envp),
        })
    }
    fn posix_spawnp(real, from; pid: Any, p: P, actions: Any, attributes: Any, argv: List, envp: List) -> c_int {
        spawn_searched(from, p, actions, argv, envp, |new| match new {
            None => real(pid, p, actions, attributes, argv, envp),
            Some(new) => real(pid, new.program.unwrap_or(p), actions, attributes, new.argv, new.envp),
        })
    }
    fn pidfd_spawn(real, from; fd: Any, p: P, actions: Any, attributes: Any, argv: List, envp: List) -> c_int {
        spawn(from, p, actions, argv, envp, |new| match new {
            None => real(fd, p, actions, attributes, argv, envp),
            Some(new) => real(fd, new.program.unwrap_or(p), actions, attributes, new.argv, new.envp),
        })
    }
    fn pidfd_spawnp(real, from; fd: Any, p: P, actions: Any, attributes: Any, argv: List, envp: List) -> c_int {
        spawn_searched(from, p, actions, argv, envp, |new| match new {
            None => real(fd, p, actions, attributes, argv, envp),
            Some(new) => real(fd, new.program.unwrap_or(p), actions, attributes, new.argv, new.envp),
        })
    }
    fn posix_spawn_file_actions_addchdir_np(real, from; actions: Any, p: P) -> c_int {
        crate::report::presence(from, AT_FDCWD, p);
        crate::spawn::moved(actions, AT_FDCWD, p);
        real(actions, p)
    }
    fn posix_spawn_file_actions_addchdir(real, from; actions: Any, p: P) -> c_int {
        crate::report::presence(from, AT_FDCWD, p);
        crate::spawn::moved(actions, AT_FDCWD, p);
        real(actions, p)
    }
    fn posix_spawn_file_actions_addfchdir_np(real, _from; actions: Any, fd: c_int) -> c_int { crate::spawn::moved(actions, fd, c".".as_ptr().cast()); real(actions, fd) }
    fn posix_spawn_file_actions_addfchdir(real, _from; actions: Any, fd: c_int) -> c_int { crate::spawn::moved(actions, fd, c".".as_ptr().cast()); real(actions, fd) }
    fn posix_spawn_file_actions_destroy(real, _from; actions: Any) -> c_int { crate::spawn::forget(actions); real(actions) }

    // These start the shell with the environment as it is, out of our sight.
    fn system(real, from; command: P) -> c_int { shell(from, !command.is_null()); real(command) }
    fn popen(real, from; command: P, mode: P) -> Any { shell(from, true); real(command, mode) }
    fn wordexp(real, _from; words: P, to: Any, flags: c_int) -> c_int { log::gap(b"wordexp: what it looks at and starts is not seen"); real(words, to, flags) }
}

/// The call to be made instead. `program`: only if another one is to be run.
pub struct New {
    program: Option<P>,
    argv: List,
    envp: List,
}

/// `execve` as if the caller had called it.
///
/// # Safety
/// As execve.
pub unsafe fn execute(from: usize, p: P, argv: List, envp: List) -> c_int {
    // SAFETY: passed on to the caller.
    unsafe {
        run(from, AT_FDCWD, p, argv, envp, |new| match new {
            None => behind_execve(p, argv, envp),
            Some(new) => behind_execve(new.program.unwrap_or(p), new.argv, new.envp),
        })
    }
}

/// `execvpe` as if the caller had called it.
unsafe fn search(from: usize, file: P, argv: List, envp: List) -> c_int {
    // SAFETY: passed on to the caller.
    unsafe {
        located(from, file, &mut |found| {
            prepared(from, (AT_FDCWD, found), found, argv, envp, |new| match new {
                None => behind_execvpe(file, argv, envp),
                Some(New { program: Some(program), argv, envp }) => behind_execve(program, argv, envp),
                Some(new) => behind_execvpe(file, new.argv, new.envp),
            })
        })
    }
}

unsafe fn behind_execve(p: P, argv: List, envp: List) -> c_int {
    type Function = unsafe extern "C" fn(P, List, List) -> c_int;
    let address = crate::real::behind(&addresses::execve, "execve");
    // SAFETY: the function behind ours; without it, the system call.
    unsafe {
        if address != 0 {
            return core::mem::transmute::<usize, Function>(address)(p, argv, envp);
        }
        crate::real::set_errno(-sys::execve(p, argv, envp) as c_int);
    }
    -1
}

unsafe fn behind_execvpe(p: P, argv: List, envp: List) -> c_int {
    type Function = unsafe extern "C" fn(P, List, List) -> c_int;
    let address = crate::real::behind(&addresses::execvpe, "execvpe");
    // SAFETY: as above.
    unsafe {
        if address == 0 {
            behind_execve(p, argv, envp)
        } else {
            core::mem::transmute::<usize, Function>(address)(p, argv, envp)
        }
    }
}

/// Runs a program that is named relative to a directory.
///
/// # Safety
/// As execveat.
pub unsafe fn run(
    from: usize,
    dir: c_int,
    p: P,
    argv: List,
    envp: List,
    call: impl FnOnce(Option<New>) -> c_int,
) -> c_int {
    // SAFETY: passed on to the caller.
    unsafe {
        if dir == AT_FDCWD || !log::is_on() || sys::faccessat(dir, p, 1) < 0 {
            return prepared(from, (dir, p), p, argv, envp, call);
        }
        let mut call = Some(call);
        let mut result = -1;
        absolute(dir, bytes(p), |path| {
            with_zero(path, |path| {
                if let Some(call) = call.take() {
                    result = prepared(from, (AT_FDCWD, path), path, argv, envp, call);
                }
            })
        });
        // The directory has no name: it is not observed, which is noticed.
        call.map_or(result, |call| call(None))
    }
}

/// Runs an open file.
///
/// # Safety
/// As fexecve.
pub unsafe fn run_open(
    from: usize,
    fd: c_int,
    argv: List,
    envp: List,
    call: impl FnOnce(Option<New>) -> c_int,
) -> c_int {
    let mut call = Some(call);
    let mut result = -1;
    if log::is_on() {
        of_descriptor(fd, |path| {
            with_zero(path, |path| {
                if let Some(call) = call.take() {
                    // SAFETY: passed on to the caller.
                    result = unsafe { prepared(from, (AT_FDCWD, path), path, argv, envp, call) };
                }
            })
        });
    }
    call.map_or(result, |call| call(None))
}

#[inline(never)]
fn with_zero(path: &[u8], then: impl FnOnce(P)) {
    let mut name = MaybeUninit::<[u8; PATH_MAX + 1]>::uninit();
    let at = name.as_mut_ptr().cast::<u8>();
    if path.len() <= PATH_MAX {
        // SAFETY: the path and its zero fit.
        unsafe {
            core::ptr::copy_nonoverlapping(path.as_ptr(), at, path.len());
            at.add(path.len()).write(0);
        }
        then(at);
    }
}

unsafe fn spawn(
    from: usize,
    p: P,
    actions: Any,
    argv: List,
    envp: List,
    call: impl FnOnce(Option<New>) -> c_int,
) -> c_int {
    // SAFETY: passed on to the caller.
    unsafe {
        if !p.is_null() && *p != b'/' && !actions.is_null() && log::is_on() {
            let mut call = Some(call);
            let mut result = -1;
            crate::spawn::resolve(actions, bytes(p), |path| {
                with_zero(path, |path| {
                    if let Some(call) = call.take() {
                        result = prepared(from, (AT_FDCWD, path), p, argv, envp, call);
                    }
                })
            });
            return match call {
                None => result,
                Some(call) => prepared(from, (AT_FDCWD, p), p, argv, envp, call),
            };
        }
        prepared(from, (AT_FDCWD, p), p, argv, envp, call)
    }
}

unsafe fn spawn_searched(
    from: usize,
    file: P,
    actions: Any,
    argv: List,
    envp: List,
    call: impl FnOnce(Option<New>) -> c_int,
) -> c_int {
    // SAFETY: passed on to the caller.
    unsafe {
        if file.is_null() || bytes(file).contains(&b'/') {
            return spawn(from, file, actions, argv, envp, call);
        }
        let mut call = Some(call);
        located(from, file, &mut |found| match call.take() {
            Some(call) => prepared(from, (AT_FDCWD, found), found, argv, envp, call),
            None => -1,
        })
    }
}

/// Looks for a program in PATH, and reports where it is not.
unsafe fn located(from: usize, file: P, then: &mut dyn FnMut(P) -> c_int) -> c_int {
    // SAFETY: passed on to the caller; names are written up to their zero.
    unsafe {
        if file.is_null() || *file == 0 || !log::is_on() || bytes(file).contains(&b'/') {
            return then(file);
        }
        let name = bytes(file);
        log::variable(from, b"PATH");
        let list = environment::get(b"PATH").unwrap_or(b"/bin:/usr/bin");
        let mut buffer = MaybeUninit::<[u8; PATH_MAX + 1]>::uninit();
        let at = buffer.as_mut_ptr().cast::<u8>();
        for dir in list.split(|byte| *byte == b':') {
            let dir = if dir.is_empty() { b"." } else { dir };
            if dir.len() + name.len() + 1 > PATH_MAX {
                continue;
            }
            core::ptr::copy_nonoverlapping(dir.as_ptr(), at, dir.len());
            at.add(dir.len()).write(b'/');
            core::ptr::copy_nonoverlapping(name.as_ptr(), at.add(dir.len() + 1), name.len());
            at.add(dir.len() + 1 + name.len()).write(0);
            if sys::faccessat(AT_FDCWD, at, 1) == 0 && !sys::is_directory_path(at) {
                return then(at);
            }
            presence(from, AT_FDCWD, at);
        }
        // It is nowhere. The real function says so again.
        then(file)
    }
}

/// Bytes that are taken from the stack for the lists of a program; more come from the kernel.
const ARENA: usize = 12 << 10;

/// Reports what is going to be run, and makes its environment such that it reports, too.
///
/// `seen` is where the file is; `named` is how the child finds it.
#[inline(never)]
unsafe fn prepared(
    from: usize,
    seen: (c_int, P),
    named: P,
    argv: List,
    envp: List,
    call: impl FnOnce(Option<New>) -> c_int,
) -> c_int {
    if !log::is_on() {
        return call(None);
    }
    // SAFETY: the kernel checks the path; lists end with null.
    unsafe {
        if sys::faccessat(seen.0, seen.1, 1) < 0 {
            presence(from, seen.0, seen.1);
            return call(None);
        }
        path(how::EXEC, from, seen.0, seen.1);
        let mut interpreter = |named: *const u8| path(how::EXEC, from, AT_FDCWD, named);
        let program = examine(seen.0, seen.1, AT_FDCWD, &mut interpreter, 0);
        // In another root, or as another user.
        let program = if sys::faccessat(AT_FDCWD, objects::ours().as_ptr(), 4) < 0 {
            log::gap(b"a program was started from where the observer cannot be seen");
            Program::Foreign
        } else {
            program
        };
        if is_of_another(envp) {
            log::gap(b"it was observed by somebody else");
            return call(None);
        }
        let sequence = log::header().sequence.fetch_add(1, Relaxed);
        absolute(seen.0, bytes(seen.1), |path| log::append(exec(kind::EXEC, sequence, path)));

        let size = room(argv, envp);
        let mut arena = MaybeUninit::<[usize; ARENA / 8]>::uninit();
        let mut at = arena.as_mut_ptr().cast::<usize>();
        if size > ARENA {
            // Of a child that shares our memory this stays behind; there is no stack for it.
            let mapped = sys::mmap(0, size, 3, 0x22, -1, 0);
            if mapped < 0 && mapped > -4096 {
                return call(None);
            }
            at = mapped as *mut usize;
        }
        let result = call(Some(lists(at, program, sequence, named, argv, envp)));
        if result != 0 {
            log::append(exec(kind::EXEC_FAILED, sequence, b""));
        }
        result
    }
}

/// Is this the environment of a command that the process itself observes? (A kache below an observed cargo.)
unsafe fn is_of_another(envp: List) -> bool {
    // SAFETY: passed on to the caller.
    let Some(value) = (unsafe { environment::find(envp, format::VARIABLE) }) else { return false };
    log::format_of(value).is_some_and(|numbers| numbers[..3] != log::names())
}

fn exec(kind: u8, sequence: u32, text: &[u8]) -> Entry<'_> {
    Entry { process: 0, kind, detail: 0, object: 0, value: sequence, pid: 0, text }
}

unsafe fn length(list: List) -> usize {
    // SAFETY: the list ends with null.
    if list.is_null() { 0 } else { (0..).find(|&i| unsafe { (*list.add(i)).is_null() }).unwrap_or(0) }
}

/// Bytes that the new lists need at most.
unsafe fn room(argv: List, envp: List) -> usize {
    // SAFETY: passed on to the caller.
    unsafe {
        let old = environment::find(envp, b"LD_PRELOAD").map_or(0, <[u8]>::len);
        (length(argv) + length(envp) + 8) * 8 + old + 2 * objects::ours().len() + 160
    }
}

struct Writer(*mut u8);

impl Writer {
    unsafe fn add(&mut self, text: &[u8]) {
        // SAFETY: `room` has counted it.
        unsafe {
            core::ptr::copy_nonoverlapping(text.as_ptr(), self.0, text.len());
            self.0 = self.0.add(text.len());
        }
    }

    unsafe fn hexadecimal(&mut self, value: u64) {
        let mut digits = [0u8; 16];
        let mut first = 15;
        for i in 0..16 {
            digits[15 - i] = b"0123456789abcdef"[(value >> (4 * i)) as usize & 15];
            if digits[15 - i] != b'0' {
                first = 15 - i;
            }
        }
        // SAFETY: passed on to the caller.
        unsafe { self.add(&digits[first..]) }
    }
}

unsafe fn lists(at: *mut usize, program: Program, sequence: u32, named: P, argv: List, envp: List) -> New {
    let ours = objects::ours();
    // SAFETY: `room` has counted what is written: both lists with their ends, two more of each, and the texts.
    unsafe {
        let new_envp = at.cast::<P>();
        let mut count = 0;
        let mut preload: Option<P> = None;
        for i in 0..length(envp) {
            let entry = *envp.add(i);
            if let Some(value) = environment::value_of(entry, b"LD_PRELOAD") {
                preload = preload.or(Some(value));
            } else if environment::value_of(entry, format::VARIABLE).is_none() {
                new_envp.add(count).write(entry);
                count += 1;
            }
        }
        let new_argv = new_envp.add(count + 3);
        let launches = matches!(program, Program::Watch | Program::Refuses);
        let mut arguments = 0;
        if launches {
            new_argv.write(ours.as_ptr());
            new_argv.add(1).write(named);
            arguments = 2;
        }
        for i in 0..length(argv) {
            new_argv.add(arguments).write(*argv.add(i));
            arguments += 1;
        }
        new_argv.add(arguments).write(core::ptr::null());

        let mut text = Writer(new_argv.add(arguments + 1).cast_mut().cast());
        new_envp.add(count).write(text.0);
        count += 1;
        text.add(format::VARIABLE);
        for (i, number) in log::names().into_iter().chain([sequence as u64]).enumerate() {
            text.add(if i == 0 { b"=" } else { b":" });
            text.hexadecimal(number);
        }
        text.add(b"\0");

        let others = preload.map_or(&b""[..], |value| bytes(value));
        let foreign = matches!(program, Program::Foreign | Program::Refuses);
        if !foreign || !others.is_empty() {
            new_envp.add(count).write(text.0);
            count += 1;
            text.add(b"LD_PRELOAD=");
            let mut is_first = true;
            // Theirs come first, as if we were not there.
            let separated = others
                .split(|byte| matches!(byte, b':' | b' '))
                .filter(|name| !name.is_empty() && *name != ours);
            for name in separated.chain((!foreign).then_some(ours)) {
                text.add(if is_first { b"" } else { b":" });
                text.add(name);
                is_first = false;
            }
            text.add(b"\0");
        }
        new_envp.add(count).write(core::ptr::null());

        // The launcher has our name without the end.
        let launcher = text.0;
        text.add(ours.strip_suffix(b".so").unwrap_or(ours));
        text.add(b"\0");
        New {
            program: launches.then_some(launcher),
            argv: if argv.is_null() && !launches { argv } else { new_argv },
            envp: new_envp,
        }
    }
}

/// A shell that the C library starts with the environment as it is.
fn shell(from: usize, starts: bool) {
    if !starts || !log::is_on() {
        return;
    }
    let sh = c"/bin/sh".as_ptr().cast();
    let ours = objects::ours();
    let preloaded = environment::get(b"LD_PRELOAD")
        .is_some_and(|list| list.split(|byte| *byte == b':').any(|name| name == ours));
    // SAFETY: the name is a constant.
    unsafe {
        path(how::EXEC, from, AT_FDCWD, sh);
        let enters = matches!(examine(AT_FDCWD, sh, AT_FDCWD, &mut |_| (), 0), Program::Loads);
        if !enters || !preloaded || environment::get(format::VARIABLE).is_none() {
            log::gap(b"a shell could not be observed");
        }
    }
}

/// The families of functions that take the list as arguments: laid out in memory they are the list.
#[cfg(target_arch = "x86_64")]
macro_rules! listed {
    ($name:ident, $then:ident) => {
        /// # Safety
        /// That of the C library's function of this name.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                "pop rax", "push r9", "push r8", "push rcx", "push rdx", "push rsi", "push rax",
                "lea rsi, [rsp + 8]", "mov rdx, rax", "call {then}", "pop rcx", "add rsp, 40", "jmp rcx",
                then = sym $then,
            )
        }
    };
}
#[cfg(target_arch = "aarch64")]
macro_rules! listed {
    ($name:ident, $then:ident) => {
        /// # Safety
        /// That of the C library's function of this name.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                "str x30, [sp, #-64]!", "stp x1, x2, [sp, #8]", "stp x3, x4, [sp, #24]", "stp x5, x6, [sp, #40]",
                "str x7, [sp, #56]", "add x1, sp, #8", "mov x2, x30", "bl {then}", "ldr x30, [sp], #64", "ret",
                then = sym $then,
            )
        }
    };
}

listed!(execl, execl_with);
listed!(execlp, execlp_with);
listed!(execle, execle_with);

unsafe extern "C" fn execl_with(p: P, argv: List, from: usize) -> c_int {
    log::ready();
    // SAFETY: passed on to the caller.
    unsafe { execute(from, p, argv, environment::all()) }
}

unsafe extern "C" fn execlp_with(p: P, argv: List, from: usize) -> c_int {
    log::ready();
    // SAFETY: passed on to the caller.
    unsafe { search(from, p, argv, environment::all()) }
}

unsafe extern "C" fn execle_with(p: P, argv: List, from: usize) -> c_int {
    log::ready();
    // SAFETY: the environment comes after the end of the list.
    unsafe { execute(from, p, argv, (*argv.add(length(argv) + 1)).cast()) }
}
