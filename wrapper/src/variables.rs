//! Which variables of the environment can matter to a result.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::cache::{Cache, Invocation, Result};
use crate::objects::{Environment, Habits};

/// Variables that change what rustc does, whatever the sources say.
pub const RUSTC: &[&str] = &[
    "RUSTC_BOOTSTRAP",
    "RUST_TARGET_PATH",
    "SOURCE_DATE_EPOCH",
    "RUSTC_FORCE_RUSTC_VERSION",
    "RUSTC_OVERRIDE_VERSION_STRING",
    "RUSTC_BLESS_DIAGNOSTICS",
    "RUSTC_LOG",
    "CARGO_RUSTC_CURRENT_DIR",
];

/// Say how a build is run, not what it makes: the jobserver, the wrapper itself, the observer.
const OF_THE_RUN: &[&str] = &[
    "MAKEFLAGS",
    "MFLAGS",
    "CARGO_MAKEFLAGS",
    "NUM_JOBS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "LD_PRELOAD",
    // How often rustup's proxies stand above it.
    "RUST_RECURSION_COUNT",
];
const OF_THE_RUN_FAMILIES: &[&str] = &["KACHE_"];

/// Differ from one session to the next. They count where somebody's own code asked for one by its name.
const SESSION: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TERM",
    "COLORTERM",
    "LANG",
    "LANGUAGE",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
    "TMPDIR",
    "TMP",
    "TEMP",
    "EDITOR",
    "VISUAL",
    "PAGER",
    "DISPLAY",
    "HOSTNAME",
    "MAIL",
    "LS_COLORS",
    "COLUMNS",
    "LINES",
    "RUST_BACKTRACE",
    "RUST_LIB_BACKTRACE",
    "RUST_MIN_STACK",
    "LD_LIBRARY_PATH",
    "RUSTC",
    "CARGO",
    "RUSTDOC",
    "CARGO_HOME",
    "CI",
    "NO_COLOR",
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "FORCE_COLOR",
];
const SESSION_FAMILIES: &[&str] = &[
    "LC_",
    "SSH_",
    "XDG_",
    "DBUS_",
    "GPG_",
    "DYLD_",
    "CARGO_TERM_",
    "RUSTUP_",
    "TERM_",
    "VTE_",
    "TMUX",
    "WAYLAND_",
    "INVOCATION_",
];

/// Set by cargo for each build script: its arguments.
const OF_SCRIPTS: &[&str] = &[
    "TARGET",
    "HOST",
    "PROFILE",
    "OPT_LEVEL",
    "DEBUG",
    "OUT_DIR",
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTC_LINKER",
];
const OF_SCRIPTS_FAMILIES: &[&str] =
    &["CARGO_CFG_", "CARGO_FEATURE_", "CARGO_PKG_", "CARGO_MANIFEST_", "DEP_"];

fn is_in(name: &OsStr, names: &[&str], families: &[&str]) -> bool {
    name.to_str().is_some_and(|n| names.contains(&n) || families.iter().any(|f| n.starts_with(f)))
}

pub fn is_of_the_run(name: &OsStr) -> bool {
    is_in(name, OF_THE_RUN, OF_THE_RUN_FAMILIES)
}

pub fn is_of_session(name: &OsStr) -> bool {
    is_in(name, SESSION, SESSION_FAMILIES)
}

/// Is it one of the arguments that cargo gives a build script?
pub fn is_argument_of_scripts(name: &OsStr) -> bool {
    is_in(name, OF_SCRIPTS, OF_SCRIPTS_FAMILIES)
}

/// Does cargo set it for each compile, or for each run of a script, whatever it is in the user's environment?
pub fn is_set_by_cargo(name: &OsStr, for_script: bool) -> bool {
    const ALWAYS: &[&str] =
        &["CARGO", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "CARGO_TARGET_TMPDIR", "OUT_DIR"];
    const FAMILIES: &[&str] = &["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"];
    is_in(name, ALWAYS, FAMILIES)
        || for_script
            && name != "RUSTC_LINKER"
            && (is_argument_of_scripts(name) || is_in(name, &["RUSTC", "RUSTDOC", "NUM_JOBS"], &[]))
}

