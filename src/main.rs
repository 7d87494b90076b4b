//! Decides the role from argv: compiler wrapper, or command line.

fn main() {}
