//! Where in an object file, archive or program some bytes occur.
//!
//! C compilers write absolute paths of headers into debug information. Programs do not read it; debuggers would look
//! for a header where it was. A path anywhere else may be part of what the program does.

use std::ops::Range;
use std::path::Path;

use memchr::memmem;

use crate::cache::{Cache, Result};

/// Is every occurrence of every needle inside of a debug section of ELF files (64 bits, little endian), be they alone
/// or members of an archive?
pub fn only_in_debug(bytes: &[u8], needles: &[&[u8]]) -> bool {
    debug_ranges(bytes).is_some_and(|debug| needles.iter().all(|needle| is_within(bytes, needle, &debug)))
}

fn is_within(bytes: &[u8], needle: &[u8], ranges: &[Range<usize>]) -> bool {
    memmem::find_iter(bytes, needle)
        .all(|at| ranges.iter().any(|range| range.contains(&at) && at + needle.len() <= range.end))
}

/// Tokens whose paths a file contains (as `contains` says of each) where they count: anywhere if `debug_counts`, else
/// where a program or a compiler may read them.
pub fn bound_to(
    cache: &dyn Cache,
    file: &Path,
    needles: &[(char, &[u8])],
    contains: &[bool],
    debug_counts: bool,
) -> Result<Vec<char>> {
    let mut contained: Vec<_> =
        needles.iter().zip(contains).filter(|(_, found)| **found).map(|(needle, _)| *needle).collect();
    if !debug_counts
        && !contained.is_empty()
        && let Some(bytes) = cache.read(file)?
        && let Some(debug) = debug_ranges(&bytes)
    {
        contained.retain(|(_, needle)| !is_within(&bytes, needle, &debug));
    }
    Ok(contained.into_iter().map(|(token, _)| token).collect())
}

fn debug_ranges(bytes: &[u8]) -> Option<Vec<Range<usize>>> {
    if bytes.starts_with(b"!<arch>\n") {
        let mut all = Vec::new();
        for member in members(bytes)? {
            let inside = &bytes[member.clone()];
            if inside.starts_with(b"\x7fELF") {
                all.extend(elf(inside)?.into_iter().map(|r| r.start + member.start..r.end + member.start));
            }
        }
        return Some(all);
    }
    elf(bytes)
}

/// Members of an archive in the format that GNU and BSD share: headers of 60 bytes.
fn members(bytes: &[u8]) -> Option<Vec<Range<usize>>> {
    let mut found = Vec::new();
    let mut at = 8;
    while at < bytes.len() {
        let header = bytes.get(at..at + 60)?;
        let size: usize = std::str::from_utf8(&header[48..58]).ok()?.trim().parse().ok()?;
        let start = at + 60;
        let end = start.checked_add(size).filter(|e| *e <= bytes.len())?;
        found.push(start..end);
        at = end + end % 2;
    }
    Some(found)
}

fn elf(bytes: &[u8]) -> Option<Vec<Range<usize>>> {
    // Class 2: 64 bits; data 1: little endian.
    if bytes.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let half = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?) as usize);
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    let long = |at: usize| {
        usize::try_from(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?)).ok()
    };
    let (table, entry, count, names) = (long(40)?, half(58)?, half(60)?, half(62)?);
    let header = |n: usize| table.checked_add(n.checked_mul(entry)?);
    let names_at = long(header(names)?.checked_add(24)?)?;
    let mut found = Vec::new();
    for n in 0..count {
        let at = header(n)?;
        let name = bytes.get(names_at.checked_add(word(at)?)?..)?;
        // A section that takes part in the running program (flag 2) is none for debuggers alone; one of type 8 has no
        // bytes in the file.
        let (kind, flags) = (word(at.checked_add(4)?)?, long(at.checked_add(8)?)?);
        let (start, size) = (long(at.checked_add(24)?)?, long(at.checked_add(32)?)?);
        if name.starts_with(b".debug_") && flags & 2 == 0 && kind != 8 {
            found.push(start..start.checked_add(size)?);
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An object file as a compiler makes it.
    fn object(source: &str) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x.c"), source).unwrap();
        let mut cc = std::process::Command::new("cc");
        cc.args(["-g", "-c", "-o"]).arg(dir.path().join("x.o"));
        let done = cc.arg(dir.path().join("x.c")).current_dir(dir.path());
        assert!(done.status().unwrap().success());
        let needle = dir.path().to_str().unwrap().to_owned();
        let mut bytes = std::fs::read(dir.path().join("x.o")).unwrap();
        // The directory that the compiler ran in becomes one that the test knows.
        let finder = memmem::Finder::new(needle.as_bytes());
        while let Some(at) = finder.find(&bytes) {
            bytes[at..at + 7].copy_from_slice(b"/needle");
        }
        bytes
    }

    #[test]
    fn debug_information_is_told_from_data() {
        let needles: &[&[u8]] = &[b"/needle"];
        let debug = object("int f(void) { return 1; }\n");
        assert!(memmem::find(&debug, b"/needle").is_some(), "the compiler names its directory");
        assert!(only_in_debug(&debug, needles));
        let data = object("const char *f(void) { return \"/needle\"; }\n");
        assert!(!only_in_debug(&data, needles));

        let archive = |members: &[&[u8]]| {
            let mut out = b"!<arch>\n".to_vec();
            for member in members {
                let header =
                    format!("{:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", "x.o/", 0, 0, 0, 644, member.len());
                out.extend(header.bytes());
                out.extend(*member);
                out.extend(std::iter::repeat_n(b'\n', member.len() % 2));
            }
            out
        };
        assert!(only_in_debug(&archive(&[&debug, b"text"]), needles));
        assert!(!only_in_debug(&archive(&[&debug, &data]), needles));
        assert!(!only_in_debug(&archive(&[&debug, b"see /needle"]), needles));
    }

    #[test]
    fn what_is_no_object_file_is_not_judged() {
        assert!(!only_in_debug(b"", &[b"x"]));
        assert!(!only_in_debug(b"\x7fELF\x02\x01 cut off", &[b"x"]));
        assert!(!only_in_debug(b"!<arch>\ncut off", &[b"x"]));
    }
}
