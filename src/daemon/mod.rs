//! The long-lived process: hosts mounts, answers wrappers from memory, works in the background.

mod adopt;
mod blobs;
mod callers;
mod cargo_locks;
pub mod client;
mod engine;
mod forks;
mod heal;
pub mod link;
pub mod mounts;
mod owner;
pub mod protocol;
mod scratch;
pub mod server;
mod sharing;
mod signals;
pub mod socket;
pub mod start;
pub mod view;

use std::time::Duration;

use crate::config::Config;

/// Has a running daemon write what it keeps in memory, so that others see it.
pub fn flush(config: &Config) {
    if let Some(mut client) = client::Client::connect(&config.cache_dir)
        && let Err(error) = client.ask(protocol::Body::Flush, Duration::from_secs(5))
    {
        tracing::warn!(%error, "the daemon does not answer; its last events may be missing");
    }
}
