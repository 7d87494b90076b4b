//! Who did it: programs, and what their calls tell.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kache_trace::{How, Object, What};

use super::places::is_local_service;
use super::{Reader, Unproven};
use crate::record::Input;

/// Whose code it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Whose {
    User,
    Toolchain,
    System,
    Kache,
}

impl Reader<'_> {
    pub(super) fn object(&self, n: u32) -> Whose {
        self.objects.get(n as usize).copied().unwrap_or(Whose::User)
    }

    pub(super) fn program(&self, n: u32) -> Whose {
        self.programs.get(n as usize).copied().unwrap_or(Whose::User)
    }

    /// Programs and libraries of the user's own that may have made system calls past the C library, which nobody saw. The
    /// script itself and macros were looked at before they ran.
    pub(super) fn programs(&self) -> Result<(), Unproven> {
        if self.scene.is_watched {
            return Ok(());
        }
        for (path, whose) in self.account.objects.iter().zip(&self.objects) {
            if *whose == Whose::User
                && !self.scene.judged.contains(path)
                && let Ok(bytes) = std::fs::read(path)
                && Object::read(&bytes).is_some_and(|object| object.system_calls && !object.is_static)
            {
                return Err(format!("{} makes system calls by itself", self.shown(path)));
            }
        }
        Ok(())
    }

    /// What compilers were told.
    pub(super) fn arguments(&mut self) {
        for arg in self.account.processes.iter().skip(1).flat_map(|p| &p.argv) {
            let has = |word: &[u8]| memchr::memmem::find(arg.as_bytes(), word).is_some();
            if [&b"march=native"[..], b"mtune=native", b"mcpu=native", b"target-cpu=native"]
                .iter()
                .any(|f| has(f))
            {
                self.inputs.insert(Input::Cpu);
            }
            self.out.hidden |= arg.as_bytes().starts_with(b"-gz") || has(b"compress-debug") || has(b"-flto");
        }
    }

    pub(super) fn calls(&mut self) -> Result<(), Unproven> {
        for call in &self.account.calls {
            let (object, program) = (self.object(call.object), self.program(call.process));
            if object == Whose::Kache || program == Whose::Kache {
                continue;
            }
            let by_user = object == Whose::User;
            match &call.what {
                What::Clock | What::Random => {
                    let is_own = call.process == 0 || self.is_first_program(call.process);
                    let by_first = by_user && !self.is_helper(call.process) || is_own && self.scene.is_script;
                    if by_first && object != Whose::Toolchain || !by_first && self.tells_moment(call.process)
                    {
                        let what = if call.what == What::Clock { "the time" } else { "chance" };
                        return Err(format!("it asked for {what}{}", self.by(call.process)));
                    }
                }
                What::WorkingDirectory if by_user || self.tells_paths(call.process) => {
                    self.ask(&self.scene.inv.cwd.clone());
                }
                What::WorkingDirectory => {}
                What::Host if object == Whose::Toolchain => {}
                What::Host => drop(self.inputs.insert(Input::Host)),
                What::Connect(to) if is_local_service(to) => {}
                What::Connect(to) => return Err(format!("it talked to {to}{}", self.by(call.process))),
            }
        }
        Ok(())
    }

    /// The file name of its program; `None`: nothing is known of it.
    pub(super) fn name_of(&self, process: u32) -> Option<Cow<'_, str>> {
        let program = &self.account.processes.get(process as usize)?.program;
        Some(program.file_name().unwrap_or_default().to_string_lossy())
    }

    pub(super) fn by(&self, process: u32) -> String {
        let name = self.name_of(process).filter(|_| process > 0);
        name.map_or_else(String::new, |name| format!(" ({name})"))
    }

    /// May the result of a process that looked at the clock or took a random number be another one each time? Compilers
    /// look at the clock for names of temporary files, shells and interpreters when they start.
    pub(super) fn tells_moment(&self, process: u32) -> bool {
        let Some(name) = self.name_of(process) else { return true };
        if self.program(process) == Whose::Toolchain {
            return false;
        }
        if is_build_tool(&name) {
            // Where their input makes them: C compilers, awk, CMake.
            const WORDS: &[&str] = &[
                "__DATE__",
                "__TIME__",
                "srand",
                "systime",
                "strftime",
                "string(TIMESTAMP",
                "file(TIMESTAMP",
            ];
            return names_one(&self.text_of(process), WORDS);
        }
        if is_interpreter(&name) {
            let text = self.text_of(process);
            if self.is_shell(process) {
                return shell_tells_moment(&text);
            }
            const WORDS: &[&str] = &["time", "date", "clock", "now", "rand", "uuid", "Math."];
            return names_one(&text, WORDS);
        }
        true
    }

    /// May a process that looks where it is tell others? What compilers and their friends make is searched for paths, and
    /// shells look at each start: their words are.
    pub(super) fn tells_paths(&self, process: u32) -> bool {
        if process == 0 || self.is_first_program(process) {
            return false;
        }
        let Some(name) = self.name_of(process) else { return true };
        if self.program(process) == Whose::Toolchain {
            return name == "cargo";
        }
        matches!(&*name, "pwd" | "realpath" | "readlink" | "env")
            || !is_build_tool(&name) && !self.is_shell(process)
    }

    /// Linkers make programs executable as the umask has it.
    pub(super) fn sets_modes(&self, process: u32) -> bool {
        let Some(name) = self.name_of(process) else { return true };
        self.program(process) != Whose::Toolchain
            && (!is_build_tool(&name) || matches!(&*name, "chmod" | "install" | "tar"))
    }

    /// Is it a program that the action started, rather than the compiler or script itself?
    pub(super) fn is_helper(&self, process: u32) -> bool {
        process > 0 && self.program(process) != Whose::Toolchain && !self.is_first_program(process)
    }

    /// Is it a child of the script that has not become another program?
    pub(super) fn is_first_program(&self, process: u32) -> bool {
        let program = |n: usize| self.account.processes.get(n).map(|p| &p.program);
        self.scene.is_script && program(process as usize) == program(0)
    }

    pub(super) fn is_interpreter(&self, process: u32) -> bool {
        self.name_of(process).is_some_and(|name| is_interpreter(&name))
    }

    pub(super) fn is_shell(&self, process: u32) -> bool {
        self.name_of(process).is_some_and(|name| name == "busybox" || name.ends_with("sh"))
    }

    pub(super) fn is_awk(&self, process: u32) -> bool {
        self.name_of(process).is_some_and(|name| name.ends_with("awk"))
    }

    pub(super) fn is_make(&self, process: u32) -> bool {
        self.name_of(process).is_some_and(|name| matches!(&*name, "make" | "gmake" | "bmake" | "remake"))
    }

    /// Words and scripts that an interpreter was given.
    pub(super) fn text_of(&self, process: u32) -> Vec<u8> {
        let mut text = Vec::new();
        let Some(p) = self.account.processes.get(process as usize) else { return text };
        for arg in &p.argv {
            text.extend_from_slice(arg.as_bytes());
            text.push(b'\n');
        }
        // Modules that came with an interpreter are not the user's words.
        let installation = p.program.parent().and_then(Path::parent).map(|dir| dir.join("lib"));
        let is_its_own = |path: &Path| installation.as_ref().is_some_and(|dir| path.starts_with(dir));
        let read = self.account.accesses.iter().filter(|a| a.process == process && !is_its_own(&a.path));
        for access in read.filter(|a| matches!(a.how, How::Read | How::Exec)) {
            let path = &access.path;
            if !self.scene.is_of_the_system(path) && !self.scene.in_own_toolchain(path) {
                add_script(path, false, &mut text);
            }
        }
        text
    }

    /// Files whose text an interpreter may have got through a pipe.
    pub(super) fn piped_text(&self) -> Vec<u8> {
        let hands_on = |n: usize| {
            let name = self.name_of(n as u32).unwrap_or_default();
            matches!(&*name, "cat" | "head" | "m4" | "sed" | "tail")
        };
        let who: Vec<bool> = (0..self.account.processes.len()).map(hands_on).collect();
        let read = self.account.accesses.iter().filter(|a| a.how == How::Read);
        let read = read.filter(|a| who.get(a.process as usize).is_some_and(|is_one| *is_one));
        let paths: BTreeSet<&Path> = read.map(|a| &*a.path).collect();
        let mut text = Vec::new();
        for path in paths.into_iter().filter(|path| !self.scene.is_of_the_system(path)) {
            add_script(path, false, &mut text);
        }
        text
    }

    /// Scripts among the programs of the system that an interpreter read (`autoconf`, `pod2man`).
    pub(super) fn scripts_of_the_system(&self, process: u32) -> Vec<u8> {
        let mut text = Vec::new();
        let read = self.account.accesses.iter().filter(|a| a.process == process);
        for access in read.filter(|a| matches!(a.how, How::Read | How::Exec)) {
            if self.scene.is_of_the_system(&access.path) {
                add_script(&access.path, true, &mut text);
            }
        }
        text
    }
}

