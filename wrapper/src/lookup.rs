//! The front half of an action: from a command line to a hit, or to a plan for running it.
//!
//! A compile (with all that it links, and all that macros do in it) and a run of a build script are the two kinds of an
//! action ([`Work`]). What is the same for both is written once, here and in [`crate::finish`].

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::args::{self, Compile};
use crate::artifacts;
use crate::cache::{
    Cache, Content, Entry, EntryKey, Event, FileId, Incremental, Invocation, InvocationKey, LinkMode,
    Outcome, Placement, Result, Settings,
};
use crate::closure::Closure;
use crate::depinfo;
use crate::evidence::tokens;
use crate::hasher::Hasher;
use crate::incremental;
use crate::key::{self, Known};
use crate::objects::{Environment, Habits};
use crate::prefixes::{Prefixes, contains_mark};
use crate::proof::{self, Proof};
use crate::query;
use crate::record::{self, Here, Input, InputRecord};
use crate::scratch::Scratch;
use crate::script::outputs::{self, After};
use crate::script::{self, Script};
use crate::variables;

/// Which kind of program cargo wants to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    Compiler,
    BuildScript,
}

/// What to do with an invocation.
#[derive(Debug, Serialize, Deserialize)]
pub enum Lookup {
    /// Run the program untouched.
    Pass { reason: String },
    /// It was a question; print this.
    Told(query::Answer),
    /// The files are in place; do the rest, and print this.
    Hit(Hit),
    /// Run it by this plan.
    Miss(Box<Miss>),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hit {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub crate_name: String,
    pub kind: String,
    pub key: EntryKey,
    /// Milliseconds that the action took when it ran.
    pub saved_ms: u64,
    /// Bytes restored.
    pub bytes: u64,
    pub link_mode: LinkMode,
    /// Where a launcher has to be written: what was restored is a build script.
    pub launcher: Option<PathBuf>,
    /// Directories, links and modes that are left to do.
    pub after: Vec<After>,
    /// Everything in `OUT_DIR` that belongs to the result of a build script.
    pub tree: Vec<PathBuf>,
}

impl Hit {
    /// What the event log says of it.
    pub fn event(&self, inv: &Invocation, wall: Duration) -> Event {
        Event {
            key: self.key.to_hex(),
            saved_ms: self.saved_ms,
            bytes: self.bytes,
            link_mode: Some(self.link_mode),
            ..Event::of(inv, Outcome::Hit, &self.crate_name, &self.kind, "", wall)
        }
    }
}

/// An action whose result is not known here, and all that is needed to store it afterwards.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Miss {
    pub work: Work,
    pub invocation: InvocationKey,
    /// Number of input records at the time of the lookup, and the entries that were looked for in vain.
    pub records: usize,
    pub missing: Vec<EntryKey>,
    /// By which processes agree who runs it.
    pub claim: [u8; 32],
    /// Why there was no hit, for people.
    pub reason: String,
    /// Paths that somebody may have as values without asking: they are in the command line.
    pub asked: BTreeSet<char>,
    /// Something in it makes system calls past the C library: the whole of it is to be watched by the kernel.
    pub watch_calls: bool,
    /// What is known to be an input before anything was observed.
    pub inputs: Vec<Input>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Work {
    Compile(Box<Plan>),
    Script(Box<Script>),
}

impl Work {
    pub fn prefixes(&self) -> &Prefixes {
        match self {
            Work::Compile(plan) => &plan.prefixes,
            Work::Script(script) => &script.prefixes,
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Work::Compile(plan) => &plan.compile.crate_name,
            Work::Script(script) => &script.name,
        }
    }

    pub fn kind(&self) -> &str {
        match self {
            Work::Compile(plan) => plan.compile.kind(),
            Work::Script(_) => script::KIND,
        }
    }

    pub(crate) fn width(&self) -> Option<&str> {
        match self {
            Work::Compile(plan) => plan.compile.diagnostic_width.as_deref(),
            Work::Script(_) => None,
        }
    }

