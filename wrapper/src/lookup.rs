//! The front half of an action: from a command line to a hit, or to a plan for the compile.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::args::{self, Compile};
use crate::cache::{
    Cache, Content, Entry, EntryKey, Event, FileId, Incremental, Invocation, InvocationKey, LinkMode,
    Outcome, Placement, Result, Settings,
};
use crate::closure::Closure;
use crate::depinfo;
use crate::hasher::Hasher;
use crate::incremental;
use crate::key::{self, Known};
use crate::prefixes::Prefixes;
use crate::query;
use crate::record::{self, InputRecord};
use crate::scratch::Scratch;
use crate::script;

/// What to do with an invocation.
#[derive(Debug, Serialize, Deserialize)]
pub enum Lookup {
    /// Run the compiler untouched.
    Pass { reason: String },
    /// It was a question; print this.
    Told(query::Answer),
    /// Everything is in place; print this.
    Hit(Hit),
    /// Compile by this plan.
    Miss(Box<Plan>),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Hit {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub crate_name: String,
    pub kind: String,
    pub key: EntryKey,
    /// Milliseconds that the compile took when it ran.
    pub saved_ms: u64,
    /// Bytes restored.
    pub bytes: u64,
    pub link_mode: LinkMode,
    /// Where a launcher has to be written: what was restored is a build script.
    pub launcher: Option<PathBuf>,
}

impl Hit {
    /// An entry that has been restored, and what it prints here.
    pub fn of(entry: Entry, key: EntryKey, stdout: Vec<u8>, stderr: Vec<u8>, link_mode: LinkMode) -> Hit {
        Hit {
            stdout,
            stderr,
            bytes: entry.bytes(),
            saved_ms: entry.took_ms,
            crate_name: entry.crate_name,
            kind: entry.kind,
            key,
            link_mode,
            launcher: None,
        }
    }

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

/// What a lookup came to.
pub trait Answer {
    fn hit(&self) -> Option<&Hit>;
    /// What is worth looking for elsewhere.
    fn wanted(&self) -> Option<&dyn Wanted>;

    /// Files of other crates that a compiler will read, the most important first.
    fn reads(&self, cache: &dyn Cache) -> Result<Vec<PathBuf>>;
}

impl Answer for Lookup {
    fn hit(&self) -> Option<&Hit> {
        if let Lookup::Hit(hit) = self { Some(hit) } else { None }
    }

    fn wanted(&self) -> Option<&dyn Wanted> {
        match self {
            Lookup::Miss(plan) if plan.store == Store::Yes => Some(&**plan),
            _ => None,
        }
    }

    fn reads(&self, cache: &dyn Cache) -> Result<Vec<PathBuf>> {
        match self {
            Lookup::Miss(plan) => plan.crates(cache),
            _ => Ok(Vec::new()),
        }
    }
}

impl Plan {
    /// Files of all crates that the compiler will read.
    pub fn crates(&self, cache: &dyn Cache) -> Result<Vec<PathBuf>> {
        self.closure.files(cache, &self.compile)
    }
}

/// An action whose result is not known here.
pub trait Wanted {
    /// Names it as exactly as it is known.
    fn name(&self) -> [u8; 32];

    /// `None`: its result is nobody else's.
    fn invocation(&self) -> Option<InvocationKey>;

    /// Number of input records at the time of the lookup.
    fn records(&self) -> usize;

    /// Entries that were looked for in vain.
    fn missing(&self) -> &[EntryKey];

    /// The entry key that an input record from elsewhere stands for, with its inputs as they are here. `None` when one of
    /// them is not here, or the record cannot be read.
    fn entry_key(&self, cache: &dyn Cache, inv: &Invocation, record: &[u8]) -> Result<Option<EntryKey>>;

