//! Is a variable used for nothing but to name a file that is included?
//!
//! `include!(concat!(env!("OUT_DIR"), "/x.rs"))` has a path as a value, but what becomes part of the result is the file,
//! which counts by its content.

use std::path::{Path, PathBuf};

use crate::cache::{Cache, Invocation, Result};

/// Is that shown for all uses in these sources? A use that is in none of them, but in a macro of another crate, is not.
pub fn is_only_included(cache: &dyn Cache, inv: &Invocation, files: &[PathBuf], name: &str) -> Result<bool> {
    let mut uses = 0;
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "rs")) {
        let Some(text) = cache.read(&inv.cwd.join(Path::new(file)))? else { return Ok(false) };
        match uses_in(&text, name) {
            Some(n) => uses += n,
            None => return Ok(false),
        }
    }
    Ok(uses > 0)
}

/// How often a text includes a file by this variable; `None` when it does something else with it.
fn uses_in(text: &[u8], name: &str) -> Option<usize> {
    let quoted = format!("\"{name}\"");
    let mut uses = 0;
    for at in memchr::memmem::find_iter(text, quoted.as_bytes()) {
        let line = memchr::memrchr(b'\n', &text[..at]).map_or(0, |n| n + 1);
        if text[line..at].trim_ascii_start().starts_with(b"//") {
            continue;
        }
        let before = text[..at].trim_ascii_end();
        let before = opened(before, &["env"])?;
        let before = opened(before, &["concat"])?;
        opened(before, &["include", "include_str", "include_bytes"])?;
        // Behind it stand texts, and nothing else up to the end of `concat!`.
        let rest = text[at + quoted.len()..].trim_ascii_start().strip_prefix(b")")?;
        let mut rest = rest.trim_ascii_start();
        loop {
            rest = match rest.first()? {
                b',' => rest[1..].trim_ascii_start(),
                b'"' => rest[1 + memchr::memchr(b'"', &rest[1..])? + 1..].trim_ascii_start(),
                b')' => break,
                _ => return None,
            };
        }
        uses += 1;
    }
    Some(uses)
}

/// The text before `name!(` at its end.
fn opened<'a>(text: &'a [u8], names: &[&str]) -> Option<&'a [u8]> {
    let text = text.strip_suffix(b"(")?.trim_ascii_end().strip_suffix(b"!")?.trim_ascii_end();
    names.iter().find_map(|name| {
        let rest = text.strip_suffix(name.as_bytes())?;
        let is_longer = rest.last().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
        (!is_longer).then(|| rest.trim_ascii_end())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_includes_are_includes() {
        let uses = |text: &str| uses_in(text.as_bytes(), "OUT_DIR");
        assert_eq!(uses("include!(concat!(env!(\"OUT_DIR\"), \"/a.rs\"));"), Some(1));
        assert_eq!(
            uses("let b = include_bytes! ( concat!(\n  env!( \"OUT_DIR\" ) , \"/a\" , \"b\", ) );"),
            Some(1)
        );
        assert_eq!(uses("// env!(\"OUT_DIR\")\ninclude_str!(concat!(env!(\"OUT_DIR\"), \"/x\"))"), Some(1));
        assert_eq!(uses("nothing"), Some(0));
        for other in [
            "env!(\"OUT_DIR\")",
            "concat!(env!(\"OUT_DIR\"), \"/x\")",
            "my_include!(concat!(env!(\"OUT_DIR\"), \"/x\"))",
            "include!(concat!(env!(\"OUT_DIR\"), other!()))",
            "include!(concat!(option_env!(\"OUT_DIR\"), \"/x\"))",
            "std::env::var(\"OUT_DIR\")",
        ] {
            assert_eq!(uses(other), None, "{other}");
        }
    }
}
