//! Hashing of structured things: every field is tagged and length-prefixed, so that no two different
//! sequences of fields hash the same bytes.

use std::collections::HashSet;

use crate::cache::FileId;

pub struct Hasher {
    hash: blake3::Hasher,
    trace: Option<Trace>,
}

/// What went into a hash, in words, each with a digest of its value.
pub type Parts = Vec<(String, [u8; 8])>;

#[derive(Default)]
struct Trace {
    parts: Parts,
    /// What the next value belongs to.
    subject: String,
}

impl Hasher {
    /// `purpose` separates the domains of different hashes.
    pub fn new(purpose: &str) -> Self {
        let mut h = Hasher { hash: blake3::Hasher::new(), trace: None };
        h.field("purpose", purpose.as_bytes());
        h
    }

    /// One that also remembers its parts, to explain later what is different.
    pub fn tracing(purpose: &str) -> Self {
        Hasher { trace: Some(Trace::default()), ..Hasher::new(purpose) }
    }

    pub fn field(&mut self, tag: &str, value: &[u8]) -> &mut Self {
        self.hash.update(&(tag.len() as u32).to_le_bytes());
        self.hash.update(tag.as_bytes());
        self.hash.update(&(value.len() as u64).to_le_bytes());
        self.hash.update(value);
        if let Some(trace) = &mut self.trace {
            trace.note(tag, value);
        }
        self
    }

    pub fn parts(self) -> Parts {
        self.trace.map(|t| t.parts).unwrap_or_default()
    }

    pub fn identity(&mut self, tag: &str, id: &FileId) -> &mut Self {
        let mut bytes = Vec::with_capacity(40);
        for n in [id.dev, id.ino, id.size, id.mtime_ns as u64, id.ctime_ns as u64] {
            bytes.extend_from_slice(&n.to_le_bytes());
        }
        self.field(tag, &bytes)
    }

    pub fn finish(&self) -> [u8; 32] {
        *self.hash.finalize().as_bytes()
    }
}

impl Trace {
    fn note(&mut self, tag: &str, value: &[u8]) {
        let digest = |v: &[u8]| {
            let mut short = [0; 8];
            short.copy_from_slice(&blake3::hash(v).as_bytes()[..8]);
            short
        };
        match tag {
            "arg" => {
                let text = String::from_utf8_lossy(value).replace(crate::prefixes::MARK as char, "");
                self.parts.push((format!("argument {text}"), [0; 8]));
            }
            "content" | "value" | "unset" => self.parts.push((self.subject.clone(), digest(value))),
            "extern" | "crate" | "library" | "macro-env" | "env" | "key-env" | "extra" | "link-file"
            | "program" => {
                self.subject = format!("{tag} {}", String::from_utf8_lossy(value));
            }
            _ => self.parts.push((tag.to_owned(), digest(value))),
        }
    }
}

/// What is different between two hashes of the same kind, in words; at most three.
pub fn differences(old: &Parts, new: &Parts) -> Vec<String> {
    // A command line may have ten thousand arguments.
    let names = |parts: &'_ Parts| parts.iter().map(|(name, _)| name.clone()).collect::<HashSet<_>>();
    let (old_parts, old_names, new_names) = (old.iter().collect::<HashSet<_>>(), names(old), names(new));
    let changed = new.iter().filter(|part| !old_parts.contains(part)).map(|(name, _)| {
        if old_names.contains(name) { format!("{name} changed") } else { format!("{name} is new") }
    });
    let gone =
        old.iter().filter(|(name, _)| !new_names.contains(name)).map(|(name, _)| format!("{name} is gone"));
    let mut all: Vec<String> = changed.chain(gone).collect();
    all.dedup();
    if all.len() > 3 {
        let more = all.len() - 3;
        all.truncate(3);
        all.push(format!("{more} more"));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_run_into_each_other() {
        let hash = |fields: &[(&str, &[u8])]| {
            let mut h = Hasher::new("t");
            for (tag, value) in fields {
                h.field(tag, value);
            }
            h.finish()
        };
        assert_ne!(hash(&[("a", b"bc")]), hash(&[("ab", b"c")]));
        assert_ne!(hash(&[("a", b"b"), ("c", b"")]), hash(&[("a", b"bc"), ("", b"")]));
    }

    #[test]
    fn differences_are_told_in_words() {
        let parts = |fields: &[(&str, &[u8])]| {
            let mut h = Hasher::tracing("t");
            for (tag, value) in fields {
                h.field(tag, value);
            }
            h.parts()
        };
        let old = parts(&[("arg", b"--cfg=a"), ("extern", b"serde"), ("content", b"1"), ("toolchain", b"x")]);
        let new = parts(&[("extern", b"serde"), ("content", b"2"), ("toolchain", b"x")]);
        assert_eq!(differences(&old, &new), ["extern serde changed", "argument --cfg=a is gone"]);
        assert!(differences(&old, &old).is_empty());
    }
}
