//! Programs that the kernel watches.

mod common;

use common::{Place, access, complete, hows, programs};
use kache_trace::{How, What};
use std::process::Command;

const PROGRAM: &str = r#"
    use std::{env, fs};
    fn main() {
        fs::read("dir/file").unwrap();
        assert_eq!(fs::read_dir("dir").unwrap().count(), 1);
        assert!(fs::metadata("dir/other").is_err());
        fs::write("new", "text").unwrap();
        fs::rename("new", "moved").unwrap();
        fs::remove_file("moved").unwrap();
        env::current_dir().unwrap();
        let _ = std::net::TcpStream::connect("127.0.0.1:9");
        for argument in env::args().skip(1) {
            assert!(std::process::Command::new("cat").arg(argument).status().unwrap().success());
        }
    }"#;

fn place() -> Place {
    let place = Place::new();
    place.write("dir/file", "text");
    place.write("input", "text");
    place.rust("program", &["-Ctarget-feature=+crt-static"], PROGRAM);
    place
}

fn assert_seen(place: &Place, account: &kache_trace::Account) {
    assert_eq!(hows(account, place.at("dir/file")), [How::Read]);
    assert!(hows(account, place.at("dir")).contains(&How::List));
    assert_eq!(hows(account, place.at("dir/other")), [How::Absent]);
    assert!(hows(account, place.at("moved")).ends_with(&[How::Write, How::Remove]));
    assert_eq!(hows(account, place.at("new")), [How::Absent, How::Write, How::Remove]);
    let whats: Vec<&What> = account.calls.iter().map(|call| &call.what).collect();
    assert!(
        whats.contains(&&What::WorkingDirectory) && whats.contains(&&What::Connect("127.0.0.1:9".into())),
        "{whats:?}"
    );
    let process = &account.processes[access(account, How::Read, place.at("dir/file")).process as usize];
    assert_eq!(process.program, place.at("program"));
    assert!(process.whole_environment);
}

#[test]
fn a_static_command() {
    let place = place();
    let account = complete(place.observe(Command::new("./program").arg("input")));
    assert_seen(&place, &account);
    assert_eq!(account.processes[0].argv, ["./program", "input"]);
    assert_eq!(programs(&account).last().unwrap(), "cat");
    assert_eq!(hows(&account, place.at("input")), [How::Read]);
}

#[test]
fn a_static_child() {
    let place = place();
    let account = complete(place.shell("./program; env -i ./program; cat input"));
    assert_seen(&place, &account);
    let statics = account.processes.iter().filter(|process| process.program == place.at("program")).count();
    assert_eq!(statics, 2);
    assert_eq!(account.processes[1].parent, Some(0));
}

#[test]
fn a_static_child_of_posix_spawn() {
    let place = place();
    let starter = place.c(
        "spawn",
        &[],
        r#"
        #include <spawn.h>
        #include <sys/wait.h>
        int main() {
            char *argv[] = { "name", 0 }, *none[] = { 0 };
            pid_t pid;
            int status;
            if (posix_spawn(&pid, "./program", 0, 0, argv, none)) return 1;
            return waitpid(pid, &status, 0) != pid || status;
        }"#,
    );
    let account = complete(place.observe(&mut Command::new(starter)));
    assert_seen(&place, &account);
    assert_eq!(account.processes.last().unwrap().argv, ["name"]);
}

#[test]
fn everything_at_once() {
    let place = place();
    let account =
        complete(place.observe_with(Command::new("/bin/sh").args(["-c", "./program; cat input"]), true));
    assert_seen(&place, &account);
    assert_eq!(hows(&account, place.at("input")), [How::Read]);
    assert!(!account.accesses.iter().any(|access| access.path.starts_with(place.at("observer"))));
    // What the C library does inside is seen, too.
    assert!(hows(&account, "/etc/ld.so.cache").contains(&How::Read));
    // But not what the preloaded library does: it asks for its program, as static ones do, and opens the log.
    let is_static = |process: u32| account.processes[process as usize].program == place.at("program");
    let in_proc = account.accesses.iter().filter(|access| access.path.starts_with("/proc"));
    let own: Vec<_> = in_proc.filter(|access| !is_static(access.process)).collect();
    assert!(own.is_empty(), "{own:?}");
}

