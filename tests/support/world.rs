//! A world: one temporary directory with a cache, and everything in it that a test needs.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::{Checkout, namespace};

/// Who unprivileged users are on every system.
const NOBODY: u32 = 65534;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Plain,
    Mounted,
    MountedUser,
}

/// Who mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Root,
    User,
}

impl Mode {
    fn from_env() -> Mode {
        match std::env::var("KACHE_TEST_MODE").as_deref() {
            Err(_) | Ok("plain") => Mode::Plain,
            Ok("mounted") => Mode::Mounted,
            Ok("mounted-user") => Mode::MountedUser,
            Ok(other) => panic!("KACHE_TEST_MODE is {other}, not plain, mounted or mounted-user"),
        }
    }
}

#[derive(Clone)]
pub struct World(Arc<Inner>);

struct Inner {
    root: PathBuf,
    cache: PathBuf,
    mode: Mode,
    /// Under whom everything runs, when that is not who runs the tests.
    user: Option<u32>,
    toolchain: PathBuf,
    kache: PathBuf,
    /// Its files stay, for somebody to look into.
    kept: std::sync::atomic::AtomicBool,
}

impl World {
    /// In the mode that the environment asks for.
    pub fn new() -> World {
        let mode = Mode::from_env();
        World::with(mode, mode == Mode::MountedUser)
    }

    /// Without mounts and daemon, whatever the mode: for what has nothing to do with them.
    pub fn plain() -> World {
        World::in_mode(Mode::Plain)
    }

    /// With mounts and a daemon, whatever the mode.
    pub fn mounted_by(who: Who) -> World {
        World::with(Mode::Mounted, who == Who::User)
    }

    /// In one mode, whatever the environment asks for.
    pub fn in_mode(mode: Mode) -> World {
        World::with(mode, false)
    }

    /// The same as a user who cannot write everywhere.
    pub fn plain_unprivileged() -> World {
        World::with(Mode::Plain, true)
    }

    /// The same as `plain` in another place than where temporary files usually are.
    pub fn plain_in(parent: &Path) -> World {
        World::at(parent, Mode::Plain, false)
    }

    fn with(mode: Mode, unprivileged: bool) -> World {
        World::at(&std::env::temp_dir(), mode, unprivileged)
    }

    fn at(parent: &Path, mode: Mode, unprivileged: bool) -> World {
        namespace::enter();
        let root =
            tempfile::Builder::new().prefix("kache-story-").tempdir_in(parent).expect("a directory").keep();
        let root = fs::canonicalize(root).expect("a directory");
        // Others must be able to look in, for the stories with two users.
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("our own directory");
        let is_root = nix::unistd::getuid().is_root();
        let user = (unprivileged && is_root).then_some(NOBODY);
        let (mut toolchain, mut kache) = (sysroot(), program());
        if user.is_some() {
            // Root's toolchain and this project may lie where nobody else can go.
            let (tools, program) = (root.join("toolchain"), root.join("kache"));
            fs::create_dir(&tools).expect("our own directory");
            fs::write(&program, "").expect("our own directory");
            namespace::show_read_only(&toolchain, &tools);
            namespace::show_read_only(&kache, &program);
            (toolchain, kache) = (tools, program);
        }
        let cache = root.join("cache");
        let world = World(Arc::new(Inner { cache, root, mode, user, toolchain, kache, kept: false.into() }));
        world.write_shim();
        world.own(world.root());
        world
    }

    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// At the end daemon and mounts go, but the files stay.
    pub fn keep(&self) {
        self.0.kept.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// The cache directory.
    pub fn cache(&self) -> &Path {
        &self.0.cache
    }

    pub fn mounted(&self) -> bool {
        self.0.mode != Mode::Plain
    }

    pub fn kache_program(&self) -> &Path {
        &self.0.kache
    }

    pub fn real_rustc(&self) -> PathBuf {
        self.0.toolchain.join("bin/rustc")
    }

    /// A checkout of a project of `tests/fixtures`, with a home of its own.
    pub fn checkout(&self, name: &str, fixture: &str) -> Checkout {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture);
        let checkout = self.empty_checkout(&self.root().join(name));
        copy_tree(&from, checkout.dir());
        self.own(checkout.dir());
        checkout
    }

