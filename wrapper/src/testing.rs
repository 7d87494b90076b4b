//! Caches for unit tests: files are read from disk; one keeps nothing, the other facts and records.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::cache::*;

pub struct Disk;

impl Cache for Disk {
    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn hash_file(&self, path: &Path) -> Result<Option<[u8; 32]>> {
        Ok(self.read(path)?.map(|bytes| *blake3::hash(&bytes).as_bytes()))
    }

    fn fact(&self, _: &'static str, _: &[u8; 32]) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn set_fact(&self, _: &'static str, _: &[u8; 32], _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn records(&self, _: &InvocationKey) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }

    fn entry(&self, _: &EntryKey) -> Result<Option<Entry>> {
        Ok(None)
    }

    fn restore(&self, _: &EntryKey, _: &[Placement]) -> Result<LinkMode> {
        Err("nothing is kept".into())
    }

    fn ingest(&self, _: &Path, _: bool, _: Sharing, _: &[&[u8]]) -> Result<Ingested> {
        Err("nothing is kept".into())
    }

    fn publish(&self, _: &Publication) -> Result<()> {
        Ok(())
    }

    fn event(&self, _: &Event) {}

    fn locks_dir(&self) -> PathBuf {
        PathBuf::new()
    }
}

type Facts = BTreeMap<(&'static str, [u8; 32]), Vec<u8>>;

/// Keeps facts and records in memory.
#[derive(Default)]
pub struct Memory {
    facts: Mutex<Facts>,
    records: Mutex<BTreeMap<[u8; 32], Vec<Vec<u8>>>>,
}

impl Memory {
    pub fn add_record(&self, invocation: &InvocationKey, record: Vec<u8>) {
        self.records.lock().unwrap().entry(invocation.0).or_default().push(record);
    }
}

impl Cache for Memory {
    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn hash_file(&self, path: &Path) -> Result<Option<[u8; 32]>> {
        Disk.hash_file(path)
    }

    fn fact(&self, space: &'static str, key: &[u8; 32]) -> Result<Option<Vec<u8>>> {
        Ok(self.facts.lock().unwrap().get(&(space, *key)).cloned())
    }

    fn set_fact(&self, space: &'static str, key: &[u8; 32], value: &[u8]) -> Result<()> {
        self.facts.lock().unwrap().insert((space, *key), value.to_vec());
        Ok(())
    }

    fn records(&self, invocation: &InvocationKey) -> Result<Vec<Vec<u8>>> {
        Ok(self.records.lock().unwrap().get(&invocation.0).cloned().unwrap_or_default())
    }

    fn entry(&self, key: &EntryKey) -> Result<Option<Entry>> {
        Disk.entry(key)
    }

    fn restore(&self, key: &EntryKey, files: &[Placement]) -> Result<LinkMode> {
        Disk.restore(key, files)
    }

    fn ingest(&self, path: &Path, executable: bool, sharing: Sharing, needles: &[&[u8]]) -> Result<Ingested> {
        Disk.ingest(path, executable, sharing, needles)
    }

    fn publish(&self, publication: &Publication) -> Result<()> {
        self.add_record(&publication.invocation, publication.record.clone());
        Ok(())
    }

    fn event(&self, _: &Event) {}

    fn locks_dir(&self) -> PathBuf {
        PathBuf::new()
    }
}

/// Of this process.
pub fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    umask.and_then(|text| u32::from_str_radix(text.trim(), 8).ok()).unwrap_or(0o022)
}
