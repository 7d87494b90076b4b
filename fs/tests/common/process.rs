//! A mount that another process serves (`examples/overlay.rs`), to be killed.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

pub struct Served {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    dir: PathBuf,
}

impl Served {
    pub fn start(dir: &Path, state: &Path, blobs: &Path) -> Served {
        let mut child = Command::new(program())
            .args([dir, state, blobs])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut served = Served { child, input, output, dir: dir.to_owned() };
        assert_eq!(served.answer().as_deref(), Some("ready"));
        served
    }

    /// Asks for something; `None` if the process is dead.
    pub fn ask(&mut self, line: &str) -> Option<Result<String, String>> {
        writeln!(self.input.as_mut()?, "{line}").ok()?;
        let answer = self.answer()?;
        Some(match answer.strip_prefix("ok") {
            Some(rest) => Ok(rest.trim().to_owned()),
            None => Err(answer),
        })
    }

    fn answer(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            // Cut off by a kill.
            Ok(_) if !line.ends_with('\n') => None,
            Ok(_) => Some(line.trim_end().to_owned()),
        }
    }

    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// `kill -9`. The dead mount is still there afterwards.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = kache_fs::unmount_lazily(&self.dir);
    }
}

/// The example, built if need be: cargo builds it for `cargo test`, but not for `cargo test --test recovery`.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let this = std::env::current_exe().unwrap();
        let profile_dir = this.parent().unwrap().parent().unwrap();
        let program = profile_dir.join("examples/overlay");
        let age = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
        if age(&program) < age(Path::new(env!("CARGO_MANIFEST_DIR"))).max(age(&this)) {
            let profile = match profile_dir.file_name().unwrap().to_str().unwrap() {
                "debug" => "dev",
                other => other,
            };
            let built = Command::new(env!("CARGO"))
                .args([
                    "build",
                    "--quiet",
                    "--package",
                    "kache-fs",
                    "--example",
                    "overlay",
                    "--profile",
                    profile,
                ])
                .arg("--target-dir")
                .arg(profile_dir.parent().unwrap())
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .status()
                .unwrap();
            assert!(built.success(), "the example `overlay` does not build");
        }
        program
    })
}