/// Does a variable belong to the user rather than to the session, the run, or cargo?
pub fn is_of_user(name: &OsStr) -> bool {
    !is_of_the_run(name)
        && !is_of_session(name)
        && !is_argument_of_scripts(name)
        && !name.to_str().is_some_and(|n| RUSTC.contains(&n))
}

/// Variables here that a program may have read with all others, without asking for one: all of them, if it may have gone
/// over them, else those that its words name, or begin to name (`APP_` for `APP_MODE`). Sorted.
pub fn named_by<'a>(
    cache: &dyn Cache,
    inv: &'a Invocation,
    program: &Path,
) -> Result<Vec<&'a (OsString, OsString)>> {
    let is_any = match Habits::of(cache, program)?.environment {
        Environment::Nothing => return Ok(Vec::new()),
        Environment::Named => false,
        Environment::All => true,
    };
    let words = if is_any { Vec::new() } else { words(cache, program)? };
    let mut named: Vec<_> = inv
        .env
        .iter()
        .filter(|(name, _)| may_count_unasked(name) && (is_any || names(&words, name.as_bytes())))
        .collect();
    named.sort();
    Ok(named)
}

/// Variables here that texts of interpreters may name: see [`crate::names`]. Sorted.
pub fn named_among<'a>(inv: &'a Invocation, filter: &[u8]) -> Vec<&'a (OsString, OsString)> {
    let is_one = |name: &OsStr| may_count_unasked(name) && crate::names::may_name(filter, name.as_bytes());
    let mut named: Vec<_> = inv.env.iter().filter(|(name, _)| is_one(name)).collect();
    named.sort();
    named
}

/// May it count for who has the whole environment, and did not ask for it by its name?
fn may_count_unasked(name: &OsStr) -> bool {
    !is_of_session(name) && !is_of_the_run(name) && !is_argument_of_scripts(name)
}

/// All words of a program or library that could be a variable's name or the beginning of one, each between newlines. Kept
/// as a fact of its content.
pub fn words(cache: &dyn Cache, program: &Path) -> Result<Vec<u8>> {
    let Some(hash) = cache.hash_file(program)? else { return Ok(Vec::new()) };
    if let Some(known) = cache.fact("words", &hash)? {
        return Ok(known);
    }
    let found = words_of(&cache.read(program)?.unwrap_or_default());
    cache.set_fact("words", &hash, &found)?;
    Ok(found)
}

pub fn words_of(bytes: &[u8]) -> Vec<u8> {
    let is_word = |b: &u8| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_';
    let words: BTreeSet<&[u8]> = bytes
        .split(|b| !is_word(b))
        .filter(|w| w.len() >= 2 && w.iter().any(u8::is_ascii_uppercase))
        .collect();
    let mut text = vec![b'\n'];
    for word in words {
        text.extend_from_slice(word);
        text.push(b'\n');
    }
    text
}

/// Do these words have a variable's name in them, or its beginning or end up to some `_` (`APP_` for `APP_MODE`)? Constants
/// stand side by side in a program; a short name must stand alone. A name that is no word of capitals may be anybody's.
pub fn names(words: &[u8], name: &[u8]) -> bool {
    const SHORT: usize = 6;
    if !name.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_') {
        return true;
    }
    let has = |before: &[u8], part: &[u8], after: &[u8]| {
        part.len() > 1 && memchr::memmem::find(words, &[before, part, after].concat()).is_some()
    };
    let alone: &[u8] = if name.len() >= SHORT { b"" } else { b"\n" };
    has(alone, name, alone)
        || memchr::memchr_iter(b'_', name)
            .any(|at| has(b"", &name[..=at], b"\n") || has(b"\n", &name[at..], b""))
}

/// How a text speaks of variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Shell,
    Make,
    /// They are in a table (`os.environ["X"]`).
    Table,
    /// Of a program that knows of variables by itself.
    Other,
}

/// Does a text use all variables?
pub fn uses_all(text: &[u8], language: Language) -> bool {
    match language {
        Language::Table => goes_over_table(text),
        Language::Make => memchr::memmem::find(text, b".VARIABLES").is_some() || lists_variables(text),
        Language::Shell | Language::Other => lists_variables(text),
    }
}

