//! The back half of an action: outputs become blobs, what was seen becomes a record, both become findable.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::artifacts::{self, Messages};
use crate::cache::{
    Cache, Dest, Entry, EntryKey, Invocation, Node, Output, Publication, Result, Sharing, TextOutput,
};
use crate::compile::Ran;
use crate::depinfo::{self, DepInfo};
use crate::evidence::{Beside, Evidence, before_steps_up, declared, tokens};
use crate::hasher::Hasher;
use crate::lookup::{Miss, Plan, Store, Work};
use crate::prefixes::{MARK, Prefixes};
use crate::proof::{self, Proof};
use crate::record::{Input, InputRecord};
use crate::script::outputs::Found;
use crate::{atomic, included, machine, object, script};

/// What became of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finished {
    /// Key and bytes of outputs.
    Stored(EntryKey, u64),
    /// Why it was not stored.
    Unstored(String),
}

/// What an observer saw of an action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seen {
    Evidence(Evidence),
    /// Why nothing follows from it.
    Unproven(String),
    /// There is no observer here.
    Nothing,
}

/// What an action has left, besides what [`Evidence`] names.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Left {
    pub ran: Ran,
    pub seen: Seen,
    /// Everything in the `OUT_DIR` of a build script, and whether something was there before.
    pub found: Vec<Found>,
    pub was_used: bool,
    /// Names of variables that cargo set for it.
    pub given: Vec<OsString>,
}

/// A result that may be stored.
pub(crate) struct Made {
    pub record: InputRecord,
    /// Paths that somebody has as values. They bind the result unless it is shown to be the same elsewhere.
    pub asked: BTreeSet<char>,
    pub outputs: Vec<Output>,
    pub texts: Vec<TextOutput>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
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

/// Stores what a successful action made. An error is a failure of the cache: the build goes on regardless.
pub fn finish(cache: &dyn Cache, inv: &Invocation, miss: &Miss, left: &Left) -> Result<Finished> {
    let made = match &miss.work {
        Work::Compile(plan) => compile(cache, inv, miss, plan, left)?,
        Work::Script(script) => script.made(cache, inv, left)?,
    };
    let mut made = match made {
        Ok(made) => made,
        Err(why) => return Ok(Finished::Unstored(why)),
    };
    if [&left.ran.stdout, &left.ran.stderr].iter().any(|text| text.contains(&MARK)) {
        return Ok(Finished::Unstored("control character in the output".into()));
    }
    miss.inputs.iter().for_each(|input| made.record.add(input.clone()));
    let bound: BTreeSet<char> = made
        .record
        .0
        .iter()
        .filter_map(|i| if let Input::Bound(token) = i { Some(*token) } else { None })
        .collect();
    made.asked.extend(&miss.asked);
    let asked: BTreeSet<char> = made.asked.difference(&bound).copied().collect();
    let entry = Entry {
        crate_name: miss.work.name().to_owned(),
        kind: miss.work.kind().to_owned(),
        outputs: made.outputs,
        texts: made.texts,
        stdout: made.stdout,
        stderr: made.stderr,
        took_ms: left.ran.took.as_millis() as u64,
    };
    let here = miss.work.here(cache, inv);
    let publish = |record: &InputRecord| -> Result<Option<EntryKey>> {
        let Some(key) = record.entry_key(&here, &miss.invocation)? else { return Ok(None) };
        let entry = entry.clone();
        cache.publish(&Publication {
            invocation: miss.invocation,
            record: record.to_bytes()?,
            key,
            entry,
        })?;
        Ok(Some(key))
    };
    let mut record = made.record.clone();
    asked.iter().for_each(|token| record.add(Input::Bound(*token)));
    let Some(key) = publish(&record)? else {
        let changed = record.cannot_hold(&here)?.unwrap_or_else(|| "an input changed".into());
        return Ok(Finished::Unstored(format!("{changed} since it was read")));
    };
    if !asked.is_empty()
        && let Some(free) = made.record.entry_key(&here, &miss.invocation)?
        && is_same_elsewhere(cache, &free, &asked, miss.work.prefixes(), &entry)?
    {
        publish(&made.record)?;
    }
    record.remember(&here, &miss.invocation)?;
    let proof = proof_of(cache, miss, inv, left, key, None);
    match &miss.work {
        Work::Script(script) => {
            script.note_run(cache, &left.ran.stdout, &record.to_bytes()?)?;
            if let Some(name) = script.run_name(cache, &left.ran.stdout)? {
                proof.keep(cache, &name)?;
            }
        }
        Work::Compile(_) => Proof::names(&entry).try_for_each(|name| proof.keep(cache, &name))?,
    }
    Ok(Finished::Stored(key, entry.bytes()))
}

fn proof_of(
    cache: &dyn Cache,
    miss: &Miss,
    inv: &Invocation,
    left: &Left,
    key: EntryKey,
    record: Option<Vec<u8>>,
) -> Proof {
    let script = if let Work::Script(script) = &miss.work { Some(script) } else { None };
    let known = proof::Known {
        invocation: miss.invocation,
        key,
        width: miss.work.width(),
        prefixes: miss.work.prefixes(),
        is_script: script.is_some(),
        record,
        out_dir: script.map(|script| script.out_dir.as_path()),
    };
    Proof::of(cache, known, inv, &|name| left.given.iter().any(|given| given == name))
}

/// An edit is of no use to others; a fork wants to know all the same what it was compiled from.
fn keep_edit(
    cache: &dyn Cache,
    inv: &Invocation,
    miss: &Miss,
    left: &Left,
    read: Read,
    outputs: &[(Dest, PathBuf)],
) -> Result<()> {
    let mut record = read.record;
    record.0.extend(read.asked.union(&miss.asked).copied().map(Input::Bound));
    record.0.extend(miss.inputs.iter().cloned());
    let record = InputRecord::new(record.0);
    let here = miss.work.here(cache, inv);
    let Some(key) = record.entry_key(&here, &miss.invocation)? else { return Ok(()) };
    let proof = proof_of(cache, miss, inv, left, key, Some(record.to_bytes()?));
    for (_, path) in outputs {
        if let Some(id) = cache.stat(path)? {
            proof.keep(cache, &Proof::name_of_file(path, id.size, id.mtime_ns))?;
        }
    }
    Ok(())
}

/// A result that was made where it may depend on the place, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ElsewhereFact {
    digest: [u8; 32],
    /// Lengths of the paths that were asked for, by their tokens.
    lengths: Vec<(char, usize)>,
    /// Two places gave different results.
    differs: bool,
}

