//! Hashing of structured things: every field is tagged and length-prefixed, so that no two different
//! sequences of fields hash the same bytes.

use crate::cache::FileId;

pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// `purpose` separates the domains of different hashes.
    pub fn new(purpose: &str) -> Self {
        let mut h = Hasher(blake3::Hasher::new());
        h.field("purpose", purpose.as_bytes());
        h
    }

    pub fn field(&mut self, tag: &str, value: &[u8]) -> &mut Self {
        self.0.update(&(tag.len() as u32).to_le_bytes());
        self.0.update(tag.as_bytes());
        self.0.update(&(value.len() as u64).to_le_bytes());
        self.0.update(value);
        self
    }

    pub fn identity(&mut self, tag: &str, id: &FileId) -> &mut Self {
        let mut bytes = Vec::with_capacity(40);
        for n in [id.dev, id.ino, id.size, id.mtime_ns as u64, id.ctime_ns as u64] {
            bytes.extend_from_slice(&n.to_le_bytes());
        }
        self.field(tag, &bytes)
    }

    pub fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}