#[test]
fn a_static_child_that_lives_on() {
    let place = Place::new();
    place.rust(
        "sleeps",
        &["-Ctarget-feature=+crt-static"],
        r#"fn main() {
            std::fs::write("begun.tmp", std::process::id().to_string()).unwrap();
            std::fs::rename("begun.tmp", "begun").unwrap();
            for _ in 0..1000 {
                std::thread::sleep(std::time::Duration::from_millis(10));
                if std::fs::exists("go").unwrap() {
                    return std::fs::write("woke", std::fs::read("sleeps.rs").unwrap()).unwrap();
                }
            }
        }"#,
    );
    // SAFETY: sets a flag. It becomes our child, for not everywhere does somebody wait for those that are left.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    let account = place.shell("./sleeps >/dev/null 2>&1 & while ! test -e begun; do sleep 0.02; done");
    assert!(account.gaps.iter().any(|gap| gap.contains("still runs")), "{:?}", account.gaps);
    // It is not harmed.
    place.write("go", "");
    let woke = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        place.at("woke").exists()
    });
    assert!(woke);
    // Whoever answers for it, in a session of its own, ends with it.
    let pid = std::fs::read_to_string(place.at("begun")).unwrap().parse().unwrap();
    // SAFETY: only waits.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    let this = std::env::current_exe().unwrap();
    // Its parent and its session.
    let numbers = |process: &std::path::Path| -> Option<[u32; 2]> {
        let stat = std::fs::read_to_string(process.join("stat")).ok()?;
        let numbers: Vec<&str> = stat.rsplit(')').next()?.split(' ').collect();
        Some([numbers[2].parse().ok()?, numbers[4].parse().ok()?])
    };
    let [_, ours] = numbers("/proc/self".as_ref()).unwrap();
    let ended = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        let mut processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
        !processes.any(|process| {
            std::fs::read_link(process.join("exe")).is_ok_and(|exe| exe == this)
                && numbers(&process)
                    .is_some_and(|[parent, session]| parent == std::process::id() && session != ours)
        })
    });
    assert!(ended);
}

#[test]
fn a_sanitizer_that_wants_to_be_first() {
    let place = Place::new();
    let source =
        place.write("careful.c", "#include <fcntl.h>\nint main() { return open(\"none\", O_RDONLY) >= 0; }");
    let compiled =
        Command::new("cc").args(["-fsanitize=address", "-o"]).arg(place.at("careful")).arg(source).output();
    if !compiled.unwrap().status.success() {
        return;
    }
    let account = complete(place.shell("ASAN_OPTIONS=detect_leaks=0 ./careful"));
    assert_eq!(hows(&account, place.at("none")), [How::Absent]);
}

#[test]
fn a_world_of_its_own() {
    let place = Place::new();
    place.write("file", "");
    let code = r#"
        #define _GNU_SOURCE
        #include <sched.h>
        #include <sys/mount.h>
        #include <sys/stat.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        int main(int argc, char **argv) {
            switch (argv[1][0]) {
            case 'c': return chroot("none") != -1;
            case 'r': return syscall(SYS_chroot, "none") != -1;
            case 'm': return mount("none", "none", "none", 0, 0) != -1;
            case 'p': return syscall(SYS_pivot_root, "none", "none") != -1;
            case 's': return setns(-1, 0) != -1;
            case 'u': unshare(CLONE_NEWNS); return 0;
            case 'n': syscall(SYS_unshare, CLONE_NEWUSER); return 0;
            case 'f': return unshare(CLONE_FILES);
            // fchmodat2, of Linux 6.6.
            default: return syscall(452, -100, "file", 0600, 0) && syscall(SYS_fchmodat, -100, "file", 0600);
            }
        }"#;
    for options in [&[][..], &["-static"]] {
        let program = place.c("moves", options, code);
        for way in ["c", "r", "m", "p", "s", "u", "n"] {
            let account = place.observe(Command::new(&program).arg(way));
            assert_eq!(account.gaps.len(), 1, "{options:?} {way} {:?}", account.gaps);
            assert!(account.gaps[0].contains("world of its own"), "{options:?} {way} {:?}", account.gaps);
        }
        complete(place.observe(Command::new(&program).arg("f")));
        let account = complete(place.observe(Command::new(&program).arg("by number")));
        assert!(hows(&account, place.at("file")).contains(&How::Mode), "{options:?}");
    }
}

