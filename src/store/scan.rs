//! One pass over a file's bytes: its blake3, and which of some needles it contains.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use memchr::memmem::Finder;

/// Fits in a core's cache; larger reads were not faster.
const CHUNK: usize = 256 << 10;

pub struct Scanned {
    pub hash: blake3::Hash,
    /// Bytes read.
    pub size: u64,
    /// One answer per needle.
    pub contains: Vec<bool>,
}

/// Reads `file` from its beginning to its end; its offset is left alone.
pub fn scan_at(file: &File, needles: &[&[u8]]) -> io::Result<Scanned> {
    let finders: Vec<Finder> = needles.iter().map(Finder::new).collect();
    let mut contains: Vec<bool> = needles.iter().map(|n| n.is_empty()).collect();
    // The end of the last chunk stays in front of the next one, so that a needle across the border is seen.
    let keep = needles.iter().map(|n| n.len().saturating_sub(1)).max().unwrap_or(0);
    let mut buffer = vec![0; keep + CHUNK];
    let mut carried = 0;
    let mut hasher = blake3::Hasher::new();
    let mut size = 0;
    loop {
        let got = match file.read_at(&mut buffer[carried..carried + CHUNK], size) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        hasher.update(&buffer[carried..carried + got]);
        size += got as u64;
        let window = carried + got;
        for (found, finder) in contains.iter_mut().zip(&finders) {
            *found = *found || finder.find(&buffer[..window]).is_some();
        }
        let kept = keep.min(window);
        buffer.copy_within(window - kept..window, 0);
        carried = kept;
    }
    Ok(Scanned { hash: hasher.finalize(), size, contains })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn scan_bytes(bytes: &[u8], needles: &[&[u8]]) -> Scanned {
        let mut f = tempfile::tempfile().unwrap();
        f.write_all(bytes).unwrap();
        scan_at(&f, needles).unwrap()
    }

    #[test]
    fn finds_needles_across_every_chunk_border() {
        let needle = b"/home/me/project/";
        for shift in 0..=needle.len() {
            let mut bytes = vec![b'x'; CHUNK - shift];
            bytes.extend_from_slice(needle);
            bytes.extend(std::iter::repeat_n(b'y', CHUNK));
            let s = scan_bytes(&bytes, &[needle, b"absent", b"y"]);
            assert_eq!(s.contains, [true, false, true], "shift {shift}");
            assert_eq!(s.hash, blake3::hash(&bytes));
            assert_eq!(s.size, bytes.len() as u64);
        }
    }

    #[test]
    fn empty_file_contains_only_the_empty_needle() {
        let s = scan_bytes(b"", &[b"", b"a"]);
        assert_eq!(s.contains, [true, false]);
        assert_eq!(s.hash, blake3::hash(b""));
    }

    #[test]
    fn needle_longer_than_the_file() {
        assert_eq!(scan_bytes(b"ab", &[b"abc"]).contains, [false]);
    }
}