    /// Where its record may hold.
    pub fn here<'a>(&'a self, cache: &'a dyn Cache, inv: &'a Invocation) -> Here<'a> {
        Here { cache, inv, prefixes: self.prefixes(), width: self.width() }
    }
}

impl Miss {
    /// Is its result of use to anybody else? An edit's is not.
    pub fn is_shared(&self) -> bool {
        !matches!(&self.work, Work::Compile(plan) if plan.store == Store::Edit)
    }

    /// The entry key that an input record from elsewhere stands for, with its inputs as they are here. `None` when it cannot
    /// hold, or cannot be read.
    pub fn entry_key(&self, cache: &dyn Cache, inv: &Invocation, record: &[u8]) -> Result<Option<EntryKey>> {
        let Some(record) = InputRecord::from_bytes(record) else { return Ok(None) };
        record.entry_key(&self.work.here(cache, inv), &self.invocation)
    }

    /// What to ask to know whether it was published meanwhile.
    pub fn news(&self) -> News {
        News { invocation: self.invocation, records: self.records, missing: self.missing.clone() }
    }

    /// Files of other crates that a compiler will read, the most important first.
    pub fn reads(&self, cache: &dyn Cache) -> Result<Vec<PathBuf>> {
        match &self.work {
            Work::Compile(plan) => plan.crates(cache),
            Work::Script(_) => Ok(Vec::new()),
        }
    }
}

/// Was something published for an invocation since a lookup?
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct News {
    invocation: InvocationKey,
    records: usize,
    missing: Vec<EntryKey>,
}

impl News {
    /// Another number of records, or an entry that was missing.
    pub fn is_any(&self, cache: &dyn Cache) -> Result<bool> {
        if cache.records(&self.invocation)?.len() != self.records {
            return Ok(true);
        }
        for key in &self.missing {
            if cache.entry(key)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// How to compile.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// The command to run. With `argfile`, everything behind the driver goes into a file.
    pub argv: Vec<OsString>,
    pub argfile: bool,
    pub compile: Compile,
    pub store: Store,
    /// Incremental state that may be of use in other checkouts.
    pub session: Option<incremental::Session>,
    pub prefixes: Prefixes,
    /// The compiler was told to show other paths.
    pub remap: bool,
    pub sysroot: PathBuf,
    /// Files of the compiler, whose content is in the key.
    pub programs: Vec<PathBuf>,
    pub closure: Closure,
    /// Proc macros and other shared libraries behind its dependencies.
    pub macros: Vec<PathBuf>,
    pub watched: Vec<(PathBuf, FileId, [u8; 32])>,
    pub extra: Vec<PathBuf>,
    /// Tokens that the result is bound to without looking (its bytes cannot be searched).
    pub bind_all: bool,
    /// The compiler is to write there instead of where cargo says.
    pub scratch: Option<Scratch>,
}

impl Plan {
    /// Files of all crates that the compiler will read.
    pub fn crates(&self, cache: &dyn Cache) -> Result<Vec<PathBuf>> {
        self.closure.files(cache, &self.compile)
    }
}

/// What happens to the result of a compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Store {
    Yes,
    /// Somebody is editing; the compile is incremental.
    Edit,
}

/// An action whose invocation key is known.
pub(crate) enum Action {
    Compile(Box<Compile>, Box<Known>),
    Script(Box<Script>, InvocationKey, Habits),
}

/// Looks an invocation up and restores it when its result is known.
///
/// An error is a failure of the cache, not of the action: run the program untouched.
pub fn lookup(cache: &dyn Cache, inv: &Invocation, settings: &Settings, role: Role) -> Result<Lookup> {
    let action = match role {
        Role::Compiler => compile(cache, inv, settings)?,
        Role::BuildScript => script::action(cache, inv, settings)?,
    };
    let action = match action {
        Ok(action) => action,
        Err(other) => return Ok(other),
    };
    let invocation = action.invocation();
    let here = action.here(cache, inv);
    let records = cache.records(&invocation)?;
    let mut missing = Vec::new();
    for bytes in &records {
        let Some(record) = InputRecord::from_bytes(bytes) else { continue };
        let Some(key) = record.entry_key(&here, &invocation)? else { continue };
        let Some(entry) = cache.entry(&key)? else {
            missing.push(key);
            continue;
        };
        let outputs: Vec<_> = Proof::names(&entry).collect();
        if let Some(hit) = action.restore(cache, inv, settings, key, entry)? {
            action.note_hit(&here, &hit, bytes, outputs)?;
            return Ok(Lookup::Hit(hit));
        }
    }
    let reason = action.explain(&here, settings, records.is_empty())?;
    action.plan(cache, inv, settings, &records, missing, reason).map(|miss| Lookup::Miss(Box::new(miss)))
}

/// The action of a compiler's command line.
fn compile(
    cache: &dyn Cache,
    inv: &Invocation,
    settings: &Settings,
) -> Result<std::result::Result<Action, Lookup>> {
    let pass = |reason: &str| Ok(Err(Lookup::Pass { reason: reason.to_owned() }));
    let compile = match args::parse(inv, &|path| cache.read(path).ok().flatten()) {
        Ok(compile) => compile,
        Err(reason) => {
            let answer = query::answer(cache, inv).unwrap_or_else(|error| {
                tracing::debug!(%error, "the compiler has to be asked");
                None
            });
            return answer.map_or_else(|| pass(reason), |answer| Ok(Err(Lookup::Told(answer))));
        }
    };
    if !settings.cache_executables && compile.is_product() {
        return pass("executables are not cached (cache_executables = false)");
    }
    if inv.argv.iter().any(|a| contains_mark(a)) || contains_mark(inv.cwd.as_os_str()) {
        return pass("control character in the arguments");
    }
    match key::invocation_key(cache, inv, &compile, settings)? {
        Ok(known) => Ok(Ok(Action::Compile(compile, Box::new(known)))),
        Err(reason) => pass(reason),
    }
}

impl Action {
    fn invocation(&self) -> InvocationKey {
        match self {
            Action::Compile(_, known) => known.key,
            Action::Script(_, key, _) => *key,
        }
    }

