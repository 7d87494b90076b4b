//! Makes an account of a log.

use crate::account::{Access, Account, Call, How, Process, Variable, What};
use crate::format::{CHILD, COMPLETE, CUT, FIRST, HELLO, RECORD, kind, what};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

struct Record<'a> {
    process: u32,
    kind: u8,
    detail: u8,
    object: u16,
    value: u32,
    pid: u32,
    text: &'a [u8],
}

/// Splits the log. False: it is damaged, and the rest of it is lost.
fn records(bytes: &[u8]) -> (Vec<Record<'_>>, bool) {
    let mut records = Vec::new();
    let mut at = FIRST as usize;
    let mut whole = bytes.len() >= at;
    while at < bytes.len() {
        let word =
            |offset: usize| bytes[at + offset..].first_chunk().map_or(0, |four| u32::from_ne_bytes(*four));
        let length = (word(0) & !COMPLETE) as usize;
        if length < RECORD || length > bytes.len() - at {
            return (records, false);
        }
        let text = word(20) as usize;
        if word(0) & COMPLETE == 0 || text > length - RECORD {
            whole = false;
        } else {
            records.push(Record {
                process: word(4),
                kind: bytes[at + 8],
                detail: bytes[at + 9],
                object: u16::from_ne_bytes([bytes[at + 10], bytes[at + 11]]),
                value: word(12),
                pid: word(16),
                text: &bytes[at + RECORD..at + RECORD + text],
            });
        }
        at += length;
    }
    (records, whole)
}

const HOWS: [How; 10] = [
    How::Read,
    How::List,
    How::Stat,
    How::Link,
    How::Resolve,
    How::Absent,
    How::Exec,
    How::Write,
    How::Remove,
    How::Mode,
];

/// What the log says of a process besides what is handed out.
struct Known {
    index: u32,
    pid: u32,
    /// The process that it was forked from, whose objects it has.
    forked_from: Option<u32>,
    /// The object of its program.
    program: u32,
    /// Where the loader looks for libraries first.
    libraries: Vec<PathBuf>,
}

pub struct Reader<'a> {
    account: Account,
    ours: &'a Path,
    known: HashMap<u32, Known>,
    /// By the process's number and that of the object in it.
    objects: HashMap<(u32, u16), u32>,
    object_paths: HashMap<PathBuf, u32>,
    /// Hashes of accesses, variables and calls that are in the account.
    seen: HashSet<u64>,
}

/// Reads a log. `ours`: the preload object; `is_over`: no process writes into it any more.
pub fn read(bytes: &[u8], ours: &Path, is_over: bool) -> Account {
    let (records, is_whole) = records(bytes);
    let mut reader = Reader {
        account: Account::default(),
        ours,
        known: HashMap::new(),
        objects: HashMap::new(),
        object_paths: HashMap::new(),
        seen: HashSet::new(),
    };
    reader.processes(&records);
    for record in &records {
        reader.add(record);
    }
    // The header says so.
    let is_full = bytes.get(32).is_some_and(|full| *full != 0);
    reader.gaps(&records, is_whole || is_full, is_full, is_over);
    reader.account
}

