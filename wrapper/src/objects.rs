//! What programs and libraries tell about themselves, kept as facts of their content.

use std::path::Path;

use kache_trace::Object;
use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Result};

/// Another name when there is more to know.
const SPACE: &str = "object-4";

/// What a program may learn of its environment without asking for a variable by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Environment {
    #[default]
    Nothing,
    /// It has all variables, to hand them on or to look some up: those that its words name.
    Named,
    /// It may go over all of them.
    All,
}

/// What an observer cannot see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Habits {
    /// It may make system calls by itself, past the C library.
    pub system_calls: bool,
    pub environment: Environment,
    /// It asks the processor what it can do.
    pub cpu: bool,
    /// It may have paths of its command line as values, or those of files that a compiler reads.
    pub paths: bool,
}

impl Habits {
    pub fn of(cache: &dyn Cache, object: &Path) -> Result<Habits> {
        let Some(hash) = cache.hash_file(object)? else { return Ok(Habits::default()) };
        if let Some(known) = cache.fact(SPACE, &hash)?.and_then(|v| postcard::from_bytes(&v).ok()) {
            return Ok(known);
        }
        let habits = Habits::read(&cache.read(object)?.unwrap_or_default());
        cache.set_fact(SPACE, &hash, &postcard::to_stdvec(&habits)?)?;
        Ok(habits)
    }

    fn read(bytes: &[u8]) -> Habits {
        let Some(object) = Object::read(bytes) else {
            // A script, or nothing that this machine could run.
            return Habits::default();
        };
        let functions = Functions::of(&object, bytes);
        Habits {
            system_calls: object.system_calls || object.is_static,
            environment: functions.environment(),
            cpu: object.cpuid,
            paths: functions.have_paths(),
        }
    }
}

/// Names of the functions of a program in Rust; `None` where they do not tell.
struct Functions<'a>(Option<Vec<&'a str>>);

impl<'a> Functions<'a> {
    /// Functions of the standard library are there only if something uses them; their names tell, unless they were stripped.
    fn of(object: &Object, bytes: &'a [u8]) -> Functions<'a> {
        let names = Object::functions(bytes);
        let is_rust = if Object::libraries(bytes).iter().any(|library| library.starts_with("libstd-")) {
            !names.is_empty()
        } else {
            memchr::memmem::find(bytes, b"RUST_BACKTRACE").is_some()
                && names.iter().any(|name| name.contains("3std"))
        };
        Functions((is_rust && !object.is_static).then_some(names))
    }

    /// In either way to write names; `true` also where nothing is known.
    fn may_have(&self, words: &[&str]) -> bool {
        let has = |name: &&str| words.iter().any(|word| name.contains(word));
        self.0.as_ref().is_none_or(|names| names.iter().any(has))
    }

    /// Rust's standard library always refers to `environ`. Anything else that was not written in Rust gets all variables as
    /// an argument of `main`.
    fn environment(&self) -> Environment {
        // `env::vars_os` is also what commands use that set variables for their children.
        if self.may_have(&["3std3env4vars"]) {
            Environment::All
        } else if self.may_have(&["vars_os"]) {
            Environment::Named
        } else {
            Environment::Nothing
        }
    }

    /// `env::args`, and the place of what a macro is given.
    fn have_paths(&self) -> bool {
        self.may_have(&["3std3env4args", "3std3env7args_os", "4Span10local_file"])
    }
}
