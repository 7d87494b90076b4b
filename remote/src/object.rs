//! Names of objects, and the envelope around everything that is not a blob.
//!
//! ```text
//! <prefix>/v1/blobs/ab/<hash>                      a blob, packed (see [`crate::blob`])
//! <prefix>/v1/records/<invocation key>/<digest>    an input record
//! <prefix>/v1/entries/ab/<entry key>               an entry, with the record it was made from and its facts
//! <prefix>/v1/manifests/<build>/<time>-<digest>    what a build was made of; the newest sorts first
//! <prefix>/v1/snapshots/<line>/<time>-<commit>-<digest>    a target directory; the newest sorts first
//! ```
//!
//! An envelope: `KCH1`, kind, codec, size of the content (u32 LE), blake3 of the content, then, if signed, `1`, key id
//! (8 bytes) and an ed25519 signature, else `0`; then the content, as it is or zstd. A signature covers kind, name and
//! hash, so that an object is worth nothing under another name.

use crate::sign::{Signer, Trust};
use crate::{Error, Hash, Result, hex};

/// Changes when the meaning of an object changes: the old ones stay, unread.
pub const VERSION: &str = "v1";

const MAGIC: &[u8; 4] = b"KCH1";
/// Longer contents are packed when that makes them smaller.
const WORTH_PACKING: usize = 512;

/// What an envelope holds, and how large it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Record,
    Entry,
    Manifest,
    Snapshot,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Kind::Record => b'r',
            Kind::Entry => b'e',
            Kind::Manifest => b'm',
            Kind::Snapshot => b's',
        }
    }

    /// Bytes of the content.
    pub fn limit(self) -> usize {
        match self {
            Kind::Record => 8 << 20,
            Kind::Entry => 32 << 20,
            Kind::Manifest | Kind::Snapshot => 256 << 20,
        }
    }
}

pub fn blob(hash: &Hash) -> String {
    let hex = hex(hash);
    format!("{VERSION}/blobs/{}/{hex}", &hex[..2])
}

pub fn entry(key: &Hash) -> String {
    let hex = hex(key);
    format!("{VERSION}/entries/{}/{hex}", &hex[..2])
}

pub fn records(invocation: &Hash) -> String {
    format!("{VERSION}/records/{}/", hex(invocation))
}

pub fn record(invocation: &Hash, digest: &Hash) -> String {
    format!("{}{}", records(invocation), hex(digest))
}

pub fn manifests(build: &Hash) -> String {
    format!("{VERSION}/manifests/{}/", hex(build))
}

/// `time_ms` counts down in the name, so that a listing begins with the newest.
pub fn manifest(build: &Hash, time_ms: u64, digest: &Hash) -> String {
    format!("{}{:016x}-{}", manifests(build), u64::MAX - time_ms, &hex(digest)[..16])
}

/// A line: all snapshots of one project by one compiler.
pub fn snapshots(line: &Hash) -> String {
    format!("{VERSION}/snapshots/{}/", hex(line))
}

/// `commit` is hexadecimal, or empty. Like manifests, the newest sorts first.
pub fn snapshot(line: &Hash, time_ms: u64, commit: &str, digest: &Hash) -> String {
    let commit = if commit.is_empty() { "0" } else { commit };
    format!("{}{:016x}-{commit}-{}", snapshots(line), u64::MAX - time_ms, &hex(digest)[..16])
}

