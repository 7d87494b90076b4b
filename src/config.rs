//! Every setting in one table: its key in files, its environment variable, its default and what it means.
//!
//! Environment > nearest `.kache.toml` above the working directory > user configuration > default.

mod project;
mod remote;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use kache_wrapper::cache::{Incremental, Settings};

use crate::planner::Planner;
use crate::store::{self, Store, Verify};

/// One setting.
pub struct Setting {
    /// In a file, below `[cache]`.
    pub key: &'static str,
    pub env: &'static str,
    pub default: &'static str,
    pub doc: &'static str,
    /// Its value is not shown, and not read from a project's file.
    pub secret: bool,
    /// Names a program to run or a place to write to: not taken from a file that comes with a project.
    pub personal: bool,
}

const fn setting(key: &'static str, env: &'static str, default: &'static str, doc: &'static str) -> Setting {
    Setting { key, env, default, doc, secret: false, personal: false }
}

const fn secret(key: &'static str, env: &'static str, doc: &'static str) -> Setting {
    Setting { key, env, default: "", doc, secret: true, personal: false }
}

const fn personal(key: &'static str, env: &'static str, doc: &'static str) -> Setting {
    Setting { key, env, default: "", doc, secret: false, personal: true }
}

/// All of them.
pub const SETTINGS: &[Setting] = &[
    personal(
        "cache_dir",
        "KACHE_CACHE_DIR",
        "Where the cache lives. Default: `$XDG_CACHE_HOME/kache`, else `~/.cache/kache` (macOS: `~/Library/Caches/kache`). Not from a project's file.",
    ),
    setting(
        "max_size",
        "KACHE_MAX_SIZE",
        "",
        "Bytes that blobs may take on disk, with a unit (`20GiB`, `500MB`). Default: 50 GiB or a quarter of the disk, whichever is less.",
    ),
    setting("disabled", "KACHE_DISABLED", "false", "Run the compiler as if kache were not there."),
    setting("key_salt", "KACHE_KEY_SALT", "", "Part of every key: another salt is another cache."),
    setting(
        "key_env_vars",
        "KACHE_KEY_ENV_VARS",
        "",
        "Further environment variables whose values are part of every key (list; in the environment separated by commas).",
    ),
    setting(
        "extra_inputs",
        "KACHE_EXTRA_INPUTS",
        "",
        "Files that macros read and rustc does not report, as globs relative to the package (list). A package can have its own in `kache.toml`.",
    ),
    setting(
        "path_remap",
        "KACHE_PATH_REMAP",
        "true",
        "Replace this machine's paths in outputs, so that checkouts and machines can share results.",
    ),
    setting(
        "cache_executables",
        "KACHE_CACHE_EXECUTABLES",
        "true",
        "Cache linked programs and libraries too, not only what they are made of.",
    ),
    setting(
        "incremental",
        "KACHE_INCREMENTAL",
        "auto",
        "`auto`: first builds for the cache, edits incrementally and not stored. `never`: all for the cache. `always`: as cargo asks, such results are not stored.",
    ),
    setting("build_scripts", "KACHE_BUILD_SCRIPTS", "true", "Cache what build scripts do."),
    setting(
        "build_scripts_exclude",
        "KACHE_BUILD_SCRIPTS_EXCLUDE",
        "",
        "Packages whose build scripts always run (list).",
    ),
    setting(
        "verify",
        "KACHE_VERIFY",
        "stat",
        "When blobs are read again before use: `stat` (when they look different), `always`.",
    ),
    personal(
        "fallback",
        "KACHE_FALLBACK",
        "Another wrapper for what kache passes through. Not from a project's file.",
    ),
    setting(
        "daemon_idle_timeout",
        "KACHE_DAEMON_IDLE_TIMEOUT",
        "30m",
        "The daemon ends when it had nothing to do for so long (`90s`, `30m`, `2h`). `0`: wrappers do not start one.",
    ),
    setting("local_only", "KACHE_LOCAL_ONLY", "false", "Leave the remote alone."),
    setting("remote.bucket", "KACHE_S3_BUCKET", "", "S3 bucket to share results through. Empty: no remote."),
    setting(
        "remote.endpoint",
        "KACHE_S3_ENDPOINT",
        "",
        "URL of an S3 server (R2, MinIO, Ceph, Garage). Default: AWS.",
    ),
    setting("remote.region", "KACHE_S3_REGION", "", "Default: as AWS configuration says, else `us-east-1`."),
    setting("remote.prefix", "KACHE_S3_PREFIX", "", "Goes before the name of every object in the bucket."),
    setting("remote.profile", "KACHE_S3_PROFILE", "", "Profile of the AWS configuration files."),
    setting(
        "remote.path_style",
        "KACHE_S3_PATH_STYLE",
        "auto",
        "`true`: the bucket is part of the path, `false`: of the host name. `auto`: the path when there is an endpoint.",
    ),
    secret(
        "remote.access_key",
        "KACHE_S3_ACCESS_KEY",
        "Credentials, instead of those that the AWS SDK finds (environment, profile, SSO, web identity, container, instance).",
    ),
    secret("remote.secret_key", "KACHE_S3_SECRET_KEY", "Belongs to `remote.access_key`."),
    setting(
        "remote.mode",
        "KACHE_REMOTE_MODE",
        "readwrite",
        "`readwrite`, `readonly` (restore from it, upload nothing), `off`.",
    ),
    setting("remote.concurrency", "KACHE_S3_CONCURRENCY", "16", "Transfers at a time."),
    setting(
        "remote.timeout",
        "KACHE_S3_TIMEOUT",
        "10s",
        "For one request, and for silence in the middle of a transfer. Builds do not wait that long; see [remote](remote.md).",
    ),
    setting(
        "remote.compression_level",
        "KACHE_COMPRESSION_LEVEL",
        "3",
        "zstd level of what is uploaded, 1 to 19; `0` stores blobs as they are.",
    ),
    setting(
        "remote.max_blob_size",
        "KACHE_S3_MAX_BLOB_SIZE",
        "2GiB",
        "Larger outputs are neither uploaded nor downloaded.",
    ),
    secret(
        "remote.signing_key",
        "KACHE_SIGNING_KEY",
        "ed25519 key (64 hex digits, from `kache signing-key`) that signs what is uploaded.",
    ),
    setting("remote.signing_key_file", "KACHE_SIGNING_KEY_FILE", "", "File with the signing key."),
    setting(
        "remote.trusted_keys",
        "KACHE_TRUSTED_KEYS",
        "",
        "Public keys whose signatures count (list). The own signing key always does.",
    ),
    setting(
        "remote.require_signed",
        "KACHE_REQUIRE_SIGNED",
        "false",
        "Use only what a trusted key has signed.",
    ),
    setting(
        "planner.endpoint",
        "KACHE_PLANNER_ENDPOINT",
        "",
        "URL (`http://` or `https://`) of a service that says what to fetch first; see [planner](planner.md).",
    ),
    setting("planner.timeout_ms", "KACHE_PLANNER_TIMEOUT_MS", "750", "How long its answer is waited for."),
    secret("planner.token", "KACHE_PLANNER_TOKEN", "What the planner wants to be shown."),
];

