//! What kache knows of compilers.
//!
//! An action goes through [`lookup::lookup`]: it is a pass, a hit that has been restored, or a miss with a
//! [`lookup::Plan`]. A miss is compiled by [`compile::run`] (one process per [`claim`]) and stored by
//! [`finish::finish`]. Everything this crate needs from the program around it is the [`cache::Cache`] trait.

pub mod args;
mod artifacts;
pub mod atomic;
pub mod build;
pub mod cache;
pub mod claim;
mod closure;
pub mod compile;
pub mod depinfo;
mod exec;
pub mod finish;
mod hasher;
pub mod incremental;
pub mod key;
mod linker;
pub mod lookup;
pub mod machine;
mod macros;
mod natives;
pub mod object;
mod prefixes;
pub mod query;
mod record;
pub mod scratch;
pub mod script;
#[cfg(test)]
mod testing;
mod toolchain;

pub use prefixes::MARK;