/// A static program that makes system calls by number, and has to say of each why it should not come back.
const CALLS: &str = r#"
    #define _GNU_SOURCE
    #include <fcntl.h>
    #include <pthread.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <sys/socket.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #include <sys/wait.h>
    #include <time.h>
    #include <unistd.h>
    #define HERE AT_FDCWD
    static void *thread(void *file) { return (void *)syscall(SYS_openat, HERE, file, O_RDONLY); }
    static int connects(const void *to, int length) { return syscall(SYS_connect, socket(AF_UNIX, SOCK_STREAM, 0), to, length); }
    int main(int argc, char **argv) {
        char buffer[4096];
        long how[3] = { O_RDONLY };
        int status;
        switch (argv[1][0]) {
        case 'f': // files
    #ifdef SYS_open
            syscall(SYS_open, "open", O_RDONLY);
            syscall(SYS_creat, "creat", 0600);
            syscall(SYS_creat, "creat-new", 0600);
            syscall(SYS_stat, "stat", buffer);
            syscall(SYS_lstat, "lstat", buffer);
            syscall(SYS_access, "access", R_OK);
            syscall(SYS_readlink, "link", buffer, 9);
            syscall(SYS_readlink, "readlink", buffer, 9);
            syscall(SYS_link, "link-old", "link-new");
            syscall(SYS_symlink, "text", "symlink-new");
            syscall(SYS_mkdir, "mkdir-new", 0700);
            syscall(SYS_mknod, "mknod-new", S_IFIFO | 0600, 0);
            syscall(SYS_chown, "chown", -1, -1);
            syscall(SYS_chmod, "chmod", 0600);
            syscall(SYS_unlink, "link-removed");
    #endif
            syscall(SYS_openat, HERE, "read", O_RDONLY);
            syscall(SYS_openat, HERE, "read-excl", O_RDONLY | O_EXCL);
            syscall(SYS_openat, HERE, "read-trunc", O_RDONLY | O_TRUNC);
            syscall(SYS_openat, HERE, "write", O_WRONLY);
            syscall(SYS_openat, HERE, "write-trunc", O_WRONLY | O_TRUNC);
            syscall(SYS_openat, HERE, "write-creat", O_WRONLY | O_CREAT, 0600);
            syscall(SYS_openat, HERE, "write-creat-new", O_WRONLY | O_CREAT, 0600);
            syscall(SYS_openat, HERE, "write-excl", O_WRONLY | O_CREAT | O_EXCL, 0600);
            syscall(SYS_openat, HERE, "path", O_PATH);
            syscall(SYS_openat, HERE, "no-dir", O_RDONLY | O_DIRECTORY);
            syscall(SYS_openat, HERE, "dir", O_RDONLY);
            syscall(SYS_openat, HERE, "none", O_RDONLY);
            syscall(SYS_openat, HERE, "loop", O_RDONLY);
            syscall(SYS_openat, HERE, "", O_RDONLY);
            syscall(SYS_openat, HERE, (char *)8, O_RDONLY);
            syscall(437, HERE, "openat2", how, sizeof how);
            syscall(SYS_faccessat, HERE, "loop/file", R_OK);
            syscall(SYS_faccessat, HERE, "dangling", R_OK);
            syscall(SYS_faccessat, HERE, "link", R_OK);
            syscall(SYS_readlinkat, HERE, "linkat", buffer, 9);
            syscall(SYS_linkat, HERE, "linkat-old", HERE, "linkat-new", 0);
            syscall(SYS_symlinkat, "text", HERE, "symlinkat-new");
            syscall(SYS_renameat2, HERE, "rename-old", HERE, "rename-new", 0);
            syscall(SYS_unlinkat, HERE, "unlinkat", 0);
            syscall(SYS_mkdirat, HERE, "mkdirat-new", 0700);
            syscall(SYS_mknodat, HERE, "mknodat-new", S_IFIFO | 0600, 0);
            syscall(SYS_fchownat, HERE, "fchownat", -1, -1, 0);
            syscall(SYS_utimensat, HERE, "utimensat", 0, 0);
            syscall(SYS_truncate, "truncate", 1);
            syscall(SYS_chdir, "moved");
            syscall(SYS_openat, HERE, "file", O_RDONLY);
            // A path that ends where there is no more memory.
            char *pages = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            munmap(pages + 4096, 4096);
            return syscall(SYS_openat, HERE, strcpy(pages + 4096 - 5, "last"), O_RDONLY) < 0;
        case 'p': // programs
            for (char **name = (char *[]){ "plain", "dir", "none", 0 }; *name; name++)
                if (!syscall(SYS_execve, *name, argv, 0)) return 1;
            if (!fork()) {
                syscall(SYS_openat, HERE, "read", O_RDONLY);
                char *args[] = { "child", 0 };
                syscall(SYS_execveat, open("bin", O_PATH), "script", args, 0, 0);
                _exit(1);
            }
            return wait(&status) < 0 || status;
        case 't': { // threads
            pthread_t other;
            void *result;
            return pthread_create(&other, 0, thread, "read") || pthread_join(other, &result) || (long)result < 0;
        }
        case 'c': // connections
            connects("\1\0socket", 9);
            connects("\1\0\0name", 7);
            connects("\1\0\0", 3);
            connects("\1\0", 2);
            connects("\2\0\0\11\177\0\0\1\0\0\0\0\0\0\0\0", 16);
            connects("\2\0\0\11\177\0\0", 7);
            connects("\12\0\0\11\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1\0\0\0\0", 28);
            connects("\12\0\0\11\0\0\0\0", 8);
            connects("\50\0\0\0", 4);
            connects("\0\0\0\0", 4);
            connects((char *)8, 16);
            return 0;
        case '/': return 0; // The interpreter of a script.
        case 'n': return syscall(SYS_uname, buffer);
        case 'm': return syscall(SYS_clock_gettime, CLOCK_MONOTONIC, buffer);
        case 'r': return syscall(SYS_clock_gettime, CLOCK_REALTIME, buffer);
        case 'g': return syscall(SYS_gettimeofday, buffer, 0);
        default: return syscall(425, 0, 0) != -1;
        }
    }"#;