/// May a variable be written down, so that the remote of whoever has it is found again? Only what says which remote
/// that is, and nothing secret.
pub fn is_public(name: &OsStr, value: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let of_ours = SETTINGS.iter().any(|s| s.env == name && !s.secret);
    let has_password = value.to_str().is_none_or(|v| v.contains('@'));
    let place = ["HOME", "XDG_CONFIG_HOME", "KACHE_CONFIG"].contains(&name);
    (of_ours || remote::is_public(name) || place) && !has_password
}

/// Is a variable one of those that give access to a remote?
pub fn is_credential(name: &OsStr) -> bool {
    name.to_str().is_some_and(|n| {
        ["KACHE_S3_ACCESS_KEY", "KACHE_S3_SECRET_KEY"].contains(&n) || remote::is_credential(n)
    })
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File(PathBuf),
    Env(&'static str),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Env(name) => write!(f, "${name}"),
        }
    }
}

/// The effective configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub cache_dir: PathBuf,
    pub max_size: Option<u64>,
    pub disabled: bool,
    pub verify: Verify,
    pub fallback: Option<String>,
    pub daemon_idle_timeout: Duration,
    pub settings: Settings,
    /// `None`: nothing is shared with other machines.
    pub remote: Option<kache_remote::Settings>,
    pub planner: Option<Planner>,
    /// Also where there is no endpoint: for who is the planner.
    pub planner_token: Option<kache_remote::Secret>,
    /// Each setting's text and origin, in the order of the table.
    pub origins: Vec<(String, Origin)>,
    /// For people: files and settings that do not count, and why.
    pub ignored: Vec<String>,
}

pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

impl Config {
    /// A pure function of the given environment, the directory, and the files that these name.
    pub fn load(env: Env, cwd: &Path) -> Result<Config> {
        let (files, ignored) = read_files(env, cwd)?;
        let mut origins = Vec::with_capacity(SETTINGS.len());
        for s in SETTINGS {
            let found = match env(s.env) {
                Some(value) => {
                    let text = value.into_string().map_err(|_| anyhow!("{} is not UTF-8", s.env))?;
                    Some((text, Origin::Env(s.env)))
                }
                None => files.iter().find_map(|f| f.get(s)).transpose()?,
            };
            origins.push(found.unwrap_or_else(|| (s.default.to_owned(), Origin::Default)));
        }
        Ok(Config { ignored, ..Config::from(origins, env)? })
    }

    /// When files or variables are broken and a build must go on.
    pub fn default_for(env: Env) -> Config {
        let mut origins: Vec<_> = SETTINGS.iter().map(|s| (s.default.to_owned(), Origin::Default)).collect();
        // What the environment says well counts all the same.
        for (at, s) in SETTINGS.iter().enumerate() {
            let Some(value) = env(s.env).and_then(|v| v.into_string().ok()) else { continue };
            let default = std::mem::replace(&mut origins[at], (value, Origin::Env(s.env)));
            if Config::from(origins.clone(), env).is_err() {
                origins[at] = default;
            }
        }
        // The defaults in the table are valid: a unit test loads them.
        Config::from(origins, env).expect("defaults are valid")
    }

