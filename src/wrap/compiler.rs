//! A compiler that really runs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use kache_wrapper::cache::EntryKey;
use kache_wrapper::compile::{self, Observed};
use kache_wrapper::evidence::Scene;
use kache_wrapper::finish::{self, Left, Seen};
use kache_wrapper::incremental;
use kache_wrapper::lookup::{Miss, Plan, Store, Work};
use kache_wrapper::script;

use super::Action;
use crate::bench::Bench;
use crate::launcher;

impl Action {
    /// Returns its status as `wait(2)` gave it.
    pub(super) fn compile(&self, mut miss: Miss) -> i32 {
        let Miss { work: Work::Compile(plan), reason, .. } = &mut miss else { return 1 };
        unlink_shared_outputs(plan);
        let bench = Bench::set_up(plan, &self.backend);
        if bench.is_none() {
            plan.scratch = None;
        }
        match incremental::adopt(plan) {
            Ok(true) => reason.push_str("; its incremental state came from another checkout"),
            Ok(false) => {}
            // Without it the compile takes longer, no more.
            Err(error) => tracing::debug!(%error, "incremental state is not adopted"),
        }
        let miss = miss;
        let Work::Compile(plan) = &miss.work else { return 1 };
        let (argv, argfile) = match command(plan, bench.as_ref(), &self.inv.cwd) {
            Ok(command) => command,
            Err(error) => self.pass(&format!("cannot write an argument file: {error}")),
        };
        let mut announce = |lines: &mut Vec<u8>| {
            if let Some(bench) = &bench {
                bench.correct(lines);
            }
            if plan.remap {
                plan.prefixes.show_real(lines);
            }
            let Some(path) = finish::early_output(plan, lines).map(|path| self.inv.cwd.join(path)) else {
                return;
            };
            let noted = match (&bench, path.file_name()) {
                (Some(bench), Some(name)) => bench.show(&self.backend, name),
                _ => Ok(()),
            };
            if let Err(error) = noted.and_then(|()| self.backend.announced(plan, &path)) {
                self.backend.warn(&format!("cannot note {}: {error}", path.display()));
            }
        };
        let mut observed = Observed::new(&self.backend.trace_dir(), miss.watch_calls);
        let mut ran = match compile::run(&argv, &mut observed, &mut announce) {
            Ok(ran) => ran,
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) => self.pass("command line too long"),
            Err(_) => self.pass("the compiler cannot be started"),
        };
        drop(argfile);
        let mut seen = Seen::Nothing;
        if ran.success() {
            let mut crates = crate_dirs(plan);
            crates.extend(bench.iter().flat_map(Bench::gathered));
            let state = incremental::state_dirs(plan);
            let scene = Scene {
                inv: &self.inv,
                prefixes: &plan.prefixes,
                sysroot: &plan.sysroot,
                own: &plan.compile.out_dir,
                own_is_new: false,
                moved: bench.as_ref().map(Bench::out_dir),
                state: &state,
                crates: &crates,
                known: &plan.programs,
                values_bind: true,
                is_script: false,
                judged: &plan.macros,
                is_watched: miss.watch_calls,
                started_ns: ran.started_ns,
            };
            seen = self.seen(observed.account(), &scene);
        }
        if ran.success()
            && let Some(bench) = &bench
            && let Err(error) = bench.hand_over_all(&self.backend)
        {
            eprintln!("kache: cannot put outputs into {}: {error}", plan.compile.out_dir.display());
            ran.raw_status = 1 << 8;
        }
        if ran.success()
            && bench.is_none()
            && plan.store == Store::Edit
            && let Err(error) = incremental::correct_dep_info(plan, &self.inv.cwd)
        {
            self.backend.warn(&format!("cannot correct dep-info: {error}"));
        }
        drop(bench);
        let raw_status = ran.raw_status;
        if !ran.success() {
            self.backend.event(self.failed(&miss));
            return raw_status;
        }
        if let Err(error) = incremental::note(plan) {
            tracing::debug!(%error, "incremental state is not noted");
        }
        let given = super::given(&self.inv);
        let entry = self.store(&miss, Left { ran, seen, found: Vec::new(), was_used: false, given });
        self.install_launcher(plan, entry.as_ref());
        raw_status
    }

    /// From now on cargo asks kache to run this build script.
    fn install_launcher(&self, plan: &Plan, entry: Option<&EntryKey>) {
        if script::has_launcher(&self.inv, &plan.compile, self.backend.settings()) {
            let program = script::program(&plan.compile);
            if let Err(error) = launcher::install(&program, entry) {
                self.backend.warn(&format!("cannot put a launcher at {}: {error}", program.display()));
            }
        }
    }
}

/// Where the compiler looks for crates.
fn crate_dirs(plan: &Plan) -> Vec<PathBuf> {
    let compile = &plan.compile;
    let searched = compile.search.iter().filter(|(kind, _)| kind == "dependency").map(|(_, dir)| dir.clone());
    let named = compile.externs.iter().filter_map(|path| path.parent().map(Path::to_owned));
    let mut dirs: Vec<PathBuf> = searched.chain(named).collect();
    dirs.sort();
    dirs.dedup();
    dirs
}
/// The command line of a plan; long ones go through a file, as cargo does it.
fn command(
    plan: &Plan,
    bench: Option<&Bench>,
    cwd: &Path,
) -> std::io::Result<(Vec<OsString>, Option<tempfile::NamedTempFile>)> {
    let argv = match bench {
        Some(bench) => bench.argv(&plan.argv, cwd),
        None if plan.store == Store::Edit => incremental::argv(plan, cwd),
        None => plan.argv.clone(),
    };
    if !plan.argfile {
        return Ok((argv, None));
    }
    use std::io::Write;
    use std::os::unix::ffi::OsStrExt;
    let (driver, args) = argv.split_at(plan.compile.driver.len());
    let mut file = tempfile::Builder::new().prefix("kache-args").tempfile()?;
    let mut text = Vec::new();
    for arg in args {
        text.extend_from_slice(arg.as_bytes());
        text.push(b'\n');
    }
    file.write_all(&text)?;
    let mut argv = driver.to_vec();
    let mut at = OsString::from("@");
    at.push(file.path());
    argv.push(at);
    Ok((argv, Some(file)))
}

/// A compiler must never write into a file that shares its bytes with a blob.
fn unlink_shared_outputs(plan: &Plan) {
    use std::os::unix::fs::MetadataExt;
    let compile = &plan.compile;
    let stem = compile.stem();
    let names = ["", ".exe", ".wasm"]
        .map(|e| format!("{stem}{e}"))
        .into_iter()
        .chain(["rlib", "rmeta", "so", "a", "dylib", "dll"].map(|e| format!("lib{stem}.{e}")));
    for path in
        names.map(|n| compile.out_dir.join(n)).chain(compile.emits.iter().filter_map(|(_, p)| p.clone()))
    {
        if let Ok(meta) = std::fs::symlink_metadata(&path)
            && meta.is_file()
            && (meta.nlink() > 1 || meta.mode() & 0o200 == 0)
        {
            let _ = std::fs::remove_file(&path);
        }
    }
}
