//! The back half of a miss: outputs become blobs, what was read becomes a record, both become findable.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::artifacts::{self, Messages};
use crate::cache::{Cache, Dest, Entry, EntryKey, Invocation, Output, Publication, Result, TextOutput};
use crate::compile::Ran;
use crate::depinfo::{self, DepInfo};
use crate::lookup::{Plan, Store};
use crate::prefixes::MARK;
use crate::record::{Input, InputRecord};
use crate::{machine, object};

/// What became of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finished {
    /// Key and bytes of outputs.
    Stored(EntryKey, u64),
    /// Why it was not stored.
    Unstored(String),
}

/// Remembers what stands behind an output that is not stored, or not yet: the compiler announces metadata while it goes
/// on, and cargo starts dependents at once.
pub fn announced(cache: &dyn Cache, plan: &Plan, path: &Path) -> Result<()> {
    if let Some(hash) = cache.hash_file(path)? {
        plan.closure.remember(cache, &plan.compile, &hash)?;
    }
    Ok(())
}

/// The output that dependents may start with, when these lines of the compiler announce one.
pub fn early_output(plan: &Plan, lines: &[u8]) -> Option<PathBuf> {
    let mut announced = lines.split(|&b| b == b'\n').filter_map(artifacts::artifact);
    announced.find_map(|(kind, path)| (kind == "metadata" && plan.compile.emits("link")).then_some(path))
}

/// Stores what a successful compile made. An error is a failure of the cache: the build goes on regardless.
pub fn finish(cache: &dyn Cache, inv: &Invocation, plan: &Plan, ran: &Ran) -> Result<Finished> {
    let compile = &plan.compile;
    let messages = artifacts::read(&ran.stderr);
    let dep_info_path = compile.dep_info_path();
    let Some(dep_text) = cache.read(&dep_info_path)? else {
        return Ok(Finished::Unstored("the compiler wrote no dep-info".into()));
    };
    if !plan.extra.is_empty() {
        write_beside(&dep_info_path, &depinfo::with_extra(&dep_text, &plan.extra))?;
    }
    let outputs = outputs(cache, inv, plan, &messages)?;
    if plan.store == Store::Edit {
        // Not stored, but whoever depends on it wants to know what is behind it. Nothing depends on a program.
        if !compile.is_program() {
            for (_, path) in outputs {
                announced(cache, plan, &path)?;
            }
        }
        return Ok(Finished::Unstored("edit".into()));
    }
    let Some(invocation) = plan.invocation else { return Ok(Finished::Unstored("not provable".into())) };

    let info = DepInfo::parse(&dep_text);
    let mut record = InputRecord::new(cache, &info, &inv.cwd, &plan.prefixes)?;
    let changed = changed_meanwhile(cache, plan, &record, ran.started_ns)?;

    let needles: Vec<(char, &[u8])> =
        plan.prefixes.iter().map(|p| (p.token, p.path.as_os_str().as_bytes())).collect();
    let packed: Vec<(char, Vec<u8>)> = if has_bitcode(plan) { packed_needles(&needles) } else { Vec::new() };
    let patterns: Vec<&[u8]> =
        needles.iter().map(|(_, n)| *n).chain(packed.iter().map(|(_, n)| n.as_slice())).collect();
    // Else the compiler's own debug information names no such path, and C's is as it was in the native libraries.
    let debug_counts =
        compile.args.iter().any(|a| memchr::memmem::find(a.as_bytes(), b"remap-path-scope").is_some());

    let native = compile.codegen("target-cpu") == Some(OsStr::new("native"));
    let mut stored = Vec::with_capacity(outputs.len());
    for (dest, path) in outputs {
        let executable = cache.stat(&path)?.is_some_and(|id| id.executable);
        let sharing = compile.sharing();
        if changed {
            announced(cache, plan, &path)?;
            continue;
        }
        let ingested = cache.ingest(&path, executable, sharing, &patterns)?;
        plan.closure.remember(cache, compile, &ingested.hash)?;
        let (plain, hidden) = ingested.contains.split_at(needles.len());
        for token in object::bound_to(cache, &path, &needles, plain, debug_counts)? {
            record.bind(token);
        }
        for ((token, _), found) in packed.iter().zip(hidden) {
            if *found {
                record.bind(*token);
            }
        }
        if native {
            cache.set_fact(machine::NATIVE, &ingested.hash, &[])?;
        }
        stored.push(Output { dest, blob: ingested.hash, size: ingested.size, executable, sharing });
    }
    if changed {
        return Ok(Finished::Unstored("an input changed while it was compiled".into()));
    }
    if plan.bind_all {
        needles.iter().for_each(|(token, _)| record.bind(*token));
    }
    if messages.diagnostics && compile.diagnostic_width.is_some() {
        record.depends_on_width();
    }
    if [&ran.stdout, &ran.stderr, &dep_text].iter().any(|t| t.contains(&MARK)) {
        return Ok(Finished::Unstored("control character in the output".into()));
    }
    let width = compile.diagnostic_width.as_deref();
    let Some(key) = record.entry_key(cache, inv, &invocation, &plan.prefixes, width)? else {
        return Ok(Finished::Unstored("an input is gone".into()));
    };
    record.remember(cache, inv, &invocation, &plan.prefixes)?;
    let Some(dep_dest) = compile.dest("dep-info", &dep_info_path) else {
        return Ok(Finished::Unstored("an output is in an unexpected place".into()));
    };
    let entry = Entry {
        crate_name: compile.crate_name.clone(),
        kind: compile.kind().to_owned(),
        outputs: stored,
        texts: vec![TextOutput { dest: dep_dest, template: plan.prefixes.template(&dep_text) }],
        stdout: plan.prefixes.template(&ran.stdout),
        stderr: plan.prefixes.template(&ran.stderr),
        took_ms: ran.took.as_millis() as u64,
    };
    let bytes = entry.bytes();
    cache.publish(&Publication { invocation, record: record.to_bytes()?, key, entry })?;
    Ok(Finished::Stored(key, bytes))
}

