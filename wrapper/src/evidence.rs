//! From what an observer saw to what a result depends on, and what it consists of.
//!
//! This runs in the process that compiles, which may ask the kernel about any path: a daemon must not, of its own mounts.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use kache_trace::{Account, How, What};
use serde::{Deserialize, Serialize};

use crate::cache::{Invocation, Node};
use crate::prefixes::{AROUND, HOME, HOST, MARK, PACKAGE, Prefixes, TARGET, WORKSPACE};
use crate::record::{Input, MAX_INPUTS};
use crate::variables;

/// What an action was seen to depend on and to make.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub inputs: Vec<Input>,
    /// Tokens whose paths somebody asked for as a value: what became of it cannot be seen.
    pub asked: BTreeSet<char>,
    /// A compiler was told to write things in a form in which no path can be found.
    pub hidden: bool,
    /// What was written in the action's own directory and is there.
    pub own: Vec<PathBuf>,
    /// Permissions that were set to what is in its own directory.
    pub modes: BTreeMap<PathBuf, u16>,
    /// What was written elsewhere, where the action may write.
    pub beside: Vec<Beside>,
}

/// Something that an action left outside of its own directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    pub path: PathBuf,
    pub node: Node,
    /// Where a link leads.
    pub link: Vec<u8>,
}

impl Beside {
    /// `mode_set`: its permissions are not the umask's.
    fn of(path: &Path, meta: &std::fs::Metadata, mode_set: bool) -> Beside {
        let node = match () {
            () if meta.is_symlink() => Node::Link,
            () if meta.is_dir() => Node::Dir,
            () if mode_set => Node::Mode((meta.mode() & 0o777) as u16),
            () => Node::of_file(meta.mode()),
        };
        let link = std::fs::read_link(path).map(|to| to.into_os_string().into_vec()).unwrap_or_default();
        Beside { path: path.to_owned(), node, link }
    }
}

/// What is known of an action before its account is read.
pub struct Scene<'a> {
    pub inv: &'a Invocation,
    pub prefixes: &'a Prefixes,
    /// Of the toolchain, whose identity is in the key.
    pub sysroot: &'a Path,
    /// The directory that is the action's own to write in.
    pub own: &'a Path,
    /// Where the compiler really wrote instead.
    pub moved: Option<&'a Path>,
    /// Directories of crates: what is taken from them is in the key by content.
    pub crates: &'a [PathBuf],
    /// Files that are in the key by content.
    pub known: &'a [PathBuf],
    /// Values of paths bind the result to them.
    pub values_bind: bool,
    /// The first process is the user's own program, not a compiler.
    pub is_script: bool,
    /// Nanoseconds since the Unix epoch.
    pub started_ns: i64,
}

/// The reason why a result cannot be proven to belong to anything, in words.
type Unproven = String;

impl Scene<'_> {
    pub fn read(&self, account: &Account) -> Result<Evidence, Unproven> {
        if let Some(gap) = account.gaps.first() {
            return Err(gap.clone());
        }
        let mut reader = Reader {
            scene: self,
            account,
            objects: account.objects.iter().map(|o| self.whose(o)).collect(),
            programs: account.processes.iter().map(|p| self.whose(&p.program)).collect(),
            path_dirs: self.path_dirs(),
            parents: HashMap::new(),
            made: HashSet::new(),
            modes: HashSet::new(),
            seen: HashSet::new(),
            inputs: BTreeSet::new(),
            foreign: false,
            out: Evidence::default(),
        };
        reader.arguments();
        reader.calls()?;
        reader.accesses()?;
        reader.variables()?;
        let Reader { mut inputs, mut out, foreign, .. } = reader;
        if foreign {
            inputs.insert(Input::Bound(if self.prefixes.get(PACKAGE).is_some() {
                PACKAGE
            } else {
                WORKSPACE
            }));
        }
        if inputs.len() > MAX_INPUTS {
            return Err(format!("it has more than {MAX_INPUTS} inputs"));
        }
        out.inputs = inputs.into_iter().collect();
        Ok(out)
    }

    /// Where something of the action's own directory is right now.
    fn at(&self, path: &Path) -> PathBuf {
        match (self.moved, path.strip_prefix(self.own)) {
            (Some(moved), Ok(inner)) => moved.join(inner),
            _ => path.to_owned(),
        }
    }

    fn whose(&self, object: &Path) -> Whose {
        let is_rustup = object.file_name() == Some(OsStr::new("rustup"))
            || object
                .parent()
                .is_some_and(|dir| dir.join("rustup").exists() && same_file(object, &dir.join("rustup")));
        if object.starts_with(self.sysroot) || is_rustup || in_toolchain(object) {
            Whose::Toolchain
        } else if std::env::current_exe().is_ok_and(|own| own == object) {
            Whose::Kache
        } else if is_of_the_system(object) {
            Whose::System
        } else {
            Whose::User
        }
    }

    /// Directories of `PATH`, absolute.
    fn path_dirs(&self) -> HashSet<PathBuf> {
        let path = self.inv.var("PATH").unwrap_or_default();
        std::env::split_paths(path).map(|dir| plain(&self.inv.cwd.join(dir))).collect()
    }
}