    fn prefixes(&self) -> &Prefixes {
        match self {
            Action::Compile(_, known) => &known.prefixes,
            Action::Script(script, ..) => &script.prefixes,
        }
    }

    fn here<'a>(&'a self, cache: &'a dyn Cache, inv: &'a Invocation) -> Here<'a> {
        let width = match self {
            Action::Compile(compile, _) => compile.diagnostic_width.as_deref(),
            Action::Script(..) => None,
        };
        Here { cache, inv, prefixes: self.prefixes(), width }
    }

    /// Puts an entry's outputs in place. `None` when that is not possible: the action runs.
    fn restore(
        &self,
        cache: &dyn Cache,
        inv: &Invocation,
        settings: &Settings,
        key: EntryKey,
        entry: Entry,
    ) -> Result<Option<Hit>> {
        let prefixes = self.prefixes();
        let launcher = match self {
            // The program of a build script goes beside its place, which is left to the launcher.
            Action::Compile(compile, _) => {
                script::has_launcher(inv, compile, settings).then(|| script::program(compile))
            }
            Action::Script(..) => None,
        };
        let Some((files, after)) = self.placements(&entry, launcher.as_deref()) else { return Ok(None) };
        let mut tree = Vec::new();
        if let Action::Script(script, ..) = self {
            let places = files.iter().map(|f| f.path.as_path()).chain(after.iter().map(After::path));
            tree.extend(places.filter(|p| p.starts_with(&script.out_dir)).map(Path::to_owned));
            if outputs::is_behind_link(cache, &script.out_dir, &tree)? {
                return Ok(None);
            }
        }
        let in_messages = |path: &[u8]| match self {
            Action::Compile(..) if entry.stderr.starts_with(b"{") => artifacts::in_json(path),
            _ => path.to_vec(),
        };
        let (Some(stdout), Some(stderr)) =
            (prefixes.expand(&entry.stdout), prefixes.expand_with(&entry.stderr, &in_messages))
        else {
            return Ok(None);
        };
        let link_mode = match cache.restore(&key, &files) {
            Ok(mode) => mode,
            Err(error) => {
                tracing::warn!(%error, name = %entry.crate_name, "restore failed; running it instead");
                return Ok(None);
            }
        };
        Ok(Some(Hit {
            stdout,
            stderr,
            bytes: entry.bytes(),
            saved_ms: entry.took_ms,
            crate_name: entry.crate_name,
            kind: entry.kind,
            key,
            link_mode,
            launcher,
            after,
            tree,
        }))
    }

    /// Where everything of an entry goes. `None` when it has no place here.
    fn placements(&self, entry: &Entry, launcher: Option<&Path>) -> Option<(Vec<Placement>, Vec<After>)> {
        let (compile, known) = match self {
            Action::Script(script, ..) => {
                return outputs::placements(entry, Some(&script.out_dir), &script.prefixes);
            }
            Action::Compile(compile, known) => (compile, known),
        };
        let mut own = entry.clone();
        let is_beside = outputs::is_beside;
        let mut files = Vec::with_capacity(entry.outputs.len() + entry.texts.len());
        for output in entry.outputs.iter().filter(|o| !is_beside(&o.dest)) {
            let path = compile.place(&output.dest)?;
            let path = if launcher == Some(&path) { script::real_program(&path) } else { path };
            files.push(output.placed_at(path));
        }
        for text in entry.texts.iter().filter(|t| !is_beside(&t.dest)) {
            let bytes = depinfo::expand(&text.template, &known.prefixes)?;
            let bytes = depinfo::with_extra(&bytes, &known.extra);
            files.push(Placement { path: compile.place(&text.dest)?, content: Content::Bytes(bytes) });
        }
        own.outputs.retain(|o| is_beside(&o.dest));
        own.texts.retain(|t| is_beside(&t.dest));
        let (beside, after) = outputs::placements(&own, None, &known.prefixes)?;
        files.extend(beside);
        Some((files, after))
    }

    /// What came from elsewhere has no proof yet.
    fn note_hit(&self, here: &Here, hit: &Hit, record: &[u8], mut outputs: Vec<[u8; 32]>) -> Result<()> {
        let Here { cache, inv, .. } = *here;
        if let Action::Script(script, ..) = self {
            script.note_run(cache, &hit.stdout, record)?;
            outputs = script.run_name(cache, &hit.stdout)?.into_iter().collect();
        }
        let Some(first) = outputs.first() else { return Ok(()) };
        if Proof::find(cache, first)?.is_some() {
            return Ok(());
        }
        let is_script = matches!(self, Action::Script(..));
        let known = proof::Known {
            invocation: self.invocation(),
            key: hit.key,
            width: here.width,
            prefixes: here.prefixes,
            is_script,
            record: None,
            out_dir: None,
        };
        let proof = Proof::of(cache, known, inv, &|name| variables::is_set_by_cargo(name, is_script));
        outputs.iter().try_for_each(|name| proof.keep(cache, name))
    }

    /// Why there is no result, in words.
    fn explain(&self, here: &Here, settings: &Settings, is_new: bool) -> Result<String> {
        let why_key = match self {
            Action::Compile(compile, _) => key::explain(here.cache, here.inv, compile, settings)?,
            Action::Script(script, _, _) => script.explain(here.cache, here.inv, settings)?,
        };
        Ok(match is_new {
            true if why_key.is_empty() => "not seen before".to_owned(),
            true => why_key.join(", "),
            false => record::explain(here, &self.invocation())?,
        })
    }

    fn plan(
        self,
        cache: &dyn Cache,
        inv: &Invocation,
        settings: &Settings,
        records: &[Vec<u8>],
        missing: Vec<EntryKey>,
        reason: String,
    ) -> Result<Miss> {
        let invocation = self.invocation();
        let claim = self.claim_name(cache, inv, records, &missing)?;
        let mut inputs = Vec::new();
        let mut asked = BTreeSet::new();
        let mut watch_calls = false;
        let work = match self {
            Action::Compile(compile, known) => {
                let macros = known.closure.dynamic(cache, &compile)?;
                for path in &macros {
                    let habits = Habits::of(cache, path)?;
                    watch_calls |= habits.system_calls;
                    if habits.paths {
                        asked.extend(inv.argv.iter().flat_map(|arg| paths_in(&known.prefixes, arg)));
                    }
                    if habits.environment != Environment::Nothing {
                        inputs.push(Input::EnvNamedBy(known.prefixes.template_path(path)));
                    }
                }
                let plan = plan(cache, *compile, *known, settings, inv, macros)?;
                Work::Compile(Box::new(plan))
            }
            Action::Script(script, _, habits) => {
                watch_calls = habits.system_calls;
                if habits.paths && script.values_bind() {
                    asked.extend(paths_in(&script.prefixes, script.program.as_os_str()));
                }
                if habits.environment != Environment::Nothing {
                    inputs.push(Input::EnvNamedBy(script.prefixes.template_path(&script.program)));
                }
                if habits.cpu {
                    inputs.push(Input::Cpu);
                }
                Work::Script(script)
            }
        };
        Ok(Miss {
            work,
            invocation,
            records: records.len(),
            missing,
            claim,
            reason,
            asked,
            watch_calls,
            inputs,
        })
    }

    /// Names what is about to run as exactly as it is known: the invocation with the present content of what the last run
    /// read, or of the main source when there was none.
    fn claim_name(
        &self,
        cache: &dyn Cache,
        inv: &Invocation,
        records: &[Vec<u8>],
        missing: &[EntryKey],
    ) -> Result<[u8; 32]> {
        let mut h = Hasher::new("claim");
        h.field("invocation", &self.invocation().0);
        for key in missing {
            h.field("missing", &key.0);
        }
        if let Action::Compile(compile, known) = self {
            let files = match records.first().and_then(|r| InputRecord::from_bytes(r)) {
                Some(record) => record.files(&known.prefixes),
                None => vec![inv.cwd.join(Path::new(&compile.source))],
            };
            for file in files {
                h.field("content", &cache.hash_file(&file).ok().flatten().unwrap_or_default());
            }
        }
        Ok(h.finish())
    }
}

