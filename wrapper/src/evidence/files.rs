//! Files: what was read is an input, what was written is an output, and some of it is neither.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use kache_trace::How;

use super::places::{
    before_steps_up, is_noise, is_of_repository, is_special, of_system_state, plain, tells_moment, tokens,
    without_detours,
};
use super::processes::Whose;
use super::{Beside, Reader, Unproven};
use crate::prefixes::{AROUND, CARGO_HOME, HOME, HOST, MARK, PACKAGE, REPOSITORY, TARGET, WORKSPACE};
use crate::record::Input;

impl Reader<'_> {
    pub(super) fn accesses(&mut self) -> Result<(), Unproven> {
        let account = self.account;
        // What is made in the end may have been looked for before.
        let written = account.accesses.iter().filter(|a| matches!(a.how, How::Write | How::Mode));
        let written: HashSet<PathBuf> = written.map(|a| self.really(&a.path)).collect();
        let mut outside: BTreeMap<PathBuf, u32> = BTreeMap::new();
        for access in &account.accesses {
            let by_kache =
                self.object(access.object) == Whose::Kache || self.program(access.process) == Whose::Kache;
            if by_kache && !matches!(access.how, How::Write | How::Mode | How::Remove) {
                continue;
            }
            self.steps_up = access.path.components().any(|c| c == Component::ParentDir);
            let path = self.really(&access.path);
            if self.scene.state.iter().any(|state| path.starts_with(state)) {
                continue;
            }
            if access.how == How::Mode && self.sets_modes(access.process) {
                self.modes.insert(path.clone());
            }
            // Who it was decides whether it is an input.
            let who = (self.object(access.object), self.program(access.process), access.process == 0);
            if !self.seen.insert((path.clone(), access.how, who)) && access.how != How::Link {
                continue;
            }
            if matches!(access.how, How::Read | How::List) {
                self.looked_into.insert(path.clone());
            }
            if matches!(access.how, How::Write | How::Mode) {
                let was_read = self.looked_into.contains(&path);
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
            if self.has_gone(&path, process) {
                // Whether it could be made may have been the question.
                self.inputs.insert(Input::Absent(self.scene.prefixes.template_path(&path)));
            }
            self.wrote(&path, process)?;
        }
        for dir in std::mem::take(&mut self.detours) {
            if !self.scene.is_of_the_system(&dir)
                && !self.scene.in_toolchain(&dir)
                && !is_noise(&dir)
                && !self.made.contains(&dir)
                && !self.is_below_made(&dir)
                && dir.exists()
            {
                let template = self.scene.prefixes.template_path(&dir);
                // What lies in a target directory is not looked up through it.
                let in_target = self.scene.prefixes.in_target(&dir);
                self.inputs.insert(if in_target { Input::Exists(template) } else { Input::Real(template) });
            }
        }
        Ok(())
    }

    /// Something that was written, if it is still there.
    pub(super) fn wrote(&mut self, path: &Path, process: u32) -> Result<(), Unproven> {
        let Ok(meta) = self.scene.at(path).symlink_metadata() else { return Ok(()) };
        if is_special(path) {
            return Ok(());
        }
        if !(meta.is_file() || meta.is_dir() || meta.is_symlink()) {
            // Somebody at the other end got it, and would not the next time.
            return match self.is_jobserver(path) {
                true => Ok(()),
                false => Err(format!("it wrote {}, which is no file{}", self.shown(path), self.by(process))),
            };
        }
        // Nobody else is to get these from a cache.
        let special = if meta.is_file() { 0o6000 } else { 0o1000 };
        if meta.mode() & special != 0 && (self.is_own(path) || self.may_write(path)) {
            return Err(format!("it gave {} special permissions{}", self.shown(path), self.by(process)));
        }
        if self.is_own(path) {
            if self.modes.contains(path) && !meta.is_symlink() {
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

    /// Was it made where it is not to stay, and removed? Compilers and all who need room for a moment have names for that
    /// which nobody else has.
    fn has_gone(&self, path: &Path, process: u32) -> bool {
        let is_room = |dir: &str| path.starts_with(dir);
        !self.is_own(path)
            && !self.scene.prefixes.in_target(path)
            && !matches!(self.program(process), Whose::Toolchain | Whose::Kache)
            && (self.scene.prefixes.is_of_the_build(path)
                || !["/tmp", "/var/tmp", "/dev", "/proc", "/sys", "/run"].into_iter().any(is_room))
            && !path.parent().is_some_and(|dir| self.is_for_temporary_files(dir))
            && !self.is_below_made(path)
            && path.symlink_metadata().is_err()
    }

    /// The pipe by which make, cargo and compilers share processors.
    fn is_jobserver(&self, path: &Path) -> bool {
        path.metadata().is_ok_and(|meta| meta.file_type().is_fifo())
            && ["CARGO_MAKEFLAGS", "MAKEFLAGS", "MFLAGS"].iter().any(|name| {
                let flags = self.scene.inv.var(name).unwrap_or_default();
                occurs_as_path(flags.as_bytes(), path.as_os_str().as_bytes())
            })
    }

    /// The directory itself; what lies there is somebody's.
    fn is_for_temporary_files(&self, path: &Path) -> bool {
        let dirs = ["TMPDIR", "TMP", "TEMP"].iter().filter_map(|name| self.scene.inv.var(name));
        dirs.map(|dir| plain(&self.scene.inv.cwd.join(dir))).any(|dir| dir == path)
    }

    pub(super) fn is_own(&self, path: &Path) -> bool {
        path.starts_with(self.scene.own)
    }

    /// Is it beside the program in the profile's directory, or named in the arguments?
    pub(super) fn may_write(&self, path: &Path) -> bool {
        if let Some(profile) = self.scene.prefixes.get(TARGET)
            && let Ok(inner) = path.strip_prefix(profile)
        {
            let first = inner.components().next().map(Component::as_os_str);
            return first.is_some_and(|f| f != "build" && f != ".fingerprint" && f != "incremental");
        }
        !self.scene.is_script && self.is_named(path)
    }

    /// Does an argument name this path, or a directory above it that is not the whole checkout?
    pub(super) fn is_named(&self, path: &Path) -> bool {
        let cwd = &self.scene.inv.cwd;
        let above = path.ancestors().take_while(|dir| !cwd.starts_with(dir));
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

    pub(super) fn is_below_made(&self, path: &Path) -> bool {
        path.ancestors().skip(1).any(|dir| self.made.contains(dir))
    }

    pub(super) fn shown(&self, path: &Path) -> String {
        let root = [PACKAGE, WORKSPACE]
            .into_iter()
            .find_map(|t| path.strip_prefix(self.scene.prefixes.get(t)?).ok());
        root.unwrap_or(path).display().to_string()
    }

    pub(super) fn input(&mut self, how: How, path: &Path, object: u32, process: u32) -> Result<(), Unproven> {
        let scene = self.scene;
        // The compiler is in the key, and kache says nothing about what it runs.
        let is_first = how == How::Exec
            && (self.account.processes.first().is_some_and(|first| first.program == path)
                || matches!(scene.whose(path), Whose::Toolchain | Whose::Kache));
        if path == Path::new("/proc/self/cmdline") && self.object(object) == Whose::User {
            let argv = self.account.processes.get(process as usize).map(|p| p.argv.clone());
            argv.into_iter().flatten().for_each(|arg| self.ask_for_value(arg.as_bytes()));
            return Ok(());
        }
        // Compilers put their temporary files there.
        if how == How::Stat && self.is_for_temporary_files(path) {
            return Ok(());
        }
        // Runtimes of sanitizers read it as well, and ask for variables later.
        if path == Path::new("/proc/self/environ") && self.object(object) == Whose::User {
            return Err(format!("it read the whole environment{}", self.by(process)));
        }
        // Tools and runtimes look there to know how they are run; somebody's own code for what it says.
        let by_own = process == 0 || self.is_first_program(process);
        if how == How::Read && by_own && self.object(object) == Whose::User && tells_moment(path) {
            return Err(format!("it read {}", path.display()));
        }
        if scene.in_own_toolchain(path) || is_noise(path) || is_first || scene.known.iter().any(|k| k == path)
        {
            return Ok(());
        }
        let (object, program) = (self.object(object), self.program(process));
        let by_compiler = object != Whose::User && !(scene.is_script && process == 0);
        // How it finds its own libraries, and the loader them.
        if by_compiler
            && program == Whose::Toolchain
            && path.starts_with(scene.sysroot)
            && !matches!(how, How::Read | How::Exec)
        {
            return Ok(());
        }
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
            // In a checkout, it may be something else that a program looked for.
            let is_of_checkout = [PACKAGE, WORKSPACE, TARGET]
                .into_iter()
                .any(|token| scene.prefixes.get(token).is_some_and(|root| dir.starts_with(root)));
            if how != How::Exec && !is_of_checkout {
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
        if !in_target && matches!(how, How::Stat | How::List | How::Read) && self.is_behind_link(path) {
            // Whoever works in it, or has it open, finds everything else without the link.
            self.inputs.insert(Input::Real(template.clone()));
        }
        let input = match how {
            How::Read | How::Exec => {
                let Ok(meta) = path.metadata() else { return Ok(()) };
                if meta.is_dir() || self.is_jobserver(path) {
                    return Ok(());
                }
                if !meta.is_file() {
                    return Err(format!("it read {}, which is no file{}", path.display(), self.by(process)));
                }
                self.unchanged(path, &meta, in_target)?;
                Input::File(template.clone())
            }
            How::List => {
                // The compiler looks through all its search directories for crates.
                if object == Whose::Toolchain || scene.own_is_new && self.is_own(path) {
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
                    Ok(_) if self.is_jobserver(path) => return Ok(()),
                    Ok(_) => Input::Exists(template.clone()),
                    Err(_) => return Ok(()),
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
                if scene.is_of_the_system(path) || by_compiler {
                    return Ok(());
                }
                Input::Real(template.clone())
            }
            How::Absent => Input::Absent(template.clone()),
            How::Write | How::Mode | How::Remove => return Ok(()),
        };
        self.foreign |= self.is_foreign(&template, path) && !self.is_setting_of_cargo(path, process);
        self.inputs.insert(input);
        Ok(())
    }

    /// Is it a directory to which a link leads, other than those that lead to the checkout?
    fn is_behind_link(&self, path: &Path) -> bool {
        let prefixes = self.scene.prefixes;
        !self.scene.is_of_the_system(path)
            && !self.scene.in_toolchain(path)
            && path.is_dir()
            && path.canonicalize().is_ok_and(|real| {
                prefixes.normal(real.as_os_str()) != prefixes.normal(plain(path).as_os_str())
            })
    }

    /// A path in a directory that the checkout lies in, from there.
    pub(super) fn above_checkout(&self, path: &Path) -> Option<Vec<u8>> {
        let prefixes = self.scene.prefixes;
        let (_, root) = prefixes.place()?;
        if self.scene.is_of_the_system(path)
            || tokens(&prefixes.template_path(path)).iter().any(|t| *t != HOME)
        {
            return None;
        }
        let dir = root.ancestors().skip(1).find(|dir| path.starts_with(dir))?;
        Some(path.strip_prefix(dir).ok()?.as_os_str().as_bytes().to_vec())
    }

    /// A path that no token stands for means this very file, also for another checkout: then the result is for this
    /// checkout only, unless it is a file of the system, or lies so far away that nobody gets there from the checkout.
    pub(super) fn is_foreign(&self, template: &[u8], path: &Path) -> bool {
        let known = template.first() == Some(&MARK)
            && template.get(1).is_some_and(|t| ![HOME, AROUND].contains(&(*t as char)));
        !known
            && !self.scene.is_of_the_system(path)
            && !self.scene.in_toolchain(path)
            && !self.path_dirs.iter().any(|dir| path.parent() == Some(dir))
            && !self.is_apart(path)
    }

    /// Has it nothing above it but the root of the file system that what is built has, too?
    fn is_apart(&self, path: &Path) -> bool {
        let prefixes = self.scene.prefixes;
        let top = |path: &Path| path.components().nth(1).map(|c| c.as_os_str().to_owned());
        let roots = [PACKAGE, WORKSPACE, REPOSITORY, TARGET, CARGO_HOME].map(|token| prefixes.get(token));
        let roots = roots.into_iter().flatten().chain([self.scene.inv.cwd.as_path()]);
        !self.steps_up
            && roots.into_iter().all(|root| top(root) != top(path) && root.components().count() > 2)
    }

    /// Cargo, which macros ask for the workspace, also reads what its user has told git, by way of `HOME`.
    fn is_setting_of_cargo(&self, path: &Path, process: u32) -> bool {
        let home = self.scene.inv.var("HOME").map(Path::new);
        self.program(process) == Whose::Toolchain
            && self.name_of(process).is_some_and(|name| name == "cargo")
            && home
                .is_some_and(|home| [".gitconfig", ".config/git/config"].iter().any(|f| path == home.join(f)))
    }

    /// Something in a directory of crates: they are in the key by content, whichever of them the compiler looks at.
    pub(super) fn is_crate(&self, how: How, path: &Path) -> bool {
        let in_crates = path.parent().is_some_and(|dir| self.scene.crates.iter().any(|c| c == dir));
        match how {
            How::Read | How::Stat | How::Absent | How::Resolve | How::Link => {
                let name = path.file_name().unwrap_or_default().as_bytes();
                let is_library =
                    [&b".rlib"[..], b".rmeta", b".so", b".dylib", b".dll"].iter().any(|e| name.ends_with(e));
                in_crates && is_library || self.scene.crates.iter().any(|c| c == path)
            }
            _ => false,
        }
    }

    /// Did a file change after the action began? What a file system stamps by itself cannot be set back; the times of what
    /// the store shares between checkouts move with its links.
    pub(super) fn unchanged(
        &self,
        path: &Path,
        meta: &std::fs::Metadata,
        in_target: bool,
    ) -> Result<(), Unproven> {
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
    pub(super) fn really(&mut self, path: &Path) -> PathBuf {
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
        // What ends with a step up is a directory.
        let (dir, name) = match path.file_name() {
            Some(name) => (path.parent().unwrap_or(&path), Path::new(name)),
            None => (path.as_path(), Path::new("")),
        };
        let inner = |dir: &Path| plain(&dir.join(name));
        if let Some(known) = self.parents.get(dir) {
            return inner(known);
        }
        let direct = without_detours(dir);
        for left in before_steps_up(&path) {
            if !self.scene.inv.cwd.starts_with(&left) && !self.scene.own.starts_with(&left) {
                self.detours.insert(left);
            }
        }
        let found = inner(&direct);
        self.parents.insert(dir.to_owned(), direct);
        found
    }
}

/// Libraries that nearly every program loads.
pub(super) fn is_runtime(path: &Path) -> bool {
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
pub(super) fn occurs_as_path(text: &[u8], path: &[u8]) -> bool {
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.') || *b >= 0x80;
    !path.is_empty()
        && memchr::memmem::find_iter(text, path).any(|at| {
            let before = at.checked_sub(1).map(|i| text[i]);
            let after = text.get(at + path.len());
            !before.is_some_and(|b| is_name(&b) || b == b'/') && !after.is_some_and(is_name)
        })
}