    /// Was something published for it since the lookup: another number of records, or an entry that was missing?
    fn has_news(&self, cache: &dyn Cache) -> Result<bool> {
        let Some(invocation) = self.invocation() else { return Ok(false) };
        if cache.records(&invocation)?.len() != self.records() {
            return Ok(true);
        }
        for key in self.missing() {
            if cache.entry(key)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Wanted for Plan {
    fn name(&self) -> [u8; 32] {
        self.claim
    }

    fn invocation(&self) -> Option<InvocationKey> {
        self.invocation
    }

    fn records(&self) -> usize {
        self.records
    }

    fn missing(&self) -> &[EntryKey] {
        &self.missing
    }

    fn entry_key(&self, cache: &dyn Cache, inv: &Invocation, record: &[u8]) -> Result<Option<EntryKey>> {
        let (Some(invocation), Some(record)) = (&self.invocation, InputRecord::from_bytes(record)) else {
            return Ok(None);
        };
        record.entry_key(cache, inv, invocation, &self.prefixes, self.compile.diagnostic_width.as_deref())
    }
}

/// How to compile, and all that is needed afterwards to store the result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// The command to run. With `argfile`, everything behind the driver goes into a file.
    pub argv: Vec<OsString>,
    pub argfile: bool,
    pub compile: Compile,
    /// `None`: this dependency graph cannot be proven; the result is not stored.
    pub invocation: Option<InvocationKey>,
    /// Number of input records at the time of the lookup, and the entries that were looked for in vain.
    pub records: usize,
    pub missing: Vec<EntryKey>,
    /// By which processes agree who compiles.
    pub claim: [u8; 32],
    pub store: Store,
    /// Incremental state that may be of use in other checkouts.
    pub session: Option<incremental::Session>,
    /// Why there was no hit, for people.
    pub reason: String,
    pub prefixes: Prefixes,
    pub closure: Closure,
    pub watched: Vec<(PathBuf, FileId)>,
    pub extra: Vec<PathBuf>,
    /// Tokens that the result is bound to without looking (its bytes cannot be searched).
    pub bind_all: bool,
    /// The compiler is to write there instead of where cargo says.
    pub scratch: Option<Scratch>,
}

/// What happens to the result of a compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Store {
    Yes,
    /// Somebody is editing; the compile is incremental.
    Edit,
}

/// Looks an invocation up and restores it when its result is known.
///
/// An error is a failure of the cache, not of the compile: run the compiler untouched.
pub fn lookup(cache: &dyn Cache, inv: &Invocation, settings: &Settings) -> Result<Lookup> {
    let compile = match args::parse(inv, &|path| cache.read(path).ok().flatten()) {
        Ok(compile) => *compile,
        Err(reason) => {
            let answer = query::answer(cache, inv).unwrap_or_else(|error| {
                tracing::debug!(%error, "the compiler has to be asked");
                None
            });
            return Ok(answer.map_or(Lookup::Pass { reason: reason.to_owned() }, Lookup::Told));
        }
    };
    if !settings.cache_executables && compile.is_product() {
        return Ok(Lookup::Pass { reason: "executables are not cached (cache_executables = false)".into() });
    }
    if inv.argv.iter().any(|a| contains_mark(a)) || contains_mark(inv.cwd.as_os_str()) {
        return Ok(Lookup::Pass { reason: "control character in the arguments".into() });
    }
    let known = match key::invocation_key(cache, inv, &compile, settings)? {
        Ok(known) => known,
        Err(reason) => return Ok(Lookup::Pass { reason: reason.to_owned() }),
    };
    let records = cache.records(&known.key)?;
    let width = compile.diagnostic_width.as_deref();
    let mut missing = Vec::new();
    for bytes in &records {
        let Some(record) = InputRecord::from_bytes(bytes) else { continue };
        let Some(key) = record.entry_key(cache, inv, &known.key, &known.prefixes, width)? else { continue };
        let Some(entry) = cache.entry(&key)? else {
            missing.push(key);
            continue;
        };
        let launcher = script::has_launcher(inv, &compile, settings);
        if let Some(hit) = restore(cache, &compile, &known, key, entry, launcher) {
            return Ok(Lookup::Hit(hit));
        }
    }
    let why_key = key::explain(cache, inv, &compile, settings)?;
    let reason = match records.is_empty() {
        true if why_key.is_empty() => "not seen before".to_owned(),
        true => why_key.join(", "),
        false => record::explain(cache, inv, &known.key, &known.prefixes)?,
    };
    let plan = plan(cache, compile, known, settings, &records, inv, reason)?;
    Ok(Lookup::Miss(Box::new(Plan { missing, ..plan })))
}

fn contains_mark(s: &std::ffi::OsStr) -> bool {
    use std::os::unix::ffi::OsStrExt;
    s.as_bytes().contains(&crate::prefixes::MARK)
}

/// Puts an entry's outputs in place. `None` when that is not possible: the caller compiles.
///
/// With `launcher` the program of a build script goes beside its place, which is left to the launcher.
fn restore(
    cache: &dyn Cache,
    compile: &Compile,
    known: &Known,
    key: EntryKey,
    entry: Entry,
    launcher: bool,
) -> Option<Hit> {
    let launcher = launcher.then(|| script::program(compile));
    let mut files = Vec::with_capacity(entry.outputs.len() + entry.texts.len());
    for output in &entry.outputs {
        let path = compile.place(&output.dest)?;
        let path = if launcher.as_ref() == Some(&path) { script::real_program(&path) } else { path };
        files.push(output.placed_at(path));
    }
    for text in &entry.texts {
        let bytes = known.prefixes.expand(&text.template)?;
        let bytes = depinfo::with_extra(&bytes, &known.extra);
        files.push(Placement { path: compile.place(&text.dest)?, content: Content::Bytes(bytes) });
    }
    let stdout = known.prefixes.expand(&entry.stdout)?;
    let stderr = known.prefixes.expand(&entry.stderr)?;
    let link_mode = match cache.restore(&key, &files) {
        Ok(mode) => mode,
        Err(error) => {
            tracing::warn!(%error, crate_name = %entry.crate_name, "restore failed; compiling instead");
            return None;
        }
    };
    Some(Hit { launcher, ..Hit::of(entry, key, stdout, stderr, link_mode) })
}

fn plan(
    cache: &dyn Cache,
    compile: Compile,
    known: Known,
    settings: &Settings,
    records: &[Vec<u8>],
    inv: &Invocation,
    reason: String,
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
    let claim = claim_name(cache, inv, &known, &compile, records)?;
    let compressed = compile.unstable.iter().any(|(n, _)| n == "debuginfo-compression")
        || inv.argv.iter().any(|a| a.to_string_lossy().contains("compress-debug-sections"));
    Ok(Plan {
        argv,
        argfile: compile.from_argfile,
        invocation: Some(known.key),
        records: records.len(),
        missing: Vec::new(),
        claim,
        store,
        session,
        reason,
        prefixes: known.prefixes,
        closure: known.closure,
        watched: known.watched,
        extra: known.extra,
        bind_all: compressed,
        scratch: None,
        compile,
    })
}

/// Names what is about to be compiled as exactly as it is known: the invocation with the present content of the
/// sources that the last run read, or of the main source when there was none.
fn claim_name(
    cache: &dyn Cache,
    inv: &Invocation,
    known: &Known,
    compile: &Compile,
    records: &[Vec<u8>],
) -> Result<[u8; 32]> {
    let mut h = Hasher::new("claim");
    h.field("invocation", &known.key.0);
    let files = match records.first().and_then(|r| InputRecord::from_bytes(r)) {
        Some(record) => record.files(&known.prefixes),
        None => vec![inv.cwd.join(Path::new(&compile.source))],
    };
    for file in files {
        h.field("content", &cache.hash_file(&file)?.unwrap_or_default());
    }
    Ok(h.finish())
}