impl Reader<'_> {
    /// Finds the processes first: a thread's report may come before the one that introduces its process.
    fn processes(&mut self, records: &[Record]) {
        let execs: HashMap<u32, u32> =
            records.iter().filter(|r| r.kind == kind::EXEC).map(|r| (r.value, r.process)).collect();
        let watched: HashMap<u32, u32> =
            records.iter().filter(|r| r.kind == kind::WATCHED).map(|r| (r.process, r.value)).collect();
        // A program that was started out of sight has the environment, and so the sequence number, of the one that did it.
        let mut first_of: HashMap<u32, u32> = HashMap::new();
        // What the kernel saw of a process, until that process speaks for itself.
        let mut seen: HashMap<u32, u32> = HashMap::new();
        for record in records {
            let number = record.process;
            match record.kind {
                kind::ATTACHED => {
                    let parent = match first_of.get(&record.value) {
                        Some(first) => Some(*first),
                        None => execs.get(&record.value).copied(),
                    };
                    first_of.entry(record.value).or_insert(number);
                    let (program, argv) = command(record.text);
                    let same = seen
                        .remove(&record.pid)
                        .filter(|n| self.process(*n).is_some_and(|p| p.program == program));
                    let process = Process {
                        program,
                        argv,
                        argv_cut: record.detail & CUT != 0,
                        parent: parent.and_then(|parent| self.known.get(&parent)).map(|parent| parent.index),
                        whole_environment: false,
                    };
                    self.introduce(number, record.pid, None, process, same);
                }
                kind::SEEN => {
                    let parent = match watched.get(&number) {
                        Some(sequence) => execs.get(sequence).copied(),
                        None => Some(record.value),
                    };
                    let (program, argv) = command(record.text);
                    let process = Process {
                        program,
                        argv,
                        argv_cut: record.detail & CUT != 0,
                        parent: parent.and_then(|parent| self.known.get(&parent)).map(|parent| parent.index),
                        whole_environment: true,
                    };
                    self.introduce(number, record.pid, None, process, None);
                    seen.insert(record.pid, number);
                }
                kind::FORKED => {
                    let Some(process) = self.process(record.value).cloned() else { continue };
                    let parent = self.known.get(&record.value).map(|known| known.index);
                    let same = seen.remove(&record.pid);
                    self.introduce(
                        number,
                        record.pid,
                        Some(record.value),
                        Process { parent, ..process },
                        same,
                    );
                }
                _ => {}
            }
        }
    }

    fn process(&self, number: u32) -> Option<&Process> {
        let known = self.known.get(&number)?;
        self.account.processes.get(known.index as usize)
    }

    /// `same`: the number under which the kernel saw this process already.
    fn introduce(
        &mut self,
        number: u32,
        pid: u32,
        forked_from: Option<u32>,
        process: Process,
        same: Option<u32>,
    ) {
        let program = self.object_at(&process.program);
        let index = match same.and_then(|same| self.known.get(&same)) {
            Some(same) => {
                let index = same.index;
                let old = &mut self.account.processes[index as usize];
                *old = Process { parent: old.parent.or(process.parent), ..process };
                index
            }
            None => {
                self.account.processes.push(process);
                self.account.processes.len() as u32 - 1
            }
        };
        self.known.insert(number, Known { index, pid, forked_from, program, libraries: Vec::new() });
    }

    fn object_at(&mut self, path: &Path) -> u32 {
        if let Some(index) = self.object_paths.get(path) {
            return *index;
        }
        let canonical = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let index = self.account.objects.iter().position(|known| *known == canonical).unwrap_or_else(|| {
            self.account.objects.push(canonical);
            self.account.objects.len() - 1
        }) as u32;
        self.object_paths.insert(path.to_path_buf(), index);
        index
    }

    /// The object of a number in a process, or in the one that it was forked from.
    fn object(&mut self, mut process: u32, object: u16) -> u32 {
        if object == u16::MAX {
            return self.object_at(Path::new(""));
        }
        loop {
            if let Some(index) = self.objects.get(&(process, object)) {
                return *index;
            }
            match self.known.get(&process) {
                Some(Known { forked_from: Some(parent), .. }) => process = *parent,
                Some(known) => return known.program,
                None => return self.object_at(Path::new("")),
            }
        }
    }

    fn add(&mut self, record: &Record) {
        let Some((process, pid, program)) =
            self.known.get(&record.process).map(|k| (k.index, k.pid, k.program))
        else {
            return;
        };
        match record.kind {
            kind::ATTACHED | kind::SEEN if record.detail & CHILD == 0 => {
                let path = self.account.processes[process as usize].program.clone();
                self.access(Access { path, how: How::Exec, process, object: program });
            }
            kind::OBJECT => {
                let index = match record.text {
                    b"" => program,
                    path => self.object_at(Path::new(OsStr::from_bytes(path))),
                };
                self.objects.insert((record.process, record.object), index);
                if record.detail != 0 && !has_environment_by_trade(record.text) {
                    self.account.processes[process as usize].whole_environment = true;
                }
                if index != program {
                    let path = PathBuf::from(OsStr::from_bytes(record.text));
                    let access = Access { path: path.clone(), how: How::Read, process, object: program };
                    self.missed(record.process, &path, &access);
                    self.access(access);
                }
            }
            kind::LIBRARIES => {
                let paths = std::env::split_paths(OsStr::from_bytes(record.text))
                    .filter(|path| path.is_absolute())
                    .collect();
                if let Some(known) = self.known.get_mut(&record.process) {
                    known.libraries = paths;
                }
                self.variable(Variable { name: "LD_LIBRARY_PATH".into(), process, object: program });
            }
            kind::ACCESS => {
                let Some(how) = HOWS.get(record.detail as usize) else { return };
                let object = self.object(record.process, record.object);
                let path = PathBuf::from(OsStr::from_bytes(record.text));
                self.look_at(Access { path, how: *how, process, object }, pid);
            }
            kind::VARIABLE => {
                let object = self.object(record.process, record.object);
                self.variable(Variable { name: OsStr::from_bytes(record.text).to_owned(), process, object });
            }
            kind::CALL => {
                let object = self.object(record.process, record.object);
                let what = match record.detail {
                    what::CLOCK => What::Clock,
                    what::DIRECTORY => What::WorkingDirectory,
                    what::HOST => What::Host,
                    what::CONNECT => What::Connect(String::from_utf8_lossy(record.text).into_owned()),
                    _ => What::Random,
                };
                self.call(Call { what, process, object });
            }
            _ => {}
        }
    }

    /// Leaves out what a process learns of itself, and what is the same everywhere.
    fn look_at(&mut self, mut access: Access, pid: u32) {
        let bytes = access.path.as_os_str().as_bytes();
        if let Some(rest) = bytes.strip_prefix(b"/proc/") {
            let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
            let (who, what) = rest.split_at(end);
            let what = of_its_process(what);
            if what == b"/cwd" {
                // Also that of another process, which is most likely the one that started this.
                return self.call(Call {
                    what: What::WorkingDirectory,
                    process: access.process,
                    object: access.object,
                });
            }
            if who == b"self" || who == b"thread-self" || who == pid.to_string().as_bytes() {
                let process = &mut self.account.processes[access.process as usize];
                match (what, access.how) {
                    (b"/exe", How::Link | How::Resolve) => access.path = "/proc/self/exe".into(),
                    (b"/exe", How::Read) => access.path = process.program.clone(),
                    (b"/cmdline", How::Read) => access.path = "/proc/self/cmdline".into(),
                    (b"/environ", _) => {
                        process.whole_environment = true;
                        access.path = "/proc/self/environ".into();
                    }
                    (_, how) if is_detour(what) || how == How::Read && what.starts_with(b"/fd/") => {
                        return self.went_by(&access.path);
                    }
                    _ => return,
                }
            }
        } else if let Some(device) = bytes.strip_prefix(b"/dev/") {
            let plain: [&[u8]; 11] = [
                b"null", b"zero", b"full", b"tty", b"ptmx", b"stdin", b"stdout", b"stderr", b"random",
                b"urandom", b"fd",
            ];
            if is_detour(&bytes[4..]) {
                return self.went_by(&access.path);
            }
            if plain.contains(&device) || device.starts_with(b"pts/") || device.starts_with(b"fd/") {
                return;
            }
        } else if bytes.starts_with(HELLO) {
            return;
        }
        self.access(access);
    }

    /// What a path leads to was another thing in another process, and at another time.
    fn went_by(&mut self, path: &Path) {
        self.account.gaps.push(format!("it went by way of {}", path.display()));
    }

    fn access(&mut self, access: Access) {
        if access.path.as_os_str() != self.ours.as_os_str() && self.is_new(&access) {
            self.account.accesses.push(access);
        }
    }

    fn is_new(&mut self, what: &impl Hash) -> bool {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        self.seen.insert(hasher.finish())
    }

    fn variable(&mut self, variable: Variable) {
        if self.is_new(&variable) {
            self.account.variables.push(variable);
        }
    }

    /// A library was found, so it was not where the loader looks before.
    fn missed(&mut self, number: u32, library: &Path, access: &Access) {
        let Some((known, name)) = self.known.get(&number).zip(library.file_name()) else { return };
        let places: Vec<PathBuf> = known.libraries.iter().map(|dir| dir.join(name)).collect();
        for path in places.into_iter().take_while(|path| path != library) {
            // Some libraries are told to be looked for elsewhere first.
            if fs::symlink_metadata(&path).is_err() {
                self.access(Access { path, how: How::Absent, ..access.clone() });
            }
        }
    }

    fn call(&mut self, call: Call) {
        if self.is_new(&call) {
            self.account.calls.push(call);
        }
    }

    fn gaps(&mut self, records: &[Record], is_whole: bool, is_full: bool, is_over: bool) {
        let of = |kind: u8| records.iter().filter(move |record| record.kind == kind);
        let mut gaps = std::mem::take(&mut self.account.gaps);
        gaps.extend(of(kind::GAP).map(|gap| String::from_utf8_lossy(gap.text).into_owned()));
        for program in unanswered(records) {
            gaps.push(format!("a program could not be observed: {}", String::from_utf8_lossy(program)));
        }
        if !is_whole {
            gaps.push("the log is damaged: a process ended while it reported".to_string());
        }
        if is_full {
            gaps.push("there was no room for all that was reported".to_string());
        }
        if !is_over {
            // SAFETY: asks whether there is such a process.
            let runs = |pid: u32| unsafe { libc::kill(pid as i32, 0) == 0 };
            let last = self.known.values().filter(|known| runs(known.pid)).max_by_key(|known| known.index);
            let program =
                last.map(|known| self.account.processes[known.index as usize].program.display().to_string());
            gaps.push(format!(
                "a process that was started still runs: {}",
                program.unwrap_or("of unknown name".to_string())
            ));
        }
        let mut seen = HashSet::new();
        gaps.retain(|gap| seen.insert(gap.clone()));
        self.account.gaps = gaps;
    }
}