/// Names of variables that a text asks for in so many words: identifiers behind `$`, `${` or `$(` and such, and in
/// quotation marks where there is a table. Others may stand for anything, which is enough for variables of the session not
/// to count.
pub fn mentioned(text: &[u8], language: Language) -> BTreeSet<String> {
    /// What comes before a name, and with what the names behind it end; `""`: there is one.
    const BEFORE: [(&str, &str); 17] = [
        ("ENV{", "}"),
        ("((", "))"),
        ("$[", "]"),
        ("ENV->{", "}"),
        ("env.", ""),
        ("env?.", ""),
        ("env(", ")"),
        ("ifdef", ""),
        ("ifndef", ""),
        ("origin", ""),
        ("flavor", ""),
        ("value", ""),
        ("call", ""),
        ("-v", ""),
        ("${!", ""),
        ("${#", ""),
        ("printenv", "\n"),
    ];
    const WIDTH: usize = 200;
    let quoted = language == Language::Table;
    let mut found = BTreeSet::new();
    let mut at = 0;
    while let Some(next) = memchr::memchr3(b'$', b'"', b'\'', &text[at..]) {
        at += next + 1;
        if text[at - 1] == b'$' || quoted {
            let start = at + usize::from(matches!(text.get(at), Some(b'{' | b'(')));
            note(&text[start.min(text.len())..], &mut found);
        }
    }
    for (before, end) in BEFORE {
        for at in memchr::memmem::find_iter(text, before) {
            let rest = &text[at + before.len()..];
            let rest = &rest[..rest.len().min(WIDTH)];
            if end.is_empty() {
                note(rest.trim_ascii_start(), &mut found);
                continue;
            }
            let inner = &rest[..memchr::memmem::find(rest, end.as_bytes()).unwrap_or(rest.len())];
            inner.split(|b| !is_of_name(b)).for_each(|word| note(word, &mut found));
        }
    }
    let is_home = |sign: &[u8]| memchr::memmem::find(text, sign).is_some();
    if language == Language::Shell
        && [&b" ~/"[..], b"=~/", b"\t~/", b":~/", b" ~\n", b" ~;"].into_iter().any(is_home)
    {
        found.insert("HOME".into());
    }
    found
}

fn is_of_name(b: &u8) -> bool {
    b.is_ascii_alphanumeric() || *b == b'_'
}

/// The name with which a text begins.
fn note(text: &[u8], found: &mut BTreeSet<String>) {
    let word = &text[..text.iter().take_while(|b| is_of_name(b)).count()];
    if (2..100).contains(&word.len()) && !word[0].is_ascii_digit() {
        found.insert(String::from_utf8_lossy(word).into_owned());
    }
}

/// Does a script of a shell ask for names of variables? (`set` alone does, too, and every configure script does that to keep
/// its own.)
fn lists_variables(text: &[u8]) -> bool {
    const COMMANDS: [&[u8]; 5] = [b"compgen ", b"export -p", b"declare -p", b"declare -x\n", b"typeset -x\n"];
    let by_prefix = memchr::memmem::find_iter(text, b"${!").any(|at| {
        let rest = &text[at + 3..];
        let name = rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
        matches!(rest.get(name..name + 2), Some(b"*}" | b"@}"))
    });
    by_prefix || COMMANDS.iter().any(|command| memchr::memmem::find(text, command).is_some())
}

