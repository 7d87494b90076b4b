//! Build-script runs as actions.
//!
//! Cargo runs a small launcher in place of a build script ([`has_launcher`]); the launcher asks kache. The key is the
//! script's program, what cargo tells it, and the compiler; the record is what it and all that it started were seen to
//! read; the entry is what it printed and what it left.
//!
//! docs/build-scripts.md tells it to users.

mod directives;
pub mod outputs;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::directives::Declared;
use crate::args::Compile;
use crate::build::{self, Build};
use crate::cache::{Cache, Invocation, InvocationKey, Result, Settings};
use crate::evidence::{self, is_of_the_system};
use crate::finish::{self, Left, Made, Seen};
use crate::hasher::Hasher;
use crate::lookup::{Action, Lookup};
use crate::objects::Habits;
use crate::prefixes::{AROUND, CARGO_HOME, HOME, HOST, MARK, PACKAGE, Prefixes, SYSROOT, TARGET, WORKSPACE};
use crate::record::{Input, InputRecord};
use crate::toolchain::{self, Toolchain};
use crate::{key, machine, variables};

pub const KIND: &str = "build-script-run";

/// Changes whenever the recipe, the records or the entries of scripts change meaning.
const RECIPE: &str = "script 3";

/// A file system stamps files with a clock that may be so much behind. Nanoseconds.
const TICK: i64 = 20_000_000;

/// A run of a build script.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Script {
    pub program: PathBuf,
    /// Crate name of the package.
    pub name: String,
    pub package: PathBuf,
    pub out_dir: PathBuf,
    pub prefixes: Prefixes,
    pub sysroot: PathBuf,
    /// Files of the compiler, whose content is in the key.
    pub programs: Vec<PathBuf>,
    /// A published version: nobody edits it, and what it makes of a path stands in its output.
    pub immutable: bool,
    /// Identity of the compiler that cargo names.
    toolchain: [u8; 32],
}

/// Will the output of this compile be run by cargo as a build script, and kache be asked?
pub fn has_launcher(inv: &Invocation, compile: &Compile, settings: &Settings) -> bool {
    let in_build_dir = compile.out_dir.components().any(|c| c.as_os_str() == "build");
    settings.build_scripts
        && compile.is_build_script()
        && compile.emits("link")
        // Else it is a program of the user's that happens to have such a name.
        && inv.var("CARGO_BIN_NAME").is_none()
        && in_build_dir
        && !is_excluded(inv, settings)
}

/// Where the script's own program is when a launcher has its place.
pub fn real_program(launcher: &Path) -> PathBuf {
    let mut name = launcher.file_name().unwrap_or_default().to_owned();
    name.push(".real");
    launcher.with_file_name(name)
}

/// The program that a compile of a build script makes.
pub fn program(compile: &Compile) -> PathBuf {
    compile.out_dir.join(compile.stem())
}

pub fn is_excluded(inv: &Invocation, settings: &Settings) -> bool {
    let package = inv.var("CARGO_PKG_NAME").unwrap_or_default().to_string_lossy();
    let same = |a: &str, b: &str| a.replace('-', "_") == b.replace('-', "_");
    settings.build_scripts_exclude.iter().any(|e| same(e, &package))
}

/// Name of the package as events have it.
pub fn name(inv: &Invocation) -> String {
    inv.var("CARGO_PKG_NAME").unwrap_or_default().to_string_lossy().replace('-', "_")
}

/// The action of a run. `inv.argv` is the script's program.
pub(crate) fn action(
    cache: &dyn Cache,
    inv: &Invocation,
    settings: &Settings,
) -> Result<std::result::Result<Action, Lookup>> {
    let pass = |reason: &str| Ok(Err(Lookup::Pass { reason: reason.to_owned() }));
    if !settings.build_scripts {
        return pass("build scripts always run (build_scripts = false)");
    }
    if is_excluded(inv, settings) {
        return pass("excluded (build_scripts_exclude)");
    }
    let Some(script) = Script::of(cache, inv)? else { return pass("not run by cargo") };
    let Some(program) = cache.hash_file(&script.program)? else { return pass("its program is missing") };
    let habits = Habits::of(cache, &script.program)?;
    let mut h = Hasher::new("script");
    script.add_to_key(&mut h, inv, settings, &program);
    Ok(Ok(Action::Script(Box::new(script), InvocationKey(h.finish()), habits)))
}