    /// A checkout of a project given here, file by file.
    pub fn project(&self, name: &str, files: &[(&str, &str)]) -> Checkout {
        let checkout = self.empty_checkout(&self.root().join(name));
        for (path, text) in files {
            checkout.write(path, text);
        }
        checkout
    }

    /// An empty directory to put a project into; its target is mounted if that is the mode.
    pub fn empty_checkout(&self, dir: &Path) -> Checkout {
        Checkout::new(self.clone(), dir.to_owned())
    }

    /// A command as a user of this world would type it: nothing of the environment that runs the tests.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let mut path = self.0.toolchain.join("bin").into_os_string();
        path.push(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env_clear().env("PATH", path).env("LANG", "C.UTF-8").env("TMPDIR", self.root());
        command.env("HOME", self.root()).env("KACHE_CACHE_DIR", self.cache());
        command.env("KACHE_DAEMON_IDLE_TIMEOUT", if self.mounted() { "10m" } else { "0" });
        command.env("KACHE_STORY_LOG", self.rustc_log()).env("KACHE_STORY_RUSTC", self.real_rustc());
        command.current_dir(self.root());
        if let Some(user) = self.0.user {
            command.uid(user).gid(user);
        }
        // What compilers and build scripts note for a test is no file that they write: they have it open from the beginning.
        let open = |path| fs::OpenOptions::new().append(true).create(true).open(path).expect("our own file");
        let logs = [(open(self.script_log()), 8), (open(self.rustc_log()), 9)];
        // SAFETY: between fork and exec, only system calls.
        unsafe {
            command.pre_exec(move || {
                // Away from where they will be, first.
                let far = logs
                    .each_ref()
                    .map(|(log, fd)| (libc::fcntl(log.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 20), *fd));
                far.iter().try_for_each(|(log, fd)| match libc::dup2(*log, *fd) {
                    -1 => Err(std::io::Error::last_os_error()),
                    _ => Ok(()),
                })
            });
        }
        command
    }

    /// What build scripts write into descriptor 8.
    pub fn script_log(&self) -> PathBuf {
        self.root().join("scripts.log")
    }

    /// Gives everything in `dir` to the user of this world, but for what is mounted there: root itself may not look
    /// into a user's mount.
    pub fn own(&self, dir: &Path) {
        let Some(user) = self.0.user else { return };
        if is_target(dir) || dir == self.0.toolchain || dir == self.0.kache {
            return;
        }
        if fs::symlink_metadata(dir).expect("what is to be given away").is_dir() {
            for entry in fs::read_dir(dir).expect("a readable directory") {
                self.own(&entry.expect("a readable directory").path());
            }
        }
        std::os::unix::fs::lchown(dir, Some(user), Some(user)).expect("chown");
    }

    /// Where the shim notes which compilers started.
    pub fn rustc_log(&self) -> PathBuf {
        self.root().join("rustc.log")
    }

    pub fn shim(&self) -> PathBuf {
        self.root().join("shim/rustc")
    }

    /// A compiler that tells that it was started, and for which checkout.
    fn write_shim(&self) {
        // The same bytes in every world: it is a part of the compiler that they may share.
        let script = "#!/bin/sh\nname=query; last=\nfor arg do\n  [ \"$last\" = --crate-name ] && name=$arg\n  \
             case $arg in @*) name=argfile;; esac\n  last=$arg\ndone\n\
             case \"$*\" in *kache-probe*) name=query;; esac\n\
             { printf '%s\\t%s\\n' \"$name\" \"$KACHE_STORY_HERE\" >&9; } 2>/dev/null ||\n  \
             printf '%s\\t%s\\n' \"$name\" \"$KACHE_STORY_HERE\" >> \"$KACHE_STORY_LOG\"\nexec \"$KACHE_STORY_RUSTC\" \"$@\"\n";
        fs::create_dir(self.root().join("shim")).expect("our own directory");
        fs::write(self.shim(), script).expect("our own directory");
        fs::set_permissions(self.shim(), fs::Permissions::from_mode(0o755)).expect("our own directory");
        fs::write(self.rustc_log(), "").expect("our own directory");
    }

