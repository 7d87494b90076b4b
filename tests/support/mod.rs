//! What the stories are told with: a world of its own for each test (cache, users, checkouts), real cargo in it, and
//! an account of what kache did and which compilers started.
//!
//! `KACHE_TEST_MODE` says where the stories in `everywhere` take place: `plain` (no daemon, no mount), `mounted`
//! (every target directory is a mount) or `mounted-user` (the same for an unprivileged user).

pub mod checkout;
pub mod dice;
pub mod disk;
pub mod namespace;
pub mod run;
pub mod world;

pub use checkout::Checkout;
pub use run::Run;
pub use world::{Who, World};

/// Tells each story twice: with mounts of root, and with mounts of a plain user.
macro_rules! by_root_and_user {
    ($($story:ident),* $(,)?) => {
        mod by_root {
            $(#[test] fn $story() { super::$story(crate::support::World::mounted_by(crate::support::Who::Root)) })*
        }
        mod by_user {
            $(#[test] fn $story() { super::$story(crate::support::World::mounted_by(crate::support::Who::User)) })*
        }
    };
}
pub(crate) use by_root_and_user;