fn calls() -> Place {
    let place = Place::new();
    place.c("calls", &["-static", "-pthread"], CALLS);
    place
}

#[test]
fn files_by_number() {
    use How::{Absent, Link, Mode, Read, Remove, Stat, Write};
    let place = calls();
    place.write("dir/file", "");
    for (link, to) in [
        ("link", "read"),
        ("linkat", "read"),
        ("link-removed", "read"),
        ("dangling", "none"),
        ("loop", "loop"),
    ] {
        std::os::unix::fs::symlink(to, place.at(link)).unwrap();
    }
    let old: &[(&str, &[How])] = &[
        ("open", &[Read]),
        ("creat", &[Write]),
        ("stat", &[Stat]),
        ("lstat", &[Stat]),
        ("access", &[Stat]),
        ("link", &[Link, Stat]),
        ("readlink", &[Stat]),
        ("link-old", &[Read]),
        ("chown", &[Write]),
        ("chmod", &[Mode]),
        ("link-removed", &[Remove]),
        ("creat-new", &[Absent, Write]),
        ("link-new", &[Absent, Write]),
        ("symlink-new", &[Absent, Write]),
        ("mkdir-new", &[Absent, Write]),
        ("mknod-new", &[Absent, Write]),
    ];
    let all: &[(&str, &[How])] = &[
        ("read", &[Read]),
        ("read-excl", &[Read]),
        ("read-trunc", &[Write]),
        ("write", &[Read, Write]),
        ("write-trunc", &[Write]),
        ("write-creat", &[Read, Write]),
        ("write-creat-new", &[Absent, Write]),
        ("write-excl", &[Stat]),
        ("path", &[Stat]),
        ("no-dir", &[Stat]),
        ("dir", &[Stat]),
        ("none", &[Absent]),
        ("loop", &[Read]),
        ("openat2", &[Read]),
        ("loop/file", &[Stat]),
        ("dangling", &[Absent]),
        ("linkat", &[Link]),
        ("linkat-old", &[Read]),
        ("linkat-new", &[Absent, Write]),
        ("symlinkat-new", &[Absent, Write]),
        ("rename-old", &[Remove]),
        ("rename-new", &[Absent, Write]),
        ("unlinkat", &[Remove]),
        ("mkdirat-new", &[Absent, Write]),
        ("mknodat-new", &[Absent, Write]),
        ("fchownat", &[Write]),
        ("utimensat", &[Write]),
        ("truncate", &[Read, Write]),
        ("moved", &[Stat]),
        ("moved/file", &[Read]),
        ("moved/last", &[Read]),
    ];
    let known: Vec<_> = all.iter().chain(if cfg!(target_arch = "x86_64") { old } else { &[] }).collect();
    let in_dirs = [("moved/file", [].as_slice()), ("moved/last", &[])];
    for (name, _) in known.iter().copied().chain(&in_dirs) {
        let is_link = std::fs::symlink_metadata(place.at(name)).is_ok();
        if !is_link && !matches!(*name, "dir" | "none" | "loop/file" | "moved") && !name.ends_with("-new") {
            place.write(name, "text");
        }
    }
    let account = complete(place.observe(Command::new("./calls").arg("files")));
    for (name, expected) in known {
        assert_eq!(hows(&account, place.at(name)), *expected, "{name}");
    }
    assert_eq!(account.processes.len(), 1);
}