    fn from(origins: Vec<(String, Origin)>, env: Env) -> Result<Config> {
        let get = |key: &str| {
            let at = SETTINGS.iter().position(|s| s.key == key).expect("a key of the table");
            (&origins[at].0, &origins[at].1)
        };
        fn parse<T>(found: (&String, &Origin), key: &str, f: impl Fn(&str) -> Result<T>) -> Result<T> {
            f(found.0).with_context(|| {
                let secret = SETTINGS.iter().any(|s| s.key == key && s.secret);
                let shown = if secret { "(secret)" } else { found.0 };
                format!("bad value `{shown}` for `{key}` (from {})", found.1)
            })
        }
        let boolean_of = |key: &str| parse(get(key), key, boolean);
        let list_of = |key: &str| list(get(key).0);
        let cache_dir = match get("cache_dir").0.as_str() {
            "" => default_cache_dir(env),
            dir => PathBuf::from(dir),
        };
        let planner_token = Some(get("planner.token").0.clone()).filter(|t| !t.is_empty());
        let planner_token = planner_token.map(kache_remote::Secret);
        let planner_timeout = parse(get("planner.timeout_ms"), "planner.timeout_ms", |text| {
            text.parse().map(Duration::from_millis).map_err(|_| anyhow!("expected milliseconds"))
        })?;
        let planner = Some(get("planner.endpoint").0.clone()).filter(|e| !e.is_empty());
        let planner = planner.map(|endpoint| Planner {
            endpoint,
            timeout: planner_timeout,
            token: planner_token.clone(),
            certificates: remote::certificates(env),
        });
        let remote = remote::settings(&|key| get(key).0.as_str(), env)?;
        let cache_dir =
            if cache_dir.is_absolute() { cache_dir } else { std::env::current_dir()?.join(cache_dir) };
        let settings = Settings {
            key_salt: get("key_salt").0.clone(),
            key_env_vars: list_of("key_env_vars"),
            extra_inputs: list_of("extra_inputs"),
            path_remap: boolean_of("path_remap")?,
            cache_executables: boolean_of("cache_executables")?,
            incremental: parse(get("incremental"), "incremental", |text| match text {
                "auto" => Ok(Incremental::Auto),
                "never" => Ok(Incremental::Never),
                "always" => Ok(Incremental::Always),
                _ => bail!("expected `auto`, `never` or `always`"),
            })?,
            build_scripts: boolean_of("build_scripts")?,
            build_scripts_exclude: list_of("build_scripts_exclude"),
        };
        Ok(Config {
            cache_dir,
            max_size: parse(get("max_size"), "max_size", |text| match text {
                "" => Ok(None),
                text => size(text).map(Some),
            })?,
            disabled: boolean_of("disabled")?,
            verify: parse(get("verify"), "verify", |text| match text {
                "stat" => Ok(Verify::Stat),
                "always" => Ok(Verify::Always),
                _ => bail!("expected `stat` or `always`"),
            })?,
            fallback: Some(get("fallback").0.clone()).filter(|f| !f.is_empty()),
            daemon_idle_timeout: parse(get("daemon_idle_timeout"), "daemon_idle_timeout", duration)?,
            settings,
            remote,
            planner,
            planner_token,
            origins,
            ignored: Vec::new(),
        })
    }

    /// A setting as it was written.
    pub fn text(&self, key: &str) -> Option<&str> {
        let at = SETTINGS.iter().position(|s| s.key == key)?;
        Some(self.origins.get(at)?.0.as_str())
    }

    /// Where what observing needs is kept.
    pub fn trace_dir(&self) -> PathBuf {
        self.cache_dir.join("trace")
    }

    pub fn open_store(&self) -> store::Result<Store> {
        let program = std::env::current_exe().ok();
        Store::open(&self.cache_dir, store::Options { verify: self.verify, max_size: self.max_size, program })
    }

    /// The wrapper's settings for a package: a `kache.toml` beside its manifest adds extra inputs.
    pub fn settings_for(&self, package: Option<&OsStr>) -> Settings {
        let mut settings = self.settings.clone();
        if let Some(package) = package
            && let Ok(text) = std::fs::read_to_string(Path::new(package).join("kache.toml"))
            && let Ok(table) = text.parse::<toml::Table>()
            && let Some(extra) = table.get("extra_inputs").and_then(toml::Value::as_array)
        {
            settings.extra_inputs.extend(extra.iter().filter_map(toml::Value::as_str).map(str::to_owned));
        }
        settings
    }
}

struct ConfigFile {
    path: PathBuf,
    table: toml::Table,
    /// Comes with a project, not from the user.
    project: bool,
}

impl ConfigFile {
    fn value(&self, key: &str) -> Option<&toml::Value> {
        key.split('.').try_fold(self.table.get("cache")?, |value, part| value.as_table()?.get(part))
    }