/// Was the same made of the same inputs at a place where all these paths are of other lengths? Then none of them is part of
/// it: neither they, nor hashes, nor lengths of them.
fn is_same_elsewhere(
    cache: &dyn Cache,
    free: &EntryKey,
    asked: &BTreeSet<char>,
    prefixes: &Prefixes,
    entry: &Entry,
) -> Result<bool> {
    const SPACE: &str = "elsewhere";
    let here = ElsewhereFact { digest: digest(entry)?, lengths: lengths(asked, prefixes), differs: false };
    let known = cache.fact(SPACE, &free.0)?.and_then(|v| postcard::from_bytes::<ElsewhereFact>(&v).ok());
    let Some(mut there) = known else {
        cache.set_fact(SPACE, &free.0, &postcard::to_stdvec(&here)?)?;
        return Ok(false);
    };
    if there.digest != here.digest {
        there.differs = true;
        cache.set_fact(SPACE, &free.0, &postcard::to_stdvec(&there)?)?;
    }
    let other_lengths = here.lengths.iter().zip(&there.lengths).all(|(a, b)| a.0 == b.0 && a.1 != b.1);
    Ok(!there.differs && other_lengths && here.lengths.len() == there.lengths.len())
}

fn lengths(asked: &BTreeSet<char>, prefixes: &Prefixes) -> Vec<(char, usize)> {
    asked.iter().map(|t| (*t, prefixes.get(*t).map_or(0, |path| path.as_os_str().len()))).collect()
}

/// Of everything in an entry but how long it took.
fn digest(entry: &Entry) -> Result<[u8; 32]> {
    let entry = Entry { took_ms: 0, ..entry.clone() };
    Ok(Hasher::new("entry content").field("entry", &postcard::to_stdvec(&entry)?).finish())
}

