//! What a path says of itself.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::prefixes::{AROUND, HOME, MARK, Prefixes};
use crate::record::Input;

/// Tokens in a template.
pub fn tokens(template: &[u8]) -> BTreeSet<char> {
    let counts = |t: &char| ![HOME, AROUND].contains(t);
    memchr::memchr_iter(MARK, template)
        .filter(|at| template.get(at + 2) == Some(&MARK))
        .filter_map(|at| template.get(at + 1).map(|t| *t as char))
        .filter(|t| t.is_ascii_uppercase())
        .filter(counts)
        .collect()
}

/// Without `.` and `..`, as written.
pub fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(out.pop()),
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

/// Without `.` and `..`, as the kernel finds it: behind a symbolic link, a step up leads elsewhere than the text says.
pub(super) fn without_detours(path: &Path) -> PathBuf {
    let direct = plain(path);
    if !path.components().any(|c| c == Component::ParentDir) {
        return direct;
    }
    match std::fs::canonicalize(path) {
        Ok(real) if std::fs::canonicalize(&direct).ok().as_ref() != Some(&real) => real,
        _ => direct,
    }
}

/// Directories before the steps up in a path: where such a step leads depends on whether they are links.
pub fn before_steps_up(path: &Path) -> impl Iterator<Item = PathBuf> {
    let steps = path.ancestors().filter(|dir| dir.file_name().is_none() && dir.parent().is_some());
    steps.filter_map(|step| step.parent().map(plain))
}

/// A path that the compiler or a script declared, without detours. What lies in the target directory may be a mount of
/// whoever asks here, and is not looked up.
pub fn declared(prefixes: &Prefixes, path: &Path) -> PathBuf {
    let direct = plain(path);
    if prefixes.in_target(&direct) { direct } else { without_detours(path) }
}

/// The same for every checkout on a machine, and watched by its package manager; unless that is where somebody builds.
pub fn is_of_the_system(prefixes: &Prefixes, path: &Path) -> bool {
    const DIRS: &[&str] = &[
        "/usr",
        "/lib",
        "/lib64",
        "/bin",
        "/sbin",
        "/etc",
        "/opt",
        "/nix/store",
        "/run/current-system",
        "/var/lib",
    ];
    DIRS.iter().any(|dir| path.starts_with(dir)) && !prefixes.is_of_the_build(path)
}

/// The toolchain that a path belongs to, whichever that is.
pub(super) fn toolchain_of(path: &Path) -> Option<&Path> {
    static ROOTS: Mutex<BTreeMap<PathBuf, Option<Toolchain>>> = Mutex::new(BTreeMap::new());
    let mut roots = ROOTS.lock().unwrap_or_else(PoisonError::into_inner);
    path.ancestors().find(|root| {
        if !roots.contains_key(*root) {
            roots.insert(root.to_path_buf(), Toolchain::at(root));
        }
        let inner = path.strip_prefix(root).unwrap_or(path);
        roots[*root].as_ref().is_some_and(|toolchain| toolchain.has(inner))
    })
}

/// May share its directories with anything else (`/usr`, `/usr/local`): what its installer put there is in lists, and
/// without lists only the compiler itself is known.
struct Toolchain {
    installed: HashSet<PathBuf>,
    is_alone: bool,
}

impl Toolchain {
    fn at(root: &Path) -> Option<Toolchain> {
        let entries = std::fs::read_dir(root.join("lib/rustlib")).ok()?.flatten();
        let manifests = entries.filter(|e| e.file_name().as_bytes().starts_with(b"manifest-"));
        let texts: Vec<String> = manifests.filter_map(|e| std::fs::read_to_string(e.path()).ok()).collect();
        let files = texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.strip_prefix("file:"));
        let installed: HashSet<PathBuf> = files.map(PathBuf::from).collect();
        let mut programs = std::fs::read_dir(root.join("bin")).into_iter().flatten().flatten();
        let is_alone = !root.join("include").exists()
            && programs.all(|entry| {
                let inner = Path::new("bin").join(entry.file_name());
                is_compiler(&inner) || installed.contains(&inner)
            });
        Some(Toolchain { installed, is_alone })
    }

    fn has(&self, inner: &Path) -> bool {
        self.is_alone
            || inner.starts_with("lib/rustlib")
            || is_compiler(inner)
            || self.installed.contains(inner)
    }
}