    /// Process of the daemon.
    pub fn daemon(&self) -> i32 {
        let status = self.kache("daemon status --json").stdout;
        let status: serde_json::Value = serde_json::from_slice(&status).expect("a status");
        status["pid"].as_i64().expect("a daemon") as i32
    }

    /// Waits until nothing is left of a process.
    pub fn wait_for_end(&self, pid: i32) {
        // Its threads go one after the other, and with the last of them what it had open.
        let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        let lives = || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z "));
        let began = std::time::Instant::now();
        while threads() > 1 || lives() {
            assert!(began.elapsed() < std::time::Duration::from_secs(60), "process {pid} does not end");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// `kache …` outside of any checkout.
    pub fn kache(&self, args: &str) -> std::process::Output {
        self.command(&self.0.kache).args(args.split_whitespace()).output().expect("kache starts")
    }
}

fn is_target(dir: &Path) -> bool {
    dir.file_name().is_some_and(|n| n == "target")
}

/// The kache under test: this project's, or what `KACHE_TEST_PROGRAM` names.
fn program() -> PathBuf {
    std::env::var_os("KACHE_TEST_PROGRAM").map_or(env!("CARGO_BIN_EXE_kache").into(), PathBuf::from)
}

/// The toolchain that runs these tests, without rustup's proxies.
pub fn sysroot() -> PathBuf {
    let asked = Command::new("rustc").args(["--print", "sysroot"]).output().expect("rustc starts");
    PathBuf::from(String::from_utf8(asked.stdout).expect("a path").trim())
}

pub fn copy_tree(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a fixture") {
        let entry = entry.expect("a fixture");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("a fixture").is_dir() {
            fs::create_dir_all(&to).expect("our own directory");
            copy_tree(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).expect("our own directory");
        }
    }
}

impl Drop for Inner {
    /// Also when a test fails: no mount, no process and no file stays.
    fn drop(&mut self) {
        let kache = |args: &[&str]| {
            let mut command = Command::new(&self.kache);
            command.args(args).env("KACHE_CACHE_DIR", &self.cache).env("HOME", &self.root);
            command.stdout(Stdio::piped()).stderr(Stdio::null()).current_dir("/");
            if let Some(user) = self.user {
                command.uid(user).gid(user);
            }
            command.output().ok()
        };
        let pid = kache(&["daemon", "status", "--json"])
            .and_then(|o| serde_json::from_slice::<serde_json::Value>(&o.stdout).ok())
            .and_then(|status| status["pid"].as_i64());
        let mut complaints = Vec::new();
        if let Some(pid) = pid {
            kache(&["umount", "--all", "--discard"]);
            kache(&["daemon", "stop"]);
            // The last thing that it gives back is its lock; after that it needs a moment to be gone.
            let began = std::time::Instant::now();
            while is_running(pid) && began.elapsed() < std::time::Duration::from_secs(10) {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            if is_running(pid) {
                complaints.push(format!("the daemon {pid} did not end"));
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid as i32),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
        let ours = [self.root.join("toolchain"), self.root.join("kache")];
        for mount in namespace::mounts_below(&self.root) {
            if !ours.contains(&mount) && mount != self.root.join("disk") {
                complaints.push(format!("{} was still mounted", mount.display()));
            }
            namespace::detach(&mount);
        }
        let left = namespace::mounts_below(&self.root);
        if self.kept.load(std::sync::atomic::Ordering::Relaxed) {
            // Somebody looks.
        } else if left.is_empty() {
            make_removable(&self.root);
            if let Err(error) = fs::remove_dir_all(&self.root) {
                complaints.push(format!("{} stays: {error}", self.root.display()));
            }
        } else {
            complaints.push(format!("still mounted: {left:?}"));
        }
        if !complaints.is_empty() && !std::thread::panicking() {
            panic!("the test left something behind: {complaints:?}");
        }
    }
}

/// A process that has ended may be waiting for its parent to ask how.
fn is_running(pid: i64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// A test may have made directories read-only.
fn make_removable(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        let path = entry.path();
        if fs::metadata(&path).is_ok_and(|m| m.permissions().mode() & 0o700 != 0o700) {
            let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o700));
        }
        make_removable(&path);
    }
}
