//! Examines everything that a hit depends on, and says in words what is wrong and what to do about it.

mod cargo;
mod mounts;
mod remote;
mod store;

use std::path::PathBuf;

use serde::Serialize;

use crate::config::Config;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Ok,
    /// Works, but less well than it could.
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub state: State,
    pub detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

#[derive(Debug)]
pub struct Options {
    pub target: PathBuf,
    pub verify: bool,
    pub repair: bool,
    pub fix_mounts: bool,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Check {
        Check { name, state: State::Ok, detail: detail.into(), remedy: None }
    }

    fn warn(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { name, state: State::Warn, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    fn fail(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { name, state: State::Fail, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

pub fn examine(config: &Config, options: &Options) -> Vec<Check> {
    let mut checks = cargo::examine(config);
    // Mounts first: what is fixed there decides how the store reaches the target.
    let mounts = mounts::examine(config, options);
    checks.extend(store::examine(config, options));
    checks.extend(mounts);
    checks.extend(remote::examine(config));
    checks
}
