//! What programs and libraries tell about themselves, kept as facts of their content.

use std::path::Path;

use kache_trace::Object;
use serde::{Deserialize, Serialize};

use crate::cache::{Cache, Result};

/// Another name when there is more to know.
const SPACE: &str = "object-5";

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

/// What the functions of a program in Rust tell.
struct Functions<'a> {
    /// `None` where they do not tell.
    names: Option<Vec<&'a str>>,
    /// Those that may go over all variables; `None` where it is not known.
    see_all: Option<Vec<&'a str>>,
}

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
        let names = (is_rust && !object.is_static).then_some(names);
        let see_all = names.as_ref().and_then(|_| who_sees_all(bytes));
        Functions { names, see_all }
    }

    /// In either way to write names; `true` also where nothing is known.
    fn may_have(&self, words: &[&str]) -> bool {
        let has = |name: &&str| words.iter().any(|word| name.contains(word));
        self.names.as_ref().is_none_or(|names| names.iter().any(has))
    }

    /// Anything that was not written in Rust gets all variables as an argument of `main`.
    fn environment(&self) -> Environment {
        let may_see_all = self.see_all.as_ref().is_none_or(|functions| !functions.is_empty());
        if self.may_have(&["3std3env4vars"]) || may_see_all {
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

/// Functions that refer to what has all variables, without those that are known to have them for commands and to look for
/// some by their names.
fn who_sees_all(bytes: &[u8]) -> Option<Vec<&str>> {
    // `env::vars_os` reads `environ`, and so does what it was made part of.
    let is_all =
        |name: &str| matches!(name, "environ" | "__environ" | "_environ") || name.contains("vars_os");
    let mut functions = Object::callers(bytes, is_all)?;
    functions.retain(|name| !is_of_std(name) && !is_of_known_library(name));
    // `cc` initializes a `OnceLock` by such a function; where it was made part of that, only what else is called there tells.
    let is_nameless =
        |name: &str| name.contains("3std4sync4once") || name.contains("4core3ops8function6FnOnce");
    if functions.iter().any(|name| is_nameless(name)) {
        let of_libraries = Object::callers(bytes, is_of_known_library)?;
        functions.retain(|name| !is_nameless(name) || !of_libraries.contains(name));
    }
    Some(functions)
}

/// `env::vars_os`, and what starts commands; in either way to write names.
fn is_of_std(function: &str) -> bool {
    const COMMANDS: &[&str] = &[
        "7Command5spawn",
        "7Command7do_exec",
        "7Command11posix_spawn",
        "7Command11capture_env",
        "10CommandEnv7capture",
        "10CommandEnv17capture_if_changed",
    ];
    let is_for_commands = COMMANDS.iter().any(|command| function.contains(command));
    if let Some(path) = function.strip_prefix("_ZN") {
        path.starts_with("3std3env7vars_os17h")
            || is_for_commands && (path.starts_with("3std3sys") || path.starts_with("3std10sys_common"))
    } else {
        // A function of a module, a method; not what was made for one (`_RI`), which has its name, too.
        function.starts_with("_RNvNt") && function.contains("3std3env7vars_os")
            || is_for_commands
                && function.starts_with("_RNvM")
                && (function.contains("3std3sys") || function.contains("3std10sys_common"))
    }
}

/// Of a module of a library for build scripts: `cc` keeps all variables for the compilers that it starts, `cxx_build` goes
/// over those that cargo sets for a script.
fn is_of_known_library(function: &str) -> bool {
    const MODULES: &[&str] = &["2cc9build_env", "9cxx_build4deps", "9cxx_build5cargo"];
    match function.strip_prefix("_ZN") {
        Some(path) => MODULES.iter().any(|module| path.starts_with(module)),
        None => function.starts_with("_R") && MODULES.iter().any(|m| function.contains(&format!("_{m}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn functions_that_start_commands() {
        for (name, is_known) in [
            ("_RNvNtCsjrHSEGnQ3l9_3std3env7vars_os", true),
            ("_ZN3std3env7vars_os17h0123456789abcdefE", true),
            ("_RNvMs_NtNtNtNtCsjrHSEGnQ3l9_3std3sys7process4unix6commonNtB4_7Command11capture_env", true),
            ("_ZN3std3sys7process4unix6common7Command11capture_env17h0123456789abcdefE", true),
            ("_ZN3std10sys_common7process10CommandEnv7capture17h0123456789abcdefE", true),
            // A user's, and what was made for one of these.
            ("_ZN4mine7vars_os17h0123456789abcdefE", false),
            ("_ZN4mine7Command11capture_env17h0123456789abcdefE", false),
            ("_RINvMNtCs1_4core6optionINtB3_6OptionuE11map_or_elseNvNtCs2_3std3env7vars_osE", false),
        ] {
            assert_eq!(is_of_std(name), is_known, "{name}");
        }
        for (name, is_known) in [
            ("_ZN2cc9build_env11EnvSnapshot7capture17h0123456789abcdefE", true),
            ("_RNvMNtCs1_2cc9build_envNtB2_11EnvSnapshot7capture", true),
            ("_ZN4mine2cc9build_env7capture17h0123456789abcdefE", false),
            ("_RNvNtCs1_3mcc9build_env7capture", false),
        ] {
            assert_eq!(is_of_known_library(name), is_known, "{name}");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn what_programs_may_learn_of_their_environment() {
        let dir = tempfile::tempdir().unwrap();
        let cc = "mod build_env { pub fn capture() -> usize { seen(&mut std::env::vars_os()) } \
            #[inline(never)] fn seen(all: &mut std::env::VarsOs) -> usize { all.by_ref().count() } } \
            static N: std::sync::OnceLock<usize> = std::sync::OnceLock::new(); \
            fn main() { println!(\"{}\", N.get_or_init(build_env::capture)); }";
        for (name, text, environment) in [
            ("none", "fn main() { println!(\"{:?}\", std::env::var(\"A\")); }", Environment::Nothing),
            (
                "commands",
                "fn main() { std::process::Command::new(\"true\").env(\"A\", \"1\").status().unwrap(); }",
                Environment::Named,
            ),
            ("all", "fn main() { println!(\"{:?}\", std::env::vars().count()); }", Environment::All),
            ("all_os", "fn main() { println!(\"{:?}\", std::env::vars_os().count()); }", Environment::All),
            ("cc", cc, Environment::Named),
            ("other", cc, Environment::All),
        ] {
            let (source, program) = (dir.path().join(format!("{name}.rs")), dir.path().join(name));
            std::fs::write(&source, text).unwrap();
            for level in ["0", "3"] {
                let mut rustc = Command::new("rustc");
                rustc.arg(&source).arg("-o").arg(&program).arg(format!("-Copt-level={level}"));
                assert!(rustc.status().unwrap().success());
                let habits = Habits::read(&std::fs::read(&program).unwrap());
                assert_eq!(habits.environment, environment, "{name} {level}");
            }
        }
    }
}