/// Files that the compiler announced, and those it makes without announcing them, by their portable names.
fn outputs(
    cache: &dyn Cache,
    inv: &Invocation,
    plan: &Plan,
    messages: &Messages,
) -> Result<Vec<(Dest, PathBuf)>> {
    let compile = &plan.compile;
    let mut found = Vec::new();
    for (kind, path) in &messages.artifacts {
        if kind == "dep-info" {
            continue;
        }
        let path = inv.cwd.join(path);
        let dest = compile.dest(kind, &path).ok_or("an output is in an unexpected place")?;
        found.push((dest, path));
    }
    if compile.emits("link") && !messages.artifacts.iter().any(|(kind, _)| kind == "link") {
        return Err("the compiler announced no linked output".into());
    }
    // Split debug information lies beside the output, under names that begin like it.
    if compile.codegen("split-debuginfo").is_some_and(|v| v != "off") {
        let stem = compile.stem();
        for name in cache.list_dir(&compile.out_dir)? {
            let bytes = name.as_bytes();
            let ours = bytes.starts_with(stem.as_bytes())
                || bytes.strip_prefix(b"lib").is_some_and(|n| n.starts_with(stem.as_bytes()));
            let debug =
                matches!(Path::new(&name).extension().and_then(OsStr::to_str), Some("dwp" | "dwo" | "o"));
            if ours && debug {
                found.push((Dest::OutDir(bytes.to_vec()), compile.out_dir.join(&name)));
            }
        }
    }
    found.sort_by(|a, b| a.1.cmp(&b.1));
    found.dedup();
    Ok(found)
}

/// Did anything that the compile read change after it began?
///
/// A compiler needs longer to load than a file system's clock needs to tick, so a change in the very tick of the
/// start was there before the first read.
fn changed_meanwhile(cache: &dyn Cache, plan: &Plan, record: &InputRecord, started_ns: i64) -> Result<bool> {
    for input in &record.0 {
        if let Input::File(template) = input {
            let Some(path) = plan.prefixes.expand_path(template) else { return Ok(true) };
            match cache.stat(&path)? {
                Some(id) if id.mtime_ns <= started_ns && id.ctime_ns <= started_ns => {}
                _ => return Ok(true),
            }
        }
    }
    for (path, id) in &plan.watched {
        if !cache.stat(path)?.is_some_and(|now| now.same_content(id)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Replaces a file so that nobody sees half of it.
fn write_beside(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".kache-tmp");
    let temp = path.with_file_name(name);
    std::fs::write(&temp, bytes)?;
    std::fs::rename(&temp, path)?;
    Ok(())
}

/// LLVM bitcode packs constant strings of 7-bit characters without byte alignment.
fn has_bitcode(plan: &Plan) -> bool {
    let c = &plan.compile;
    let refused =
        matches!(c.codegen("embed-bitcode").and_then(OsStr::to_str), Some("no" | "n" | "off" | "false"));
    c.emits("link") && (!refused || c.has_codegen("linker-plugin-lto"))
}

/// For each needle, what its inside looks like in a stream of 7-bit characters, or of shifted bytes, at each bit offset.
fn packed_needles(needles: &[(char, &[u8])]) -> Vec<(char, Vec<u8>)> {
    let mut packed = Vec::new();
    for (token, needle) in needles {
        for width in [7, 8] {
            for offset in 0..8 {
                if width == 8 && offset == 0 {
                    continue;
                }
                let bits: Vec<bool> = std::iter::repeat_n(false, offset)
                    .chain(needle.iter().flat_map(|&b| (0..width).map(move |i| b >> i & 1 == 1)))
                    .collect();
                let first = usize::from(offset > 0);
                let whole: Vec<u8> = bits
                    .chunks_exact(8)
                    .skip(first)
                    .map(|byte| byte.iter().enumerate().fold(0, |acc, (i, &bit)| acc | u8::from(bit) << i))
                    .collect();
                if whole.len() >= 4 {
                    packed.push((*token, whole));
                }
            }
        }
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_needle_is_found_in_packed_text() {
        let text = b"xy/home/me/project/src";
        for offset in 0..8usize {
            let bits: Vec<bool> = std::iter::repeat_n(true, offset)
                .chain(text.iter().flat_map(|&b| (0..7).map(move |i| b >> i & 1 == 1)))
                .chain(std::iter::repeat_n(true, 16))
                .collect();
            let stream: Vec<u8> = bits
                .chunks_exact(8)
                .map(|c| c.iter().enumerate().fold(0, |acc, (i, &bit)| acc | u8::from(bit) << i))
                .collect();
            let found = packed_needles(&[('W', b"/home/me/project")])
                .iter()
                .any(|(_, n)| memchr::memmem::find(&stream, n).is_some());
            assert!(found, "offset {offset}");
        }
    }
}
