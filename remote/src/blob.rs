//! How the bytes of a blob are packed: `KCB1`, codec (0: as they are, 1: zstd), size (u64 LE), bytes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use crate::{Error, Hash, Result, hex};

const MAGIC: &[u8; 4] = b"KCB1";
pub const HEADER: usize = 13;
/// Packing must save one part in so many.
const WORTH: u64 = 20;
/// A frame that wants more memory than 2^25 bytes to be unpacked is not ours.
const WINDOW_LOG: u32 = 25;

/// Bytes that the packed form of a blob of so many has at most: zstd makes nothing longer by more than a little.
pub fn longest(size: u64) -> u64 {
    size.saturating_add(size / 128 + (64 << 10))
}

/// Writes a packed blob; compressed when that helps.
///
/// # Errors
/// What is read is not what its hash says: such a blob must not be shared.
pub fn pack(hash: &Hash, size: u64, from: &mut File, to: &mut File, level: i32) -> Result<()> {
    let io = |e| Error::local("cannot pack a blob", e);
    if level > 0 {
        write_header(to, 1, size).map_err(io)?;
        let mut encoder = zstd::stream::write::Encoder::new(&mut *to, level).map_err(io)?;
        copy_checked(hash, size, from, &mut encoder)?;
        encoder.finish().map_err(io)?;
        let packed = to.stream_position().map_err(io)? - HEADER as u64;
        if packed + size / WORTH < size {
            return Ok(());
        }
        from.seek(SeekFrom::Start(0)).map_err(io)?;
        to.seek(SeekFrom::Start(0)).map_err(io)?;
        to.set_len(0).map_err(io)?;
    }
    write_header(to, 0, size).map_err(io)?;
    copy_checked(hash, size, from, to)
}

fn write_header(to: &mut impl Write, codec: u8, size: u64) -> io::Result<()> {
    to.write_all(MAGIC)?;
    to.write_all(&[codec])?;
    to.write_all(&size.to_le_bytes())
}

fn copy_checked(hash: &Hash, size: u64, from: &mut File, to: &mut impl Write) -> Result<()> {
    let io = |e| Error::local("cannot pack a blob", e);
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    let mut seen = 0;
    loop {
        let n = from.read(&mut buffer).map_err(io)?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        to.write_all(&buffer[..n]).map_err(io)?;
        seen += n as u64;
    }
    if seen != size || hasher.finalize().as_bytes() != hash {
        return Err(Error::bad(&hex(hash), "the local blob is damaged"));
    }
    Ok(())
}

/// Takes a packed blob piece by piece and writes the bytes, never more than there should be.
pub struct Unpacker<'a> {
    name: String,
    hash: Hash,
    size: u64,
    header: Vec<u8>,
    inner: Inner<'a>,
    /// Bytes of the packed form.
    received: u64,
}

enum Inner<'a> {
    /// The header is not complete.
    Waiting(Option<Checked<'a>>),
    Raw(Checked<'a>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Checked<'a>>>),
}

struct Checked<'a> {
    to: &'a mut (dyn Write + Send),
    hasher: blake3::Hasher,
    left: u64,
}