/// What a compile made; `Err`: why it is not stored.
fn compile(
    cache: &dyn Cache,
    inv: &Invocation,
    miss: &Miss,
    plan: &Plan,
    left: &Left,
) -> Result<std::result::Result<Made, String>> {
    let compile = &plan.compile;
    let ran = &left.ran;
    let messages = artifacts::read(&ran.stderr);
    let dep_info_path = compile.dep_info_path();
    let Some(dep_text) = cache.read(&dep_info_path)? else {
        return Ok(Err("the compiler wrote no dep-info".into()));
    };
    if !plan.extra.is_empty() {
        atomic::write(&dep_info_path, &depinfo::with_extra(&dep_text, &plan.extra))?;
    }
    let none = Evidence::default();
    let evidence = if let Seen::Evidence(evidence) = &left.seen { evidence } else { &none };
    let outputs = outputs(inv, plan, &messages, &evidence.own)?;
    let info = DepInfo::parse(&dep_text);
    let unproven = match &left.seen {
        _ if dep_text.contains(&MARK) => Some("control character in the output".into()),
        _ if has_changed(cache, plan)? => Some("an input changed while it was compiled".into()),
        Seen::Unproven(why) => Some(why.clone()),
        Seen::Nothing => unseen(cache, inv, plan, &info)?.map(str::to_owned),
        Seen::Evidence(_) => None,
    };
    if unproven.is_some() || plan.store == Store::Edit {
        if unproven.is_none() {
            let read = read(cache, inv, plan, evidence, &info, messages.diagnostics)?;
            keep_edit(cache, inv, miss, left, read, &outputs)?;
        }
        // Whoever depends on it wants to know what is behind it. Nothing depends on a program.
        if !compile.is_program() {
            for (_, path) in outputs {
                announced(cache, plan, &path)?;
            }
        }
        return Ok(Err(unproven.unwrap_or_else(|| "edit".to_owned())));
    }
    let Read { mut record, asked } = read(cache, inv, plan, evidence, &info, messages.diagnostics)?;

    let needles: Vec<(char, &[u8])> =
        plan.prefixes.iter().map(|p| (p.token, p.path.as_os_str().as_bytes())).collect();
    let packed: Vec<(char, Vec<u8>)> = if has_bitcode(plan) { packed_needles(&needles) } else { Vec::new() };
    let patterns: Vec<&[u8]> =
        needles.iter().map(|(_, n)| *n).chain(packed.iter().map(|(_, n)| n.as_slice())).collect();
    // Else the compiler's own debug information names no such path, and C's is as it was in the native libraries.
    let debug_counts = !plan.remap
        || compile.args.iter().any(|a| memchr::memmem::find(a.as_bytes(), b"remap-path-scope").is_some());

    let native = compile.codegen("target-cpu") == Some(OsStr::new("native"));
    let mut stored = Vec::with_capacity(outputs.len());
    let mut found = BTreeSet::new();
    for (dest, path) in outputs {
        let executable = cache.stat(&path)?.is_some_and(|id| id.executable);
        let sharing = compile.sharing();
        let ingested = cache.ingest(&path, executable, sharing, &patterns)?;
        plan.closure.remember(cache, compile, &ingested.hash)?;
        let (plain, hidden) = ingested.contains.split_at(needles.len());
        found.extend(object::bound_to(cache, &path, &needles, plain, debug_counts)?);
        found.extend(packed.iter().zip(hidden).filter(|(_, found)| **found).map(|((token, _), _)| *token));
        if native {
            cache.set_fact(machine::NATIVE, &ingested.hash, &[])?;
        }
        stored.push(Output { dest, blob: ingested.hash, size: ingested.size, executable, sharing });
    }
    let Some(dep_dest) = compile.dest("dep-info", &dep_info_path) else {
        return Ok(Err("an output is in an unexpected place".into()));
    };
    let mut texts =
        vec![TextOutput { dest: dep_dest, template: depinfo::template(&dep_text, &plan.prefixes) }];
    beside(cache, &plan.prefixes, &evidence.beside, &needles, &mut stored, &mut texts, &mut found)?;
    // Such a path stands in messages in another form.
    let is_escaped = |path: &[u8]| artifacts::in_json(path) != path;
    found.extend(needles.iter().filter(|(_, path)| is_escaped(path)).map(|(token, _)| *token));
    if plan.bind_all {
        found.extend(needles.iter().map(|(token, _)| *token));
    }
    record.0.extend(found.into_iter().map(Input::Bound));
    Ok(Ok(Made {
        record: InputRecord::new(record.0),
        asked,
        outputs: stored,
        texts,
        stdout: plan.prefixes.template(&ran.stdout),
        stderr: plan.prefixes.template(&ran.stderr),
    }))
}

/// What a compile was made from.
struct Read {
    record: InputRecord,
    asked: BTreeSet<char>,
}

