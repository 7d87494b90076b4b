//! What programs and libraries tell about themselves, kept as facts of their content.

use std::path::Path;

use kache_trace::Object;
use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Result};

/// Another name when there is more to know.
const SPACE: &str = "object-1";

/// What an observer cannot see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Habits {
    /// It may make system calls by itself, past the C library.
    pub system_calls: bool,
    /// It may read all variables without asking for one.
    pub whole_environment: bool,
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
            whole_environment: object.is_static || object.imports_environ && may_use_environ(bytes),
            cpu: object.cpuid,
        }
    }
}

/// Rust's standard library always refers to `environ`. What reads it is one function of it, which is there only if
/// something uses it; its name tells, unless names were stripped.
fn may_use_environ(bytes: &[u8]) -> bool {
    let has = |word: &[u8]| memchr::memmem::find(bytes, word).is_some();
    let is_rust = has(b"RUST_BACKTRACE");
    let has_names = has(b"3std") || has(b"4core3");
    !is_rust || !has_names || has(b"vars_os")
}
