//! Cargo's own dep-info files, `.fingerprint/<package>-<hash>/dep-<kind>-<name>`: which files a unit was made from.
//!
//! The format is `EncodedDepInfo` in `src/cargo/core/compiler/fingerprint/dep_info.rs` of cargo. Of a version that is not
//! known here nothing is claimed: the unit is not fresh.

/// Marker and version: what cargo since 1.84 writes.
const HEADER: [u8; 6] = [1, 0, 0, 0, 0xff, 1];

/// What a file's path is relative to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    Package,
    /// The build directory, or nothing if the path is absolute.
    Build,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DepInfo {
    pub files: Vec<(Root, Vec<u8>)>,
    /// Everything behind the paths, in cargo's encoding: checksums are not used, and variables are cargo's affair.
    env: Vec<u8>,
}

impl DepInfo {
    pub fn parse(bytes: &[u8]) -> Option<DepInfo> {
        let mut rest = bytes.strip_prefix(&HEADER)?;
        let mut files = Vec::new();
        for _ in 0..number(&mut rest)? {
            let root = match byte(&mut rest)? {
                0 => Root::Package,
                1 => Root::Build,
                _ => return None,
            };
            let path = string(&mut rest)?.to_vec();
            // With checksums (an unstable option) cargo does not look at times.
            if byte(&mut rest)? != 0 {
                return None;
            }
            files.push((root, path));
        }
        Some(DepInfo { files, env: rest.to_vec() })
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = HEADER.to_vec();
        out.extend((self.files.len() as u32).to_le_bytes());
        for (root, path) in &self.files {
            out.push(u8::from(*root == Root::Build));
            out.extend((path.len() as u32).to_le_bytes());
            out.extend(path);
            out.push(0);
        }
        out.extend(&self.env);
        out
    }

    /// Does a variable that cargo watches have a value that contains `needle`?
    pub fn env_contains(&self, needle: &[u8]) -> bool {
        memchr::memmem::find(&self.env, needle).is_some()
    }
}

fn byte(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

fn number(bytes: &mut &[u8]) -> Option<usize> {
    let (first, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*first) as usize)
}

fn string<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = number(bytes)?;
    let (first, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_writes_is_read_and_written() {
        let mut bytes = HEADER.to_vec();
        bytes.extend([2, 0, 0, 0]);
        bytes.extend([0, 3, 0, 0, 0]);
        bytes.extend(b"a/b\0");
        bytes.extend([1, 2, 0, 0, 0]);
        bytes.extend(b"/c\0");
        bytes.extend([1, 0, 0, 0, 1, 0, 0, 0]);
        bytes.extend(b"X\0");
        let info = DepInfo::parse(&bytes).unwrap();
        assert_eq!(info.files, [(Root::Package, b"a/b".to_vec()), (Root::Build, b"/c".to_vec())]);
        assert_eq!(info.to_bytes(), bytes);
    }

    #[test]
    fn what_is_cut_off_or_of_another_version_is_not_read() {
        let whole = DepInfo { files: vec![(Root::Package, b"a".to_vec())], env: vec![0; 4] }.to_bytes();
        assert!(DepInfo::parse(&whole).is_some());
        assert_eq!(DepInfo::parse(&whole[..12]), None);
        assert_eq!(DepInfo::parse(&[1, 0, 0, 0, 0xff, 2, 0, 0, 0, 0]), None);
        assert_eq!(DepInfo::parse(b""), None);
    }
}