fn add_script(path: &Path, executable: bool, text: &mut Vec<u8>) {
    let is_one = |m: &std::fs::Metadata| {
        m.is_file() && m.len() <= MAX_SCRIPT && (!executable || m.permissions().mode() & 0o111 != 0)
    };
    if !path.metadata().is_ok_and(|m| is_one(&m)) {
        return;
    }
    let bytes = std::fs::read(path).unwrap_or_default();
    if !bytes[..bytes.len().min(512)].contains(&0) {
        text.extend(bytes);
        text.push(b'\n');
    }
}

/// Does a script of a shell use the time or a random number? Beside the number of a process it is for a temporary file's
/// name, as in what autoconf makes.
fn shell_tells_moment(text: &[u8]) -> bool {
    const WORDS: &[&[u8]] = &[b"EPOCH", b"SECONDS", b"RANDOM", b"%("];
    const FOR_NAMES: &[&[u8]] = &[b"$$-$", b"test -n \"$"];
    WORDS.iter().any(|word| {
        memchr::memmem::find_iter(text, word)
            .any(|at| *word != b"RANDOM" || !FOR_NAMES.iter().any(|before| text[..at].ends_with(before)))
    })
}

/// Scripts are searched for names up to this size. Bytes.
const MAX_SCRIPT: u64 = 4 << 20;