/// Whose code it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    User,
    Toolchain,
    System,
    Kache,
}

struct Reader<'a> {
    scene: &'a Scene<'a>,
    account: &'a Account,
    objects: Vec<Whose>,
    programs: Vec<Whose>,
    path_dirs: HashSet<PathBuf>,
    /// Directories without links and detours.
    parents: HashMap<PathBuf, Option<PathBuf>>,
    /// What the action made itself.
    made: HashSet<PathBuf>,
    /// What was given permissions by somebody who does not go by the umask.
    modes: HashSet<PathBuf>,
    seen: HashSet<(PathBuf, How)>,
    inputs: BTreeSet<Input>,
    /// Something was read that may be another thing for another checkout.
    foreign: bool,
    out: Evidence,
}

impl Reader<'_> {
    fn object(&self, n: u32) -> Whose {
        self.objects.get(n as usize).copied().unwrap_or(Whose::User)
    }

    fn program(&self, n: u32) -> Whose {
        self.programs.get(n as usize).copied().unwrap_or(Whose::User)
    }

    /// What compilers were told.
    fn arguments(&mut self) {
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

    fn calls(&mut self) -> Result<(), Unproven> {
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

    fn by(&self, process: u32) -> String {
        match self.account.processes.get(process as usize) {
            Some(p) if process > 0 => {
                format!(" ({})", p.program.file_name().unwrap_or_default().to_string_lossy())
            }
            _ => String::new(),
        }
    }

    /// May the result of a process that looked at the clock or took a random number be another one each time? Compilers
    /// look at the clock for names of temporary files, shells and interpreters when they start.
    fn tells_moment(&self, process: u32) -> bool {
        let Some(p) = self.account.processes.get(process as usize) else { return true };
        if self.program(process) == Whose::Toolchain {
            return false;
        }
        let name = p.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if is_build_tool(&name) {
            return false;
        }
        if is_interpreter(&name) {
            const SHELL: &[&str] = &["EPOCH", "SECONDS", "RANDOM", "%("];
            const OTHER: &[&str] = &["time", "date", "random", "uuid", "Math."];
            let text = self.text_of(process);
            let words = if self.is_shell(process) { SHELL } else { OTHER };
            return words.iter().any(|word| memchr::memmem::find(&text, word.as_bytes()).is_some());
        }
        true
    }

    /// May a process that looks where it is tell others? What compilers and their friends make is searched for paths, and
    /// shells look at each start: their words are.
    fn tells_paths(&self, process: u32) -> bool {
        if process == 0 || self.is_first_program(process) {
            return false;
        }
        let Some(p) = self.account.processes.get(process as usize) else { return true };
        let name = p.program.file_name().unwrap_or_default().to_string_lossy();
        if self.program(process) == Whose::Toolchain {
            return name == "cargo";
        }
        matches!(&*name, "pwd" | "realpath" | "readlink" | "env")
            || !is_build_tool(&name) && !self.is_shell(process)
    }

    /// Is it a program that the action started, rather than the compiler or script itself?
    fn is_helper(&self, process: u32) -> bool {
        process > 0 && self.program(process) != Whose::Toolchain && !self.is_first_program(process)
    }

    /// Words and scripts that an interpreter was given.
    fn text_of(&self, process: u32) -> Vec<u8> {
        let mut text = Vec::new();
        let Some(p) = self.account.processes.get(process as usize) else { return text };
        for arg in &p.argv {
            text.extend_from_slice(arg.as_bytes());
            text.push(b'\n');
        }
        let read = self.account.accesses.iter().filter(|a| a.process == process);
        for access in read.filter(|a| matches!(a.how, How::Read | How::Exec)) {
            let path = &access.path;
            let is_small = || path.metadata().is_ok_and(|m| m.is_file() && m.len() <= MAX_SCRIPT);
            if !is_of_the_system(path) && !path.starts_with(self.scene.sysroot) && is_small() {
                let bytes = std::fs::read(path).unwrap_or_default();
                if !bytes[..bytes.len().min(512)].contains(&0) {
                    text.extend(bytes);
                    text.push(b'\n');
                }
            }
        }
        text
    }

    fn variables(&mut self) -> Result<(), Unproven> {
        let mut names: BTreeSet<String> = BTreeSet::new();
        for variable in &self.account.variables {
            let (object, program) = (self.object(variable.object), self.program(variable.process));
            if object == Whose::Kache || program == Whose::Kache {
                continue;
            }
            // What the loader does with that one is seen by where it looks.
            let Some(name) = variable.name.to_str().filter(|name| *name != "LD_LIBRARY_PATH") else {
                continue;
            };
            let is_own = object == Whose::User || self.is_interpreter(variable.process);
            if self.counts(name, is_own, variable.process == 0 && object == Whose::User) {
                names.insert(name.to_owned());
            }
            // What `PATH` is for is seen by where programs were looked for.
            if object == Whose::User
                && name != "PATH"
                && let Some(value) = self.scene.inv.var(name)
            {
                self.ask_for_value(value.as_bytes());
            }
        }
        for (n, process) in self.account.processes.iter().enumerate() {
            let (n, whose) = (n as u32, self.programs[n]);
            // What the first program itself may read is known from its words.
            let is_first = n == 0 && self.scene.is_script || self.is_first_program(n);
            if !process.whole_environment || is_first {
                continue;
            }
            match whose {
                Whose::Toolchain | Whose::Kache => {}
                Whose::User => {
                    let template = self.scene.prefixes.template_path(&process.program);
                    if !self.made.contains(&process.program) && process.program.exists() {
                        self.inputs.insert(Input::EnvNamedBy(template));
                    }
                }
                Whose::System => {
                    let text = self.text_of(n);
                    let has_table = self.is_interpreter(n) && !self.is_shell(n);
                    let mentioned =
                        variables::mentioned(&text, has_table).ok_or("it read the whole environment")?;
                    // A shell knows where it is by itself; what a script makes of that cannot be seen.
                    let is_own = |name: &str| name == "PWD" || name == "OLDPWD";
                    let names_it = |word: &[u8]| memchr::memmem::find(&text, word).is_some();
                    if self.scene.is_script && (names_it(b"PWD") || names_it(b"pwd")) {
                        self.ask(&self.scene.inv.cwd.clone());
                    }
                    let wanted: Vec<String> = mentioned
                        .into_iter()
                        .filter(|name| !is_own(name) && self.counts(name, true, false))
                        .collect();
                    names.extend(wanted);
                }
            }
        }
        self.inputs.extend(names.into_iter().map(Input::Env));
        Ok(())
    }

    /// Is a variable that was asked for an input? What `PATH` is for is seen by what was found there.
    fn counts(&self, name: &str, by_own_code: bool, for_itself: bool) -> bool {
        let os = OsStr::new(name);
        if variables::is_of_the_run(os) || self.scene.is_script && variables::is_argument_of_scripts(os) {
            return false;
        }
        if name == "RUSTC" && self.scene.is_script {
            // Which compiler that is, is in the key.
            return false;
        }
        if name == "PATH" {
            return for_itself && !self.scene.is_script;
        }
        by_own_code || !variables::is_of_session(os)
    }

    fn is_interpreter(&self, process: u32) -> bool {
        let program = self.account.processes.get(process as usize).map(|p| p.program.as_path());
        program.and_then(Path::file_name).is_some_and(|name| is_interpreter(&name.to_string_lossy()))
    }

    /// Is it a child of the script that has not become another program?
    fn is_first_program(&self, process: u32) -> bool {
        let program = |n: usize| self.account.processes.get(n).map(|p| &p.program);
        self.scene.is_script && program(process as usize) == program(0)
    }

    fn is_shell(&self, process: u32) -> bool {
        let program = self.account.processes.get(process as usize).map(|p| p.program.as_path());
        let name = program.and_then(Path::file_name).unwrap_or_default();
        name == "busybox" || name == "fish" || name.as_bytes().ends_with(b"sh")
    }

    /// Somebody has a path as a value.
    fn ask(&mut self, path: &Path) {
        self.ask_for_value(path.as_os_str().as_bytes());
    }

    fn ask_for_value(&mut self, value: &[u8]) {
        if !self.scene.values_bind {
            return;
        }
        self.out.asked.extend(tokens(&self.scene.prefixes.template(value)));
    }

    fn accesses(&mut self) -> Result<(), Unproven> {
        let account = self.account;
        // What is made in the end may have been looked for before.
        let written = account.accesses.iter().filter(|a| matches!(a.how, How::Write | How::Mode));
        let written: HashSet<PathBuf> = written.map(|a| self.really(&a.path)).collect();
        let mut outside: BTreeMap<PathBuf, u32> = BTreeMap::new();
        for access in &account.accesses {
            if self.object(access.object) == Whose::Kache || self.program(access.process) == Whose::Kache {
                if access.how == How::Exec {
                    continue;
                }
                if !matches!(access.how, How::Write | How::Mode | How::Remove) {
                    continue;
                }
            }
            let path = self.really(&access.path);
            if !self.seen.insert((path.clone(), access.how)) && access.how != How::Link {
                continue;
            }
            if access.how == How::Mode && self.sets_modes(access.process) {
                self.modes.insert(path.clone());
            }
            if matches!(access.how, How::Write | How::Mode) {
                let was_read =
                    [How::Read, How::List].iter().any(|how| self.seen.contains(&(path.clone(), *how)));
                if was_read && !self.made.contains(&path) && path.is_file() && !self.is_own(&path) {
                    return Err(format!("it changed {}, which it read", path.display()));
                }
                self.made.insert(path.clone());
                outside.entry(path).or_insert(access.process);
                continue;
            }
            if access.how == How::Remove {
                if !self.made.remove(&path)
                    && !self.is_own(&path)
                    && !path.exists()
                    && !self.is_below_made(&path)
                {
                    return Err(format!("it removed {}", self.shown(&path)));
                }
                continue;
            }
            if self.made.contains(&path) || self.is_below_made(&path) {
                continue;
            }
            if matches!(access.how, How::Absent | How::Stat) && written.contains(&path) {
                continue;
            }
            self.input(access.how, &path, access.object, access.process)?;
        }
        for (path, process) in outside {
            self.wrote(&path, process)?;
        }
        Ok(())
    }

    /// Something that was written, if it is still there.
    fn wrote(&mut self, path: &Path, process: u32) -> Result<(), Unproven> {
        let Ok(meta) = self.scene.at(path).symlink_metadata() else { return Ok(()) };
        if !(meta.is_file() || meta.is_dir() || meta.is_symlink()) || is_special(path) {
            return Ok(());
        }
        if self.is_own(path) {
            if self.modes.contains(path) && meta.is_file() {
                self.out.modes.insert(path.to_owned(), (meta.mode() & 0o777) as u16);
            }
            if path != self.scene.own {
                self.out.own.push(path.to_owned());
            }
            return Ok(());
        }
        let is_cache = |path: &Path| path.components().any(|c| c.as_os_str() == "__pycache__");
        if is_cache(path) || self.program(process) == Whose::Kache {
            return Ok(());
        }
        if self.may_write(path) {
            self.out.beside.push(Beside::of(path, &meta, self.modes.contains(path)));
            return Ok(());
        }
        // A directory that was made again changes nothing.
        if meta.is_dir() && std::fs::read_dir(path).is_ok_and(|mut d| d.next().is_some()) {
            return Ok(());
        }
        Err(format!("it wrote {}{}", self.shown(path), self.by(process)))
    }

    /// Linkers make programs executable as the umask has it.
    fn sets_modes(&self, process: u32) -> bool {
        let Some(p) = self.account.processes.get(process as usize) else { return true };
        let name = p.program.file_name().unwrap_or_default().to_string_lossy();
        self.program(process) != Whose::Toolchain
            && (!is_build_tool(&name) || matches!(&*name, "chmod" | "install" | "tar"))
    }

    fn is_own(&self, path: &Path) -> bool {
        path.starts_with(self.scene.own)
    }

    /// Is it beside the program in the profile's directory, or named in the arguments?
    fn may_write(&self, path: &Path) -> bool {
        if let Some(profile) = self.scene.prefixes.get(TARGET)
            && let Ok(inner) = path.strip_prefix(profile)
        {
            let first = inner.components().next().map(Component::as_os_str);
            return first.is_some_and(|f| f != "build" && f != ".fingerprint" && f != "incremental");
        }
        !self.scene.is_script && self.is_named(path)
    }

    /// Does an argument name this path, or a directory above it that is not the whole checkout?
    fn is_named(&self, path: &Path) -> bool {
        let cwd = &self.scene.inv.cwd;
        let above = path.ancestors().take_while(|dir| !cwd.starts_with(dir) && dir.parent().is_some());
        let mut spelled: Vec<PathBuf> = Vec::new();
        for dir in above {
            spelled.push(dir.to_owned());
            spelled.extend(dir.strip_prefix(cwd).ok().map(Path::to_owned));
        }
        self.scene
            .inv
            .argv
            .iter()
            .any(|arg| spelled.iter().any(|p| occurs_as_path(arg.as_bytes(), p.as_os_str().as_bytes())))
    }

    fn is_below_made(&self, path: &Path) -> bool {
        path.ancestors().skip(1).any(|dir| self.made.contains(dir))
    }

    fn shown(&self, path: &Path) -> String {
        let root = [PACKAGE, WORKSPACE]
            .into_iter()
            .find_map(|t| path.strip_prefix(self.scene.prefixes.get(t)?).ok());
        root.unwrap_or(path).display().to_string()
    }

    fn input(&mut self, how: How, path: &Path, object: u32, process: u32) -> Result<(), Unproven> {
        let scene = self.scene;
        let is_first = how == How::Exec && process == 0;
        if path.starts_with(scene.sysroot)
            || is_noise(path)
            || is_first
            || scene.known.iter().any(|k| k == path)
        {
            return Ok(());
        }
        let (object, program) = (self.object(object), self.program(process));
        let by_compiler = object != Whose::User && !(scene.is_script && process == 0);
        if by_compiler && self.is_crate(how, path) {
            return Ok(());
        }
        // What runs a compiler says nothing about what it makes.
        if matches!(how, How::Read | How::Absent) && program == Whose::Toolchain && is_runtime(path) {
            return Ok(());
        }
        if let Some(input) = of_system_state(path) {
            match input {
                Ok(input) if how == How::Read => drop(self.inputs.insert(input)),
                Err(()) if how == How::Read && program != Whose::Toolchain => {
                    return Err(format!("it read {}{}", path.display(), self.by(process)));
                }
                _ => {}
            }
            return Ok(());
        }
        if matches!(how, How::Read | How::List | How::Link) && is_of_repository(path) && path.exists() {
            return Err(format!("it read the state of a repository{}", self.by(process)));
        }
        // A program by its bare name: where it was looked for does not matter, but what is found.
        if matches!(how, How::Absent | How::Stat | How::Exec | How::Link | How::Resolve)
            && let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(OsStr::to_str))
            && self.path_dirs.contains(dir)
        {
            self.inputs.insert(Input::Program(name.to_owned()));
            if how != How::Exec {
                return Ok(());
            }
        }
        // Settings are looked for in one directory above the other.
        if how == How::Absent
            && let Some(name) = self.above_checkout(path)
        {
            self.inputs.insert(Input::NowhereAbove(name));
            return Ok(());
        }
        let template = scene.prefixes.template_path(path);
        let in_target = matches!(template.get(1), Some(&t) if template[0] == MARK && [TARGET, HOST].contains(&(t as char)));
        let input = match how {
            How::Read | How::Exec => {
                let Ok(meta) = path.metadata() else { return Ok(()) };
                if meta.is_dir() || meta.file_type().is_fifo() || meta.file_type().is_socket() {
                    return Ok(());
                }
                self.unchanged(path, &meta, in_target)?;
                Input::File(template.clone())
            }
            How::List => {
                if object == Whose::Toolchain {
                    // The compiler looks through all its search directories for crates.
                    return Ok(());
                }
                if let Ok(meta) = path.metadata() {
                    self.unchanged(path, &meta, in_target)?;
                }
                Input::Listing(template.clone())
            }
            How::Stat => {
                let is_around = scene.own.starts_with(path) || scene.inv.cwd.starts_with(path);
                match path.metadata() {
                    Ok(meta) if meta.is_dir() && (is_around || in_target) => return Ok(()),
                    Ok(meta) if meta.is_file() || meta.is_dir() => Input::Exists(template.clone()),
                    _ => return Ok(()),
                }
            }
            How::Link if path == Path::new("/proc/self/exe") => {
                let own = self.account.processes.get(process as usize).map(|p| p.program.clone());
                if let Some(own) = own.filter(|_| object == Whose::User) {
                    self.ask(&own);
                }
                return Ok(());
            }
            How::Link | How::Resolve if in_target => {
                if object == Whose::User {
                    self.ask(path);
                }
                return Ok(());
            }
            How::Link => Input::Link(template.clone()),
            How::Resolve => {
                if object == Whose::User {
                    self.ask(path);
                    if let Ok(real) = path.canonicalize() {
                        self.ask(&real);
                    }
                }
                if is_of_the_system(path) || by_compiler {
                    return Ok(());
                }
                Input::Real(template.clone())
            }
            How::Absent => Input::Absent(template.clone()),
            How::Write | How::Mode | How::Remove => return Ok(()),
        };
        self.foreign |= self.is_foreign(&template, path);
        self.inputs.insert(input);
        Ok(())
    }

    /// A path in a directory that the checkout lies in, from there.
    fn above_checkout(&self, path: &Path) -> Option<Vec<u8>> {
        let prefixes = self.scene.prefixes;
        let root = prefixes.get(PACKAGE).or(prefixes.get(WORKSPACE))?;
        if is_of_the_system(path) || tokens(&prefixes.template_path(path)).iter().any(|t| *t != HOME) {
            return None;
        }
        let dir = root.ancestors().skip(1).find(|dir| path.starts_with(dir))?;
        Some(path.strip_prefix(dir).ok()?.as_os_str().as_bytes().to_vec())
    }

    /// A path that no token stands for means this very file, also for another checkout: then the result is for this
    /// checkout only, unless it is a file of the system.
    fn is_foreign(&self, template: &[u8], path: &Path) -> bool {
        let known = template.first() == Some(&MARK)
            && template.get(1).is_some_and(|t| ![HOME, AROUND].contains(&(*t as char)));
        !known
            && !is_of_the_system(path)
            && !in_toolchain(path)
            && !self.path_dirs.iter().any(|dir| path.parent() == Some(dir))
    }

    /// Something in a directory of crates: they are in the key by content, whichever of them the compiler looks at.
    fn is_crate(&self, how: How, path: &Path) -> bool {
        let in_crates = path.parent().is_some_and(|dir| self.scene.crates.iter().any(|c| c == dir));
        match how {
            How::Read | How::Stat | How::Absent | How::Resolve | How::Link => {
                let name = path.file_name().unwrap_or_default().as_bytes();
                let is_library =
                    [&b".rlib"[..], b".rmeta", b".so", b".dylib", b".dll"].iter().any(|e| name.ends_with(e));
                in_crates && is_library || how != How::Read && self.scene.crates.iter().any(|c| c == path)
            }
            _ => false,
        }
    }

    /// Did a file change after the action began? What a file system stamps by itself cannot be set back; the times of what
    /// the store shares between checkouts move with its links.
    fn unchanged(&self, path: &Path, meta: &std::fs::Metadata, in_target: bool) -> Result<(), Unproven> {
        if is_of_the_system(path) {
            return Ok(());
        }
        let ns = |s: i64, ns: i64| s * 1_000_000_000 + ns;
        let changed = ns(meta.ctime(), meta.ctime_nsec());
        let modified = ns(meta.mtime(), meta.mtime_nsec());
        let started = self.scene.started_ns;
        let is_new = changed > started && (!in_target || modified > started && modified <= changed);
        if is_new && !(meta.is_dir() && in_target) {
            return Err(format!("{} changed meanwhile", self.shown(path)));
        }
        Ok(())
    }

    /// The path as the action's own directory has it, without detours.
    fn really(&mut self, path: &Path) -> PathBuf {
        let mut path = self.scene.prefixes.by_usual_name(path).unwrap_or_else(|| path.to_owned());
        if let Some(moved) = self.scene.moved
            && let Ok(inner) = path.strip_prefix(moved)
        {
            path = if inner.as_os_str().is_empty() {
                self.scene.own.to_owned()
            } else {
                self.scene.own.join(inner)
            };
        }
        if !path.components().any(|c| c == Component::ParentDir) {
            return path;
        }
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return plain(&path);
        };
        let known = self.parents.entry(dir.to_owned()).or_insert_with(|| {
            let direct = plain(dir);
            let real = std::fs::canonicalize(dir).ok()?;
            // With symbolic links they may be different after all.
            Some(if std::fs::canonicalize(&direct).ok().as_ref() == Some(&real) { direct } else { real })
        });
        known.clone().unwrap_or_else(|| plain(dir)).join(name)
    }
}