#[test]
fn programs_by_number() {
    let place = calls();
    place.write("plain", "");
    place.write("dir/file", "");
    place.write("read", "");
    place.write("bin/script", "#!./interpreter\n");
    std::fs::copy(place.at("calls"), place.at("interpreter")).unwrap();
    Command::new("chmod").arg("+x").arg(place.at("bin/script")).status().unwrap();
    let long = "x".repeat(100_000);
    for (argument, is_cut) in [("", false), (&long[..], true)] {
        let account = complete(place.observe(Command::new("./calls").args(["programs", argument])));
        assert_eq!(hows(&account, place.at("plain")), [How::Stat]);
        assert_eq!(hows(&account, place.at("dir")), [How::Stat]);
        assert_eq!(hows(&account, place.at("none")), [How::Absent]);
        for path in ["bin/script", "interpreter"] {
            assert_eq!(access(&account, How::Exec, place.at(path)).process, 1, "{path}");
        }
        let all: Vec<_> = account.processes.iter().map(|p| (p.argv.len(), p.argv_cut, p.parent)).collect();
        // What cannot be a path is not read of who begins; of a child, as much as there is room for.
        let command = if is_cut { 2 } else { 3 };
        assert_eq!(all[..2], [(command, is_cut, None), (3, is_cut, Some(0))]);
        assert_eq!((&all[2..], programs(&account)[2].as_str()), (&[(1, false, Some(1))][..], "interpreter"));
        // A child executes nothing before it does.
        assert_eq!(access(&account, How::Read, place.at("read")).process, 1);
        let begun = account.accesses.iter().filter(|a| a.how == How::Exec && a.path == place.at("calls"));
        assert_eq!(begun.map(|access| access.process).collect::<Vec<_>>(), [0]);
    }
    let many = (0..20_000).map(|number| number.to_string());
    let account = complete(place.observe(Command::new("./calls").arg("monotonic").args(many)));
    let kept: usize = account.processes[0].argv.iter().map(|argument| argument.len() + 1).sum();
    assert!(account.processes[0].argv_cut && (60_000..=65_537).contains(&kept), "{kept}");
}

#[test]
fn questions_by_number() {
    let place = calls();
    place.write("read", "");
    let ask = |what: &str| place.observe(Command::new("./calls").arg(what));
    let account = complete(ask("threads"));
    assert_eq!(access(&account, How::Read, place.at("read")).process, 0);
    assert_eq!(account.processes.len(), 1);
    let whats = |what: &str| complete(ask(what)).calls.into_iter().map(|call| call.what).collect::<Vec<_>>();
    assert_eq!(whats("name"), [What::Host]);
    assert_eq!(whats("monotonic"), []);
    assert_eq!(whats("realtime"), [What::Clock]);
    assert_eq!(whats("gettimeofday"), [What::Clock]);
    let connections = [
        "socket",
        "@name",
        "",
        "127.0.0.1:9",
        "address family 2",
        "[0000:0000:0000:0000:0000:0000:0000:0001]:9",
        "address family 10",
        "address family 40",
    ];
    assert_eq!(whats("connections"), connections.map(|to| What::Connect(to.into())));
    assert!(ask("uring").gaps.iter().any(|gap| gap.contains("io_uring")));
}
