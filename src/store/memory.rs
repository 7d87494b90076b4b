//! What this process has learned from the index, so that a daemon need not ask again.
//!
//! Only what cannot become untrue behind our back is kept: the bytes of a file in a given state, facts about given
//! content, entries (whose blobs are looked at whenever they are used). Bounded by weight.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use kache_wrapper::cache::{Entry, FileId};

use super::blobs::BlobRow;

/// Bytes, roughly, that each kind of thing may take.
const LIMIT: usize = 12 << 20;

/// Remembers what was used recently: when the young generation is full, it becomes the old one, and what was not
/// used meanwhile is forgotten.
pub struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    weight: usize,
    limit: usize,
}

impl<K: Hash + Eq + Clone, V: Clone> Recent<K, V> {
    fn new(limit: usize) -> Self {
        Recent { young: HashMap::new(), old: HashMap::new(), weight: 0, limit: limit / 2 }
    }

    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.young.get(key).or_else(|| self.old.get(key)).cloned()
    }

    pub fn put(&mut self, key: K, value: V, weight: usize) {
        if self.weight + weight > self.limit {
            self.old = std::mem::take(&mut self.young);
            self.weight = 0;
        }
        self.weight += weight;
        self.young.insert(key, value);
    }

    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.young.remove(key);
        self.old.remove(key);
    }
}

pub struct Memory {
    /// By device and inode.
    pub stats: Recent<(u64, u64), (FileId, super::Hash)>,
    pub facts: Recent<(&'static str, super::Hash), Vec<u8>>,
    pub entries: Recent<super::Hash, Entry>,
    pub blobs: Recent<super::Hash, BlobRow>,
}

impl Default for Memory {
    fn default() -> Self {
        Memory {
            stats: Recent::new(LIMIT),
            facts: Recent::new(LIMIT),
            entries: Recent::new(LIMIT),
            blobs: Recent::new(LIMIT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_is_forgotten() {
        let mut recent = Recent::new(200);
        for n in 0..1000 {
            if let Some(value) = recent.get(&0) {
                recent.put(0, value, 1);
            } else {
                recent.put(0, 7, 1);
            }
            recent.put(n + 1, n, 1);
        }
        assert_eq!(recent.get(&0), Some(7));
        assert_eq!(recent.get(&1000), Some(999));
        assert_eq!(recent.get(&5), None);
        assert!(recent.young.len() + recent.old.len() <= 200);
    }
}
