//! The locks by which builds in one target directory keep out of each other's way.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use anyhow::{Result, bail};

use super::mounts::below;

/// Cargo's, in the directory of a profile (`core/compiler/layout.rs`).
pub(super) const NAMES: &[&str] = &[".cargo-lock", ".cargo-artifact-lock", ".cargo-build-lock"];

/// Takes those of a directory that is about to be mounted. A build that holds one, or waits for one, has files open past the
/// mount: as long as they are held, it is not one of two.
///
/// # Errors
/// A build is at work there.
pub(super) fn take(dir: &Path) -> Result<Vec<File>> {
    let profiles = below(dir).into_iter().flat_map(|d| below(&d).into_iter().chain([d]));
    let mut held = Vec::new();
    for profile in profiles.chain([dir.to_owned()]) {
        for path in NAMES.iter().map(|name| profile.join(name)) {
            let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) else { continue };
            match file.try_lock() {
                Ok(()) => held.push(file),
                Err(TryLockError::WouldBlock) => {
                    bail!(
                        "a build is at work there (it holds {}); try again when it has ended",
                        path.display()
                    )
                }
                // A file system without locks: cargo does without them, too.
                Err(TryLockError::Error(_)) => {}
            }
        }
    }
    Ok(held)
}
