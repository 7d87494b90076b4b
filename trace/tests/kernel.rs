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
}

#[test]
fn a_static_child_that_lives_on() {
    let place = Place::new();
    place.rust(
        "sleeps",
        &["-Ctarget-feature=+crt-static"],
        r#"fn main() {
            std::fs::write("begun", "").unwrap();
            for _ in 0..1000 {
                std::thread::sleep(std::time::Duration::from_millis(10));
                if std::fs::exists("go").unwrap() { break }
            }
            std::fs::write("woke", std::fs::read("sleeps.rs").unwrap()).unwrap();
        }"#,
    );
    let account = place.shell("./sleeps >/dev/null 2>&1 & while ! test -e begun; do sleep 0.02; done");
    assert!(account.gaps.iter().any(|gap| gap.contains("still runs")), "{:?}", account.gaps);
    // It is not harmed.
    place.write("go", "");
    let woke = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        place.at("woke").exists()
    });
    assert!(woke);
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
