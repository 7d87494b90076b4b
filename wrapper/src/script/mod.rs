//! Build-script runs as actions.
//!
//! Cargo runs a small launcher in place of a build script ([`has_launcher`]); the launcher asks kache. The key is the
//! script's program, what cargo tells it, the environment it may read, and the tools it may run; the record is the
//! inputs that it declared in an earlier run; the entry is what it printed and what it left in `OUT_DIR`.
//!
//! docs/build-scripts.md tells it to users.

mod directives;
mod environment;
pub mod outputs;
mod tools;
pub(crate) mod tree;
mod watch;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use memchr::memmem;
use serde::{Deserialize, Serialize};

use self::directives::Declared;
pub(crate) use self::environment::{is_of_user, may_be_read};
use self::outputs::{After, Found};
use self::tools::Habits;
pub(crate) use self::tools::all as all_tools;
use self::tree::Which;
pub use self::watch::Watch;
use crate::args::Compile;
use crate::build::{self, Build};
use crate::cache::{Cache, Entry, EntryKey, Invocation, InvocationKey, Publication, Result, Settings};
use crate::compile::Ran;
use crate::finish::Finished;
use crate::hasher::Hasher;
use crate::lookup::{Answer, Hit, Wanted};
use crate::prefixes::{AROUND, CARGO_HOME, HOME, HOST, MARK, PACKAGE, Prefixes, SYSROOT, TARGET, WORKSPACE};
use crate::record::{self, Input, InputRecord};
use crate::toolchain::{self, Toolchain};
use crate::{key, machine, natives};

pub const KIND: &str = "build-script-run";

/// Changes whenever the recipe, the records or the entries of scripts change meaning.
const RECIPE: &str = "script 2";

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
    /// A published version: its files do not change under this path.
    immutable: bool,
    /// Identity of the compiler that cargo names.
    toolchain: [u8; 32],
}

#[derive(Debug, Serialize, Deserialize)]
pub enum ScriptLookup {
    Pass {
        reason: String,
    },
    /// The files are in place.
    Hit {
        hit: Hit,
        after: Vec<After>,
        /// Everything in `OUT_DIR` that belongs to the result.
        tree: Vec<PathBuf>,
    },
    Miss(Box<ScriptPlan>),
}

/// How to store the result of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ScriptPlan {
    pub script: Script,
    pub invocation: InvocationKey,
    records: usize,
    missing: Vec<EntryKey>,
    pub reason: String,
}