/// Compilers and their friends, by their names without a target before and a version behind.
fn names_one(text: &[u8], words: &[&str]) -> bool {
    words.iter().any(|word| memchr::memmem::find(text, word.as_bytes()).is_some())
}

pub(super) fn is_build_tool(name: &str) -> bool {
    const TOOLS: &str = "cc c++ gcc g++ clang clang++ cc1 cc1plus cpp collect2 lto lto1 wrapper ld ld.bfd ld.gold ld.lld \
        ld64.lld lld mold wild as ar ranlib nm strip objcopy objdump make gmake ninja cmake ctest meson pkg pkgconf config \
        nasm yasm install cp mv rm mkdir touch ln sed gawk mawk awk grep sort expr rustc cargo rustfmt protoc flatc bison \
        flex m4 tar gzip xz patch git find ls stat test env cat head tail tr cut wc xargs which dirname basename readlink \
        realpath chmod uniq diff cmp printf echo true tee";
    let is_one = |name: &str| TOOLS.split(' ').any(|tool| tool == name);
    // Git has its subcommands as programs.
    if name.starts_with("git-") {
        return true;
    }
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    is_one(name) || name.rsplit('-').next().is_some_and(is_one)
}

pub(super) fn is_interpreter(name: &str) -> bool {
    const NAMES: &str = "sh bash dash ash busybox zsh ksh mksh fish python pypy perl ruby node deno bun lua luajit php tclsh guile";
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    NAMES.split(' ').any(|known| known == name)
}