/// Which build a run of a script is part of: see [`build::of`].
pub fn build(cache: &dyn Cache, inv: &Invocation) -> Result<Option<Build>> {
    let Some(out_dir) = inv.var("OUT_DIR").map(Path::new) else { return Ok(None) };
    let Some(profile) = up(out_dir, 3) else { return Ok(None) };
    // cargo names the target in the path when it was named on the command line.
    let target = inv.var("TARGET").filter(|t| up(profile, 1).and_then(Path::file_name) == Some(t));
    let toolchain = toolchain_of(cache, inv)?;
    build::named(cache, inv, profile, &toolchain.identity, target)
}

fn toolchain_of(cache: &dyn Cache, inv: &Invocation) -> Result<Toolchain> {
    let rustc = inv.var("RUSTC").unwrap_or(OsStr::new("rustc")).to_owned();
    toolchain::of(cache, inv, &[rustc], None, inv.var("TARGET"))
}

/// Can a result be of use elsewhere? It cannot when this checkout's paths are in it.
pub fn is_for_all(record: &[u8]) -> bool {
    let bound = |i: &Input| matches!(i, Input::Bound(token) if !matches!(*token, CARGO_HOME | SYSROOT));
    InputRecord::from_bytes(record).is_some_and(|record| !record.0.iter().any(bound))
}

/// Where a script runs.
pub(crate) struct Directories<'a> {
    /// The profile's directory in the target directory, and the one where the script's program is.
    pub profile: &'a Path,
    pub host: &'a Path,
    pub cargo_home: Option<&'a Path>,
    pub package: &'a Path,
    /// The user's.
    pub home: Option<&'a Path>,
    pub sysroot: &'a Path,
}

impl Directories<'_> {
    pub fn prefixes(&self, cache: &dyn Cache) -> Result<Prefixes> {
        let mut prefixes = Prefixes::default();
        prefixes.add(TARGET, self.profile, "");
        prefixes.add_alias(TARGET);
        if self.host != self.profile {
            prefixes.add(HOST, self.host, "");
        }
        if let Some(home) = self.cargo_home {
            prefixes.add(CARGO_HOME, home, "");
            prefixes.add_alias(CARGO_HOME);
        }
        let in_home = prefixes.iter().any(|p| p.token == CARGO_HOME && self.package.starts_with(&p.path));
        prefixes.add(PACKAGE, self.package, "");
        if !in_home {
            let root = workspace(cache, self.package)?.unwrap_or_else(|| self.package.to_owned());
            if let Some(around) = root.parent() {
                prefixes.add(AROUND, around, "");
            }
            if root != self.package {
                prefixes.add(WORKSPACE, &root, "");
            }
        }
        if let Some(home) = self.home.filter(|home| prefixes.iter().all(|p| p.path != *home)) {
            prefixes.add(HOME, home, "");
        }
        prefixes.add(SYSROOT, self.sysroot, "");
        Ok(prefixes)
    }
}