/// Will the output of this compile be run by cargo as a build script, and kache be asked?
pub fn has_launcher(inv: &Invocation, compile: &Compile, settings: &Settings) -> bool {
    let in_build_dir = compile.out_dir.components().any(|c| c.as_os_str() == "build");
    settings.build_scripts
        && compile.is_build_script()
        && compile.emits("link")
        // A program of a user with such a name.
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

/// Does a script with this program ask git, as far as its words tell?
pub fn reads_git(program: &[u8]) -> bool {
    Habits::read(program).git
}

/// The same of a program that has been run, by its hash; `None` if it has not.
pub fn is_known_to_read_git(cache: &dyn Cache, program: &[u8; 32]) -> Option<bool> {
    Habits::known(cache, program).ok()?.map(|habits| habits.git)
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

/// Looks a run up and restores it when its result is known. `inv.argv` is the script's program.
pub fn lookup(cache: &dyn Cache, inv: &Invocation, settings: &Settings) -> Result<ScriptLookup> {
    let pass = |reason: &str| Ok(ScriptLookup::Pass { reason: reason.to_owned() });
    if !settings.build_scripts {
        return pass("build scripts always run (build_scripts = false)");
    }
    if is_excluded(inv, settings) {
        return pass("excluded (build_scripts_exclude)");
    }
    let Some(script) = Script::of(cache, inv)? else { return pass("not run by cargo") };
    let Some(hash) = cache.hash_file(&script.program)? else { return pass("its program is missing") };
    let habits = Habits::of(cache, &script.program, &hash)?;
    if habits.git && !script.immutable {
        return pass("it reads the state of a git repository");
    }
    if habits.machine && natives::machine().is_none() {
        return pass("it looks at the machine, and what that is like is not known here");
    }
    let mut h = Hasher::new("script");
    script.add_to_key(&mut h, cache, inv, settings, &hash, &habits)?;
    let invocation = InvocationKey(h.finish());
    let records = cache.records(&invocation)?;
    let mut missing = Vec::new();
    for bytes in &records {
        let Some(record) = InputRecord::from_bytes(bytes) else { continue };
        let Some(key) = record.entry_key(cache, inv, &invocation, &script.prefixes, None)? else { continue };
        match cache.entry(&key)? {
            None => missing.push(key),
            Some(entry) => {
                if let Some(hit) = script.restore(cache, key, entry) {
                    if let ScriptLookup::Hit { hit, .. } = &hit
                        && !habits.depend_on_machine(inv)
                        && !machine::is_bound(bytes)
                    {
                        note_run(cache, &script.program, &hit.stdout)?;
                    }
                    return Ok(hit);
                }
            }
        }
    }
    let mut h = Hasher::tracing("script");
    script.add_to_key(&mut h, cache, inv, settings, &hash, &habits)?;
    let why = key::explain_parts(cache, &script.name, KIND, h.parts())?;
    let reason = match records.is_empty() {
        true if why.is_empty() => "not seen before".to_owned(),
        true => why.join(", "),
        false => record::explain(cache, inv, &invocation, &script.prefixes)?,
    };
    Ok(ScriptLookup::Miss(Box::new(ScriptPlan {
        script,
        invocation,
        records: records.len(),
        missing,
        reason,
    })))
}

impl Answer for ScriptLookup {
    fn hit(&self) -> Option<&Hit> {
        if let ScriptLookup::Hit { hit, .. } = self { Some(hit) } else { None }
    }

    fn wanted(&self) -> Option<&dyn Wanted> {
        if let ScriptLookup::Miss(plan) = self { Some(&**plan) } else { None }
    }

    fn reads(&self, _: &dyn Cache) -> Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

impl Wanted for ScriptPlan {
    fn name(&self) -> [u8; 32] {
        let mut h = Hasher::new("script claim");
        h.field("invocation", &self.invocation.0);
        for key in &self.missing {
            h.field("missing", &key.0);
        }
        h.finish()
    }

    fn invocation(&self) -> Option<InvocationKey> {
        Some(self.invocation)
    }

    fn records(&self) -> usize {
        self.records
    }

    fn missing(&self) -> &[EntryKey] {
        &self.missing
    }

    fn entry_key(&self, cache: &dyn Cache, inv: &Invocation, record: &[u8]) -> Result<Option<EntryKey>> {
        let Some(record) = InputRecord::from_bytes(record) else { return Ok(None) };
        record.entry_key(cache, inv, &self.invocation, &self.script.prefixes, None)
    }
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

impl Script {
    /// `None` when this is not cargo's run of a build script.
    fn of(cache: &dyn Cache, inv: &Invocation) -> Result<Option<Script>> {
        let path = |name: &str| inv.var(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let (Some(out_dir), Some(package)) = (path("OUT_DIR"), path("CARGO_MANIFEST_DIR")) else {
            return Ok(None);
        };
        let Some(program) = inv.argv.first().map(PathBuf::from) else { return Ok(None) };
        let (Some(target), Some(host)) = (up(&out_dir, 3), up(&program, 3)) else { return Ok(None) };
        let mut prefixes = Prefixes::default();
        prefixes.add(TARGET, target, "");
        if host != target {
            prefixes.add(HOST, host, "");
        }
        let home = key::cargo_home(inv);
        let in_home = home.as_deref().is_some_and(|home| package.starts_with(home));
        let immutable = home.as_deref().is_some_and(|home| {
            package.starts_with(home.join("registry/src")) || package.starts_with(home.join("git/checkouts"))
        });
        if let Some(home) = &home {
            prefixes.add(CARGO_HOME, home, "");
        }
        prefixes.add(PACKAGE, &package, "");
        if !in_home {
            let root = workspace(cache, &package)?.unwrap_or_else(|| package.clone());
            if let Some(around) = root.parent() {
                prefixes.add(AROUND, around, "");
            }
            if root != package {
                prefixes.add(WORKSPACE, &root, "");
            }
        }
        if let Some(home) = inv.var("HOME").map(Path::new).filter(|h| prefixes.iter().all(|p| p.path != **h))
        {
            prefixes.add(HOME, home, "");
        }
        let toolchain = toolchain_of(cache, inv)?;
        prefixes.add(SYSROOT, &toolchain.about.sysroot, "");
        let toolchain = toolchain.identity;
        Ok(Some(Script { program, name: name(inv), package, out_dir, prefixes, immutable, toolchain }))
    }

    fn add_to_key(
        &self,
        h: &mut Hasher,
        cache: &dyn Cache,
        inv: &Invocation,
        settings: &Settings,
        program: &[u8; 32],
        habits: &Habits,
    ) -> Result<()> {
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
        h.field("cwd", &prefixes.normal(inv.cwd.as_os_str()));
        self.add_places(h);
        environment::add_to_key(h, cache, inv, &self.program, program, &prefixes)?;
        for name in &settings.key_env_vars {
            h.field("key-env", name.as_bytes());
            match inv.var(name) {
                Some(value) => h.field("value", &prefixes.normal(value)),
                None => h.field("unset", b""),
            };
        }
        tools::add_to_key(h, cache, inv, habits, &self.prefixes)?;
        if habits.depend_on_machine(inv) {
            h.field("machine", &natives::machine().unwrap_or_default());
        }
        self.add_dependencies(h, cache, inv)
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

    /// What scripts of dependencies left, when their metadata names a path: cargo would run this one again after them.
    fn add_dependencies(&self, h: &mut Hasher, cache: &dyn Cache, inv: &Invocation) -> Result<()> {
        let prefixes = self.prefixes.known();
        for path in self.dependencies(inv) {
            h.field("library", &self.prefixes.template_path(path));
            match tree::normal_state(cache, path, &prefixes)? {
                Some(state) => h.field("content", &state.hash),
                None => h.field("content", &cache.hash_file(path)?.unwrap_or_default()),
            };
        }
        Ok(())
    }

    /// Files and directories that scripts of dependencies left and name in their metadata.
    fn dependencies<'a>(&self, inv: &'a Invocation) -> Vec<&'a Path> {
        let Some(target) = self.prefixes.get(TARGET) else { return Vec::new() };
        let build = target.join("build");
        let paths: BTreeSet<&Path> = inv
            .env
            .iter()
            .filter(|(name, _)| name.as_bytes().starts_with(b"DEP_"))
            .map(|(_, value)| Path::new(value))
            .filter(|path| path.starts_with(&build) && *path != build)
            .collect();
        // The whole of which one is a part is there already.
        let is_part = |path: &Path| path.ancestors().skip(1).any(|up| paths.contains(up));
        paths.iter().copied().filter(|path| !is_part(path)).collect()
    }

    fn depends_on_machine(&self, cache: &dyn Cache, inv: &Invocation) -> Result<bool> {
        let Some(hash) = cache.hash_file(&self.program)? else { return Ok(true) };
        Ok(Habits::of(cache, &self.program, &hash)?.depend_on_machine(inv))
    }

    fn restore(&self, cache: &dyn Cache, key: EntryKey, entry: Entry) -> Option<ScriptLookup> {
        let (files, after) = outputs::placements(&entry, &self.out_dir, &self.prefixes)?;
        let places = files.iter().map(|f| f.path.as_path()).chain(after.iter().map(After::path));
        let tree: Vec<PathBuf> = places.map(Path::to_owned).collect();
        if outputs::is_behind_link(cache, &self.out_dir, &tree).unwrap_or(true) {
            return None;
        }
        let stdout = self.prefixes.expand(&entry.stdout)?;
        let stderr = self.prefixes.expand(&entry.stderr)?;
        let link_mode = match cache.restore(&key, &files) {
            Ok(mode) => mode,
            Err(error) => {
                tracing::warn!(%error, package = %self.name, "restore failed; running the build script instead");
                return None;
            }
        };
        let hit = Hit::of(entry, key, stdout, stderr, link_mode);
        Some(ScriptLookup::Hit { hit, after, tree })
    }

    /// Inputs as the script declared them, or what cargo takes for its inputs.
    fn record(&self, cache: &dyn Cache, declared: &Declared) -> Result<InputRecord> {
        let mut inputs: Vec<Input> = declared.env.iter().cloned().map(Input::Env).collect();
        let mut foreign = false;
        for file in &declared.files {
            let path = tree::declared(&self.package, file);
            let template = self.prefixes.template_path(&path);
            // A path that no token stands for means this very file, also for another checkout. Then the result is
            // for this checkout only, unless it is a file of the system.
            let known = template.first() == Some(&MARK) && !matches!(template[1] as char, HOME | AROUND);
            foreign |= !known && !is_of_the_system(&path);
            inputs.push(match cache.stat(&path)? {
                None => Input::Absent(template),
                Some(id) if id.is_dir => Input::Tree(template, Which::All),
                Some(_) => Input::File(template),
            });
        }
        if !self.immutable {
            let which = if declared.is_nothing() { Which::Package } else { Which::Beside };
            inputs.push(Input::Tree(self.prefixes.template_path(&self.package), which));
        }
        if foreign {
            inputs.push(Input::Bound(PACKAGE));
        }
        let mut record = InputRecord(inputs);
        record.order();
        Ok(record)
    }
}

/// Stores what a successful run left. An error is a failure of the cache: the build goes on regardless.
///
/// `left` is what was there already: then everything must have been written anew.
pub fn finish(
    cache: &dyn Cache,
    inv: &Invocation,
    plan: &ScriptPlan,
    ran: &Ran,
    found: &[Found],
    left: bool,
) -> Result<Finished> {
    let unstored = |why: &str| Ok(Finished::Unstored(why.to_owned()));
    let script = &plan.script;
    let declared = Declared::read(&ran.stdout);
    if declared.failed {
        return unstored("it reported an error");
    }
    if left && found.iter().any(|f| f.changed_ns < ran.started_ns - TICK) {
        return unstored("OUT_DIR holds files of an earlier run");
    }
    if [&ran.stdout, &ran.stderr].iter().any(|t| t.contains(&MARK)) {
        return unstored("control character in the output");
    }
    let mut record = script.record(cache, &declared)?;
    if changed_meanwhile(cache, script, &record, ran.started_ns)? {
        return unstored("an input changed while it ran");
    }
    let mut stored = outputs::store(cache, &script.out_dir, found, &script.prefixes, !script.immutable)?;
    if tells_time(&ran.stdout, ran) || tells_time(&stored.read, ran) {
        return unstored("its output contains the time");
    }
    let texts = [&ran.stdout, &ran.stderr, &stored.read];
    if texts.iter().any(|text| environment::is_for_this_cpu(text)) || found.iter().any(Found::is_of_configure)
    {
        record.depends_on_cpu();
    }
    let stdout = outputs::template(&ran.stdout, &script.prefixes, &mut stored.bound);
    let stderr = outputs::template(&ran.stderr, &script.prefixes, &mut stored.bound);
    for prefix in script.prefixes.iter() {
        // Such a path may have been written in another form: quoted, escaped, encoded.
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._-+@".contains(b);
        if environment::hides_paths(inv) || !prefix.path.as_os_str().as_bytes().iter().all(plain) {
            stored.bound.insert(prefix.token);
        }
    }
    let is_movable = !script.depends_on_machine(cache, inv)?
        && !machine::is_bound(&record.to_bytes()?)
        && stored.bound.iter().all(|t| [TARGET, HOST, WORKSPACE, PACKAGE, CARGO_HOME].contains(t));
    if stored.bound.contains(&HOME) || stored.bound.contains(&AROUND) {
        stored.bound.insert(PACKAGE);
    }
    stored.bound.iter().for_each(|token| record.bind(*token));
    let invocation = plan.invocation;
    let Some(key) = record.entry_key(cache, inv, &invocation, &script.prefixes, None)? else {
        return unstored("an input is gone");
    };
    record.remember(cache, inv, &invocation, &script.prefixes)?;
    if is_movable {
        note_run(cache, &script.program, &ran.stdout)?;
    }
    let entry = Entry {
        crate_name: script.name.clone(),
        kind: KIND.to_owned(),
        outputs: stored.outputs,
        texts: stored.texts,
        stdout,
        stderr,
        took_ms: ran.took.as_millis() as u64,
    };
    let bytes = entry.bytes();
    cache.publish(&Publication { invocation, record: record.to_bytes()?, key, entry })?;
    Ok(Finished::Stored(key, bytes))
}

/// Remembers that what a run left may be taken elsewhere.
fn note_run(cache: &dyn Cache, program: &Path, stdout: &[u8]) -> Result<()> {
    let Some(program) = cache.hash_file(program)? else { return Ok(()) };
    cache.set_fact(machine::RAN, &machine::run_name(&program, blake3::hash(stdout).as_bytes()), &[])
}

fn changed_meanwhile(
    cache: &dyn Cache,
    script: &Script,
    record: &InputRecord,
    started_ns: i64,
) -> Result<bool> {
    for input in &record.0 {
        let newest = match input {
            Input::File(template) => {
                let Some(path) = script.prefixes.expand_path(template) else { return Ok(true) };
                let Some(id) = cache.stat(&path)? else { return Ok(true) };
                id.mtime_ns.max(id.ctime_ns)
            }
            Input::Tree(template, which) => {
                let Some(path) = script.prefixes.expand_path(template) else { return Ok(true) };
                let Some(state) = tree::state(cache, &path, *which, &script.prefixes)? else {
                    return Ok(true);
                };
                state.newest_ns
            }
            _ => continue,
        };
        if newest > started_ns {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Does a text contain today's date, or the time of the run in seconds? Then it would be another one tomorrow.
fn tells_time(text: &[u8], ran: &Ran) -> bool {
    let start = ran.started_ns / 1_000_000_000;
    let end = SystemTime::now().duration_since(UNIX_EPOCH).map_or(start, |d| d.as_secs() as i64);
    // Dates of all time zones.
    let days = [start - 43_200, start, end, end + 50_400].map(date);
    if days.iter().any(|day| memmem::find(text, day.as_bytes()).is_some()) {
        return true;
    }
    let digits = text.split(|b| !b.is_ascii_digit()).filter(|run| (10..=19).contains(&run.len()));
    digits
        .filter_map(|run| std::str::from_utf8(&run[..10]).ok()?.parse::<i64>().ok())
        .any(|seconds| (start - 1..=end + 1).contains(&seconds))
}

/// `2026-01-31` of seconds since the Unix epoch (Howard Hinnant's `civil_from_days`).
fn date(seconds: i64) -> String {
    let z = seconds.div_euclid(86_400) + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    format!("{:04}-{month:02}-{day:02}", yoe + era * 400 + i64::from(month <= 2))
}

/// The same for every checkout on a machine, and watched by its package manager.
fn is_of_the_system(path: &Path) -> bool {
    ["/usr", "/lib", "/lib64", "/bin", "/etc", "/opt", "/nix/store"].iter().any(|dir| path.starts_with(dir))
}

fn up(path: &Path, steps: usize) -> Option<&Path> {
    path.ancestors().nth(steps)
}

/// The checkout that a package belongs to: its repository, or its workspace.
fn workspace(cache: &dyn Cache, package: &Path) -> Result<Option<PathBuf>> {
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

    fn ran(started_s: i64) -> Ran {
        Ran {
            raw_status: 0,
            stdout: Vec::new(),
            stderr: Vec::new(),
            started_ns: started_s * 1_000_000_000,
            took: std::time::Duration::ZERO,
        }
    }

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(date(1_795_600_000), "2026-11-25");
    }

    #[test]
    fn the_time_of_the_run_is_recognized() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        let told = |text: String| tells_time(text.as_bytes(), &ran(now));
        assert!(told(format!("cargo:rustc-env=BUILT={now}")));
        assert!(told(format!("at {}", date(now))));
        assert!(told(format!("{now}123")));
        assert!(!told("cargo:rustc-env=COMMIT=1234567890 2001-01-01".into()));
    }

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