/// Time and commit in the name of a snapshot; `None` for names that kache does not give.
pub fn time_and_commit(directory: &str, name: &str) -> Option<(u64, String)> {
    let mut parts = name.strip_prefix(directory)?.split('-');
    let (time, commit, digest) = (parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let known = time.len() == 16 && digest.len() == 16 && matches!(commit.len(), 1 | 40 | 64);
    if !known || parts.next().is_some() || ![time, commit, digest].into_iter().all(is_hex) {
        return None;
    }
    let time = u64::MAX - u64::from_str_radix(time, 16).ok()?;
    Some((time, if commit == "0" { String::new() } else { commit.to_owned() }))
}

/// The 32 bytes that end a name below `directory`; `None` for names that kache does not give.
pub fn hash_in(directory: &str, name: &str) -> Option<Hash> {
    let rest = name.strip_prefix(directory)?;
    let lower = rest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (lower && rest.len() == 64).then(|| blake3::Hash::from_hex(rest).ok()).flatten().map(|h| *h.as_bytes())
}

/// Wraps a content for its name.
pub fn seal(kind: Kind, name: &str, content: &[u8], signer: Option<&Signer>) -> Result<Vec<u8>> {
    if content.len() > kind.limit() {
        return Err(Error::bad(name, format!("{} bytes are too many", content.len())));
    }
    let sum = *blake3::hash(content).as_bytes();
    let packed = (content.len() >= WORTH_PACKING)
        .then(|| zstd::bulk::compress(content, 3).ok())
        .flatten()
        .filter(|p| p.len() < content.len());
    let mut out = Vec::with_capacity(content.len() / 2 + 128);
    out.extend_from_slice(MAGIC);
    out.push(kind.byte());
    out.push(u8::from(packed.is_some()));
    out.extend_from_slice(&(content.len() as u32).to_le_bytes());
    out.extend_from_slice(&sum);
    match signer {
        Some(signer) => {
            out.push(1);
            out.extend_from_slice(&signer.id());
            out.extend_from_slice(&signer.sign(&statement(kind, name, &sum)));
        }
        None => out.push(0),
    }
    out.extend_from_slice(packed.as_deref().unwrap_or(content));
    Ok(out)
}

/// Takes an object out of its envelope, if it is of this kind, belongs to this name, is whole, and is signed by
/// whom it must be.
pub fn open(kind: Kind, name: &str, object: &[u8], trust: &Trust) -> Result<Vec<u8>> {
    let mut rest = object;
    let mut take = |n: usize| -> Result<&[u8]> {
        let (head, tail) = rest.split_at_checked(n).ok_or_else(|| Error::bad(name, "it is too short"))?;
        rest = tail;
        Ok(head)
    };
    if take(4)? != MAGIC {
        return Err(Error::bad(name, "kache did not write it"));
    }
    if take(1)?[0] != kind.byte() {
        return Err(Error::bad(name, "it is of another kind"));
    }
    let codec = take(1)?[0];
    let size = take(4)?.iter().rev().fold(0usize, |n, &b| n << 8 | usize::from(b));
    let sum: Hash = take(32)?.try_into().map_err(|_| Error::bad(name, "it is too short"))?;
    let signed = match take(1)?[0] {
        0 => None,
        _ => Some((take(8)?.to_vec(), take(64)?.to_vec())),
    };
    if size > kind.limit() {
        return Err(Error::bad(name, format!("it says to hold {size} bytes")));
    }
    trust.check(
        name,
        &statement(kind, name, &sum),
        signed.as_ref().map(|(id, s)| (id.as_slice(), s.as_slice())),
    )?;
    let content = match codec {
        0 => rest.to_vec(),
        // Never makes more than `size` bytes.
        1 => zstd::bulk::decompress(rest, size).map_err(|_| Error::bad(name, "it cannot be unpacked"))?,
        _ => return Err(Error::bad(name, "it is packed in an unknown way")),
    };
    if content.len() != size || blake3::hash(&content).as_bytes() != &sum {
        return Err(Error::bad(name, "its bytes have another hash"));
    }
    Ok(content)
}

/// What a signature is made for.
fn statement(kind: Kind, name: &str, sum: &Hash) -> Vec<u8> {
    let mut text = b"kache object\0".to_vec();
    text.push(kind.byte());
    text.extend_from_slice(&(name.len() as u32).to_le_bytes());
    text.extend_from_slice(name.as_bytes());
    text.extend_from_slice(sum);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0707070707070707070707070707070707070707070707070707070707070707";

    #[test]
    fn what_is_sealed_can_be_opened_under_its_name_only() {
        let content = b"some words ".repeat(100);
        let sealed = seal(Kind::Entry, "a", &content, None).unwrap();
        assert!(sealed.len() < content.len());
        let trust = Trust::default();
        assert_eq!(open(Kind::Entry, "a", &sealed, &trust).unwrap(), content);
        assert!(open(Kind::Record, "a", &sealed, &trust).is_err());

        let signer = Signer::new(KEY).unwrap();
        let trust = Trust::new(&[signer.public()], true).unwrap();
        assert!(matches!(open(Kind::Entry, "a", &sealed, &trust), Err(Error::Untrusted { .. })));
        let signed = seal(Kind::Entry, "a", &content, Some(&signer)).unwrap();
        assert_eq!(open(Kind::Entry, "a", &signed, &trust).unwrap(), content);
        assert!(matches!(open(Kind::Entry, "b", &signed, &trust), Err(Error::Untrusted { .. })));
    }

    #[test]
    fn every_damage_is_seen() {
        let content: Vec<u8> = (0..2000u32).flat_map(|n| n.to_le_bytes()).collect();
        let signer = Signer::new(KEY).unwrap();
        let sealed = seal(Kind::Record, "n", &content, Some(&signer)).unwrap();
        let trust = Trust::new(&[signer.public()], true).unwrap();
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 0x10;
            // A bit of the frame that means nothing to the unpacker changes nothing.
            if let Ok(same) = open(Kind::Record, "n", &damaged, &trust) {
                assert_eq!(same, content);
            }
            assert!(open(Kind::Record, "n", &sealed[..at], &trust).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_bomb_does_not_go_off() {
        let bomb = zstd::bulk::compress(&vec![0; 300 << 20], 3).unwrap();
        let mut object = MAGIC.to_vec();
        object.extend_from_slice(&[b'r', 1]);
        object.extend_from_slice(&1000u32.to_le_bytes());
        object.extend_from_slice(&[0; 33]);
        object.extend_from_slice(&bomb);
        assert!(open(Kind::Record, "n", &object, &Trust::default()).is_err());
        object[6..10].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(open(Kind::Record, "n", &object, &Trust::default()).is_err());
    }

    #[test]
    fn only_names_that_kache_gives_are_understood() {
        let directory = records(&[1; 32]);
        assert_eq!(hash_in(&directory, &record(&[1; 32], &[0xab; 32])), Some([0xab; 32]));
        for bad in [
            "",
            "..",
            "../../etc/passwd",
            &"AB".repeat(32),
            &"zz".repeat(32),
            &format!("{}/x", "ab".repeat(32)),
        ] {
            assert_eq!(hash_in(&directory, &format!("{directory}{bad}")), None, "{bad}");
        }
        assert_eq!(hash_in(&directory, &record(&[2; 32], &[3; 32])), None);
    }

    #[test]
    fn the_newest_manifest_sorts_first() {
        assert!(manifest(&[1; 32], 2000, &[9; 32]) < manifest(&[1; 32], 1000, &[0; 32]));
        assert!(snapshot(&[1; 32], 2000, "", &[9; 32]) < snapshot(&[1; 32], 1000, "", &[0; 32]));
    }

    #[test]
    fn names_of_snapshots_tell_time_and_commit() {
        let directory = snapshots(&[1; 32]);
        for commit in ["", &"ab".repeat(20)] {
            let name = snapshot(&[1; 32], 77, commit, &[9; 32]);
            assert_eq!(time_and_commit(&directory, &name), Some((77, commit.to_owned())));
            assert_eq!(time_and_commit(&directory, &format!("{name}-x")), None);
            assert_eq!(time_and_commit(&directory, &name[..name.len() - 1]), None);
        }
        assert_eq!(time_and_commit(&directory, &format!("{directory}../../x-0-y")), None);
    }
}
