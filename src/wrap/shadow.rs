//! A second run of a build script with `OUT_DIR` elsewhere.
//!
//! A script has to ask where its output goes, and what it makes of that path cannot be seen. When it is quick, and was seen
//! to write nowhere else and to talk to nobody, it is run once more where that path is another one, of another length. If
//! it prints and leaves the same, the path is no part of its result.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kache_wrapper::cache::{Invocation, Node};
use kache_wrapper::compile::{self, Ran};
use kache_wrapper::evidence::Evidence;
use kache_wrapper::script::Script;
use kache_wrapper::script::outputs::{self, Found};

/// A script that took more of a processor is not run twice.
const QUICK: Duration = Duration::from_secs(1);
/// Nor one that took so long, for whatever it waited.
const LONG: Duration = Duration::from_secs(10);
/// One that takes so much longer the second time does something else.
const PATIENCE: Duration = Duration::from_secs(5);

/// Does a second run show that the result is the same wherever `OUT_DIR` lies?
pub fn shows(
    scratch: &Path,
    inv: &Invocation,
    script: &Script,
    ran: &Ran,
    evidence: &Evidence,
    found: &[Found],
) -> bool {
    let only_own = !evidence.asked.is_empty() && evidence.beyond.is_empty();
    if !only_own || !evidence.beside.is_empty() || ran.took > LONG || worked() > QUICK {
        return false;
    }
    let same = std::fs::create_dir_all(scratch).and_then(|()| run(scratch, inv, script, ran, found));
    same.unwrap_or_else(|error| {
        tracing::debug!(%error, "a second run of a build script shows nothing");
        false
    })
}

/// Time of processors that this process's children have taken: the script, and what it started.
fn worked() -> Duration {
    use nix::sys::resource::{UsageWho, getrusage};
    let seconds = |t: nix::sys::time::TimeVal| {
        Duration::from_secs(t.tv_sec() as u64) + Duration::from_micros(t.tv_usec() as u64)
    };
    getrusage(UsageWho::RUSAGE_CHILDREN)
        .map_or(LONG, |used| seconds(used.user_time()) + seconds(used.system_time()))
}

fn run(
    scratch: &Path,
    inv: &Invocation,
    script: &Script,
    ran: &Ran,
    found: &[Found],
) -> std::io::Result<bool> {
    let place = Elsewhere::new(scratch, script)?;
    std::fs::create_dir_all(&place.out_dir)?;
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut command = Command::new(&inv.argv[0]);
    command.args(&inv.argv[1..]).env_clear().envs(inv.env.iter().map(|(k, v)| (k, v)));
    command.env("OUT_DIR", &place.out_dir).env(compile::ACTIVE, "1");
    for name in ["MAKEFLAGS", "MFLAGS", "CARGO_MAKEFLAGS"] {
        command.env_remove(name);
    }
    command
        .current_dir(&inv.cwd)
        .stdin(Stdio::null())
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?);
    // SAFETY: between fork and exec, only a system call: the run gets no descriptor of the build.
    unsafe {
        command.pre_exec(|| {
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            Ok(())
        });
    }
    command.process_group(0);
    let mut child = command.spawn()?;
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if began.elapsed() > PATIENCE + 4 * ran.took {
            // SAFETY: the process group of our own child, which has not been waited for.
            unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
            child.wait()?;
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let printed = |file: &mut std::fs::File| -> std::io::Result<Vec<u8>> {
        use std::io::{Read, Seek};
        let mut bytes = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    Ok(status.success()
        && place.same(&ran.stdout, &printed(&mut stdout)?)
        && place.same(&ran.stderr, &printed(&mut stderr)?)
        && place.left_the_same(found)?)
}

/// A target directory at another path.
struct Elsewhere<'a> {
    script: &'a Script,
    /// What stands for the script's directories there.
    there: kache_wrapper::Prefixes,
    out_dir: PathBuf,
    _dir: tempfile::TempDir,
}

impl<'a> Elsewhere<'a> {
    fn new(scratch: &Path, script: &'a Script) -> std::io::Result<Elsewhere<'a>> {
        let missing = || std::io::Error::other("OUT_DIR is in no target directory");
        let profile = script.out_dir.ancestors().nth(3).ok_or_else(missing)?;
        let inner = script.out_dir.strip_prefix(profile).map_err(|_| missing())?;
        let name = profile.file_name().ok_or_else(missing)?;
        let dir = tempfile::Builder::new().prefix("shadow-").tempdir_in(scratch)?;
        let mut target = dir.path().join("target");
        while target.join(name).as_os_str().len() == profile.as_os_str().len() {
            target = dir.path().join("other-target");
        }
        let there = target.join(name);
        let moved =
            script.prefixes.moved(&|path| if path == profile { there.clone() } else { path.to_owned() });
        Ok(Elsewhere { script, there: moved, out_dir: there.join(inner), _dir: dir })
    }

    /// Do two texts say the same, each at its place?
    fn same(&self, here: &[u8], there: &[u8]) -> bool {
        self.script.prefixes.template(here) == self.there.template(there)
    }

    fn left_the_same(&self, found: &[Found]) -> std::io::Result<bool> {
        let there = outputs::collect(&self.out_dir, crate::umask::of_process())?;
        let is_alike = |(a, b): (&Found, &Found)| a.path == b.path && a.node == b.node;
        if found.len() != there.len() || !found.iter().zip(&there).all(is_alike) {
            return Ok(false);
        }
        for (a, b) in found.iter().zip(&there) {
            let read = |dir: &Path, one: &Found| match one.node {
                Node::Dir => Ok(Vec::new()),
                Node::Link => Ok(one.link.clone()),
                _ => std::fs::read(dir.join(OsStr::from_bytes(&one.path))),
            };
            let (here, there) = (read(&self.script.out_dir, a)?, read(&self.out_dir, b)?);
            if here != there && !(outputs::is_text(&here) && self.same(&here, &there)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
