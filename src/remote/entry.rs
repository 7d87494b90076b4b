//! Entries on their way between the index and a bucket. What comes from there is not believed.

use kache_remote::{EntryObject, Error, Fact, Result, hex};
use kache_wrapper::MARK;
use kache_wrapper::cache::{Dest, Entry, EntryKey, InvocationKey, Publication};
use kache_wrapper::script::{self, outputs};

use crate::store::Shared;

/// No action makes so many files.
const MAX_OUTPUTS: usize = outputs::MAX_FILES;
/// Paths in texts: each may become much longer than the token that stands for it.
const MAX_TOKENS: usize = 100_000;
/// Bytes of a file name.
const MAX_NAME: usize = 255;

pub fn pack(shared: &Shared) -> Result<EntryObject> {
    let publication = &shared.publication;
    let entry = postcard::to_stdvec(&publication.entry).map_err(|e| Error::Local(e.to_string()))?;
    let facts = shared.facts.iter().map(|(space, key, value)| Fact {
        space: space.clone(),
        key: *key,
        value: value.clone(),
    });
    Ok(EntryObject {
        invocation: publication.invocation.0,
        record: publication.record.clone(),
        key: publication.key.0,
        entry,
        facts: facts.collect(),
    })
}

/// Checks everything that can be checked without the blobs.
pub fn unpack(object: EntryObject, max_blob: u64) -> Result<Shared> {
    let bad = |how: &str| Error::Bad { name: format!("entry {}", hex(&object.key)), how: how.to_owned() };
    let (entry, rest): (Entry, _) =
        postcard::take_from_bytes(&object.entry).map_err(|_| bad("it cannot be read"))?;
    if !rest.is_empty() {
        return Err(bad("it cannot be read"));
    }
    if !is_portable(&entry) {
        return Err(bad("an output's name leads elsewhere"));
    }
    if !is_small(&entry, max_blob) {
        return Err(bad("it is too large"));
    }
    let facts = object.facts.into_iter().map(|f| (f.space, f.key, f.value)).collect();
    let publication = Publication {
        invocation: InvocationKey(object.invocation),
        record: object.record,
        key: EntryKey(object.key),
        entry,
    };
    Ok(Shared { publication, facts })
}

/// Is an entry of this machine of use to others?
pub fn is_for_others(shared: &Shared, max_blob: u64) -> bool {
    let Publication { entry, record, .. } = &shared.publication;
    is_portable(entry)
        && is_small(entry, max_blob)
        && (entry.kind != script::KIND || script::is_for_all(record))
}

/// Nothing of it leads out of the directory that it is restored to.
fn is_portable(entry: &Entry) -> bool {
    if entry.kind == script::KIND {
        return outputs::stays_inside(entry);
    }
    entry.outputs.iter().map(|o| &o.dest).chain(entry.texts.iter().map(|t| &t.dest)).all(is_plain)
}

fn is_small(entry: &Entry, max_blob: u64) -> bool {
    let texts = entry.texts.iter().map(|t| &t.template).chain([&entry.stdout, &entry.stderr]);
    let tokens: usize = texts.map(|t| memchr::memchr_iter(MARK, t).count()).sum();
    entry.outputs.len() + entry.texts.len() <= MAX_OUTPUTS
        && entry.outputs.iter().all(|o| o.size <= max_blob)
        && tokens <= MAX_TOKENS
}

/// A single ordinary file name, or the name of an emit kind.
fn is_plain(dest: &Dest) -> bool {
    let name = match dest {
        Dest::OutDir(name) => name.as_slice(),
        Dest::Explicit(kind) => kind.as_bytes(),
        Dest::Beside(..) => return outputs::stays_beside(dest),
        Dest::Tree(..) => return false,
    };
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name != b"."
        && name != b".."
        && !name.iter().any(|&b| b == b'/' || b == 0)
}

#[cfg(test)]
mod tests {
    use kache_wrapper::cache::{Node, Output, Sharing};

    use super::*;

    fn shared(name: &[u8], size: u64) -> Shared {
        let output = Output {
            dest: Dest::OutDir(name.to_vec()),
            blob: [1; 32],
            size,
            executable: false,
            sharing: Sharing::Link,
        };
        let entry = Entry {
            crate_name: "c".into(),
            kind: "lib".into(),
            outputs: vec![output],
            texts: Vec::new(),
            stdout: Vec::new(),
            stderr: Vec::new(),
            took_ms: 1,
        };
        let publication = Publication {
            invocation: InvocationKey([2; 32]),
            record: vec![3],
            key: EntryKey([4; 32]),
            entry,
        };
        Shared { publication, facts: vec![("crate".into(), [1; 32], vec![5])] }
    }

    #[test]
    fn an_entry_comes_back_as_it_went() {
        let back = unpack(pack(&shared(b"liba.rlib", 5)).unwrap(), 10).unwrap();
        assert_eq!(back.publication.entry, shared(b"liba.rlib", 5).publication.entry);
        assert_eq!(back.facts, shared(b"", 0).facts);
    }

    #[test]
    fn hostile_names_and_sizes_are_refused() {
        for name in [&b".."[..], b".", b"", b"../x", b"/etc/passwd", b"a/b", b"a\0b", &[b'a'; 300]] {
            assert!(unpack(pack(&shared(name, 5)).unwrap(), 10).is_err(), "{name:?}");
        }
        assert!(unpack(pack(&shared(b"a", 11)).unwrap(), 10).is_err());
        let mut garbled = pack(&shared(b"a", 5)).unwrap();
        garbled.entry.push(0);
        assert!(unpack(garbled, 10).is_err());
        let mut explosive = shared(b"a", 5);
        explosive.publication.entry.stdout = b"\x1fT\x1f".repeat(MAX_TOKENS);
        assert!(unpack(pack(&explosive).unwrap(), 10).is_err());
    }

    #[test]
    fn a_run_of_a_script_is_taken_for_nothing_else() {
        let of_script = |kind: &str, path: &[u8]| {
            let mut it = shared(b"a", 5);
            it.publication.entry.kind = kind.to_owned();
            it.publication.entry.outputs[0].dest = Dest::Tree(path.to_vec(), Node::File);
            unpack(pack(&it).unwrap(), 10)
        };
        assert!(of_script(script::KIND, b"deep/a").is_ok());
        assert!(of_script(script::KIND, b"../a").is_err());
        assert!(of_script("lib", b"deep/a").is_err());
        let mut plain = shared(b"a", 5);
        plain.publication.entry.kind = script::KIND.to_owned();
        assert!(unpack(pack(&plain).unwrap(), 10).is_err());
    }
}
