//! A new checkout has nothing to build, and never believes something that is not so.
//!
//! `KACHE_TEST_MODE` is as for the stories: forks into mounts, or into plain directories.

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports, unused_macros)]
mod support;

mod cargo;
mod donor;
mod fresh;
mod kept;
mod random;
mod refresh;
mod truth;
mod worktree;
