//! What kache knows of compilers.
//!
//! An action goes through [`lookup`](crate) → hit, or compile → record. Everything this crate needs from the
//! program around it is the [`cache::Cache`] trait.

pub mod cache;