/// Does a script of perl, Python, Ruby, JavaScript or PHP use the table of all variables other than to look one up?
fn goes_over_table(text: &[u8]) -> bool {
    const TABLES: &[(&str, &[&str])] = &[
        ("%ENV", &[]),
        ("%{ENV", &[]),
        ("%::ENV", &[]),
        ("%main::ENV", &[]),
        ("os.environ", &["[", ".get(", ".setdefault(", ".pop(", ".get (", "b["]),
        ("process.env", &[".", "[", "?."]),
        ("Deno.env", &[".get("]),
        ("ENV.", &["fetch", "[]", "key", "has_key", "include", "delete", "store"]),
        ("$_ENV", &["["]),
        ("getenv()", &[]),
        // Of awk; `ENVIRONMENT` is any word.
        ("ENVIRON", &["[", "MENT"]),
    ];
    TABLES.iter().any(|(table, uses)| {
        memchr::memmem::find_iter(text, table.as_bytes()).any(|at| {
            let rest = &text[at + table.len()..];
            let is_name = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
            let stands_alone = at == 0 || !is_name(&text[at - 1]);
            stands_alone && !uses.iter().any(|using| rest.starts_with(using.as_bytes()))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_also_when_constants_stand_side_by_side() {
        let words = words_of(b"\0\x01foo DATABASE_URLSQLX_OFFLINEfile not\0CI\0APP_\0_DIR");
        for name in ["DATABASE_URL", "SQLX_OFFLINE", "APP_MODE", "FOO_DIR", "app_mode"] {
            assert!(names(&words, name.as_bytes()), "{name}");
        }
        assert!(!names(&words, b"OTHER_NAME") && !names(&words, b"ACCENT"));
    }

    #[test]
    fn scripts_mention_variables_in_several_ways() {
        let text = b"echo $USER ${HOME:-x} \"$app_mode\"; os.environ['MY_VAR'] $ENV{\"PERL_X\"} $1 plain";
        let found = mentioned(text, Language::Table);
        for name in ["USER", "HOME", "app_mode", "MY_VAR", "PERL_X"] {
            assert!(found.contains(name), "{name}");
        }
        assert!(!found.contains("plain") && !mentioned(text, Language::Shell).contains("MY_VAR"));
        for text in [
            "exists $ENV{HOME}",
            "@ENV{qw(USER HOME)}",
            "process.env.HOME",
            "puts $env(HOME)",
            "ifdef HOME",
            "ifndef\tHOME",
            "$(origin HOME)",
            "$(value HOME)",
            "$(call HOME)",
            "[[ -v HOME ]]",
            "$((HOME+1))",
            "echo ${!HOME}",
            "ls ~/x",
        ] {
            assert!(mentioned(text.as_bytes(), Language::Shell).contains("HOME"), "{text}");
        }
        for text in ["HOME=x; export HOME", "echo a~/b", "$", "${", "ENV{", "(("] {
            assert!(mentioned(text.as_bytes(), Language::Shell).is_empty(), "{text}");
        }
    }

    #[test]
    fn a_table_of_variables_is_used_to_look_one_up_or_as_a_whole() {
        for text in [
            "print $ENV{'X'}",
            "os.environ['X']",
            "os.environ.get('X')",
            "process.env.X",
            "MY_ENV.each",
            "ENVIRON[\"X\"]",
            "ENVIRONMENT",
        ] {
            assert!(!uses_all(text.as_bytes(), Language::Table), "{text}");
        }
        for text in [
            "keys %ENV",
            "keys %main::ENV",
            "for k in os.environ:",
            "dict(os.environ)",
            "Object.keys(process.env)",
            "ENV.each",
            "for (n in ENVIRON)",
        ] {
            assert!(uses_all(text.as_bytes(), Language::Table), "{text}");
            assert!(!uses_all(text.as_bytes(), Language::Shell), "{text} in a shell");
        }
        let text = b"$(foreach v,$(.VARIABLES),$(v))";
        assert!(uses_all(text, Language::Make) && !uses_all(text, Language::Shell));
        assert!(uses_all(b"echo ${!A*}", Language::Shell));
    }

    #[test]
    fn variables_belong_to_somebody() {
        for name in ["CARGO_CFG_UNIX", "CARGO_PKG_VERSION", "DEP_Z_INCLUDE", "OPT_LEVEL"] {
            assert!(is_argument_of_scripts(OsStr::new(name)), "{name}");
        }
        assert!(is_of_session(OsStr::new("LC_ALL")) && is_of_the_run(OsStr::new("KACHE_LOG")));
        assert!(is_of_user(OsStr::new("DATABASE_URL")) && !is_of_user(OsStr::new("RUSTC_BOOTSTRAP")));
    }
}
