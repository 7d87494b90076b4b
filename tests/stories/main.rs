//! kache from outside: each module is a user's story, told with real cargo projects.

// Not every test misbehaves in every way.
#[allow(dead_code)]
#[path = "../../remote/tests/support/server.rs"]
mod s3;
// Other targets use more of it.
#[allow(dead_code)]
#[path = "../support/mod.rs"]
mod support;

/// Holds whether the target directory is mounted or not: see `KACHE_TEST_MODE`.
mod everywhere {
    mod build_scripts;
    mod crowd;
    mod diagnostics;
    mod edits;
    mod incremental;
    mod killed;
    mod macros;
    mod portable;
    mod questions;
    mod random;
    mod shapes;
    mod warm;
}

/// Mounts themselves, by root and by a plain user.
mod mounts {
    mod clean;
    mod crash;
    mod editing;
    mod life;
    mod loss;
    mod space;
}

/// Has nothing to do with mounts.
mod unmounted {
    mod disks;
    mod elsewhere;
    mod keys;
    mod modes;
    mod odd;
    mod store;
    mod trouble;
}

/// Machines that know nothing of each other but a bucket.
mod shared {
    mod ci;
    mod lazy;
    mod packages;
    mod restore;
    mod scripts;
    mod snapshot;
    mod tls;
    mod trouble;
}
