//! What programs and libraries tell about themselves, kept as facts of their content.

use std::path::Path;

use kache_trace::Object;
use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Result};

/// Another name when there is more to know.
const SPACE: &str = "object-2";

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
        Habits {
            system_calls: object.system_calls || object.is_static,
            environment: environment(&object, bytes),
            cpu: object.cpuid,
        }
    }
}

/// Rust's standard library always refers to `environ`. What reads it are functions of it that are there only if something
/// uses them; their names tell, unless they were stripped. Anything else that was not written in Rust gets all variables
/// as an argument of `main`.
fn environment(object: &Object, bytes: &[u8]) -> Environment {
    let functions = Object::functions(bytes);
    let has = |word: &str| functions.iter().any(|name| name.contains(word));
    let is_rust = memchr::memmem::find(bytes, b"RUST_BACKTRACE").is_some() && has("3std");
    if object.is_static || !is_rust {
        return Environment::All;
    }
    // Both ways to write names. `env::vars_os` is also what commands use that set variables for their children.
    if has("3std3env4vars") {
        Environment::All
    } else if has("vars_os") {
        Environment::Named
    } else {
        Environment::Nothing
    }
}