/// Whether a program was started that has not reported yet.
pub fn is_pending(bytes: &[u8]) -> bool {
    !unanswered(&records(bytes).0).is_empty()
}

/// Programs that were started, and neither failed to nor reported.
fn unanswered<'a>(records: &[Record<'a>]) -> Vec<&'a [u8]> {
    let ends = [kind::ATTACHED, kind::WATCHED, kind::EXEC_FAILED];
    let ended: HashSet<u32> = records.iter().filter(|r| ends.contains(&r.kind)).map(|r| r.value).collect();
    let begun = records.iter().filter(|r| r.kind == kind::EXEC && !ended.contains(&r.value));
    begun.map(|record| record.text).collect()
}

/// What a path of /proc names of a process, if it names one of its threads: that has the same.
fn of_its_process(path: &[u8]) -> &[u8] {
    let Some(rest) = path.strip_prefix(b"/task/") else { return path };
    rest.iter().position(|byte| *byte == b'/').map_or(path, |end| &rest[end..])
}

/// A path of /proc behind a link of the process itself to a directory.
fn is_detour(path: &[u8]) -> bool {
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').skip(1).collect();
    matches!(parts[..], [b"cwd" | b"root" | b"stdin" | b"stdout" | b"stderr", _, ..] | [b"fd", _, _, ..])
}

/// A program and its arguments.
fn command(text: &[u8]) -> (PathBuf, Vec<std::ffi::OsString>) {
    let mut parts = text.split(|byte| *byte == 0);
    let program = parts.next().unwrap_or_default();
    // The kernel says so of a file that is gone.
    let program = program.strip_suffix(b" (deleted)").unwrap_or(program);
    let mut argv: Vec<_> = parts.map(|part| std::ffi::OsString::from_vec(part.to_vec())).collect();
    // Each argument ends with a zero.
    if text.ends_with(b"\0") {
        argv.pop();
    }
    (PathBuf::from(OsStr::from_bytes(program)), argv)
}

/// The C library, the loader and the C++ runtime: they have the environment to hand it out.
fn has_environment_by_trade(path: &[u8]) -> bool {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    [&b"libc.so"[..], b"libc-", b"libc.musl-", b"ld-", b"libstdc++.so", b"libc++"]
        .iter()
        .any(|start| name.starts_with(start))
}
