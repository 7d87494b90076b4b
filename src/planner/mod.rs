//! The planner: a service that says what a build should fetch first.
//!
//! Two requests, JSON over HTTP, each with `Authorization: Bearer <token>` when there is one (docs/planner.md):
//! `POST /v1/plan` asks, `POST /v1/learn` tells what a build used. Without a planner, or when it does not answer in time,
//! the order of the build manifest is good enough.

mod client;
mod http;
mod server;

use std::path::PathBuf;
use std::time::Duration;

use kache_remote::Secret;
use serde::{Deserialize, Serialize};

pub use server::serve;

/// Where the planner is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planner {
    /// `http://host[:port]` or `https://host[:port]`
    pub endpoint: String,
    pub timeout: Duration,
    pub token: Option<Secret>,
    /// PEM file of whom to trust instead of whom the system trusts.
    pub certificates: Option<PathBuf>,
}

/// Names of a build in hex (see [`kache_wrapper::build::Build`]), from the most exact one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    pub builds: Vec<String>,
    /// What for: `build`.
    pub intent: String,
}

/// Entry keys in hex, most wanted first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Answer {
    pub keys: Vec<String>,
}

/// What a build used, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learn {
    pub build: String,
    pub entries: Vec<Used>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    pub key: String,
    /// Milliseconds that it takes to compile: what is saved by having it early.
    pub took_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn learn(planner: &Planner, build: &str, keys: &[(&str, u64)]) {
        let entries = keys.iter().map(|(k, took)| Used { key: k.repeat(32), took_ms: *took }).collect();
        run(planner.learn(&Learn { build: build.repeat(32), entries })).unwrap();
    }

    fn ask(planner: &Planner, builds: &[&str]) -> Option<Vec<String>> {
        let ask = Ask { builds: builds.iter().map(|b| b.repeat(32)).collect(), intent: "build".into() };
        let keys = run(planner.ask(&ask)).ok()?.keys;
        Some(keys.into_iter().map(|k| k[..2].to_owned()).collect())
    }

    #[test]
    fn it_ranks_what_it_has_learned() {
        let dir = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let db = dir.path().join("planner.db");
        // Ends with the process of the tests.
        std::thread::spawn(move || serve(&listener, &db, Some("token")));
        let token = Some(Secret("token".into()));
        let planner = Planner { endpoint, timeout: Duration::from_secs(10), token, certificates: None };
        learn(&planner, "aa", &[("01", 10), ("02", 500)]);
        learn(&planner, "aa", &[("02", 500), ("03", 9000)]);
        // What the last builds used comes before what only older ones did; the dearest first.
        assert_eq!(ask(&planner, &["aa"]).unwrap(), ["03", "02", "01"]);
        assert_eq!(ask(&planner, &["bb", "aa"]).unwrap().len(), 3);
        assert_eq!(ask(&planner, &["bb"]).unwrap(), Vec::<String>::new());

        let stranger = Planner { token: None, ..planner.clone() };
        assert_eq!(ask(&stranger, &["aa"]), None);
        let nonsense = Ask { builds: vec!["'; DROP TABLE used".into()], intent: "build".into() };
        assert!(run(planner.ask(&nonsense)).is_err());
        assert!(ask(&planner, &["aa"]).is_some());
    }

    #[test]
    fn a_planner_that_does_not_answer_is_not_waited_for() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let timeout = Duration::from_millis(50);
        let planner = Planner { endpoint, timeout, token: None, certificates: None };
        assert_eq!(ask(&planner, &["aa"]), None);
        for endpoint in ["ftp://x", "x", "http://127.0.0.1:1", "https://kache.invalid"] {
            assert_eq!(ask(&Planner { endpoint: endpoint.into(), ..planner.clone() }, &["aa"]), None);
        }
    }
}