/// Scripts are searched for names up to this size. Bytes.
const MAX_SCRIPT: u64 = 1 << 20;

/// Tokens in a template.
pub fn tokens(template: &[u8]) -> BTreeSet<char> {
    let counts = |t: &char| ![HOME, AROUND].contains(t);
    memchr::memchr_iter(MARK, template)
        .filter(|at| template.get(at + 2) == Some(&MARK))
        .filter_map(|at| template.get(at + 1).map(|t| *t as char))
        .filter(|t| t.is_ascii_uppercase())
        .filter(counts)
        .collect()
}

/// Does it belong to a toolchain, whichever that is? These are the same for every checkout of a user.
fn in_toolchain(path: &Path) -> bool {
    path.ancestors().skip(1).any(|dir| dir.join("lib/rustlib").is_dir())
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// Without `.` and `..`, as written.
pub fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

/// The same for every checkout on a machine, and watched by its package manager.
pub fn is_of_the_system(path: &Path) -> bool {
    [
        "/usr",
        "/lib",
        "/lib64",
        "/bin",
        "/sbin",
        "/etc",
        "/opt",
        "/nix/store",
        "/run/current-system",
        "/var/lib",
    ]
    .iter()
    .any(|dir| path.starts_with(dir))
}

/// Devices and the like: what is written there is not left.
fn is_special(path: &Path) -> bool {
    ["/dev", "/proc", "/sys"].iter().any(|dir| path.starts_with(dir))
}

/// What programs look at to know how they are run: how many processors there are, where temporary files go.
fn is_noise(path: &Path) -> bool {
    const NOISE: &[&str] = &[
        "/dev",
        "/sys/devices/system/cpu",
        "/sys/devices/system/node",
        "/sys/fs/cgroup",
        "/sys/kernel/mm",
        "/proc/self",
        "/proc/thread-self",
        "/proc/stat",
        "/proc/meminfo",
        "/proc/mounts",
        "/proc/filesystems",
        "/proc/loadavg",
        "/proc/sys/vm",
        "/etc/ld.so.cache",
        "/etc/ld.so.preload",
        "/etc/passwd",
        "/etc/group",
        "/etc/nsswitch.conf",
        "/run",
        "/tmp",
        "/var/tmp",
    ];
    let is_own = |dir: &str| path == Path::new(dir);
    let is_tmp = |dir: &str| matches!(dir, "/tmp" | "/var/tmp" | "/dev" | "/run");
    if path == Path::new("/proc/self/exe") {
        return false;
    }
    let in_proc_of_process = path
        .strip_prefix("/proc")
        .ok()
        .and_then(|rest| rest.components().next())
        .is_some_and(|c| c.as_os_str().as_bytes().iter().all(u8::is_ascii_digit));
    in_proc_of_process
        || NOISE.iter().any(|dir| is_own(dir) || !(is_tmp(dir) && *dir != "/dev") && path.starts_with(dir))
}

/// Files of the kernel that tell of machine and moment: as an input, or (`Err`) as none that could be checked again.
fn of_system_state(path: &Path) -> Option<Result<Input, ()>> {
    if !path.starts_with("/proc") && !path.starts_with("/sys") {
        return None;
    }
    if path == Path::new("/proc/self/exe") {
        return None;
    }
    let text = path.to_str().unwrap_or_default();
    Some(match text {
        "/proc/cpuinfo" => Ok(Input::Cpu),
        "/proc/version"
        | "/proc/sys/kernel/osrelease"
        | "/proc/sys/kernel/hostname"
        | "/proc/sys/kernel/ostype"
        | "/proc/version_signature" => Ok(Input::Host),
        _ if text.starts_with("/sys/devices/virtual/dmi") => Ok(Input::Host),
        _ => Err(()),
    })
}

/// The inside of a version control's directory.
fn is_of_repository(path: &Path) -> bool {
    const DIRS: &[&str] = &[".git", ".hg", ".jj", ".svn", ".sl", ".pijul", "_darcs", ".bzr", ".fossil"];
    path.components().any(|c| DIRS.iter().any(|dir| c.as_os_str() == *dir))
}

fn is_local_service(socket: &str) -> bool {
    ["/var/run/nscd/", "/run/nscd/", "/run/systemd/", "/var/run/systemd/"]
        .iter()
        .any(|dir| socket.starts_with(dir))
}

/// Compilers and their friends, by their names without a target before and a version behind.
fn is_build_tool(name: &str) -> bool {
    const TOOLS: &str = "cc c++ gcc g++ clang clang++ cc1 cc1plus cpp collect2 lto lto1 wrapper ld ld.bfd ld.gold ld.lld \
        ld64.lld lld mold wild as ar ranlib nm strip objcopy objdump make gmake ninja cmake ctest meson pkg pkgconf config \
        nasm yasm install cp mv rm mkdir touch ln sed gawk mawk awk grep sort expr rustc cargo rustfmt protoc flatc bison \
        flex m4 tar gzip xz patch git find ls stat test env cat head tail tr cut wc xargs which dirname basename readlink \
        realpath chmod uniq diff cmp printf echo true tee";
    let is_one = |name: &str| TOOLS.split(' ').any(|tool| tool == name);
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    is_one(name) || name.rsplit('-').next().is_some_and(is_one)
}

fn is_interpreter(name: &str) -> bool {
    const NAMES: &str = "sh bash dash ash busybox zsh ksh mksh fish python pypy perl ruby node deno bun lua luajit php tclsh guile";
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    NAMES.split(' ').any(|known| known == name)
}

/// Libraries that nearly every program loads.
fn is_runtime(path: &Path) -> bool {
    const NAMES: &[&[u8]] = &[
        b"libc.so",
        b"libm.so",
        b"libdl.so",
        b"libpthread.so",
        b"librt.so",
        b"libgcc_s.so",
        b"libz.so",
        b"ld-",
    ];
    let name = path.file_name().unwrap_or_default().as_bytes();
    name.starts_with(b"libLLVM")
        || (NAMES.iter().any(|n| name.starts_with(n)) || name.starts_with(b"libstdc++.so"))
}

/// Does a path stand in a text, as a whole or as the head of a path?
fn occurs_as_path(text: &[u8], path: &[u8]) -> bool {
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.') || *b >= 0x80;
    !path.is_empty()
        && memchr::memmem::find_iter(text, path).any(|at| {
            let before = at.checked_sub(1).map(|i| text[i]);
            let after = text.get(at + path.len());
            !before.is_some_and(|b| is_name(&b) || b == b'/') && !after.is_some_and(is_name)
        })
}