    fn get(&self, setting: &Setting) -> Option<Result<(String, Origin)>> {
        let key = setting.key;
        let value = self.value(key)?;
        if setting.personal && self.project {
            return None;
        }
        if setting.secret && self.project {
            let path = self.path.display();
            return Some(Err(anyhow!(
                "`{key}` is secret and does not belong into {path}; use ${}",
                setting.env
            )));
        }
        let text = match value {
            toml::Value::String(s) => Ok(s.clone()),
            toml::Value::Boolean(b) => Ok(b.to_string()),
            toml::Value::Integer(i) => Ok(i.to_string()),
            toml::Value::Array(items) => items
                .iter()
                .map(|i| {
                    i.as_str().map(str::to_owned).ok_or_else(|| {
                        anyhow!("`{key}` in {} must be a list of strings", self.path.display())
                    })
                })
                .collect::<Result<Vec<_>>>()
                .map(|v| v.join(",")),
            _ => Err(anyhow!("`{key}` in {} has the wrong type", self.path.display())),
        };
        Some(text.map(|t| (t, Origin::File(self.path.clone()))))
    }
}

/// The nearest project's file that may be obeyed.
pub fn project_file(cwd: &Path) -> Option<PathBuf> {
    project::nearest(cwd).0
}

/// Nearest project file first, then the user's; and what of them does not count.
fn read_files(env: Env, cwd: &Path) -> Result<(Vec<ConfigFile>, Vec<String>)> {
    let (project, mut ignored) = project::nearest(cwd);
    let user = user_file(env).filter(|p| p.is_file());
    let project = project.into_iter().map(|p| read_file(p, true));
    let files: Vec<_> = project.chain(user.map(|p| read_file(p, false))).collect::<Result<_>>()?;
    for file in files.iter().filter(|f| f.project) {
        for s in SETTINGS.iter().filter(|s| s.personal && file.value(s.key).is_some()) {
            ignored.push(format!(
                "`{}` in {}: a project cannot set it; use ${} or your own configuration",
                s.key,
                file.path.display(),
                s.env
            ));
        }
    }
    Ok((files, ignored))
}

fn read_file(path: PathBuf, project: bool) -> Result<ConfigFile> {
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let table: toml::Table = text.parse().with_context(|| format!("{} is not valid TOML", path.display()))?;
    if let Some(cache) = table.get("cache").and_then(toml::Value::as_table)
        && let Some(unknown) = unknown_in(cache, "")
    {
        bail!("unknown setting `{unknown}` in {} (`kache config` lists all)", path.display());
    }
    Ok(ConfigFile { path, table, project })
}

/// The first key that is no setting. `above` is the table's own name with a dot, if it is not the topmost.
fn unknown_in(table: &toml::Table, above: &str) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let full = format!("{above}{key}");
        let below = format!("{full}.");
        match value {
            toml::Value::Table(inner) if SETTINGS.iter().any(|s| s.key.starts_with(&below)) => {
                unknown_in(inner, &below)
            }
            _ => (!SETTINGS.iter().any(|s| s.key == full)).then_some(full),
        }
    })
}

/// The user's configuration file, whether it exists or not.
pub fn user_file(env: Env) -> Option<PathBuf> {
    if let Some(path) = env("KACHE_CONFIG") {
        return Some(path.into());
    }
    let base = env("XDG_CONFIG_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    Some(base.or_else(|| Some(home(env)?.join(".config")))?.join("kache/config.toml"))
}

fn default_cache_dir(env: Env) -> PathBuf {
    if let Some(base) = env("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute()) {
        return base.join("kache");
    }
    match home(env) {
        Some(home) if cfg!(target_os = "macos") => home.join("Library/Caches/kache"),
        Some(home) => home.join(".cache/kache"),
        // No home at all: a directory of this user's own, with others shut out by its mode.
        None => std::env::temp_dir().join(format!("kache-{}", nix::unistd::getuid())),
    }
}

fn home(env: Env) -> Option<PathBuf> {
    let set = env("HOME").map(PathBuf::from).filter(|h| h.is_absolute());
    set.or_else(|| nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|u| u.dir))
}

