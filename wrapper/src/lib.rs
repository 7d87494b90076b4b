//! What kache knows of compilers.
//!
//! An action goes through [`lookup::lookup`]: it is a pass, a hit that has been restored, or a [`lookup::Miss`]. A miss
//! is run by [`compile::run`] (one process per [`claim`]) under an observer; [`evidence`] says what follows from what was
//! seen, and [`finish::finish`] stores it. Everything this crate needs from the program around it is the
//! [`cache::Cache`] trait.

pub mod args;
mod artifacts;
pub mod atomic;
pub mod build;
pub mod cache;
pub mod claim;
mod closure;
pub mod compile;
pub mod depinfo;
pub mod evidence;
mod exec;
pub mod finish;
mod hasher;
mod host;
mod included;
pub mod incremental;
pub mod key;
pub mod lookup;
pub mod machine;
mod names;
pub mod object;
mod objects;
mod prefixes;
pub mod proof;
pub mod query;
pub mod record;
pub mod scratch;
pub mod script;
mod system;
#[cfg(test)]
mod testing;
mod toolchain;
mod tree;
mod variables;

pub use prefixes::{MARK, Prefixes};
