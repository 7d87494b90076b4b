//! What kache gives is what plain cargo gives from nothing, whatever a compile, a link, a macro or a build script depends
//! on. Each table is built, one thing is changed for each of its packages, and it is built again; then nothing is changed,
//! and everything that can be kept must be a hit.

#[allow(dead_code, unused_imports, unused_macros)]
#[path = "../support/mod.rs"]
mod support;
mod table;
mod variant;

mod assembler;
mod clippy;
mod clock_and_network;
mod diagnostics;
mod drivers;
mod hits;
mod linker;
mod macros;
mod native;
mod nested;
mod outputs;
mod paths;
mod places;
mod products;
mod scripts_files;
mod scripts_git;
mod scripts_tools;
mod trust;
mod variables;
