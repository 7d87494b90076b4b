//! rustc's JSON messages on stderr: which files it made, and whether it had anything to say to people.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::Deserialize;

/// What the messages say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// Emit kind and path of each output.
    pub artifacts: Vec<(String, PathBuf)>,
    /// There is something besides artifact notifications.
    pub diagnostics: bool,
}

#[derive(Deserialize)]
struct Artifact {
    artifact: String,
    emit: String,
}

/// Does this line announce an output?
fn is_artifact(line: &[u8]) -> bool {
    line.starts_with(b"{\"$message_type\":\"artifact\"") || line.starts_with(b"{\"artifact\":")
}

/// Emit kind and path of the output that a line announces.
pub fn artifact(line: &[u8]) -> Option<(String, PathBuf)> {
    if !is_artifact(line) {
        return None;
    }
    let told: Artifact = serde_json::from_slice(line).ok()?;
    Some((told.emit, PathBuf::from(OsStr::from_bytes(told.artifact.as_bytes()))))
}

pub fn read(stderr: &[u8]) -> Messages {
    let mut messages = Messages::default();
    for line in stderr.split(|&b| b == b'\n').filter(|l| !l.is_empty()) {
        match artifact(line) {
            Some(found) => messages.artifacts.push(found),
            None => messages.diagnostics = true,
        }
    }
    messages
}

/// A path as it stands in a string of JSON.
pub fn in_json(path: &[u8]) -> Vec<u8> {
    let quoted = std::str::from_utf8(path).ok().and_then(|text| serde_json::to_vec(text).ok());
    quoted.and_then(|text| Some(text.get(1..text.len() - 1)?.to_vec())).unwrap_or_else(|| path.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn artifacts_and_diagnostics_are_told_apart() {
        let quiet = b"{\"$message_type\":\"artifact\",\"artifact\":\"/t/x.d\",\"emit\":\"dep-info\"}\n";
        assert_eq!(
            read(quiet),
            Messages { artifacts: vec![("dep-info".into(), "/t/x.d".into())], diagnostics: false }
        );
        assert!(read(b"{\"$message_type\":\"diagnostic\",\"message\":\"m\"}\n").diagnostics);
    }
}