fn read(
    cache: &dyn Cache,
    inv: &Invocation,
    plan: &Plan,
    evidence: &Evidence,
    info: &DepInfo,
    has_diagnostics: bool,
) -> Result<Read> {
    let mut record = InputRecord::new(evidence.inputs.iter().cloned());
    for file in &info.files {
        let spelled = inv.cwd.join(file);
        let path = declared(&plan.prefixes, &spelled);
        let links = before_steps_up(&spelled).filter(|dir| !plan.prefixes.in_target(dir) && dir != &inv.cwd);
        record.0.extend(links.map(|dir| Input::Real(plan.prefixes.template_path(&dir))));
        let input = if cache.stat(&path)?.is_some_and(|id| id.is_dir) {
            // A directory that a macro tracks.
            Input::Tree(plan.prefixes.template_path(&path))
        } else {
            Input::File(plan.prefixes.template_path(&path))
        };
        record.0.push(input);
    }
    record.0.extend(info.env.iter().cloned().map(Input::Env));
    let mut asked = evidence.asked.clone();
    for name in &info.env {
        let Some(value) = inv.var(name) else { continue };
        let of_paths = tokens(&plan.prefixes.template(value.as_bytes()));
        if !of_paths.is_empty() && !included::is_only_included(cache, inv, &info.files, name)? {
            asked.extend(of_paths);
        }
    }
    if has_diagnostics {
        record.0.push(Input::Width);
    }
    Ok(Read { record, asked })
}

/// Stores what an action left outside of its own directory.
pub(crate) fn beside(
    cache: &dyn Cache,
    prefixes: &Prefixes,
    all: &[Beside],
    needles: &[(char, &[u8])],
    outputs: &mut Vec<Output>,
    texts: &mut Vec<TextOutput>,
    bound: &mut BTreeSet<char>,
) -> Result<()> {
    let patterns: Vec<&[u8]> = needles.iter().map(|(_, n)| *n).collect();
    for Beside { path, node, link } in all {
        let dest = Dest::Beside(prefixes.template_path(path), *node);
        match node {
            Node::Dir | Node::DirMode(_) => texts.push(TextOutput { dest, template: Vec::new() }),
            Node::Link => {
                texts.push(TextOutput { dest, template: script::outputs::template(link, prefixes, bound) })
            }
            Node::File | Node::Program | Node::Mode(_) => {
                let (executable, sharing) = (node.is_executable(), Sharing::Copy);
                let ingested = cache.ingest(path, executable, sharing, &patterns)?;
                let found = needles.iter().zip(&ingested.contains).filter(|(_, found)| **found);
                bound.extend(found.map(|((token, _), _)| *token));
                outputs.push(Output { dest, blob: ingested.hash, size: ingested.size, executable, sharing });
            }
        }
    }
    Ok(())
}

/// Where nothing can be observed: why this compile may have read more than the compiler tells. `None`: it has not.
fn unseen(cache: &dyn Cache, inv: &Invocation, plan: &Plan, info: &DepInfo) -> Result<Option<&'static str>> {
    let compile = &plan.compile;
    if !plan.macros.is_empty() || compile.links() || compile.is_proc_macro() {
        return Ok(Some("macros and linkers cannot be observed here"));
    }
    let is_plain_driver = compile.driver.len() == 1 && compile.unstable.is_empty();
    if !is_plain_driver
        || !compile.libs.is_empty()
        || compile.search.iter().any(|(kind, _)| kind != "dependency")
    {
        return Ok(Some("what else it reads cannot be observed here"));
    }
    for file in &info.files {
        let text = cache.read(&inv.cwd.join(file))?.unwrap_or_default();
        if [&b"asm!"[..], b"#[link", b"# [link"]
            .iter()
            .any(|word| memchr::memmem::find(&text, word).is_some())
        {
            return Ok(Some("what an assembler reads cannot be observed here"));
        }
    }
    Ok(None)
}

/// Files that the compiler announced, and those it makes without announcing them, by their portable names.
fn outputs(
    inv: &Invocation,
    plan: &Plan,
    messages: &Messages,
    written: &[PathBuf],
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
    // Split debug information, and what options ask for.
    let dep_info = compile.dep_info_path();
    for path in written.iter().filter(|path| **path != dep_info) {
        let is_new = !found.iter().any(|(_, known)| known == path);
        if is_new
            && path.parent() == Some(&compile.out_dir)
            && let Some(name) = path.file_name()
        {
            found.push((Dest::OutDir(name.as_bytes().to_vec()), path.clone()));
        }
    }
    found.sort_by(|a, b| a.1.cmp(&b.1));
    found.dedup();
    Ok(found)
}

/// Did a dependency, whose content is in the key, change meanwhile? Who looks through a mount, and who serves it, have
/// different identities of one file.
fn has_changed(cache: &dyn Cache, plan: &Plan) -> Result<bool> {
    for (path, id, hash) in &plan.watched {
        let is_same = cache.stat(path)?.is_some_and(|now| now.same_content(id));
        if !is_same && cache.hash_file(path)? != Some(*hash) {
            return Ok(true);
        }
    }
    Ok(false)
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
