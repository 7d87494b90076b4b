//! The store as mounts see it.

use std::fs::File;
use std::io;
use std::sync::Arc;

use blake3::Hash;

use crate::remote::Remotes;
use crate::store::Store;
use crate::store::error::Error;

/// The store as mounts see it, and behind it the remotes that builds have used.
pub struct MountBlobs {
    pub store: Arc<Store>,
    pub remotes: Option<Arc<Remotes>>,
}

impl kache_fs::Blobs for MountBlobs {
    fn open(&self, hash: &Hash, size: u64) -> io::Result<File> {
        let open = || self.store.open_sound(hash.as_bytes(), size);
        match (open(), &self.remotes) {
            (Ok(file), _) => Ok(file),
            (Err(Error::Missing { .. } | Error::Damaged { .. }), Some(remotes)) => {
                remotes.fetch(&[*hash.as_bytes()], None).map_err(io::Error::other)?;
                open().map_err(io::Error::other)
            }
            (Err(error), _) => Err(io::Error::other(error)),
        }
    }

    fn contains(&self, hash: &Hash, size: u64) -> bool {
        // One that is only elsewhere is not damaged.
        self.store.is_on_disk(hash.as_bytes()) && self.store.has_blob(hash.as_bytes(), size).unwrap_or(false)
    }

    fn slot(&self, hash: &Hash, _executable: bool) -> io::Result<kache_fs::Slot> {
        self.store.blob_slot(hash.as_bytes()).map(|(dir, name)| kache_fs::Slot { dir: Arc::new(dir), name })
    }

    fn insert_copy(&self, hash: &Hash, size: u64, executable: bool, source: &File) -> io::Result<()> {
        self.store.insert_blob_copy(hash.as_bytes(), size, executable, source)
    }
}