impl Write for Checked<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than it should be"));
        }
        self.to.write_all(bytes)?;
        self.hasher.update(bytes);
        self.left -= bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl<'a> Unpacker<'a> {
    pub fn new(name: &str, hash: &Hash, size: u64, to: &'a mut (dyn Write + Send)) -> Unpacker<'a> {
        let checked = Checked { to, hasher: blake3::Hasher::new(), left: size };
        Unpacker {
            name: name.to_owned(),
            hash: *hash,
            size,
            header: Vec::with_capacity(HEADER),
            inner: Inner::Waiting(Some(checked)),
            received: 0,
        }
    }

    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.received += bytes.len() as u64;
        if self.received > longest(self.size) {
            return Err(Error::bad(&self.name, "it is longer than it should be"));
        }
        if let Inner::Waiting(checked) = &mut self.inner {
            let missing = (HEADER - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..missing]);
            bytes = &bytes[missing..];
            if self.header.len() < HEADER {
                return Ok(());
            }
            let size = self.header[5..].iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
            if &self.header[..4] != MAGIC || size != self.size {
                return Err(Error::bad(&self.name, "it is not the packed blob that was asked for"));
            }
            let Some(checked) = checked.take() else {
                return Err(Error::bad(&self.name, "it has failed before"));
            };
            self.inner = match self.header[4] {
                0 => Inner::Raw(checked),
                1 => {
                    let mut decoder = zstd::stream::write::Decoder::new(checked)
                        .map_err(|e| Error::local("cannot unpack", e))?;
                    decoder.window_log_max(WINDOW_LOG).map_err(|e| Error::local("cannot unpack", e))?;
                    Inner::Zstd(Box::new(decoder))
                }
                _ => return Err(Error::bad(&self.name, "it is packed in an unknown way")),
            };
        }
        let written = match &mut self.inner {
            Inner::Waiting(_) => Ok(()),
            Inner::Raw(to) => to.write_all(bytes),
            Inner::Zstd(to) => to.write_all(bytes),
        };
        written.map_err(|e| self.explain(e))
    }

    /// Is what came the blob?
    pub fn finish(mut self) -> Result<()> {
        if let Inner::Zstd(decoder) = &mut self.inner {
            let flushed = decoder.flush();
            flushed.map_err(|e| self.explain(e))?;
        }
        let checked = match self.inner {
            Inner::Raw(checked) => checked,
            Inner::Zstd(decoder) => decoder.into_inner(),
            Inner::Waiting(_) => return Err(Error::bad(&self.name, "it is too short")),
        };
        if checked.left != 0 {
            return Err(Error::bad(&self.name, "it is too short"));
        }
        if checked.hasher.finalize().as_bytes() != &self.hash {
            return Err(Error::bad(&self.name, "its bytes have another hash"));
        }
        Ok(())
    }

    fn explain(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Error::local("cannot store a blob", error)
            }
            _ => Error::bad(&self.name, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(content: &[u8], level: i32) -> (Hash, Vec<u8>) {
        let hash = *blake3::hash(content).as_bytes();
        let (mut from, mut to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.write_all(content).unwrap();
        from.rewind().unwrap();
        pack(&hash, content.len() as u64, &mut from, &mut to, level).unwrap();
        let mut bytes = Vec::new();
        to.rewind().unwrap();
        to.read_to_end(&mut bytes).unwrap();
        (hash, bytes)
    }

    fn unpack(hash: &Hash, size: u64, bytes: &[u8], piece: usize) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut unpacker = Unpacker::new("n", hash, size, &mut out);
        for chunk in bytes.chunks(piece) {
            unpacker.feed(chunk)?;
        }
        unpacker.finish()?;
        Ok(out)
    }

    #[test]
    fn round_trips_in_pieces_of_any_size() {
        let noise: Vec<u8> =
            (0..40_000u32).flat_map(|n| blake3::hash(&n.to_le_bytes()).as_bytes()[..3].to_vec()).collect();
        let words = b"pub fn again() {}\n".repeat(5000);
        for (content, shrinks) in [(&noise, false), (&words, true), (&Vec::new(), false)] {
            for level in [0, 3] {
                let (hash, bytes) = packed(content, level);
                assert_eq!(bytes.len() < content.len(), shrinks && level > 0);
                for piece in [1, 7, 1 << 20] {
                    assert_eq!(&unpack(&hash, content.len() as u64, &bytes, piece).unwrap(), content);
                }
            }
        }
    }

    #[test]
    fn truncated_lengthened_or_changed_blobs_are_refused() {
        for level in [0, 3] {
            let content = b"pub fn again() {}\n".repeat(200);
            let (hash, bytes) = packed(&content, level);
            let size = content.len() as u64;
            for at in 0..bytes.len() {
                assert!(unpack(&hash, size, &bytes[..at], 64).is_err(), "cut at {at}");
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                assert!(
                    unpack(&hash, size, &changed, 64).is_ok_and(|b| b == content)
                        || unpack(&hash, size, &changed, 64).is_err()
                );
            }
            let longer = [&bytes[..], b"more"].concat();
            assert!(unpack(&hash, size, &longer, 64).is_err());
            assert!(unpack(&[7; 32], size, &bytes, 64).is_err());
        }
    }

    #[test]
    fn a_bomb_writes_no_more_than_the_blob_has_bytes() {
        let (_, bomb) = packed(&vec![0; 64 << 20], 3);
        let mut bomb = bomb;
        bomb[5..13].copy_from_slice(&1000u64.to_le_bytes());
        let mut out = Vec::new();
        let mut unpacker = Unpacker::new("n", &[0; 32], 1000, &mut out);
        assert!(unpacker.feed(&bomb).is_err());
        drop(unpacker);
        assert!(out.len() <= 1000);
    }

    #[test]
    fn a_damaged_local_blob_is_not_packed() {
        let (mut from, mut to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.write_all(b"other").unwrap();
        from.rewind().unwrap();
        assert!(pack(&[1; 32], 5, &mut from, &mut to, 3).is_err());
    }
}
