//! Examines everything that a hit depends on, and says in words what is wrong and what to do about it.

mod cargo;
mod mounts;
mod remote;
mod store;

use std::path::PathBuf;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

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

#[derive(Debug, Clone)]
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

/// Checks of one kind take so long at most, unless they read the whole store.
const PATIENCE: Duration = Duration::from_secs(30);

/// Tells each check as soon as it is done. What hangs (a disk, a mount) is left behind.
pub fn examine(config: &Config, options: &Options, tell: &mut dyn FnMut(Check)) {
    // Mounts before the store: what is fixed there decides how it reaches the target.
    let kinds: [(&'static str, Examine, Duration); 4] = [
        ("wrapper", |config, _, tell| cargo::examine(config, tell), PATIENCE),
        ("mounts", mounts::examine, PATIENCE),
        ("store", store::examine, if options.verify || options.repair { Duration::MAX } else { PATIENCE }),
        ("remote", |config, _, tell| remote::examine(config).into_iter().for_each(tell), PATIENCE),
    ];
    for (name, examine, patience) in kinds {
        let (config, options) = (config.clone(), options.clone());
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::spawn(move || examine(&config, &options, &|check| _ = send.send(check)));
        let began = Instant::now();
        loop {
            match receive.recv_timeout(patience.saturating_sub(began.elapsed())) {
                Ok(check) => tell(check),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let detail = format!("no answer within {} s", patience.as_secs());
                    tell(Check::fail(
                        name,
                        detail,
                        "a disk, a mount or a daemon hangs; see what is said above",
                    ));
                    break;
                }
            }
        }
    }
}

/// Checks of one kind, told one by one.
type Examine = fn(&Config, &Options, &Tell<'_>);
type Tell<'a> = dyn Fn(Check) + 'a;