impl Script {
    /// `None` when this is not cargo's run of a build script.
    fn of(cache: &dyn Cache, inv: &Invocation) -> Result<Option<Script>> {
        let path = |name: &str| inv.var(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let (Some(out_dir), Some(package)) = (path("OUT_DIR"), path("CARGO_MANIFEST_DIR")) else {
            return Ok(None);
        };
        let Some(program) = inv.argv.first().map(PathBuf::from) else { return Ok(None) };
        let (Some(target), Some(host)) = (up(&out_dir, 3), up(&program, 3)) else { return Ok(None) };
        let compiler = toolchain_of(cache, inv)?;
        let rustc = inv.var("RUSTC").map(OsStr::to_owned);
        let programs = key::programs(&compiler, inv, rustc.as_slice());
        let sysroot = compiler.about.sysroot;
        let cargo_home = key::cargo_home(inv);
        let dirs = Directories {
            profile: target,
            host,
            cargo_home: cargo_home.as_deref(),
            package: &package,
            home: inv.var("HOME").map(Path::new),
            sysroot: &sysroot,
        };
        let prefixes = dirs.prefixes(cache)?;
        let immutable = prefixes.iter().filter(|p| p.token == CARGO_HOME).any(|home| {
            ["registry/src", "git/checkouts"].iter().any(|dir| package.starts_with(home.path.join(dir)))
        });
        Ok(Some(Script {
            program,
            name: name(inv),
            package,
            out_dir,
            prefixes,
            sysroot,
            programs,
            immutable,
            toolchain: compiler.identity,
        }))
    }

    fn add_to_key(&self, h: &mut Hasher, inv: &Invocation, settings: &Settings, program: &[u8; 32]) {
        h.field("recipe", key::RECIPE.as_bytes()).field("script recipe", RECIPE.as_bytes());
        h.field("salt", settings.key_salt.as_bytes());
        h.field("script", program);
        h.field("toolchain", &self.toolchain);
        let prefixes = self.prefixes.known();
        for prefix in prefixes.by_token() {
            h.field("token", &[prefix.token as u8]);
            if !settings.path_remap {
                h.field("path", prefix.path.as_os_str().as_bytes());
            }
        }
        // The kernel tells it without symbolic links.
        let is_package = std::fs::canonicalize(&self.package).is_ok_and(|package| package == inv.cwd);
        let cwd = if is_package { &self.package } else { &inv.cwd };
        h.field("cwd", &prefixes.normal(cwd.as_os_str()));
        self.add_places(h);
        let mut told: Vec<_> =
            inv.env.iter().filter(|(name, _)| variables::is_argument_of_scripts(name)).collect();
        told.sort();
        for (name, value) in told {
            h.field("env", name.as_bytes()).field("value", &prefixes.normal(value));
        }
        key::wanted_variables(h, inv, settings, &prefixes);
        key::loader_variables(h, inv, &prefixes);
    }

    /// Why the key is another one than the last time, in words.
    pub(crate) fn explain(
        &self,
        cache: &dyn Cache,
        inv: &Invocation,
        settings: &Settings,
    ) -> Result<Vec<String>> {
        let program = cache.hash_file(&self.program)?.unwrap_or_default();
        let mut h = Hasher::tracing("script");
        self.add_to_key(&mut h, inv, settings, &program);
        key::explain_parts(cache, &self.name, KIND, h.parts())
    }

    /// Where package, target and output lie to each other, so that relative paths mean the same.
    fn add_places(&self, h: &mut Hasher) {
        let mut outer = self.prefixes.known();
        outer.remove(PACKAGE);
        let inside = |h: &mut Hasher, tag: &str, path: &Path, prefixes: &Prefixes| {
            let template = prefixes.template_path(path);
            let known = template.contains(&MARK);
            h.field(tag, if known { &template } else { b"elsewhere" });
        };
        inside(h, "package is at", &self.package, &outer);
        inside(h, "output is at", &self.out_dir, &self.prefixes);
        outer.remove(TARGET);
        if self.prefixes.get(WORKSPACE).is_none() {
            outer.add(WORKSPACE, &self.package, "");
        }
        if let Some(target) = self.prefixes.get(TARGET) {
            inside(h, "target is at", target, &outer);
        }
    }

    /// Adds what a script declared to what it was seen to read. `Err`: it asked to be run always.
    fn add_declared(
        &self,
        cache: &dyn Cache,
        declared: &Declared,
        record: &mut InputRecord,
    ) -> Result<std::result::Result<(), String>> {
        record.0.extend(declared.env.iter().cloned().map(Input::Env));
        let mut foreign = false;
        for file in &declared.files {
            let spelled = self.package.join(file);
            let path = evidence::declared(&self.prefixes, &spelled);
            let links = evidence::before_steps_up(&spelled).filter(|dir| !self.prefixes.in_target(dir));
            record.0.extend(links.map(|dir| Input::Real(self.prefixes.template_path(&dir))));
            let template = self.prefixes.template_path(&path);
            let known = template.first() == Some(&MARK) && !matches!(template[1] as char, HOME | AROUND);
            foreign |= !known && !is_of_the_system(&self.prefixes, &path);
            record.0.push(match cache.stat(&path)? {
                None => {
                    return Ok(Err(format!("it asks to be run always ({} is not there)", file.display())));
                }
                Some(id) if id.is_dir => Input::Tree(template),
                Some(_) => Input::File(template),
            });
        }
        if foreign {
            record.0.push(Input::Bound(PACKAGE));
        }
        Ok(Ok(()))
    }

    /// What a successful run made; `Err`: why it is not stored.
    pub(crate) fn made(
        &self,
        cache: &dyn Cache,
        _inv: &Invocation,
        left: &Left,
    ) -> Result<std::result::Result<Made, String>> {
        let ran = &left.ran;
        let evidence = match &left.seen {
            Seen::Evidence(evidence) => evidence,
            Seen::Unproven(why) => return Ok(Err(why.clone())),
            Seen::Nothing => return Ok(Err("build scripts cannot be observed here".into())),
        };
        let declared = Declared::read(&ran.stdout);
        if declared.failed {
            return Ok(Err("it reported an error".into()));
        }
        if left.was_used && left.found.iter().any(|f| f.changed_ns < ran.started_ns - TICK) {
            return Ok(Err("OUT_DIR holds files of an earlier run".into()));
        }
        let mut record = InputRecord::new(evidence.inputs.iter().cloned());
        if let Err(why) = self.add_declared(cache, &declared, &mut record)? {
            return Ok(Err(why));
        }
        let found = outputs::with_modes(&left.found, &evidence.modes, &self.out_dir);
        let mut stored = outputs::store(cache, &self.out_dir, &found, &self.prefixes, !self.immutable)?;
        stored.bound.extend(self.quoted_paths(cache, &record)?);
        let stdout = outputs::template(&ran.stdout, &self.prefixes, &mut stored.bound);
        let stderr = outputs::template(&ran.stderr, &self.prefixes, &mut stored.bound);
        let needles: Vec<(char, &[u8])> =
            self.prefixes.iter().map(|p| (p.token, p.path.as_os_str().as_bytes())).collect();
        finish::beside(
            cache,
            &self.prefixes,
            &evidence.beside,
            &needles,
            &mut stored.outputs,
            &mut stored.texts,
            &mut stored.bound,
        )?;
        for prefix in self.prefixes.iter() {
            // Such a path may have been written in another form: quoted, escaped, encoded.
            let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._-+@".contains(b);
            if evidence.hidden || !prefix.path.as_os_str().as_bytes().iter().all(plain) {
                stored.bound.insert(prefix.token);
            }
        }
        if stored.bound.contains(&HOME) || stored.bound.contains(&AROUND) {
            stored.bound.insert(PACKAGE);
        }
        record.0.extend(stored.bound.into_iter().map(Input::Bound));
        Ok(Ok(Made {
            record: InputRecord::new(record.0),
            asked: evidence.asked.clone(),
            outputs: stored.outputs,
            texts: stored.texts,
            stdout,
            stderr,
        }))
    }

    /// Paths of this checkout that stand in files which it read: what it left may have them from there, and then they mean
    /// the same everywhere.
    fn quoted_paths(&self, cache: &dyn Cache, record: &InputRecord) -> Result<BTreeSet<char>> {
        const MAX_TEXT: u64 = 1 << 20;
        let mut found = BTreeSet::new();
        for path in record.files(&self.prefixes) {
            let is_source = !is_of_the_system(&self.prefixes, &path) && !self.prefixes.in_target(&path);
            if !is_source || cache.stat(&path)?.is_none_or(|id| id.is_dir || id.size > MAX_TEXT) {
                continue;
            }
            let text = cache.read(&path)?.unwrap_or_default();
            let has = |dir: &Path| memchr::memmem::find(&text, dir.as_os_str().as_bytes()).is_some();
            found.extend(self.prefixes.iter().filter(|p| !p.is_vague() && has(&p.path)).map(|p| p.token));
        }
        Ok(found)
    }

    /// Remembers that a run was stored, and whether what it left may be taken to other machines.
    pub(crate) fn note_run(&self, cache: &dyn Cache, stdout: &[u8], record: &[u8]) -> Result<()> {
        let Some(program) = cache.hash_file(&self.program)? else { return Ok(()) };
        cache.set_fact(machine::PROVEN, &program, &[])?;
        let ties = |input: &Input| match input {
            Input::Cpu | Input::Host => true,
            Input::Bound(token) => ![TARGET, HOST, WORKSPACE, PACKAGE, CARGO_HOME].contains(token),
            _ => false,
        };
        if InputRecord::from_bytes(record).is_none_or(|record| record.0.iter().any(ties)) {
            return Ok(());
        }
        cache.set_fact(machine::RAN, &machine::run_name(&program, blake3::hash(stdout).as_bytes()), &[])
    }

    /// See [`machine::run_name`].
    pub(crate) fn run_name(&self, cache: &dyn Cache, stdout: &[u8]) -> Result<Option<[u8; 32]>> {
        let program = cache.hash_file(&self.program)?;
        Ok(program.map(|program| machine::run_name(&program, blake3::hash(stdout).as_bytes())))
    }

    /// Does it count for this script when somebody has a path as a value? What a published script makes of one stands in
    /// what it prints and writes.
    pub fn values_bind(&self) -> bool {
        !self.immutable
    }

    /// Directories where crates and scripts of this build lie.
    pub fn crates(&self) -> Vec<PathBuf> {
        let profiles: BTreeSet<&Path> = [TARGET, HOST].iter().filter_map(|t| self.prefixes.get(*t)).collect();
        profiles.into_iter().map(|dir| dir.join("deps")).collect()
    }
}

fn up(path: &Path, steps: usize) -> Option<&Path> {
    path.ancestors().nth(steps)
}

/// The checkout that a package belongs to: its repository, or its workspace.
pub(crate) fn workspace(cache: &dyn Cache, package: &Path) -> Result<Option<PathBuf>> {
    let mut locked = None;
    for dir in package.ancestors() {
        if cache.stat(&dir.join(".git"))?.is_some() {
            return Ok(Some(dir.to_owned()));
        }
        if cache.stat(&dir.join("Cargo.lock"))?.is_some() {
            locked = Some(dir.to_owned());
        }
    }
    Ok(locked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launchers_are_for_build_scripts_only() {
        let compile = |name: &str, dir: &str| {
            let argv = [
                "rustc",
                "--crate-name",
                name,
                "build.rs",
                "--crate-type",
                "bin",
                "--emit=dep-info,link",
                "--error-format=json",
                "--json=artifacts",
                "-Cextra-filename=-1",
                "--out-dir",
                dir,
            ];
            let argv = argv.iter().map(std::ffi::OsString::from).collect();
            let inv =
                Invocation { argv, cwd: "/w".into(), env: vec![("CARGO_PKG_NAME".into(), "a-b".into())] };
            (*crate::args::parse(&inv, &|_| None).unwrap(), inv)
        };
        let (script, mut inv) = compile("build_script_build", "/w/target/debug/build/a-b-1");
        let mut settings = Settings::default();
        assert!(has_launcher(&inv, &script, &settings));
        assert_eq!(
            real_program(&program(&script)),
            Path::new("/w/target/debug/build/a-b-1/build_script_build-1.real")
        );
        settings.build_scripts_exclude = vec!["a_b".into()];
        assert!(!has_launcher(&inv, &script, &settings));
        settings = Settings { build_scripts: false, ..Settings::default() };
        assert!(!has_launcher(&inv, &script, &settings));
        inv.env.push(("CARGO_BIN_NAME".into(), "build_script_x".into()));
        assert!(!has_launcher(&inv, &script, &Settings::default()));
        let (bin, inv) = compile("app", "/w/target/debug/build/a-b-1");
        assert!(!has_launcher(&inv, &bin, &Settings::default()));
    }
}