fn boolean(text: &str) -> Result<bool> {
    match text {
        "1" | "true" | "yes" | "on" => Ok(true),
        "" | "0" | "false" | "no" | "off" => Ok(false),
        _ => bail!("expected `true` or `false`"),
    }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect()
}

/// Bytes, from `123`, `10KB`, `5GiB`.
pub fn size(text: &str) -> Result<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..split].parse().map_err(|_| anyhow!("expected a size such as `20GiB`"))?;
    let unit: u64 = match text[split..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        unit => bail!("unknown unit `{unit}`"),
    };
    Ok((number * unit as f64) as u64)
}

/// A time span, from `90`, `90s`, `30m`, `2h`, `7d`.
pub fn duration(text: &str) -> Result<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..split].parse().map_err(|_| anyhow!("expected a time such as `30m`"))?;
    let unit = match text[split..].trim() {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        unit => bail!("unknown unit `{unit}`"),
    };
    Ok(Duration::from_secs(number.saturating_mul(unit)))
}

/// docs/configuration.md.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Configuration\n\nGenerated from the table in `src/config.rs` by `kache config --markdown`; a test compares them.\n\n\
         A setting is taken from its environment variable, else from the nearest `.kache.toml` above the working directory, \
         else from the user's `~/.config/kache/config.toml` (`XDG_CONFIG_HOME`, `KACHE_CONFIG`), else it has its default. \
         In files, settings stand below `[cache]`, those with a dot in a table of their own (`[cache.remote]`).\n\n\
         A `.kache.toml` counts only when it belongs to the user or to root and others cannot write to it: above a checkout \
         there may be directories where anybody can leave one. `kache config` and `kache doctor` name those that do not count.\n\n| key | environment | default | meaning |\n| --- | --- | --- | --- |\n",
    );
    for s in SETTINGS {
        let default = if s.default.is_empty() { String::new() } else { format!("`{}`", s.default) };
        text.push_str(&format!(
            "| `{}` | `{}` | {default} | {} |\n",
            s.key,
            s.env,
            s.doc.replace('|', "\\|")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(vars: &[(&str, &str)], cwd: &Path) -> Result<Config> {
        let env = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
        Config::load(&env, cwd)
    }

    #[test]
    fn environment_beats_project_beats_user_beats_default() {
        let dir = tempfile::tempdir().unwrap();
        let cwd = dir.path().join("a/b");
        std::fs::create_dir_all(&cwd).unwrap();
        let user = dir.path().join("user.toml");
        std::fs::write(&user, "[cache]\nkey_salt = 'user'\nmax_size = '1GiB'\nkey_env_vars = ['A', 'B']\n")
            .unwrap();
        std::fs::write(dir.path().join("a/.kache.toml"), "[cache]\nkey_salt = 'project'\n").unwrap();
        let user = user.to_str().unwrap();
        let c = load(&[("KACHE_CONFIG", user), ("HOME", "/h")], &cwd).unwrap();
        assert_eq!(c.settings.key_salt, "project");
        assert_eq!(c.max_size, Some(1 << 30));
        assert_eq!(c.settings.key_env_vars, ["A", "B"]);
        assert_eq!(c.cache_dir, Path::new("/h/.cache/kache"));
        let c = load(&[("KACHE_CONFIG", user), ("KACHE_KEY_SALT", "env"), ("HOME", "/h")], &cwd).unwrap();
        assert_eq!(c.settings.key_salt, "env");
    }

    #[test]
    fn a_project_names_no_program_and_no_cache() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[cache]\nfallback = '/tmp/evil'\ncache_dir = '/tmp/cache'\nkey_salt = 'project'\n";
        std::fs::write(dir.path().join(".kache.toml"), text).unwrap();
        let user = dir.path().join("user.toml");
        std::fs::write(&user, "[cache]\nfallback = 'sccache'\n").unwrap();
        let c = load(&[("KACHE_CONFIG", user.to_str().unwrap()), ("HOME", "/h")], dir.path()).unwrap();
        assert_eq!(c.fallback.as_deref(), Some("sccache"));
        assert_eq!(c.cache_dir, Path::new("/h/.cache/kache"));
        assert_eq!(c.settings.key_salt, "project");
        assert!(c.ignored.iter().any(|i| i.contains("fallback")) && c.ignored.len() == 2, "{:?}", c.ignored);
    }

    #[test]
    fn bad_values_name_themselves_and_their_origin() {
        let dir = tempfile::tempdir().unwrap();
        let error =
            format!("{:#}", load(&[("KACHE_MAX_SIZE", "lots"), ("HOME", "/h")], dir.path()).unwrap_err());
        assert!(
            error.contains("lots") && error.contains("max_size") && error.contains("KACHE_MAX_SIZE"),
            "{error}"
        );
        std::fs::write(dir.path().join(".kache.toml"), "[cache]\nmax_sise = 1\n").unwrap();
        let error = format!("{:#}", load(&[("HOME", "/h")], dir.path()).unwrap_err());
        assert!(error.contains("max_sise"), "{error}");
    }

    #[test]
    fn a_remote_is_what_has_a_bucket_and_is_not_turned_off() {
        let dir = tempfile::tempdir().unwrap();
        let on = ("KACHE_S3_BUCKET", "b");
        let remote = |vars: &[(&str, &str)]| load(vars, dir.path()).unwrap().remote;
        assert!(remote(&[("HOME", "/h")]).is_none());
        assert!(remote(&[on, ("KACHE_LOCAL_ONLY", "1")]).is_none());
        assert!(remote(&[on, ("KACHE_REMOTE_MODE", "off")]).is_none());
        let r = remote(&[on, ("KACHE_S3_PREFIX", "/a/b/"), ("AWS_PROFILE", "p")]).unwrap();
        assert_eq!((r.prefix.as_str(), r.path_style), ("a/b", false));
        assert_eq!(r.env["AWS_PROFILE"].0, "p");
        assert!(remote(&[on, ("KACHE_S3_ENDPOINT", "http://x")]).unwrap().path_style);
        assert!(load(&[on, ("KACHE_S3_ACCESS_KEY", "half")], dir.path()).is_err());

        std::fs::write(dir.path().join(".kache.toml"), "[cache.remote]\nbucket = 'c'\n").unwrap();
        assert_eq!(remote(&[]).unwrap().bucket, "c");
        for (text, word) in [
            ("[cache.remote]\nbukket = 'c'\n", "remote.bukket"),
            ("[cache.remote]\nsecret_key = 'hunter2'\n", "secret"),
        ] {
            std::fs::write(dir.path().join(".kache.toml"), text).unwrap();
            let error = format!("{:#}", load(&[], dir.path()).unwrap_err());
            assert!(error.contains(word) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn defaults_are_valid() {
        let c = Config::default_for(&|_| None);
        assert_eq!(c.settings, Settings::default());
        assert_eq!(c.daemon_idle_timeout, Duration::from_secs(1800));
    }

    #[test]
    fn a_bad_value_does_not_take_good_ones_with_it() {
        let vars = [("KACHE_MAX_SIZE", "lots"), ("KACHE_DISABLED", "1"), ("HOME", "/h")];
        let env = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
        let c = Config::default_for(&env);
        assert!(c.disabled && c.max_size.is_none());
    }

    #[test]
    fn the_documentation_is_this_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(written, markdown(), "run `kache config --markdown > docs/configuration.md`");
    }

    #[test]
    fn sizes_and_times() {
        assert_eq!(size("1.5GiB").unwrap(), 3 << 29);
        assert_eq!(size("500MB").unwrap(), 500_000_000);
        assert!(size("5 apples").is_err() && size("").is_err());
        assert_eq!(duration("2h").unwrap(), Duration::from_secs(7200));
    }
}