fn is_compiler(inner: &Path) -> bool {
    const PROGRAMS: &[&str] = &["cargo", "cargo-clippy", "clippy-driver", "rustc", "rustdoc", "rustfmt"];
    const LIBRARIES: &[&str] = &["librustc_driver-", "libstd-"];
    let (dir, name) = (inner.parent(), inner.file_name().and_then(OsStr::to_str).unwrap_or_default());
    dir == Some(Path::new("bin")) && PROGRAMS.contains(&name)
        || LIBRARIES.iter().any(|head| name.starts_with(head))
            && ["lib", "lib64"].iter().any(|dir| inner.starts_with(dir))
}

/// The kernel's own files: what is written there is not left.
pub(super) fn is_special(path: &Path) -> bool {
    ["/proc", "/sys"].iter().any(|dir| path.starts_with(dir))
}

/// What programs look at to know how they are run: how many processors there are, where temporary files go.
pub(super) fn is_noise(path: &Path) -> bool {
    const NOISE: &[&str] = &[
        "/sys/devices/system/cpu",
        "/sys/devices/system/node",
        "/sys/fs/cgroup",
        "/sys/kernel/mm",
        "/proc/self",
        "/proc/thread-self",
        "/proc/stat",
        "/proc/meminfo",
        "/proc/mounts",
        "/proc/filesystems",
        "/proc/loadavg",
        "/proc/sys/vm",
        "/etc/ld.so.cache",
        "/etc/ld.so.preload",
        "/etc/passwd",
        "/etc/group",
        "/etc/nsswitch.conf",
        "/dev/pts",
    ];
    // What lies there is somebody's.
    const TEMPORARY: &[&str] = &["/run", "/tmp", "/var/tmp", "/dev/shm"];
    path != Path::new("/proc/self/exe")
        && (TEMPORARY.iter().any(|dir| path == Path::new(dir))
            || NOISE.iter().any(|dir| path.starts_with(dir)))
}

/// What the machine is at: among [`is_noise`], and another text each time.
pub(super) fn tells_moment(path: &Path) -> bool {
    ["/proc/meminfo", "/proc/mounts", "/proc/loadavg"].iter().any(|file| path == Path::new(file))
}

/// Files of the kernel that tell of machine and moment: as an input, or (`Err`) as none that could be checked again.
pub(super) fn of_system_state(path: &Path) -> Option<Result<Input, ()>> {
    if !is_special(path) || path == Path::new("/proc/self/exe") {
        return None;
    }
    let text = path.to_str().unwrap_or_default();
    Some(match text {
        "/proc/cpuinfo" => Ok(Input::Cpu),
        "/proc/version"
        | "/proc/sys/kernel/osrelease"
        | "/proc/sys/kernel/hostname"
        | "/proc/sys/kernel/ostype"
        | "/proc/version_signature" => Ok(Input::Host),
        _ if text.starts_with("/sys/devices/virtual/dmi") => Ok(Input::Host),
        _ => Err(()),
    })
}

/// The inside of a version control's directory.
pub(super) fn is_of_repository(path: &Path) -> bool {
    const DIRS: &[&str] = &[".git", ".hg", ".jj", ".svn", ".sl", ".pijul", "_darcs", ".bzr", ".fossil"];
    path.components().any(|c| DIRS.iter().any(|dir| c.as_os_str() == *dir))
}

pub(super) fn is_local_service(socket: &str) -> bool {
    ["/var/run/nscd/", "/run/nscd/", "/run/systemd/", "/var/run/systemd/"]
        .iter()
        .any(|dir| socket.starts_with(dir))
}

pub(super) fn same_file(a: &Path, b: &Path) -> bool {
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}