/// Tokens of the paths in a text.
fn paths_in(prefixes: &Prefixes, text: &OsStr) -> BTreeSet<char> {
    tokens(&prefixes.template(text.as_bytes()))
}

fn plan(
    cache: &dyn Cache,
    compile: Compile,
    known: Known,
    settings: &Settings,
    inv: &Invocation,
    macros: Vec<PathBuf>,
) -> Result<Plan> {
    let wants_incremental = compile.incremental.is_some();
    let store = match settings.incremental {
        Incremental::Always if wants_incremental => Store::Edit,
        Incremental::Auto if wants_incremental && inv.var("CI").is_none() => {
            // This unit was built here before and is built again: somebody is editing it.
            if cache.stat(&compile.dep_info_path())?.is_some() { Store::Edit } else { Store::Yes }
        }
        _ => Store::Yes,
    };
    let mut argv = compile.driver.clone();
    if known.remap {
        argv.extend(known.prefixes.remap_args());
    }
    argv.extend(match store {
        Store::Yes => compile.args_without_incremental(),
        Store::Edit => compile.args.clone(),
    });
    let session = match store {
        Store::Edit if known.remap => incremental::session(inv, &compile, &known.toolchain, &known.prefixes),
        _ => None,
    };
    let compressed = compile.unstable.iter().any(|(n, _)| n == "debuginfo-compression")
        || inv.argv.iter().any(|a| a.to_string_lossy().contains("compress-debug-sections"));
    Ok(Plan {
        argv,
        argfile: compile.from_argfile,
        store,
        session,
        prefixes: known.prefixes,
        remap: known.remap,
        sysroot: known.sysroot,
        programs: known.programs,
        closure: known.closure,
        macros,
        watched: known.watched,
        extra: known.extra,
        // Where libraries are from the program's place is part of a program with rpath.
        bind_all: compressed || compile.has_codegen("rpath"),
        scratch: None,
        compile,
    })
}
