//! Reads blobs again and compares them with what the index and their names say.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rusqlite::params;

use super::error::At;
use super::{Hash, Result, Store, db, scan};

/// What was found.
#[derive(Debug, Default)]
pub struct Verified {
    pub sound: u64,
    /// Bytes of sound blobs.
    pub bytes: u64,
    /// In hex.
    pub damaged: Vec<String>,
    /// In the index, not on disk.
    pub missing: u64,
    /// On disk, not in the index.
    pub strays: u64,
}

impl Store {
    /// What SQLite finds wrong with the index; nothing when it is sound.
    pub fn check_index(&self) -> Result<Vec<String>> {
        self.with(|conn| db::quick_check(conn))
    }

    /// Compares blobs and index. `read`: read every byte, else only sizes. `repair`: forget what is missing,
    /// quarantine what is damaged, take in strays that are what their names say and remove the others.
    pub fn verify(&self, read: bool, repair: bool) -> Result<Verified> {
        self.flush()?;
        let mut found = Verified::default();
        let mut known = HashSet::new();
        let mut last = Vec::new();
        loop {
            let rows: Vec<(Hash, i64)> = self.with(|conn| {
                conn.prepare_cached("SELECT hash, size FROM blobs WHERE hash > ? ORDER BY hash LIMIT 1000")?
                    .query_map(params![last], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect()
            })?;
            let Some((end, _)) = rows.last() else { break };
            last = end.to_vec();
            for (hash, size) in rows {
                known.insert(hash);
                self.verify_blob(&hash, size as u64, read, repair, &mut found)?;
            }
        }
        for (hash, path) in self.blob_files() {
            if known.contains(&hash) || self.find_blob(&hash)?.is_some() {
                continue;
            }
            found.strays += 1;
            if repair {
                self.take_in(&hash, &path)?;
            }
        }
        self.flush()?;
        Ok(found)
    }

    fn verify_blob(
        &self,
        hash: &Hash,
        size: u64,
        read: bool,
        repair: bool,
        found: &mut Verified,
    ) -> Result<()> {
        let path = self.blob_path(hash);
        let Ok(file) = File::open(&path) else {
            // gc may have removed it since the row was read.
            if self.find_blob(hash)?.is_some() {
                found.missing += 1;
                if repair {
                    self.drop_blob(hash)?;
                }
            }
            return Ok(());
        };
        let right_size = file.metadata().at("read", &path)?.len() == size;
        if right_size && (!read || scan::scan_at(&file, &[]).at("read", &path)?.hash.as_bytes() == hash) {
            found.sound += 1;
            found.bytes += size;
            return Ok(());
        }
        found.damaged.push(blake3::Hash::from_bytes(*hash).to_hex().to_string());
        if repair {
            self.quarantine(hash, "verify found other bytes")?;
        }
        Ok(())
    }

    fn take_in(&self, hash: &Hash, path: &Path) -> Result<()> {
        let file = File::open(path).at("read", path)?;
        if scan::scan_at(&file, &[]).at("read", path)?.hash.as_bytes() == hash {
            return self.register_blob(hash);
        }
        fs::remove_file(path).at("remove", path)
    }

    /// Every file in the blob directories that is named like a blob.
    pub(super) fn blob_files(&self) -> impl Iterator<Item = (Hash, PathBuf)> {
        let entries = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
        entries(self.dir.join("store/blobs")).flat_map(entries).filter_map(|path| {
            let name = blake3::Hash::from_hex(path.file_name()?.as_encoded_bytes()).ok()?;
            Some((*name.as_bytes(), path))
        })
    }
}
