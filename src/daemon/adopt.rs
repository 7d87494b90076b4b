//! What a target had before it was mounted: hard links to blobs, restored without a mount or left by an earlier one.
//!
//! They become views. Through the mount nobody can then write into a blob, and its next target may have the link.

use std::path::Path;

use anyhow::Result;
use blake3::Hash;
use kache_fs::{Content, Kind, Mount, Placement};
use kache_wrapper::cache::FileId;

use crate::store::Store;

/// Returns how many.
pub fn links(store: &Store, mount: &Mount, pin_owner: &str) -> Result<usize> {
    store.flush()?;
    let mut views = Vec::new();
    let mut hashes = Vec::new();
    for entry in mount.walk()? {
        if entry.stat.kind != Kind::File || entry.stat.blob.is_some() || entry.stat.nlink < 2 {
            continue;
        }
        let id = FileId::of(&mount.open_file(&entry.path)?.metadata()?);
        let Some(hash) = store.blob_of(&id)? else { continue };
        hashes.push(hash);
        views.push(Placement {
            path: entry.path,
            content: Content::View { hash: Hash::from_bytes(hash), size: id.size, link_ok: true },
            mode: entry.stat.mode,
            mtime: Some(entry.stat.mtime),
        });
    }
    store.add_pins(pin_owner, &hashes)?;
    mount.place(&views)?;
    Ok(views.len())
}

/// After an unmount has made hard links of some views, their blobs have the mtimes of the target: this is no damage.
/// `sound`: what looked as it should before.
pub fn note_new_links(store: &Store, dir: &Path, sound: &[[u8; 32]]) {
    for hash in sound {
        if let Err(error) = store.register_blob(hash) {
            tracing::warn!(dir = %dir.display(), %error, "a blob cannot be looked at after an unmount");
        }
    }
}
