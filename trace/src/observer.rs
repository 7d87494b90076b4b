//! The observer of one command.

use crate::account::{Access, Account, How};
use crate::format::{Entry, FIRST_EXEC, FIRST_WATCH, NOBODY, kind};
use crate::map::{Map, Memory, gap};
use crate::seccomp::Watcher;
use crate::shared::program::{Program, examine};
use crate::shared::watch;
use crate::{files, log, sys};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long descendants may take to end after the command has.
const LAST_BREATH: Duration = Duration::from_millis(100);

/// Observes one command. Only one command per observer.
pub struct Observer {
    preload: PathBuf,
    memory: Memory,
    map: Arc<Map>,
    watcher: Watcher,
    /// The program of the command, and the interpreters if it is a script.
    programs: Vec<PathBuf>,
}

impl Observer {
    /// `dir` keeps the preload object and the launcher (files named by their content, mode 0555, made once).
    ///
    /// An error: nothing can be observed here (no preload object for this platform, no memfd, …).
    pub fn new(dir: &Path) -> io::Result<Observer> {
        let preload = files::install(dir)?;
        if files::forbids_programs(&preload) {
            let why = format!("{} is on a file system that allows no programs", dir.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        let (memory, map) = Memory::new()?;
        let map = Arc::new(map);
        let watcher = Watcher::new(memory.nonce, &map, preload.with_extension(""))?;
        Ok(Observer { preload, memory, map, watcher, programs: Vec::new() })
    }

    /// Changes `command` so that it and all its children are observed. Called once, right before it is spawned, after its
    /// environment and program are final.
    ///
    /// Programs that the preload object cannot enter are watched by the kernel (seccomp user notification). `everything`: the
    /// whole tree is watched that way *too* (some object in it is known to make system calls by itself).
    pub fn prepare(&mut self, command: &mut Command, everything: bool) -> io::Result<()> {
        let variable = |command: &Command, name: &str| match command.get_envs().find(|(key, _)| *key == name)
        {
            Some((_, value)) => value.map(OsStr::to_owned),
            None => std::env::var_os(name),
        };
        let dir = std::path::absolute(command.get_current_dir().unwrap_or(Path::new(".")))?;
        let path = variable(command, "PATH");
        let program = files::find_program(command.get_program(), path.as_deref(), &dir);
        // Without `.` in it.
        let program = program.map(|program| program.components().collect::<PathBuf>());
        let kind = program.map_or(Program::Unknown, |program| self.examine(program, &dir));

        let expect = |sequence: u32, text: &[u8]| {
            let entry = Entry {
                process: NOBODY,
                kind: kind::EXEC,
                detail: 0,
                object: 0,
                value: sequence,
                pid: 0,
                text,
            };
            self.map.append(&entry);
        };
        expect(FIRST_EXEC, command.get_program().as_bytes());
        let is_watched = matches!(kind, Program::Watch | Program::Refuses);
        if is_watched || everything {
            let sequence = if is_watched { FIRST_EXEC } else { FIRST_WATCH };
            if !is_watched {
                expect(FIRST_WATCH, b"all of it, by the kernel");
            }
            let nonce = self.memory.nonce;
            // SAFETY: only system calls happen there. The child is about to execute the program.
            unsafe {
                command.pre_exec(move || {
                    watch::begin(nonce, sequence);
                    Ok(())
                })
            };
        }

        let mut preload = variable(command, "LD_PRELOAD").unwrap_or_default();
        if kind != Program::Refuses {
            if !preload.is_empty() {
                preload.push(":");
            }
            preload.push(&self.preload);
        }
        command.env("LD_PRELOAD", preload).env("KACHE_TRACE", self.memory.variable(FIRST_EXEC));
        Ok(())
    }

    fn examine(&mut self, program: PathBuf, dir: &Path) -> Program {
        let Ok(name) = CString::new(program.as_os_str().as_bytes()) else { return Program::Unknown };
        let Ok(cwd) = File::open(dir) else { return Program::Unknown };
        self.programs.push(program);
        let mut interpreter = |path: *const u8| {
            // SAFETY: the path ends with a zero.
            let path = unsafe { CStr::from_ptr(path.cast()) };
            let path = dir.join(OsStr::from_bytes(path.to_bytes()));
            self.programs.push(path.components().collect());
        };
        // SAFETY: the name ends with a zero.
        unsafe { examine(sys::AT_FDCWD, name.as_ptr().cast(), cwd.as_raw_fd(), &mut interpreter, 0) }
    }

    /// What happened, once the command has ended (its descendants may live on; that is a gap).
    pub fn finish(self) -> Account {
        let Observer { preload, memory, map, watcher, programs } = self;
        let watched_are_gone = watcher.stop();
        drop(map);
        let read = || memory.read().unwrap_or_default();
        let last = Instant::now() + LAST_BREATH;
        let mut bytes = read();
        // Children that nobody waited for have just begun, or are on their way out.
        let mut is_over = !log::is_pending(&bytes) && memory.close();
        while !is_over && Instant::now() < last {
            std::thread::sleep(Duration::from_millis(1));
            bytes = read();
            is_over = !log::is_pending(&bytes) && memory.close();
        }
        is_over = is_over || memory.close();
        // With what was written since.
        bytes = read();
        let mut account = log::read(&bytes, &preload, is_over && watched_are_gone);
        if !account.processes.is_empty() {
            let object = account
                .objects
                .iter()
                .position(|object| *object == account.processes[0].program)
                .unwrap_or(0) as u32;
            let accesses =
                programs.into_iter().map(|path| Access { path, how: How::Exec, process: 0, object });
            let mut all: Vec<Access> = accesses.collect();
            account.accesses.retain(|access| !all.contains(access));
            all.append(&mut account.accesses);
            account.accesses = all;
        }
        account
    }
}

/// Are we ourselves inside an observed command? (A kache that is started by a build script.)
pub fn inside() -> bool {
    std::env::var_os("KACHE_TRACE").is_some()
}

/// Tells the observer around us that something happened that it could not see. Without one, does nothing.
pub fn report_gap(why: &str) {
    if let Some(map) = Map::around() {
        gap(&map, why);
    }
}
